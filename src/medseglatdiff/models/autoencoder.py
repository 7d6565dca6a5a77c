"""The autoencoder between images or masks and the small latent space of the diffusion."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import Decoder, DiagonalGaussianDistribution, Encoder
from diffusers.utils import BaseOutput
from diffusers.utils.accelerate_utils import apply_forward_hook

from ..losses import kl_divergence
from .modeling import MedSegLatDiffModel
from .quantizer import VectorQuantizer


@dataclass
class MedSegLatDiffVAEOutput(BaseOutput):
    """Output of the autoencoder.

    Args:
        sample (`torch.Tensor` of shape `(batch, out_channels, height, width)`): the reconstruction: grey values or
            RGB in [-1, 1] for images, logits over background and classes for masks.
        latents (`torch.Tensor` of shape `(batch, latent_channels, height // factor, width // factor)`): scaled
            latents.
        bottleneck_loss (`torch.Tensor`, scalar): mean KL divergence per latent value (nats), or the commitment loss.
    """

    sample: torch.Tensor
    latents: torch.Tensor
    bottleneck_loss: torch.Tensor


class MedSegLatDiffVAE(MedSegLatDiffModel, ConfigMixin):
    """One autoencoder for images and for masks (MedSegLatDiff, arXiv 2512.01292).

    The first halving is a pixel rearrangement, so no layer runs at full resolution; each further entry of
    `block_out_channels` halves once more: the downsampling factor is `2 ** len(block_out_channels)`.
    Latents are scaled to zero mean and unit variance inside `encode` and `decode` alone. A decoder with fewer
    levels outputs larger patches of pixels; parameters and GFLOP of decoders of LIDC's masks, 2 x 32 x 32 to 128 px:

    | `decoder_block_out_channels` | `decoder_layers_per_block` | parameters | GFLOP |
    | --- | --- | --- | --- |
    | 32, 32 | 1 | 0.12 M | 0.55 |
    | 32 | 1 | 0.08 M | 0.17 |
    | 16, 24 | 0 | 0.04 M | 0.17 |

    Args:
        in_channels (`int`, *optional*, defaults to 2): 1 or 3 for images, 1 + number of classes for one-hot masks.
        out_channels (`int`, *optional*, defaults to 2): channels of the reconstruction.
        block_out_channels (`tuple[int]`, *optional*, defaults to `(32, 64)`): widths from the input to the latent.
        layers_per_block (`int`, *optional*, defaults to 1): residual layers per level.
        latent_channels (`int`, *optional*, defaults to 1): channels of the latent.
        norm_num_groups (`int`, *optional*, defaults to 8): groups of the group normalisation.
        bottleneck (`str`, *optional*, defaults to `"kl"`): `"kl"` for a Gaussian posterior, `"vq"` for a codebook.
        num_codes (`int`, *optional*, defaults to 512): size of the codebook, with `bottleneck="vq"`.
        decoder_block_out_channels (`tuple[int]`, *optional*): widths of the decoder from the output to the latent;
            `block_out_channels` if `None`. With fewer entries the last layer outputs larger patches of pixels.
        decoder_layers_per_block (`int`, *optional*): residual layers per level of the decoder, besides the one that
            is always there; `layers_per_block` if `None`.
        latents_mean (`list[float]`, *optional*): per-channel mean of the raw latents on the training split.
        latents_std (`list[float]`, *optional*): their per-channel standard deviation; latents are not scaled if
            `None`.
    """

    _supports_gradient_checkpointing = True

    @register_to_config
    def __init__(
        self,
        in_channels: int = 2,
        out_channels: int = 2,
        block_out_channels: tuple[int, ...] = (32, 64),
        layers_per_block: int = 1,
        latent_channels: int = 1,
        norm_num_groups: int = 8,
        bottleneck: str = "kl",
        num_codes: int = 512,
        decoder_block_out_channels: tuple[int, ...] | None = None,
        decoder_layers_per_block: int | None = None,
        latents_mean: list[float] | None = None,
        latents_std: list[float] | None = None,
    ):
        super().__init__()
        if bottleneck not in ("kl", "vq"):
            raise ValueError(f"`bottleneck` must be 'kl' or 'vq', but was {bottleneck!r}.")
        widths = tuple(block_out_channels)
        decoder_widths = widths if decoder_block_out_channels is None else tuple(decoder_block_out_channels)
        if not 1 <= len(decoder_widths) <= len(widths):
            raise ValueError(
                f"`decoder_block_out_channels` must have 1 to {len(widths)} entries, as `block_out_channels` has, "
                f"but was {decoder_widths}."
            )
        self.decoder_patch_size = 2 ** (1 + len(widths) - len(decoder_widths))
        shared = dict(norm_num_groups=norm_num_groups, mid_block_add_attention=False)
        self.encoder = Encoder(
            in_channels=4 * in_channels,
            out_channels=latent_channels,
            down_block_types=("DownEncoderBlock2D",) * len(widths),
            block_out_channels=widths,
            layers_per_block=layers_per_block,
            double_z=bottleneck == "kl",
            **shared,
        )
        self.decoder = Decoder(
            in_channels=latent_channels,
            out_channels=self.decoder_patch_size**2 * out_channels,
            up_block_types=("UpDecoderBlock2D",) * len(decoder_widths),
            block_out_channels=decoder_widths,
            layers_per_block=layers_per_block if decoder_layers_per_block is None else decoder_layers_per_block,
            **shared,
        )
        self.quantizer = VectorQuantizer(num_codes, latent_channels) if bottleneck == "vq" else None

    @property
    def downsampling_factor(self) -> int:
        """Side of a latent pixel in pixels of the image."""
        return 2 ** len(self.config.block_out_channels)

    @property
    def condition_channels(self) -> int:
        """Channels of what `condition` returns."""
        return self.config.latent_channels

    def with_new_decoder(self, **options) -> "MedSegLatDiffVAE":
        """An autoencoder with the same latents and a new decoder, from arguments that begin with `decoder_`."""
        settings = {name: value for name, value in self.config.items() if not name.startswith("_")}
        other = MedSegLatDiffVAE(**{**settings, **options}).to(self.device)
        kept = {name: value for name, value in self.state_dict().items() if not name.startswith("decoder.")}
        other.load_state_dict({**other.state_dict(), **kept})
        return other

    def set_latent_statistics(self, mean: list[float], std: list[float]):
        """Stores the raw latents' per-channel statistics in the config, by which `encode` and `decode` scale."""
        if len(mean) != self.config.latent_channels or len(std) != self.config.latent_channels or min(std) <= 0:
            raise ValueError(
                f"`mean` and `std` must have {self.config.latent_channels} values each, with every `std` > 0, "
                f"but were {mean} and {std}."
            )
        self.register_to_config(latents_mean=[float(value) for value in mean], latents_std=[float(v) for v in std])

    @apply_forward_hook
    def encode(self, sample: torch.Tensor) -> torch.Tensor:
        """Encodes `sample`, `(batch, in_channels, height, width)`, to scaled latents (the posterior's mean).

        Raises:
            ValueError: if the channels are not `in_channels` or a side is not a multiple of the downsampling factor.
        """
        return self._scale(
            self._moments(sample).chunk(2, dim=1)[0] if self.quantizer is None else self._moments(sample)
        )

    @apply_forward_hook
    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decodes scaled latents, `(batch, latent_channels, h, w)`, to `(batch, out_channels, height, width)`."""
        raw = self._unscale(latents)  # [B, C, h, w]
        if self.quantizer is not None:
            raw, _ = self.quantizer(raw)  # [B, C, h, w]
        return F.pixel_shuffle(self.decoder(raw), self.decoder_patch_size)  # [B, out_channels, H, W]

    @apply_forward_hook
    def condition(self, images: torch.Tensor) -> torch.Tensor:
        """The latent of images in [-1, 1], `(batch, latent_channels, h, w)`, as condition of the U-Net."""
        return self.encode(images)

    def logits(self, images: torch.Tensor) -> None:
        """None: an autoencoder has no segmentation head (`MedSegLatDiffImageEncoder` may)."""

    def condition_and_logits(self, images: torch.Tensor) -> tuple[torch.Tensor, None]:
        """What `condition` and `logits` return."""
        return self.condition(images), None

    def forward(
        self,
        sample: torch.Tensor,
        generator: torch.Generator | list[torch.Generator] | None = None,
        return_dict: bool = True,
    ) -> MedSegLatDiffVAEOutput | tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Encodes, passes the bottleneck (with `kl`, samples with `generator` in training mode) and decodes."""
        moments = self._moments(sample)  # [B, 2*C or C, h, w]
        # 1. bottleneck
        if self.quantizer is None:
            posterior = DiagonalGaussianDistribution(moments)
            raw = posterior.sample(generator) if self.training else posterior.mode()  # [B, C, h, w]
            bottleneck_loss = kl_divergence(posterior.mean, posterior.logvar)
        else:
            raw, bottleneck_loss = self.quantizer(moments)  # [B, C, h, w]
        # 2. decode
        reconstruction = F.pixel_shuffle(self.decoder(raw), self.decoder_patch_size)  # [B, out_channels, H, W]
        output = MedSegLatDiffVAEOutput(reconstruction, self._scale(raw), bottleneck_loss)
        return output if return_dict else output.to_tuple()

    def _moments(self, sample: torch.Tensor) -> torch.Tensor:
        factor = self.downsampling_factor
        if sample.ndim != 4 or sample.shape[1] != self.config.in_channels or any(s % factor for s in sample.shape[2:]):
            raise ValueError(
                f"`sample` must have shape (batch, {self.config.in_channels}, height, width) with sides that are "
                f"multiples of {factor}, but was {tuple(sample.shape)}."
            )
        return self.encoder(F.pixel_unshuffle(sample, 2))  # [B, 2*C or C, h, w]

    def _scale(self, raw: torch.Tensor) -> torch.Tensor:
        if self.config.latents_std is None:
            return raw
        mean, std = self._statistics(raw)
        return (raw - mean) / std  # [B, C, h, w]

    def _unscale(self, latents: torch.Tensor) -> torch.Tensor:
        if self.config.latents_std is None:
            return latents
        mean, std = self._statistics(latents)
        return latents * std + mean  # [B, C, h, w]

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, std = torch.tensor([self.config.latents_mean, self.config.latents_std]).to(like)  # [C], [C]
        return mean[:, None, None], std[:, None, None]
