"""The parameters of a network as pictures, matrix by matrix."""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import trees
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Figure, Findings, Image, Look, Quantity, Report, Table
from rnn_plugins.reports.subject import Subject
from rnn_plugins.words import legible

Array: TypeAlias = NDArray[Any]

SIDE = 72
"""The largest number of rows and of columns of a picture; of a larger matrix it shows means of blocks."""


class Weights(Report):
    """Each matrix of the network as a picture.

    The parameters with two axes or more, the embedding and the head included, with a range of colours of their own that
    is symmetric about 0, and the size and spread of all parameters.
    """

    title: ClassVar[str] = "Weights"
    question: ClassVar[str] = "Which inputs, states and outputs have large weights, and which have none?"

    def memory(self, subject: Subject, look: Look) -> int:
        """For the parameters in float64, and a copy of the largest of them."""
        return 2 * trees.count(subject.params) * np.dtype(np.float64).itemsize

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Show the parameters of one network.

        Raises:
            UserError: it has no matrix.
        """
        leaves = {path: np.asarray(leaf, np.float64) for path, leaf in trees.flatten(subject.params).items()}
        matrices = {path: leaf.reshape(-1, leaf.shape[-1]) for path, leaf in leaves.items() if leaf.ndim > 1}
        matrices = {path: matrix for path, matrix in matrices.items() if matrix.size}
        if not matrices:
            raise UserError(f"{subject.label} has no matrix among its parameters, so there is no picture to show")
        figures: list[Figure] = [
            _picture(path, matrix, leaves[path].shape, *_words(subject, path, matrix))
            for path, matrix in matrices.items()
        ]
        spreads = {path: float(matrix.std()) for path, matrix in matrices.items()}
        widest, narrowest = max(spreads, key=spreads.__getitem__), min(spreads, key=spreads.__getitem__)
        count = sum(leaf.size for leaf in leaves.values())
        largest = max((float(np.abs(leaf).max()) for leaf in leaves.values() if leaf.size), default=0.0)
        quantities = (
            Quantity("parameters", "parameters", count, "", "The number of trained scalars."),
            Quantity("matrices", "matrices", len(matrices), "", "Parameters with two axes or more."),
            Quantity("largest", "largest weight", largest, "", "The largest absolute value of any parameter."),
            Quantity(
                "largest_spread", "largest spread", spreads[widest], "",
                "The largest standard deviation of the numbers of a matrix.",
            ),
            Quantity(
                "smallest_spread", "smallest spread", spreads[narrowest], "",
                "The smallest standard deviation of the numbers of a matrix.",
            ),
        )  # fmt: skip
        least = f", those of {narrowest} least, with {spreads[narrowest]:.3g}" if len(matrices) > 1 else ""
        verdict = f"The weights of {widest} spread most, with a standard deviation of {spreads[widest]:.3g}{least}."
        return Findings(quantities, (_table(leaves), *figures), (verdict,))


def _words(subject: Subject, path: str, matrix: Array) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A word for each row and each column, if they stand for what the network reads and predicts; otherwise none."""
    symbols = subject.language.symbols if subject.language else ()
    shown = tuple(map(legible, symbols))
    rows = shown if path == "embedding" and len(matrix) == len(shown) else ()
    columns = shown if path.startswith("head.") and matrix.shape[1] == len(shown) else ()
    return rows, columns


def _picture(
    path: str, matrix: Array, shape: tuple[int, ...], rows: tuple[str, ...], columns: tuple[str, ...]
) -> Image:
    """A matrix, or means of its blocks."""
    shown = matrix
    labels, words = ["row", "column"], [rows, columns]
    for axis, size in enumerate(matrix.shape):
        if size > SIDE:
            edges = np.linspace(0, size, SIDE + 1).round().astype(int)
            counts = np.diff(edges)
            shown = np.add.reduceat(shown, edges[:-1], axis=axis) / (counts[:, None] if axis == 0 else counts)
            words[axis] = tuple(map(str, edges[:-1].tolist()))
            labels[axis] += f", the first of each block of {size / SIDE:.3g}"
    definition = f"The numbers of {path}"
    if len(shape) > 2:
        definition += f", whose rows are its first {len(shape) - 1} axes, the last of them running fastest"
    if shown.shape != matrix.shape:
        blocks = " x ".join(f"{whole / part:.3g}" for whole, part in zip(matrix.shape, shown.shape, strict=True))
        definition += (
            f", as the means of blocks of {blocks} (rows x columns): a mean is closer to 0 than single weights, whose "
            "range is in the table"
        )
    return Image(
        f"weights.{path}",
        f"{path}, {' x '.join(map(str, shape))}",
        labels[1],
        labels[0],
        shown,
        "weight" if shown.shape == matrix.shape else "mean weight",
        words[1],
        words[0],
        definition=f"{definition}. White is 0; the scale ends at the largest number shown, to either side.",
        signed=True,
    )


def _table(leaves: dict[str, Array]) -> Table:
    rows = [
        (
            path,
            " x ".join(map(str, leaf.shape)) or "1",
            float(leaf.min()), float(leaf.mean()), float(leaf.max()), float(leaf.std()),
        )
        for path, leaf in leaves.items() if leaf.size
    ]  # fmt: skip
    return Table(
        "weights",
        "All parameters",
        ("parameter", "size", "smallest", "mean", "largest", "standard deviation"),
        tuple(rows),
        "Of the numbers of each parameter: the smallest, the mean, the largest, and the standard deviation.",
    )
