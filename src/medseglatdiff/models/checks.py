"""Rules for stored settings: a table of types and ranges per class, so that a damaged config is refused."""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

SHOWN = 60  # characters of an invalid value in an error


@dataclass(frozen=True)
class Rule:
    """What a setting must be: in words, and as a test.

    Args:
        wanted (`str`): completes "must be".
        holds (`Callable`): whether a value obeys the rule.
        later (`bool`, *optional*, defaults to `False`): whether the setting is newer than the first published
            checkpoints, so that a config without it is old, not damaged.
    """

    wanted: str
    holds: Callable[[Any], bool]
    later: bool = False


Rules = Mapping[str, Rule]


def integer(low: int, high: int) -> Rule:
    """An integer between two limits, inclusive."""
    return Rule(
        f"an integer from {low} to {high:,}",
        lambda value: isinstance(value, int) and not isinstance(value, bool) and low <= value <= high,
    )


def number(low: float, high: float = math.inf, above: bool = False) -> Rule:
    """A finite number between two limits, inclusive; with `above`, the lower limit is excluded."""

    def holds(value) -> bool:
        real = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        return real and low <= value <= high and not (above and value == low)

    end = f" and at most {high:g}" if high < math.inf else ""
    return Rule(f"{'above' if above else 'at least'} {low:g}{end}", holds)


def flag() -> Rule:
    """True or False."""
    return Rule("true or false", lambda value: isinstance(value, bool))


def one_of(*values) -> Rule:
    """One of a few values, with the same type: True is not 1."""
    *most, last = map(repr, values)
    return Rule(
        f"{', '.join(most)} or {last}", lambda value: any(type(value) is type(v) and value == v for v in values)
    )


def several(rule: Rule, low: int, high: int) -> Rule:
    """A list of values that all obey one rule."""
    return Rule(
        f"a list of {low} to {high:,} values, each {rule.wanted}",
        lambda value: isinstance(value, (list, tuple)) and low <= len(value) <= high and all(map(rule.holds, value)),
    )


def optional(rule: Rule) -> Rule:
    """`None`, or a value that obeys another rule."""
    return Rule(f"null or {rule.wanted}", lambda value: value is None or rule.holds(value))


def later(rule: Rule) -> Rule:
    """The same rule for a setting that older checkpoints lack."""
    return replace(rule, later=True)


AUTOENCODER = {
    "in_channels": integer(1, 256),
    "out_channels": integer(1, 256),
    "block_out_channels": several(integer(1, 2048), 1, 8),
    "layers_per_block": integer(1, 16),
    "latent_channels": integer(1, 256),
    "norm_num_groups": integer(1, 256),
    "bottleneck": one_of("kl", "vq"),
    "num_codes": integer(2, 65_536),
    "decoder_block_out_channels": later(optional(several(integer(1, 2048), 1, 8))),
    "decoder_layers_per_block": later(optional(integer(0, 16))),
    "latents_mean": optional(several(number(-1e6, 1e6), 1, 256)),
    "latents_std": optional(several(number(0, 1e6, above=True), 1, 256)),
}
IMAGE_ENCODER = {
    "in_channels": one_of(1, 3),
    "condition_channels": integer(1, 2048),
    "fused_channels": integer(1, 2048),
    "downsampling_factor": one_of(1, 2, 4, 8, 16, 32),
    "norm_num_groups": integer(1, 256),
    "backbone": later(
        Rule("a backbone's name or settings", lambda value: isinstance(value, str | Mapping) and bool(value))
    ),
    "backbone_strides": later(optional(several(integer(1, 64), 1, 8))),
    "block_out_channels": later(several(integer(1, 2048), 1, 8)),
    "layers_per_block": later(integer(1, 16)),
    "dropout": later(number(0, 0.99)),
    "decoder": later(flag()),
    "num_classes": later(optional(integer(1, 254))),
}
UNET = {
    "sample_size": integer(1, 1024),
    "latent_channels": integer(1, 256),
    "condition_channels": integer(1, 2048),
    "block_out_channels": several(integer(1, 2048), 1, 8),
    "attention": several(flag(), 1, 8),
    "layers_per_block": integer(1, 16),
    "attention_head_dim": integer(1, 2048),
    "norm_num_groups": integer(1, 256),
    "dropout": number(0, 0.99),
    "patch_size": later(integer(1, 16)),
    "initial_noise": later(flag()),
}


def check_values(settings: Mapping, rules: Rules, owner: str = ""):
    """Raises a `ValueError` that names the first of the settings that breaks its rule.

    Args:
        settings (`Mapping`): values by name; those without a rule are not checked.
        rules (`Mapping[str, Rule]`): by name.
        owner (`str`, *optional*): whose settings they are, for the error.
    """
    for name, rule in rules.items():
        if name in settings and not rule.holds(settings[name]):
            refuse(name, rule.wanted, settings[name], owner)


