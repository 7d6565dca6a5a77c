"""The command line of a training run: `--config`, every setting, and help for each of them.

tyro reads the settings, their comments and defaults from the dataclass, and takes the command line apart. What words
mean and whether they may is decided here and in `Config`, so that a fault reads the same from file and command line.
"""

import argparse
import dataclasses
import json
import types
import typing
from collections.abc import Callable
from pathlib import Path

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from .config import GROUPS, Config
from .schema import check_settings, suggestion

PRESETS = {path.stem: path for path in sorted(Path(__file__).with_name("configs").glob("*.json"))}
READERS: dict[type, Callable[[str], object]] = {
    bool: {"true": True, "false": False}.__getitem__,
    int: int,
    float: float,
    dict: json.loads,
    str: str,
}
METAVARS = {bool: "[true|false]", int: "INT", float: "FLOAT", dict: "JSON", str: "TEXT"}
CONFIG_HELP = f"JSON file of settings, or the name of a preset: {', '.join(PRESETS)}"


class Words(list):
    """What followed an option on the command line."""


def kind_of(hint: typing.Any) -> tuple[type, tuple, bool]:
    """The plain type of a setting, the values to choose from where there are few, and whether it may be `None`."""
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    inner = typing.get_args(hint)[0] if optional else hint
    if typing.get_origin(inner) is typing.Annotated:
        inner = typing.get_args(inner)[0]
    choices = typing.get_args(inner) if typing.get_origin(inner) is typing.Literal else ()
    return (type(choices[0]) if choices else inner), choices, optional


def shown(value: object) -> str:
    """A setting's value as it is written on the command line."""
    if value is None:
        return "none"
    return value if isinstance(value, str) else json.dumps(value)


def read_words(name: str, words: Words) -> object:
    """A setting's value from its words on the command line; a word that cannot be one stays, for `Config` to refuse.

    Raises:
        ValueError: if there is not one word.
    """
    kind, _, optional = kind_of(typing.get_type_hints(Config)[name])
    if kind is bool and not words:
        return True
    if len(words) != 1:
        raise ValueError(f"`{name}` must be followed by one value, but was followed by {' '.join(words) or 'none'}.")
    if optional and words[0].lower() == "none":
        return None
    try:
        return READERS[kind](words[0])
    except (KeyError, ValueError):
        return words[0]


def words_of(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
    """tyro's rule for a setting of any type: its words are kept, to be read afterwards."""
    if dataclasses.is_dataclass(info.type):
        return None
    kind, choices, optional = kind_of(info.type)
    metavar = "{" + ",".join(map(str, choices)) + "}" if choices else METAVARS.get(kind, "")
    return PrimitiveConstructorSpec(
        nargs="*",
        metavar=f"{metavar}|none" if optional else metavar,
        instance_from_str=Words,
        is_instance=lambda value: True,
        str_from_instance=lambda value: [shown(value)],
    )


def unique(pairs: list[tuple[str, object]]) -> dict:
    """The pairs of a JSON object; JSON itself would let the last of several values of one name count."""
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"`{name}` twice")
    return dict(pairs)


def read_file(name: str) -> dict:
    """The settings of a JSON file, or of a preset by its name.

    Raises:
        OSError: if the file cannot be read.
        ValueError: if it is no JSON object, or holds a setting that does not exist or is not what it must be.
    """
    path = PRESETS.get(name, Path(name))
    if not path.suffix and not path.exists():
        presets = ", ".join(PRESETS)
        hint = suggestion(name, PRESETS)
        raise ValueError(f"`config` must be a JSON file or one of {presets}, but was {name}{hint}.")
    try:
        settings = json.loads(path.read_text("utf-8"), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ValueError(f"`config` must be JSON, but {path} is not in {place}: {error.msg}.") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"`config` must be JSON in UTF-8, but {path} is not: {error}.") from error
    except ValueError as error:
        raise ValueError(f"`config` must hold each setting once, but {path} holds {error}.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"`config` must be a JSON object of settings, but {path} is a {type(settings).__name__}.")
    known = [entry.name for entry in dataclasses.fields(Config)]
    for setting in settings:
        if setting not in known:
            hint = suggestion(setting, known)
            raise ValueError(f"`config` must hold known settings only, but {path} holds `{setting}`{hint}.")
    check_settings(vars(Config()) | settings, Config)
    return settings


def given_settings(arguments: list[str] | None = None) -> dict:
    """What `--config` and the command line, which has the last word, say: no defaults.

    Raises:
        OSError: if the file of `--config` cannot be read.
        ValueError: if a setting is unknown or not what it must be.
    """
    # 1. the file, whose values the help shows as defaults
    first = argparse.ArgumentParser(prog="medseglatdiff train", add_help=False, allow_abbrev=False)
    first.add_argument("--config", metavar="PATH_OR_NAME")
    named, words = first.parse_known_args(arguments)
    settings = read_file(named.config) if named.config else {}
    # 2. the command line
    registry = ConstructorRegistry()
    registry.primitive_rule(words_of)
    hint = typing.Annotated[str | None, tyro.conf.arg(help=CONFIG_HELP, metavar="PATH_OR_NAME")]
    groups = {group.__name__.lower(): group for group in GROUPS}
    kinds = dataclasses.make_dataclass("Settings", [("config", hint), *groups.items()])
    defaults = {}
    for title, group in groups.items():
        own = {entry.name for entry in dataclasses.fields(group)} & set(settings)
        defaults[title] = group(**{name: settings[name] for name in own})
    parsed, unknown = tyro.cli(
        kinds,
        args=words,
        prog="medseglatdiff train",
        description="Trains the stages of MedSegLatDiff and saves a pipeline.",
        default=kinds(config=named.config, **defaults),
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff),
        registry=registry,
        return_unknown_args=True,
    )
    known = [entry.name for entry in dataclasses.fields(Config)]
    for word in unknown:
        name = word.split("=")[0].lstrip("-")
        raise ValueError(f"The options must be known settings, but there was {word}{suggestion(name, known)}.")
    given = {name: value for title in groups for name, value in vars(getattr(parsed, title)).items()}
    # 3. together
    read = {name: read_words(name, value) for name, value in given.items() if isinstance(value, Words)}
    return settings | read


def parse_config(arguments: list[str] | None = None) -> Config:
    """All settings, by `given_settings` and the defaults.

    Raises:
        OSError: if the file of `--config` cannot be read.
        ValueError: if a setting is unknown or not what it must be.
    """
    return Config(**given_settings(arguments))
