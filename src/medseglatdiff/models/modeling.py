"""The base of all models: a `ModelMixin` that loads a checkpoint completely and safely, or not at all."""

import hashlib
import os

from diffusers.models.modeling_utils import ModelMixin
from torch import nn

from .checks import check_class, check_known, check_lost, check_model, table_of


class MedSegLatDiffModel(ModelMixin):
    """A `ModelMixin` whose `from_pretrained` refuses what `ModelMixin` only warns about."""

    @classmethod
    def from_config(cls, config, return_unused_kwargs: bool = False, **kwargs):
        """Builds the model like `ConfigMixin.from_config`, if `config` is valid.

        Raises:
            ValueError: if `config` names another class, or a setting breaks a rule of `checks.TABLES`.
        """
        check_model(config or {}, cls)
        return super().from_config(config, return_unused_kwargs, **kwargs)

    @classmethod
    def load_config(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """Reads a stored config like `ConfigMixin.load_config`, if it is complete.

        Raises:
            ValueError: if it is another class's, lacks a setting that every version of the package saves, or has an
                unknown one.
        """
        try:
            outputs = super().load_config(pretrained_model_name_or_path, **kwargs)
        except RecursionError as error:
            raise ValueError(f"The config of {cls.__name__} must be settings by name, but is nested.") from error
        config = outputs[0] if isinstance(outputs, tuple) else outputs
        check_class(config, cls)
        check_lost(config, cls, table_of(cls)[0])
        check_known(config, cls)
        return outputs

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs):
        """Loads weights like `ModelMixin.from_pretrained`, but all of them, no others, and from no pickle.

        With `output_loading_info=True`, missing and unexpected keys are returned as in diffusers, not raised.

        Raises:
            OSError: if a file is missing, truncated or not safetensors.
            ValueError: if the configuration or the weights are another model's, or `use_safetensors=False` asks for a
                pickle.
        """
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError("`use_safetensors` must not be False: weights are never read from a pickle.")
        return_info = kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, use_safetensors=True, output_loading_info=True, **kwargs
            )
        except OSError as error:
            raise OSError(f"{cls.__name__} cannot be loaded: {error}") from error
        if return_info:
            return model, info
        for kind in ("missing", "unexpected"):
            keys = sorted(info[f"{kind}_keys"])
            if keys:
                raise ValueError(
                    f"The weights in {pretrained_model_name_or_path} must be those of this {cls.__name__}, "
                    f"but have {len(keys)} {kind} tensors: {', '.join(keys[:3])}{', ...' if len(keys) > 3 else ''}."
                )
        return model


def check_channels(unet: ModelMixin, mask_vae: ModelMixin, image_encoder: ModelMixin):
    """Raises a `ValueError` unless the U-Net takes the latents of `mask_vae` and the condition of `image_encoder`."""
    if unet.config.latent_channels != mask_vae.config.latent_channels:
        raise ValueError(
            f"`unet` must have the {mask_vae.config.latent_channels} latent channels of `mask_vae`, "
            f"but has {unet.config.latent_channels}."
        )
    if unet.config.condition_channels != image_encoder.condition_channels:
        raise ValueError(
            f"`unet` must take the {image_encoder.condition_channels} condition channels of `image_encoder`, "
            f"but takes {unet.config.condition_channels}."
        )


def weights_sha256(*modules: nn.Module) -> str:
    """SHA-256 of modules' weights, in hexadecimal digits; the same on every device."""
    digest = hashlib.sha256()
    for module in modules:
        for name, value in sorted(module.state_dict().items()):
            digest.update(name.encode() + value.detach().float().cpu().numpy().tobytes())
    return digest.hexdigest()
