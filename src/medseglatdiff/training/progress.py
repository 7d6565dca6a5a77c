"""Where a stage of a training run stands, as it is kept in checkpoints and in summary.json."""

import math
import time


class Progress:
    """Where a stage stands: the only state besides weights, optimizer, moving average and generators."""

    def __init__(self, num_processes: int):
        self.num_processes = num_processes
        self.step, self.best_score, self.best_step = 0, math.inf, 0
        self.wall_hours, self.cpu_hours = 0.0, 0.0
        self.clocks = None

    def add_time(self):
        """Adds what has passed since the last call, on the wall and on all processes' cores, to the hours spent.

        Processes wait for each other at every step: each spends what this one does.
        """
        now = time.monotonic(), time.process_time()
        before = self.clocks or now
        self.wall_hours += (now[0] - before[0]) / 3600
        self.cpu_hours += self.num_processes * (now[1] - before[1]) / 3600
        self.clocks = now

    def state_dict(self) -> dict:
        """As JSON has it: no score yet is `None`."""
        state = {name: value for name, value in vars(self).items() if name not in ("clocks", "num_processes")}
        return state | {"best_score": self.best_score if math.isfinite(self.best_score) else None}

    def load_state_dict(self, state: dict):
        vars(self).update(state)
        self.best_score = math.inf if self.best_score is None else self.best_score
