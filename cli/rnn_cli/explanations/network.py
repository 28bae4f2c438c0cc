"""The opening of explanations of a basic network: what it reads, its equations and its matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rnn_cli.explanations.layout import formulas, matrices, paragraph

if TYPE_CHECKING:
    from rnn_plugins.inspect.bptt import Derivation
    from rnn_plugins.inspect.forward import Walk


def network(about: Derivation | Walk, beginning: str, equations: Sequence[str], end: str) -> None:
    """Print it.

    Args:
        about: the network with its steps.
        beginning: of the sentence on what it should predict.
        equations: of a step, a line each.
        end: sentences after those on vectors.
    """
    pairs = ", ".join(f"{step.symbol!r} -> {step.target!r}" for step in about.steps)
    paragraph(f"{beginning} and should predict {pairs}.")
    formulas(*equations)
    paragraph(
        f"Vectors are columns, as in the lectures. x_t is one-hot over {listed(about.symbols)}, so U x_t is a column "
        f"of U. {end}"
    )
    matrices(("U", about.U), ("W", about.W), ("V", about.V))


def listed(symbols: Sequence[str]) -> str:
    """Symbols in quotes."""
    return ", ".join(map(repr, symbols))
