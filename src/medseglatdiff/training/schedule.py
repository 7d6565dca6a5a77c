"""How long a stage trains, by steps or by the clock, and its learning rate on the way."""

import math


def learning_rate_factor(step: int, warmup_steps: int, total_steps: int) -> float:
    """Linear warm-up, then half a cosine down to zero."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    return 0.5 * (1 + math.cos(math.pi * (step - warmup_steps) / max(total_steps - warmup_steps, 1)))


def steps_until_the_end(step: int, total_steps: int, minutes_spent: float, minutes: float | None) -> int:
    """With how many steps a stage will end that may take `total_steps`, and `minutes` if that is not `None`.

    At the speed so far; when the time is up, with the `step` that it has reached. A learning rate that falls to zero
    by that step falls by the clock.
    """
    if minutes is None or not step or not minutes_spent:
        return total_steps
    if minutes_spent >= minutes:
        return min(step, total_steps)
    return min(total_steps, math.ceil(step * minutes / minutes_spent))
