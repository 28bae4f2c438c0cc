"""Parts that the models of several tasks share: padding, masks, symbols, pooling."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence, Sized
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, ClassVar, Literal, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from minigrad import concat, dropout_mask, sum, trees, where
from minigrad import max as maximum
from minigrad.initializers import glorot_uniform, zeros
from minigrad.scan import Lookup
from minigrad.tensor import value_of
from minigrad.trees import Tree
from rnn_cells import Bidirectional, Cell, Stacked
from rnn_cells.regularised import Regularised
from rnn_plugins.data.images import Named, as_image
from rnn_plugins.data.vectors import vectors_of
from rnn_plugins.errors import UserError
from rnn_plugins.progress import advance
from rnn_plugins.tasks.task import Inputs, Model, Network

Array = NDArray[Any]

Pool = Literal["last", "mean", "max"]
"""How the outputs along a sequence become one vector."""

ONE_HOT_LIMIT = 256
"""The largest vocabulary with one-hot inputs by default, except in a language model."""

WIDEST_EMBEDDING = 128
"""The default width of an embedding, unless the hidden size is smaller."""

LARGEST_ONE_HOT = 2048
"""The largest vocabulary that may be read without an embedding: its one-hot vectors are a matrix of its square."""

T = TypeVar("T")


def chunks(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Items in lists of at most ``size``, taken as they are needed; of a known number, it tells how many are done."""
    rest, done = iter(items), 0
    while some := list(islice(rest, size)):
        yield some
        if isinstance(items, Sized):
            done += len(some)
            advance(done / len(items))


def with_places(inputs: Iterable[T]) -> Iterator[tuple[int, T]]:
    """Inputs of predictions with their places, from 0, among all that the user gives."""
    return zip(inputs.places, inputs, strict=True) if isinstance(inputs, Inputs) else enumerate(inputs)


def named_images(inputs: Iterable[Named | Array], shape: Sequence[int], white: int) -> Iterator[Named]:
    """Images (H, W) or (H, W, C) as a network takes them, with names; an array is named by its place.

    Args:
        inputs: those of predictions.
        shape: height, width and channels.
        white: as for ``read_images``.

    Raises:
        UserError: an array is no image of this shape.
    """
    for place, given in with_places(inputs):
        if isinstance(given, Named):
            yield given
        else:
            label = f"image {place}"
            yield Named(label, as_image(given, shape=shape, white=white, label=label))


def padded(sequences: Sequence[ArrayLike], fill: float = 0) -> tuple[Array, Array]:
    """Sequences (T_i, ...) side by side, (T, B, ...), padded at their ends, and their lengths, (B,).

    Args:
        sequences: one at least; all of one kind.
        fill: the padding.
    """
    arrays = [np.asarray(sequence) for sequence in sequences]
    lengths = np.array([len(array) for array in arrays])
    together = np.full((lengths.max(), len(arrays), *arrays[0].shape[1:]), fill, arrays[0].dtype)
    for i, array in enumerate(arrays):
        together[: len(array), i] = array
    return together, lengths


def mask(lengths: Array, steps: int) -> Array:
    """Which steps are before the end of their sequence, (T, B)."""
    return np.arange(steps)[:, None] < lengths


def masked_mean(values: Any, live: Array) -> Any:
    """The mean of values (T, B) over the steps where ``live`` (T, B) is true."""
    return sum(where(live, values, 0)) / max(int(live.sum()), 1)


@dataclass(frozen=True)
class Symbols:
    """Ids of symbols as inputs of a cell.

    Attributes:
        size: the number V of symbols.
        width: of their embedding; 0 for one-hot inputs.
        dtype: of the inputs.
    """

    size: int
    width: int
    dtype: str = "float32"

    @property
    def input_size(self) -> int:
        """The width of an input."""
        return self.width or self.size

    def init_params(self, rng: np.random.Generator) -> Tree:
        """The embedding, (V, E), of standard normal numbers; () for one-hot inputs."""
        return rng.normal(0, 1, (self.size, self.width)).astype(self.dtype) if self.width else ()

    def __call__(self, params: Tree, ids: Array) -> Lookup:
        """The inputs for ids (T, B), as a lookup of rows, (T, B, input_size)."""
        return Lookup(params if self.width else np.eye(self.size, dtype=self.dtype), ids)


