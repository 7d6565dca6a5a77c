"""Which of many hypotheses are returned: the few that stand for all of them."""

import torch
import torch.nn.functional as F

from ..losses import jaccard_distances


def representatives(labels: torch.Tensor, num_masks: int, num_classes: int, spread: float = 1.0) -> torch.Tensor:
    """The hypotheses that stand for all candidates, most typical first.

    One after another is chosen so that the chosen S come closest to all candidates C in energy distance, that is, so
    that 2 E[d(S, C)] - spread * E[d(S, S')] is least, with d of `jaccard_distances`: support points (Mak & Joseph
    2018, arXiv 1609.01811, eq. 4), found greedily as in herding (Chen, Welling & Smola 2010, arXiv 1203.3472). Sixteen
    of these say about as much of the candidates as several times as many drawn at random. A `spread` below 1 holds
    them closer together: for a model whose candidates differ more than raters do.

    Args:
        labels (`torch.Tensor` of shape `(N, H, W)`): label maps, 0 for background, then the classes.
        num_masks (`int`): how many to choose, at most N; all are returned in their own order where it is N.
        num_classes (`int`): foreground classes, K.
        spread (`float`, *optional*, defaults to 1.0): weight of the distances among the chosen, at least 0.

    Returns:
        their indices, `(num_masks,)`.
    """
    if num_masks == len(labels):
        return torch.arange(num_masks, device=labels.device)
    masks = F.one_hot(labels.long(), 1 + num_classes).movedim(-1, 1)[:, 1:].float()  # [N, K, H, W]
    distances = jaccard_distances(masks, masks)  # [N, N]
    to_all = distances.mean(dim=1)  # [N]: E[d(s, C)]
    to_chosen, chosen = torch.zeros_like(to_all), []  # [N]: sum of d(s, S) so far
    for size in range(1, num_masks + 1):
        score = (
            to_all - spread * to_chosen / size
        )  # [N]: what of the objective depends on who comes next, times size/2
        score[chosen] = torch.inf
        chosen.append(int(score.argmin()))
        to_chosen += distances[chosen[-1]]  # [N]
    return torch.tensor(chosen, device=labels.device)
