"""All that can be said of a cell without running it: its equations, options, parameters and carry. It draws nothing."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from minigrad import trees
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_plugins import registry
from rnn_plugins.errors import UserError
from rnn_plugins.registry import CellOption, OptionValue

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Sheet:
    """A cell on paper.

    Attributes:
        name: as it was asked for.
        origin: who offers it: a distribution and its version, or a file.
        text: the docstring: equations, paper, conventions; empty where there is none.
        options: the cell's own.
        input_size: I, for which the parameters are counted.
        hidden_size: H, likewise.
        parameters: the shape of each by its path.
        count: the number of their scalars.
        carry: the shape of each part of the carry by its path, without the batch.
        learning_rate: what the cell suggests; None where it suggests nothing.
    """

    name: str
    origin: str
    text: str
    options: tuple[CellOption, ...]
    input_size: int
    hidden_size: int
    parameters: dict[str, Shape]
    count: int
    carry: dict[str, Shape]
    learning_rate: float | None


def sheet(spec: str, input_size: int, hidden_size: int, options: Mapping[str, OptionValue]) -> Sheet:
    """Look a cell up and describe it.

    Args:
        spec: a name or ``FILE.py:CLASS``, as ``registry.cell_class`` takes it.
        input_size: the width of an input.
        hidden_size: the width of the hidden state.
        options: the cell's own.

    Raises:
        UserError: there is no such cell, it does not take the options, or it cannot make its parameters.
    """
    cell = registry.make_cell(spec, input_size, hidden_size, options)
    cls = type(cell)
    try:
        params, carry = cell.init_params(np.random.default_rng(0)), cell.init_carry(1)
    except Exception as error:
        raise UserError(
            f"the cell {spec!r} cannot make its parameters: {type(error).__name__}: {error}; "
            f"rnn cells check {spec} says more"
        ) from error
    recorded = registry.provenance(spec)
    return Sheet(
        name=spec,
        origin=recorded.get("file") or f"{recorded['distribution']} {recorded['version']}",
        text=_text(cls),
        options=tuple(registry.cell_options(cls)),
        input_size=input_size,
        hidden_size=hidden_size,
        parameters=_shapes(params),
        count=trees.count(params),
        carry={path: shape[1:] for path, shape in _shapes(carry).items()},
        learning_rate=cls.suggested_learning_rate,
    )


def _text(cls: type[Cell]) -> str:
    written = inspect.getdoc(cls) or ""
    if written.startswith(f"{cls.__name__}("):  # a dataclass without a docstring gets its signature for one
        return ""
    # Where nothing but equations follows the first line, their indentation passes for the docstring's, and is gone.
    blocks = written.split("\n\n")
    return "\n\n".join(
        textwrap.indent(block, "    ")
        if block[0] != " " and all(" = " in line for line in block.splitlines())
        else block
        for block in blocks
    )


def _shapes(tree: Tree) -> dict[str, Shape]:
    return {path: np.shape(leaf) for path, leaf in trees.flatten(tree).items()}
