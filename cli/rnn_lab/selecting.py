"""Choose and order runs by what they are: names, cells, settings and metrics."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from rnn_lab.runs import Run, Summary
from rnn_plugins.errors import UserError, did_you_mean

KEYS = ("age", "name", "task", "cell", "parameters", "steps", "outcome")
"""What every run has, beside metrics and settings."""

COMPARED: dict[str, Callable[[Any, Any], Any]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "!=": operator.ne, "=": operator.eq,
}  # fmt: skip
"""Signs in a condition; those with two characters are looked for first."""


class Listed(NamedTuple):
    """A run with its row.

    Attributes:
        run: the run.
        row: its row in the list of runs.
        facts: its values by key, each a text or a number; empty if it cannot be read.
        directions: of the metrics among them, "min" or "max".
    """

    run: Run
    row: Summary
    facts: dict[str, Any]
    directions: dict[str, str]


def listed(runs: Iterable[Run]) -> list[Listed]:
    """Runs with what they can be chosen and ordered by."""
    found = []
    for run in runs:
        row, facts, directions = run.summary(), dict[str, Any](), dict[str, str]()
        if not row.error:
            settings = run.settings.to_json()
            options = [settings.pop(name) for name in ("cell_option", "task_option")]
            facts = {key: value for part in (*options, settings) for key, value in part.items()}
            heads = {name: (metric.head or name).lower() for name, metric in row.declared.items()}
            facts |= {heads[name]: value for name, value in row.metrics.items() if name in heads}
            facts |= dict(row.metrics) | {key: getattr(row, key) for key in KEYS if key != "steps"}
            facts |= {"steps": row.step, "cell": run.manifest["cell"]["cell"]}
            for name, metric in row.declared.items():
                directions |= dict.fromkeys((name, heads[name]), metric.direction)
        found.append(Listed(run, row, facts, directions))
    return found


def matching(runs: Sequence[Listed], conditions: Sequence[str]) -> list[Listed]:
    """The runs that meet all conditions.

    Args:
        runs: the runs.
        conditions: such as "cell=gru", "name=gru-*" or "loss<1.5".

    Raises:
        UserError: one has another form, or no run has its key.
    """
    chosen = list(runs)
    for condition in conditions:
        parts = re.fullmatch(r"\s*([\w/%-]+)\s*(<=|>=|!=|<|>|=)\s*(.*?)\s*", condition, re.DOTALL)
        if not parts:
            raise UserError(f"--filter is {condition!r}; write it as KEY=VALUE, such as cell=gru or loss<1.5")
        key = _key("filter", parts[1], runs)
        if parts[2] in ("<", "<=", ">", ">=") and not _is_number(parts[3]):
            raise UserError(f"--filter is {condition!r}, and {parts[3]!r} is no number: {parts[2]} compares numbers")
        chosen = [each for each in chosen if key in each.facts and _meets(each.facts[key], parts[2], parts[3])]
    return chosen


def ordered(runs: Sequence[Listed], key: str) -> list[Listed]:
    """Runs in order: the best metric first, the most steps and units, the newest, or by name.

    Those without a value come last, in the order that they had.

    Args:
        runs: the runs.
        key: what to order by.

    Raises:
        UserError: no run has such a key.
    """
    key = _key("sort", key, runs)
    known = [each for each in runs if each.facts.get(key) is not None]
    rest = [each for each in runs if each.facts.get(key) is None]
    numbers = all(type(each.facts[key]) in (int, float) for each in known)
    falls = key != "age" and any(each.directions.get(key, "max") == "max" for each in known)

    def place(each: Listed) -> Any:
        value = each.facts[key]
        return value if numbers else str(value).lower()

    return sorted(known, key=place, reverse=numbers and falls) + rest


def _key(option: str, wish: str, runs: Sequence[Listed]) -> str:
    """A key that a run has, or that every one has.

    Raises:
        UserError: it is not one.
    """
    known = dict.fromkeys([*KEYS, *(key for each in runs for key in each.facts)])
    for key in (wish, wish.lower(), wish.lower().replace("-", "_")):
        if key in known:
            return key
    raise UserError(
        f"--{option} is by {wish!r}, which no run has.{did_you_mean(wish.lower().replace('-', '_'), known)} There are "
        f"{', '.join(KEYS)}, metrics such as loss, and settings such as hidden_size"
    )


def _is_number(text: str) -> bool:
    with suppress(ValueError):
        return math.isfinite(float(text))
    return False


def _meets(value: Any, sign: str, wanted: str) -> bool:
    """Whether a value meets a condition: as a number where both are one, otherwise as a text with ``*`` and ``?``."""
    with suppress(ValueError, TypeError):
        return bool(COMPARED[sign](float(value), float(wanted)))
    same = fnmatchcase(str(value).lower(), wanted.lower())
    return same if sign == "=" else not same if sign == "!=" else False
