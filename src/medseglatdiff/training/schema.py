"""What settings must be: values are checked against types and ranges by pydantic, and a fault is one sentence.

Checks are strict: `"false"` is no bool, `true` no integer, `1` no text; whole numbers pass as floats.
"""

import difflib
import functools
import inspect
import json
import typing
from collections.abc import Callable, Iterable
from typing import Any

import pydantic
from pydantic_core import ErrorDetails

STRICT = pydantic.ConfigDict(strict=True, allow_inf_nan=False, extra="forbid", arbitrary_types_allowed=True)


@functools.cache
def schema(function: Callable) -> type[pydantic.BaseModel]:
    """The arguments that a function or a class takes, with the types and ranges of its annotations."""
    parameters = inspect.signature(function).parameters
    constructor = function.__init__ if inspect.isclass(function) else function
    hints = typing.get_type_hints(constructor, include_extras=True)
    fields: dict[str, Any] = {name: (hints[name], entry.default) for name, entry in parameters.items()}
    return pydantic.create_model("Arguments", __config__=STRICT, **fields)


def suggestion(name: str, known: Iterable[str]) -> str:
    """ " (did you mean `NAME`?)", or nothing where no known name is near."""
    near = difflib.get_close_matches(name.replace("-", "_"), known, n=1)
    return f" (did you mean `{near[0]}`?)" if near else ""


def sentence(fault: ErrorDetails, setting: str) -> str:
    """One of pydantic's faults as a sentence that names the setting, what it must be and what it was."""
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"] if part != "list")
    name, rule = (setting + place).lstrip("."), fault["msg"].replace("Input should be", "must be")
    return f"`{name}` {rule[0].lower()}{rule[1:]}, but was {fault['input']!r}."


def check_settings(values: dict, config_class: type):
    """Raises a `ValueError` with the first fault of a run's settings."""
    try:
        schema(config_class).model_validate(values)
    except pydantic.ValidationError as error:
        raise ValueError(sentence(error.errors()[0], "")) from None


def check_arguments(setting: str, values: dict, model_class: type, taken: tuple[str, ...] = ()):
    """Raises a `ValueError` where a setting does not hold arguments of a class; those `taken` are set elsewhere."""
    known = [name for name in inspect.signature(model_class).parameters if name not in taken]
    for name in values:
        if name not in known:
            raise ValueError(
                f"`{setting}` must hold arguments of {model_class.__name__} out of {', '.join(known)}, "
                f"but held `{name}`{suggestion(str(name), known)}."
            )
    try:
        schema(model_class).model_validate_json(json.dumps(values))  # in JSON a tuple is a list
    except pydantic.ValidationError as error:
        raise ValueError(sentence(error.errors()[0], setting)) from None
    except TypeError as error:
        raise ValueError(f"`{setting}` must consist of JSON's types, but: {error}.") from error
