"""The tables of docs/cells.md on what a step may compute: every row is run."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from test_scan_planned import Sample, assert_close, compare, every_backend, forgotten, outcome

import minigrad
from minigrad import tanh

__all__ = ["forgotten"]

PAGE = Path(__file__).parents[1] / "docs" / "cells.md"
NAMES: dict[str, Any] = {name: getattr(minigrad, name) for name in minigrad.__all__} | {"np": np}
B = 3


class Refused(NamedTuple):
    """A row of the table of what is not planned."""

    code: str
    reason: str
    instead: str


def rows(heading: str) -> list[list[str]]:
    """The cells of the table whose head contains this."""
    section = PAGE.read_text(encoding="utf-8").partition("## What a step may compute")[2].partition("\n## ")[0]
    (table,) = re.findall(rf"^\|[^\n]*\| {heading} \|.*?(?=\n\n|\Z)", section, re.MULTILINE | re.DOTALL)
    lines = table.splitlines()[2:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def codes(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


PLANNED = [code for _, cell in rows("planned") for code in codes(cell)]
REFUSED = [Refused(*codes(cells[1]), cells[2], *codes(cells[3].strip("| ")) or [""]) for cells in rows("not planned")]


def step_of(code: str) -> Any:
    """A step whose output is the value of the last expression of some code, and whose carry depends on it."""
    *before, last = ast.parse(code).body
    assert isinstance(last, ast.Expr)
    program = compile(ast.Module(before, []), "<row>", "exec"), compile(ast.Expression(last.value), "<row>", "eval")

    def step(p: Any, carry: Any, x: Any, context: Any = None) -> Any:
        names = {**NAMES, **p, **carry, **x, **(context or {})}
        exec(program[0], names)
        y = eval(program[1], names)
        mixed = y.reshape(len(y), -1).mean(axis=1)
        h, M = carry["h"], carry["M"]
        return {"h": tanh(0.5 * h + x["x"] + mixed[:, None]), "M": tanh(0.9 * M + mixed[:, None, None])}, y

    return step


def sample(code: str, dtype: Any = np.float32) -> Sample:
    rng = np.random.default_rng(0)

    def numbers(*shape: int) -> Any:
        return rng.standard_normal(shape).astype(dtype)

    params = {"W": numbers(6, 6), "V": numbers(2, 3, 3), "E": numbers(5, 6), "g": numbers(6), "b": numbers(6)}
    carry = {"h": numbers(B, 6), "M": numbers(B, 4, 6)}
    xs = {"x": numbers(4, B, 6), "i": rng.integers(0, 4, (4, B))}
    context = {"C": numbers(B, 5, 6)} if re.search(r"\bC\b", code) else None
    return Sample(step_of(code), params, carry, xs, context=context)


def test_the_tables_are_read():
    assert len(PLANNED) > 40
    assert len(REFUSED) > 10


@every_backend
@pytest.mark.parametrize("code", PLANNED)
def test_what_is_planned(code, backend):
    compare(sample(code), backend, np.float32)


@every_backend
@pytest.mark.parametrize("row", REFUSED, ids=lambda row: row.code)
def test_what_is_not_planned(row, backend, forgotten, caplog):
    call = sample(row.code)
    if "no derivative rule" in row.reason or "assigned" in row.reason:
        with pytest.raises(TypeError) as caught:
            outcome(call, backend)
        assert str(caught.value).startswith(row.reason)
        return
    expected = outcome(call, "reference")
    assert not caplog.records
    for actual, right in zip(outcome(call, backend), expected, strict=True):
        assert_close(actual, right, np.float32)
    for record in caplog.records:
        assert record.getMessage().endswith(row.reason)
    assert caplog.records


@every_backend
@pytest.mark.parametrize("row", [row for row in REFUSED if row.instead], ids=lambda row: row.instead)
def test_what_to_write_instead(row, backend):
    call, same = sample(row.instead), sample(row.code)
    compare(call, backend, np.float32)
    x = {name: array[0] for name, array in call.xs.items()}
    (_, found), (_, expected) = (s.step(s.params, s.carry, x) for s in (call, same))
    np.testing.assert_allclose(np.squeeze(found), expected, rtol=1e-6)