@dataclass(frozen=True)
class Vectors:
    """Pretrained vectors of words, with which an embedding begins.

    Attributes:
        file: their file; see ``data.vectors``.
        words: the words of the vocabulary, V.
        freeze: whether they are not trained.
    """

    file: str
    words: tuple[str, ...]
    freeze: bool

    def onto(self, table: Array) -> Array:
        """A new embedding (V, E) with the vectors.

        A word without one gets random numbers of their deviation, or zeros if vectors are not trained.

        Raises:
            UserError: the file cannot be read.
        """
        matrix, known = vectors_of(self.file, self.words)
        others = 0 if self.freeze else table * (matrix[known].std() / table.std())
        return np.where(known[:, None], matrix, others).astype(table.dtype)


class Embedded(Model):
    """A model whose embedding of words may begin with pretrained vectors.

    Attributes:
        table: the path of the embedding among the parameters.
        vectors: the pretrained vectors; None if there are none.
    """

    table: ClassVar[str] = "embedding"
    vectors: Vectors | None

    def pretrained(self, params: Tree) -> Tree:
        """The parameters with pretrained vectors of words."""
        if self.vectors is None:
            return params
        return params | {self.table: self.vectors.onto(params[self.table])}

    def frozen(self) -> tuple[str, ...]:
        """The embedding, if pretrained vectors are not trained."""
        return (self.table,) if self.vectors and self.vectors.freeze else ()

    def embedding(self, params: Tree) -> Any:
        """The embedding (V, E), a constant if it is not trained; () for one-hot inputs."""
        table = params.get(self.table, ())
        return value_of(table) if self.frozen() else table


def check_freeze(freeze: bool, embedding: str) -> None:
    """Check that there are pretrained vectors where these are not to be trained.

    Args:
        freeze: whether they are not trained.
        embedding: their file; empty for none.

    Raises:
        ValueError: there are none.
    """
    if freeze and not embedding:
        raise ValueError("freeze needs pretrained vectors: give embedding their file")


def recurrent(network: Network, width: int, directions: int = 1) -> Cell:
    """The recurrent part for inputs of a width: one cell or stack, or one per direction."""
    if directions == 1:
        return network.make_cell(width)
    return Bidirectional(network.make_cell(width), network.make_cell(width))


def unroll(cell: Cell, params: Tree, xs: Any, lengths: Array, dtype: str, rng: np.random.Generator | None) -> Any:
    """The outputs of a cell from its first carry along padded sequences, (T, B, output_size)."""
    carry = trees.cast(cell.init_carry(len(lengths)), dtype)
    return cell.unroll(params, carry, xs, lengths=lengths, rng=rng)[1]


def dense(rng: np.random.Generator, inputs: int, outputs: int) -> Tree:
    """New parameters of an affine map: ``W`` (inputs, outputs), Glorot-uniform, and ``b`` of zeros."""
    return {"W": glorot_uniform(rng, (inputs, outputs)), "b": zeros(rng, (outputs,))}


def step_masks(
    cell: Cell, steps: int, size: int, rate: float, variational: bool, rng: np.random.Generator, dtype: str
) -> tuple[dict[str, Any], ...]:
    """The masks within a cell or stack in training, by layer, each (T, B, ...); none if no layer has any.

    ``input`` multiplies what a layer gets from the one below; ``kept`` is of its zoneout (``Regularised.draw``). They
    are inputs of a step that calls the cell with ``masked_step``.

    Args:
        cell: the cell.
        steps: T.
        size: B.
        rate: of dropout between layers.
        variational: whether all steps have the same dropout mask.
        rng: draws them.
        dtype: of the masks.
    """
    layers = cell.cells if isinstance(cell, Stacked) else (cell,)
    masks: list[dict[str, Any]] = [{} for _ in layers]
    if rate:
        for above, layer in zip(masks[1:], layers, strict=False):
            mask = dropout_mask((1 if variational else steps, size, layer.output_size), rate, rng, dtype, axis=1)
            above["input"] = np.ascontiguousarray(np.broadcast_to(mask, (steps, *mask.shape[1:])))
    for own, layer in zip(masks, layers, strict=True):
        if isinstance(layer, Regularised) and layer.zoneout:
            own["kept"] = layer.draw(steps, size, rng)
    return tuple(masks) if any(masks) else ()


