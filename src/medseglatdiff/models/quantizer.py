"""The codebook of autoencoders with `bottleneck="vq"`."""

import torch
import torch.nn.functional as F
from torch import nn


class VectorQuantizer(nn.Module):
    """Nearest-code quantisation with a moving-average codebook (van den Oord et al. 2017, arXiv 1711.00937,
    appendix A.1).

    The codebook is a buffer rather than a parameter, so that all processes keep the same codes (buffers are
    broadcast). Codes that are hardly used any more are reset to the values of the batch with the largest error.
    """

    codes: torch.Tensor  # [K, C]
    share: torch.Tensor  # [K]: moving average of the share of the values that take each code
    sums: torch.Tensor  # [K, C]: moving average of their sums

    def __init__(self, num_codes: int, channels: int, decay: float = 0.97, dead_share: float = 0.1):
        super().__init__()
        self.decay, self.dead_share = decay, dead_share
        codes = torch.randn(num_codes, channels, generator=torch.Generator().manual_seed(0))
        self.register_buffer("codes", codes)
        self.register_buffer("share", torch.full((num_codes,), 1.0 / num_codes))
        self.register_buffer("sums", codes / num_codes)

    def forward(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Returns the quantised latents, with gradients passed straight through, and the commitment loss."""
        values = latents.movedim(1, -1).reshape(-1, latents.shape[1]).float()  # [B*h*w, C]
        with torch.autocast(values.device.type, enabled=False):  # half precision confuses close codes
            indices = torch.cdist(values, self.codes.float()).argmin(dim=1)  # [B*h*w]
            quantized = self.codes[indices].float()  # [B*h*w, C]
            if self.training:
                self._update_codes(values.detach(), indices, quantized)
        quantized = quantized.view(latents.movedim(1, -1).shape).movedim(-1, 1).to(latents.dtype)  # [B, C, h, w]
        commitment = F.mse_loss(latents, quantized)
        return latents + (quantized - latents).detach(), commitment

    @torch.no_grad()
    def _update_codes(self, values: torch.Tensor, indices: torch.Tensor, quantized: torch.Tensor):
        chosen = F.one_hot(indices, len(self.codes)).to(values.dtype)  # [N, K]
        self.share.lerp_(chosen.mean(dim=0), 1 - self.decay)
        self.sums.lerp_(chosen.T @ values / len(values), 1 - self.decay)
        dead = (self.share < self.dead_share / len(self.codes)).nonzero().flatten()[: len(values)]  # [D]
        worst = (values - quantized).square().sum(dim=1).topk(len(dead)).indices  # [D]
        self.share[dead] = 1.0 / len(self.codes)
        self.sums[dead] = values[worst] / len(self.codes)
        self.codes.copy_(self.sums / self.share.clamp(min=1e-12)[:, None])
