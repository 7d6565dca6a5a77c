"""Training windows as they occur in the clinic: off-centre, or without a finding."""

from collections.abc import Sequence

import torch

from .augmentation import Augmentation, draw


def random_windows(
    planes: torch.Tensor,
    marks: Sequence[torch.Tensor],
    augmentation: Augmentation,
    generators: Sequence[torch.Generator],
) -> torch.Tensor:
    """Planes `(B, N, S, S)` through a window that is shifted by up to `augmentation.shift` pixels and, in a share
    `augmentation.empty_windows` of the samples, lies over an unmarked part of the image.

    Args:
        marks (`Sequence[torch.Tensor]`): for each sample a bool `(S, S)`, true where any rater marked something.
    """
    drawn = draw(generators, "empty", "strip", "right", "down")
    side = planes.shape[-1]
    windows = torch.tensor([[0, side, 0, side]] * len(planes))  # [B, 4]: top, bottom, left, right
    for index in (drawn["empty"] < augmentation.empty_windows).nonzero().flatten().tolist():
        strips = empty_strips(marks[index])
        if strips:
            windows[index] = torch.tensor(strips[int(drawn["strip"][index] * len(strips))])
    right, down = (((2 * drawn[name] - 1) * augmentation.shift).round().long() for name in ("right", "down"))  # [B]
    rows = reflected(down, windows[:, 0], windows[:, 1], side).to(planes.device)  # [B, S]
    columns = reflected(right, windows[:, 2], windows[:, 3], side).to(planes.device)  # [B, S]
    samples = torch.arange(len(planes), device=planes.device)[:, None, None]
    return planes.movedim(1, -1)[samples, rows[:, :, None], columns[:, None, :]].movedim(-1, 1)  # [B, N, S, S]


def empty_strips(marks: torch.Tensor) -> list[tuple[int, int, int, int]]:
    """The strips above, below, left and right of all marks, `(S, S)`, as (top, bottom, left, right), half open, if at
    least a quarter of the image wide; none if nothing is marked, since the image is empty already."""
    side = len(marks)
    rows, columns = (marks.any(dim=dim).nonzero().flatten().tolist() for dim in (1, 0))
    if not rows:
        return []
    above, below = (0, rows[0], 0, side), (rows[-1] + 1, side, 0, side)
    left, right = (0, side, 0, columns[0]), (0, side, columns[-1] + 1, side)
    return [
        strip for strip in (above, below, left, right) if min(strip[1] - strip[0], strip[3] - strip[2]) * 4 >= side
    ]


def reflected(shift: torch.Tensor, start: torch.Tensor, end: torch.Tensor, side: int) -> torch.Tensor:
    """Positions, int64 `(B, side)`, of `side` consecutive pixels, the first `shift` after `start`; beyond `end`
    (exclusive) and `start` they are reflected, edge pixels repeated, as often as needed. Arguments are `(B,)`."""
    length = (end - start)[:, None]  # [B, 1]
    position = (torch.arange(side) + shift[:, None]) % (2 * length)  # [B, side]
    return start[:, None] + torch.minimum(position, 2 * length - 1 - position)