def masked_step(cell: Cell, params: Tree, carry: Tree, x: Any, masks: Sequence[Any]) -> tuple[Tree, Any]:
    """One step of a cell with the masks that ``step_masks`` gives for it; without masks, the cell's own."""
    if not masks:
        return cell(params, carry, x)
    if isinstance(cell, Stacked):
        new = []
        for i, (layer, own) in enumerate(zip(cell.cells, masks, strict=True)):
            state, x = masked_step(layer, params[str(i)], carry[i], x * own["input"] if "input" in own else x, [own])
            new.append(state)
        return tuple(new), x
    (own,) = masks
    return cell.step(params, carry, x, own["kept"]) if isinstance(cell, Regularised) else cell(params, carry, x)


def pool(ys: Any, lengths: Array, how: Pool, cell: Cell) -> Any:
    """Outputs (T, B, O) along padded sequences as one vector each, (B, O).

    ``last`` takes the output at the last step that a direction reads: of the backward one, that is the first.
    """
    if how == "last":
        rows = np.arange(len(lengths))
        if isinstance(cell, Bidirectional):
            ahead = cell.forward.output_size
            return concat(ys[lengths - 1, rows, :ahead], ys[0, :, ahead:])
        return ys[lengths - 1, rows]
    live = mask(lengths, len(ys))[:, :, None]
    if how == "mean":
        return sum(where(live, ys, 0), axis=0) / lengths[:, None].astype(ys.dtype)
    return maximum(where(live, ys, -np.inf), axis=0)


def with_width(network: Network, symbols: int, vectors: int = 0, widest: int = WIDEST_EMBEDDING) -> Network:
    """The network with the width of its embedding: as given, that of vectors, or a default; 0 for few symbols.

    Args:
        network: the user's settings.
        symbols: their number.
        vectors: the width of pretrained vectors; 0 for none.
        widest: the default, unless the hidden size is smaller.
    """
    if network.embedding_size is not None:
        return network
    default = 0 if symbols <= ONE_HOT_LIMIT else min(network.hidden_size, widest)
    return replace(network, embedding_size=vectors or default)


def require_width(
    width: int, symbols: int, noun: str, vectors: int = 0, file: str = "", widest: int = WIDEST_EMBEDDING
) -> None:
    """Check the width of an embedding.

    Args:
        width: the width; 0 for one-hot inputs.
        symbols: their number.
        noun: for symbols, in the plural.
        vectors: the width of pretrained vectors; 0 for none.
        file: the file of these.
        widest: a width to propose.

    Raises:
        UserError: it is not that of the vectors, or 0 for many symbols.
    """
    if vectors not in (0, width):
        raise UserError(
            f"--embedding-size is {width}, and the vectors of {file!r} have {vectors} numbers: leave it out"
        )
    if not width and symbols > LARGEST_ONE_HOT:
        fewer = ", or set max_words" if noun == "words" else ""
        raise UserError(
            f"--embedding-size is 0, so {symbols:,} {noun} would be one-hot vectors, which are for at most "
            f"{LARGEST_ONE_HOT:,}: give a width, such as {widest}{fewer}"
        )


def no_embedding(network: Network, why: str) -> None:
    """Refuse the width of an embedding where there are no symbols.

    Args:
        network: the user's settings.
        why: what the inputs are, as in "the inputs are images".

    Raises:
        UserError: a width is given.
    """
    if network.embedding_size:
        raise UserError(f"--embedding-size is {network.embedding_size}, but {why}: leave it out")