def check_class(config: object, some_class: type) -> Mapping:
    """The config; a `ValueError` unless it has settings by name and belongs to this class or a parent."""
    if not isinstance(config, Mapping):
        raise ValueError(f"The config of {some_class.__name__} must be settings by name, but was {shown(config)}.")
    owner = config.get("_class_name", some_class.__name__)
    if owner not in [parent.__name__ for parent in some_class.__mro__]:
        raise ValueError(f"`config` must be of a {some_class.__name__}, but was of a {owner}.")
    return config


def check_lost(config: Mapping, some_class: type, rules: Rules):
    """Raises a `ValueError` if a stored config lacks a setting that every version of the class saves."""
    for name, rule in rules.items():
        if name in arguments_of(some_class) and name not in config and not rule.later:
            raise ValueError(f"`{name}` is missing from the config of {some_class.__name__}: part of it was lost.")


def check_known(config: Mapping, some_class: type):
    """Raises a `ValueError` if a stored config has a setting that the class does not take."""
    for name in config:
        if not name.startswith("_") and name not in arguments_of(some_class):
            raise ValueError(
                f"{shown(name)} in the config of {some_class.__name__} is unknown to this version of medseglatdiff: "
                "it is misspelt, or a newer version saved it."
            )


def check_groups(settings: Mapping, owner: str):
    """Raises a `ValueError` unless the groups of the normalisation divide every width."""
    groups = settings["norm_num_groups"]
    widths = settings.get("block_out_channels") or [settings["fused_channels"]]
    if any(width % groups for width in widths):
        refuse("norm_num_groups", f"a divisor of the widths, {list(widths)}", groups, owner)


def check_autoencoder(settings: Mapping, owner: str):
    """Checks that an autoencoder's settings are consistent.

    Latents are not scaled if mean and standard deviation are both null. If only one is null, it was lost.
    """
    check_groups(settings, owner)
    mean, std, channels = (settings[name] for name in ("latents_mean", "latents_std", "latent_channels"))
    if (mean is None) != (std is None):
        lost, kept = ("latents_std", "latents_mean") if std is None else ("latents_mean", "latents_std")
        refuse(lost, f"given if `{kept}` is (both are null if latents are not scaled)", None, owner)
    for name, values in (("latents_mean", mean), ("latents_std", std)):
        if values is not None and len(values) != channels:
            refuse(name, f"{channels} values, one per latent channel", values, owner)


def check_unet(settings: Mapping, owner: str):
    """Checks that a denoiser's settings are consistent."""
    check_groups(settings, owner)
    widths, attention, head = (settings[name] for name in ("block_out_channels", "attention", "attention_head_dim"))
    if len(attention) != len(widths):
        refuse("attention", f"{len(widths)} values, one per level", attention, owner)
    attending = [width for width, attends in zip(widths, attention, strict=True) if attends]
    attending += [widths[-1]] if attending else []  # the middle block attends if any level does
    if any(width % head for width in attending):
        refuse("attention_head_dim", f"a divisor of the widths that attend, {attending}", head, owner)


TABLES = {
    "MedSegLatDiffVAE": (AUTOENCODER, check_autoencoder),
    "MedSegLatDiffImageEncoder": (IMAGE_ENCODER, check_groups),
    "MedSegLatDiffUNet": (UNET, check_unet),
}


def table_of(model_class: type) -> tuple[Rules, Callable[[Mapping, str], None]]:
    """The rules and the consistency check of a model class or of the class that it extends."""
    return next(TABLES[parent.__name__] for parent in model_class.__mro__ if parent.__name__ in TABLES)


def arguments_of(some_class: type) -> dict[str, Any]:
    """The constructor's arguments with their defaults."""
    parameters = list(inspect.signature(some_class).parameters.values())
    return {parameter.name: parameter.default for parameter in parameters}


def check_model(config: Mapping, model_class: type):
    """Raises a `ValueError` that names the first setting with which a model of this class cannot be built."""
    check_class(config, model_class)
    rules, fit = table_of(model_class)
    settings = {**arguments_of(model_class), **config}
    check_values(settings, rules, model_class.__name__)
    fit(settings, model_class.__name__)


def refuse(name: str, wanted: str, value: object, owner: str = "") -> NoReturn:
    """Raises a `ValueError` that names a setting."""
    raise ValueError(f"`{name}`{f' of {owner}' if owner else ''} must be {wanted}, but was {shown(value)}.")


def shown(value: object) -> str:
    """A value as quoted in an error: on one line, cut if it is long."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
