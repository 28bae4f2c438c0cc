"""Print a cell's first steps: its equations, and every gate and state with its numbers."""

from __future__ import annotations

import re
import shlex
import textwrap
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from rnn_cli.explanations.layout import formulas, heading, matrices, number, paragraph, width
from rnn_lab.printable import printable

if TYPE_CHECKING:
    from rnn_plugins.inspect.gates import Gates, Step

INDENT = 4


def show(found: Gates) -> None:
    """Print all of it."""
    _cell(found)
    heading("1. Step by step")
    for step in found.steps:
        _step(step)
    _what_it_shows(found)


def _cell(found: Gates) -> None:
    letters = ", ".join(repr(step.symbol) for step in found.steps)
    paragraph(f"The cell {printable(found.cell)} reads {letters} of {found.text!r}.")
    if found.written:
        formulas(*(_filled(printable(line), INDENT) for line in found.written))
    said = (
        f"x_t is one-hot over {', '.join(map(repr, found.symbols))}. Below, values are rows, as in the cell's code, so "
        "these matrices are those of the equations, transposed. The product of x_t with a matrix takes one of its rows"
    )
    if any(re.search(r"(^|[ (])\[", line.text) for line in found.steps[0].lines):
        said += "; in [h, x] @ W, those of h come first"
    paragraph(f"{said}. {'The parameters are random.' if found.parameters else 'It has no parameters.'}")
    if found.parameters:
        matrices(*((printable(path), _table(values)) for path, values in found.parameters.items()))


def _step(step: Step) -> None:
    t = step.t
    click.echo(f"  t = {t}   reads {step.symbol!r}, x_{t} = ({' '.join(str(round(x)) for x in step.x.tolist())})\n")
    before = [(f"{name}_{t - 1}", "", values) for name, values in step.before.items()]
    lines = before + [(line.name, line.text, line.numbers) for line in step.lines]
    margin = INDENT + max((len(name) for name, _, _ in lines), default=0) + 2
    for name, text, values in lines:
        _line(printable(name), printable(text), values, margin)
    click.echo()


def _line(name: str, text: str, values: Any, margin: int) -> None:
    """A name, its numbers, and what it is computed from: beside them if there is room, otherwise below."""
    per_row = max((width() - margin + 1) // 8, 1)
    rows = [
        " ".join(map(_number, row[start : start + per_row]))
        for row in _table(values).tolist()
        for start in range(0, max(len(row), 1), per_row)
    ]
    beside = f"  = {text}" if text and len(rows) == 1 and margin + len(rows[0]) + 4 + len(text) <= width() else ""
    click.echo(f"{' ' * INDENT}{name}".ljust(margin) + (rows[0] + beside if rows else ""))
    for row in rows[1:]:
        click.echo(" " * margin + row)
    if text and not beside:
        click.echo(" " * (INDENT + 2) + _filled(f"= {text}", INDENT + 2))


def _filled(text: str, indent: int) -> str:
    """An equation that begins at a column, in lines: those after the first are indented further."""
    room = width() - indent
    if len(text) <= room:  # as it is written, blanks included
        return text
    return textwrap.fill(text, room, subsequent_indent="  ").replace("\n", "\n" + " " * indent)


def _number(x: float) -> str:
    """A number; a whole one or a truth value, such as a count, without decimals."""
    return number(x) if isinstance(x, float) else f"{int(x):7}"


def _table(values: Any) -> Any:
    """An array as rows."""
    array = np.asarray(values)
    return array.reshape(-1, array.shape[-1]) if array.ndim else array.reshape(1, 1)


def _what_it_shows(found: Gates) -> None:
    heading("2. What it shows")
    if found.reason:
        paragraph(
            f"Only states are shown, because the step cannot be traced: {printable(found.reason)}. A step whose "
            "operations do not depend on numbers shows every gate."
        )
    elif found.difference is not None and found.norms:
        how = f"to {found.difference:.1e}: rounding only" if found.difference else "to the last bit"
        paragraph(f"The time loop computes the same states after {_steps(len(found.steps))}, {how}.")
    if found.norms:
        paragraph(_norms(found))
    name = shlex.quote(printable(found.cell))
    if found.activations:
        paragraph("How often each gate is open or closed along a text, and every operation of a step:")
        formulas(f"rnn report --cell {name} --kind saturation", f"rnn cells show {name} --graph")


def _norms(found: Gates) -> str:
    """How much of the states before each step is left in the last ones."""
    last = len(found.steps)
    listed = ", ".join(f"{norm:.3f}" for norm in found.norms)
    before = ", ".join(map(str, range(last, 0, -1)))
    return (
        f"How much the states after t = {last} depend on those before t = {before}: the norm (largest singular value) "
        f"of the derivative is {listed}. It is the product of the Jacobians of the steps between, as rnn explain bptt "
        "derives it for the cell rnn."
    )


def _steps(count: int) -> str:
    return f"{count} steps" if count > 1 else "1 step"
