"""The options of plugins: a cell, a task or another class with dataclass fields, given as text or as values."""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import typing
from collections.abc import Collection, Mapping
from typing import Any, Literal, NamedTuple

from rnn_plugins.errors import UserError, did_you_mean, said

OptionValue = str | float | int | bool
"""An option's value, as given on the command line (text) or in a configuration file."""

ATTRIBUTES = "\nAttributes:\n"
"""The heading of the section of a docstring that describes fields."""

_EXPECTED = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Option(NamedTuple):
    """A field of a plugin's class that the user may set.

    Attributes:
        name: the field's name.
        type: bool, int, float or str; for choices the type of the first; otherwise the annotation.
        default: ``dataclasses.MISSING`` if a value is required.
        choices: the allowed values; empty if any value of the type is allowed.
        help: its description under "Attributes:" in the docstring of its class.
    """

    name: str
    type: Any
    default: Any
    choices: tuple[Any, ...]
    help: str = ""

    @property
    def expected(self) -> str:
        """What a value must be, in words."""
        if self.choices:
            return listed([str(choice) for choice in self.choices], "or")
        return _EXPECTED.get(self.type, "a value that only Python can give")


def options_of(cls: type, without: Collection[str] = ()) -> list[Option]:
    """The options of a class: its dataclass fields, except those that the caller sets.

    Raises:
        UserError: an annotation names something that does not exist.
    """
    try:
        hints = typing.get_type_hints(cls)
    except Exception as error:
        raise UserError(f"the options of {cls.__name__} cannot be read: {said(error)}") from error
    options, helps = [], _attributes(cls)
    for field in dataclasses.fields(cls):
        if not field.init or field.name in without:
            continue
        default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
        hint = hints[field.name]
        choices = typing.get_args(hint) if typing.get_origin(hint) is Literal else ()
        kind = type(choices[0]) if choices else hint
        options.append(Option(field.name, kind, default, choices, helps.get(field.name, "")))
    return options


def values_of(who: str, options: Collection[Option], given: Mapping[str, OptionValue]) -> dict[str, Any]:
    """Convert the given values to the types of their options.

    Args:
        who: the owner of the options in messages, such as "the cell 'lstm'".
        options: all options.
        given: values by name; text is parsed as the option's type.

    Raises:
        UserError: there is no such option, a value is invalid, or a required one is missing.
    """
    known = {option.name: option for option in options}
    for name in given:
        if name not in known:
            raise UserError(
                f"{who} has no option called {name!r}.{did_you_mean(name, known)} "
                f"Its options: {', '.join(known) or 'none'}"
            )
    for name, option in known.items():
        if option.default is dataclasses.MISSING and name not in given:
            raise UserError(f"{who} needs its option {name!r} to be given: {option.expected}")
    return {name: _parse(who, known[name], value) for name, value in given.items()}


def split_spec(text: str, word: str) -> tuple[str, dict[str, str]]:
    """Split ``NAME`` or ``NAME:KEY=VALUE,...`` into the name (or ``FILE.py:CLASS``) and the options.

    Args:
        text: the text as given.
        word: what it names, "cell" or "task".

    Raises:
        UserError: an option is not a pair.
    """
    spec, _, last = text.rpartition(":")
    if not spec or "=" not in last:
        return text, {}
    options = {}
    for part in last.split(","):
        key, equals, value = part.partition("=")
        if not equals or not key:
            example = {"cell": "lstm:forget_bias=2"}.get(word, "language-model:level=word")
            raise UserError(f"{text!r}: {part!r} is not an option; use NAME:KEY=VALUE, such as {example}")
        options[key.strip().replace("-", "_")] = value
    return spec, options


def listed(names: list[str], word: str) -> str:
    """Names in a sentence: "a, b and c"."""
    return f" {word} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _attributes(cls: type) -> dict[str, str]:
    """The entries under "Attributes:" in the docstrings of a class and its bases, by name."""
    found: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        _, _, section = (inspect.cleandoc(base.__doc__) if isinstance(base.__doc__, str) else "").partition(ATTRIBUTES)
        for name, words in re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", section, re.MULTILINE):
            found[name] = " ".join(words.split())
    return found


def _parse(who: str, option: Option, value: OptionValue) -> Any:
    """The value as the option's type."""
    if option.choices:
        for choice in option.choices:
            if str(choice) == str(value):
                return choice
    elif option.type is bool:
        if str(value).lower() in _BOOLEANS:
            return _BOOLEANS[str(value).lower()]
    elif option.type in (int, float):
        try:
            number = option.type(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        # int(1.5) is 1, and float(True) is 1.0; neither was meant.
        if math.isfinite(number) and not isinstance(value, bool) and (isinstance(value, str) or number == value):
            return number
    elif option.type is str:
        return str(value)
    hint = did_you_mean(str(value), map(str, option.choices))
    problem = f"the option {option.name!r} of {who} must be {option.expected}, and it is {value!r}"
    raise UserError(f"{problem}.{hint}" if hint else problem)
