"""The schemas of a run's JSON files, and what is wrong with a value that does not fit.

Keys that a schema does not name are ignored, so that a run of a later version can be read.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable
from datetime import datetime
from typing import Any, NamedTuple


class Kind(NamedTuple):
    """What a value must be, in words and as a test."""

    words: str
    fits: Callable[[Any], bool]


def _is_finite(value: Any) -> bool:
    # Not isfinite: a whole number can be too large for a float. The bits of a loss in nats are some half as many again.
    return type(value) in (int, float) and abs(value) < 1e308


def _is_time(value: Any) -> bool:
    try:
        return datetime.fromisoformat(value).timestamp() >= 0
    except (TypeError, ValueError, OverflowError):
        return False


def _below(limit: int) -> Callable[[Any], bool]:
    return lambda value: type(value) is int and 0 <= value < limit


def optional(kind: Kind) -> Kind:
    """The same, or null."""
    return Kind(f"{kind.words} or null", lambda value: value is None or kind.fits(value))


TEXT = Kind("text", lambda value: isinstance(value, str))
TABLE = Kind("a table", lambda value: isinstance(value, dict))
NUMBER = Kind("a finite number", _is_finite)
POSITIVE = Kind("a finite number above 0", lambda value: _is_finite(value) and value > 0)
COUNT = Kind("a whole number, 0 or more", _below(2**53))
PAIR = Kind("a pair of numbers", lambda value: isinstance(value, list) and [*map(_is_finite, value)] == [True, True])
TIME = Kind("a date and time", _is_time)

METRICS = Kind(
    "a table of finite numbers", lambda value: isinstance(value, dict) and all(map(_is_finite, value.values()))
)

ANY = "*"
"""The key of a schema for all keys of a table that it does not name."""

MANIFEST = {
    "task": TABLE,  # see ``of_plugin``
    "cell": TABLE,
    "settings": TABLE,  # read and checked by ``Settings.from_json``
    "facts": TABLE,  # and these by the task
    "data": {"sources": [TEXT], "digest": TEXT, "train": COUNT, "valid": COUNT, "units_per_step": POSITIVE},
    "parameters": COUNT,
    "environment?": {"created?": TIME},
    "outcome?": optional(TEXT),
    "step?": COUNT,
    "best?": {"metrics": optional(METRICS), "step": COUNT},
    "metrics": {ANY: {"unit": TEXT, "direction": TEXT, "head": TEXT, "digits": COUNT, "word": TEXT, "equals?": TEXT}},
    "init_from?": {"path": TEXT, "sha256": TEXT},
    "comparison?": {"plan": TEXT, "cell": TEXT, "seed": COUNT},
    "resumed?": [{"step": COUNT, "changed": TABLE}],
}
"""The schema of ``run.json``."""

_NORMS = {ANY: optional(NUMBER)}

RECORD = {
    "step": COUNT,
    "epoch": NUMBER,
    "train_loss": NUMBER,
    "gradient_norm": NUMBER,
    "learning_rate": NUMBER,
    "units_per_second": NUMBER,
    "seconds": NUMBER,
    "valid_loss?": NUMBER,
    "gradient_norms?": _NORMS,
    "weight_norms?": _NORMS,
    "update_norms?": _NORMS,
    "units?": {ANY: {"saturated": NUMBER, "dead": NUMBER}},
}
"""The schema of a line of ``metrics.jsonl``."""

BEST = {"step": COUNT, "metrics": optional(METRICS)}
"""The schema of the metadata of ``model.safetensors``."""

RNG = {
    "bit_generator": Kind("PCG64", lambda value: value == "PCG64"),
    "state": {part: Kind("a whole number below 2^128", _below(2**128)) for part in ("state", "inc")},
    "has_uint32": Kind("0 or 1", _below(2)),
    "uinteger": Kind("a whole number below 2^32", _below(2**32)),
}
"""The schema of a random generator's state."""

LAST = {
    "step": COUNT,
    "rng": RNG,
    "tally": {
        "loss_sum": NUMBER,
        "loss_count": COUNT,
        "best": optional(METRICS),
        "best_step": COUNT,
        "stale": COUNT,
        "records": COUNT,
        "spans?": [PAIR],
        "averaged?": COUNT,
        "to_beat?": optional(NUMBER),
    },
}
"""The schema of the metadata of ``last.safetensors``."""


STATE = {"run": TEXT, "weights": TEXT, "cell": TEXT, "carries": TEXT, "symbols": COUNT, "drawn": COUNT}
"""The schema of the metadata of a saved state, without the generator's state, which may be null."""


def of_plugin(word: str, recorded: dict[str, Any]) -> dict[str, Kind]:
    """The schema of a manifest's entry on a cell or task: of a distribution, a file, or a class of a Python session."""
    origin: tuple[str, ...] = ("distribution", "version")
    for written in ("file", "module"):
        origin = (written, "class", "sha256") if written in recorded else origin
    return dict.fromkeys((word, *origin), TEXT)


def misfit(value: Any, schema: Any, path: str = "") -> str:
    """What is wrong with a value, such as "has no 'data.symbols'"; empty if it fits.

    Args:
        value: the value, as read from JSON.
        schema: a kind; a list of one schema, for a list of any length; or a table of schemas by key, those of keys that
            may be missing with a ? at the end.
        path: the value's path, as messages name it.
    """
    if isinstance(schema, Kind):
        return "" if schema.fits(value) else f"has {reprlib.repr(value)} for {path!r}, which must be {schema.words}"
    if isinstance(schema, list):
        if not isinstance(value, list):
            return f"has {reprlib.repr(value)} for {path!r}, which must be a list"
        found = (misfit(item, schema[0], f"{path}.{i}") for i, item in enumerate(value))
        return next(filter(None, found), "")
    if not isinstance(value, dict):
        return f"has {reprlib.repr(value)} for {path!r}, which must be a table" if path else "is not a table"
    inside = f"{path}." if path else ""
    for name, part in schema.items():
        key = name.removesuffix("?")
        if name == ANY:
            found = (misfit(item, part, f"{inside}{key}") for key, item in value.items())
            wrong = next(filter(None, found), "")
        elif key in value:
            wrong = misfit(value[key], part, f"{inside}{key}")
        else:
            wrong = "" if name.endswith("?") else f"has no {inside + key!r}"
        if wrong:
            return wrong
    return ""
