"""The denoiser: a U-Net over [noisy mask latent, image condition] at a timestep, built from diffusers' blocks."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.models.unets.unet_2d_blocks import (
    AttnDownBlock2D,
    AttnUpBlock2D,
    DownBlock2D,
    UNetMidBlock2D,
    UpBlock2D,
)
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from torch import nn

from .modeling import MedSegLatDiffModel


@dataclass
class MedSegLatDiffUNetOutput(BaseOutput):
    """The denoiser's prediction.

    Args:
        sample (`torch.Tensor` of shape `(batch, latent_channels, height, width)`): noise, velocity or clean
            latents, by the scheduler's `prediction_type`.
    """

    sample: torch.Tensor


class MedSegLatDiffUNet(MedSegLatDiffModel, ConfigMixin):
    """Denoises a mask latent given the image condition, which is concatenated to it (MedSegLatDiff, arXiv 2512.01292).

    Over patches of the latent all layers run at a fraction of its resolution (Peebles & Xie 2023, arXiv 2212.09748,
    denoise patches by a transformer). Parameters and GFLOP per sample and step, for latents of 2 x 32 x 32:

    | `patch_size` | `condition_channels` | `block_out_channels` | `layers_per_block` | parameters | GFLOP |
    | --- | --- | --- | --- | --- | --- |
    | 1 | 16 | 48, 96, 192 | 1 | 6.15 M | 1.71 |
    | 2 | 64 | 48, 96 | 1 | 1.62 M | 0.31 |

    Args:
        sample_size (`int`, *optional*, defaults to 32): height and width of the latents in training.
        latent_channels (`int`, *optional*, defaults to 1): channels of the mask latent.
        condition_channels (`int`, *optional*, defaults to 16): channels of the image condition.
        block_out_channels (`tuple[int]`, *optional*, defaults to `(64, 128, 256)`): widths from the finest level down.
        attention (`tuple[bool]`, *optional*, defaults to `(False, False, True)`): which levels attend over their
            pixels.
        layers_per_block (`int`, *optional*, defaults to 2): residual layers per level.
        attention_head_dim (`int`, *optional*, defaults to 32): channels of an attention head.
        norm_num_groups (`int`, *optional*, defaults to 16): groups of the group normalisation.
        dropout (`float`, *optional*, defaults to 0.0): dropout inside the residual layers.
        patch_size (`int`, *optional*, defaults to 1): side of the patches of latent pixels that are denoised as one.
        initial_noise (`bool`, *optional*, defaults to `False`): whether mean and standard deviation of the
            initial noise depend on the condition; see `initial_latents`.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        sample_size: int = 32,
        latent_channels: int = 1,
        condition_channels: int = 16,
        block_out_channels: tuple[int, ...] = (64, 128, 256),
        attention: tuple[bool, ...] = (False, False, True),
        layers_per_block: int = 2,
        attention_head_dim: int = 32,
        norm_num_groups: int = 16,
        dropout: float = 0.0,
        patch_size: int = 1,
        initial_noise: bool = False,
    ):
        super().__init__()
        if patch_size < 1:
            raise ValueError(f"`patch_size` must be at least 1, but was {patch_size}.")
        if len(attention) != len(block_out_channels):
            raise ValueError(
                f"`attention` must have one entry per level, {len(block_out_channels)}, but was {attention}."
            )
        widths = list(block_out_channels)
        time_embed_dim = 4 * widths[0]
        shared = dict(
            temb_channels=time_embed_dim, resnet_eps=1e-5, resnet_act_fn="silu", dropout=dropout,
            resnet_groups=norm_num_groups,
        )  # fmt: skip
        heads = dict(attention_head_dim=attention_head_dim)
        # 1. input
        patch_channels = patch_size**2 * latent_channels
        self.condition_proj: nn.Module = nn.Identity()
        if patch_size > 1:
            self.condition_proj = nn.Conv2d(patch_size**2 * condition_channels, condition_channels, kernel_size=1)
        self.conv_in = nn.Conv2d(patch_channels + condition_channels, widths[0], kernel_size=3, padding=1)
        self.time_proj = Timesteps(widths[0], flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedding = TimestepEmbedding(widths[0], time_embed_dim)
        # 2. down
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(widths):
            last = level == len(widths) - 1
            sizes = dict(in_channels=widths[max(level - 1, 0)], out_channels=width, num_layers=layers_per_block)
            if attention[level]:
                block = AttnDownBlock2D(**sizes, **shared, **heads, downsample_type=None if last else "conv")
            else:
                block = DownBlock2D(**sizes, **shared, add_downsample=not last)
            self.down_blocks.append(block)
        # 3. mid
        self.mid_block = UNetMidBlock2D(in_channels=widths[-1], **shared, **heads, add_attention=any(attention))
        # 4. up
        self.up_blocks = nn.ModuleList()
        for level, width in reversed(list(enumerate(widths))):
            sizes = dict(
                in_channels=widths[max(level - 1, 0)],
                prev_output_channel=widths[min(level + 1, len(widths) - 1)],
                out_channels=width,
                num_layers=layers_per_block + 1,
            )
            if attention[level]:
                block = AttnUpBlock2D(**sizes, **shared, **heads, upsample_type="conv" if level else None)
            else:
                block = UpBlock2D(**sizes, **shared, add_upsample=level > 0)
            self.up_blocks.append(block)
        # 5. output
        self.conv_norm_out = nn.GroupNorm(norm_num_groups, widths[0])
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(widths[0], patch_channels, kernel_size=3, padding=1)
        # 6. initial noise: untrained, it is standard normal for any condition
        if initial_noise:
            self.noise_mean = nn.Conv2d(condition_channels, latent_channels, kernel_size=1)
            self.noise_log_std = nn.Conv2d(condition_channels, latent_channels, kernel_size=1)
            for parameter in (*self.noise_mean.parameters(), *self.noise_log_std.parameters()):
                nn.init.zeros_(parameter)

    @apply_forward_hook
    def initial_latents(self, noise: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """Initial latents: N(mu(x), sigma(x)) of the condition with `initial_noise`, else `noise` unchanged.

        The sampler calls it once, before the first step and before the scheduler's `init_noise_sigma`.

        Args:
            noise (`torch.Tensor` of shape `(batch, latent_channels, height, width)`): standard normal.
            condition (`torch.Tensor` of shape `(batch, condition_channels, height, width)`): from the image encoder.
        """
        if not self.config.initial_noise:
            return noise
        condition = condition.to(noise.dtype)
        return self.noise_mean(condition) + self.noise_log_std(condition).exp() * noise  # [B, C, h, w]

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor | float | int,
        condition: torch.Tensor,
        return_dict: bool = True,
    ) -> MedSegLatDiffUNetOutput | tuple[torch.Tensor]:
        """Predicts what the scheduler's `prediction_type` asks for.

        Args:
            sample (`torch.Tensor` of shape `(batch, latent_channels, height, width)`): noisy, scaled mask latents.
            timestep (`torch.Tensor` of shape `(batch,)` or a number): the noise level of each sample or of all.
            condition (`torch.Tensor` of shape `(batch, condition_channels, height, width)`): from the image encoder.
            return_dict (`bool`, *optional*, defaults to `True`): a tuple of one tensor is returned if `False`.

        Raises:
            ValueError: if a side is not a multiple of `patch_size * 2 ** (levels - 1)`, or the sizes of both inputs
                differ.
        """
        patch_size = self.config.patch_size
        multiple = patch_size * 2 ** (len(self.down_blocks) - 1)
        if sample.shape[2:] != condition.shape[2:] or any(side % multiple for side in sample.shape[2:]):
            raise ValueError(
                f"`sample` and `condition` must have the same height and width, multiples of {multiple}, "
                f"but were {tuple(sample.shape)} and {tuple(condition.shape)}."
            )
        # 1. time
        timesteps = torch.as_tensor(timestep, device=sample.device).expand(sample.shape[0])  # [B]
        emb = self.time_embedding(self.time_proj(timesteps).to(sample.dtype))  # [B, 4*width]
        # 2. pre-process; with p the patch size
        sample = F.pixel_unshuffle(sample, patch_size)  # [B, p*p*C, h/p, w/p]
        condition = F.pixel_unshuffle(condition.to(sample.dtype), patch_size)  # [B, p*p*condition_channels, h/p, w/p]
        hidden_states = torch.cat([sample, self.condition_proj(condition)], dim=1)
        hidden_states = self.conv_in(hidden_states)  # [B, width, h/p, w/p]
        # 3. down
        residuals = (hidden_states,)
        for block in self.down_blocks:
            hidden_states, block_residuals = block(hidden_states=hidden_states, temb=emb)
            residuals += block_residuals
        # 4. mid
        hidden_states = self.mid_block(hidden_states, emb)  # [B, deepest width, h', w']
        # 5. up
        count = self.config.layers_per_block + 1
        for block in self.up_blocks:
            residuals, block_residuals = residuals[:-count], residuals[-count:]
            hidden_states = block(hidden_states=hidden_states, res_hidden_states_tuple=block_residuals, temb=emb)
        # 6. post-process
        hidden_states = self.conv_out(self.conv_act(self.conv_norm_out(hidden_states)))  # [B, p*p*C, h/p, w/p]
        prediction = F.pixel_shuffle(hidden_states, patch_size)  # [B, C, h, w]
        return MedSegLatDiffUNetOutput(prediction) if return_dict else (prediction,)
