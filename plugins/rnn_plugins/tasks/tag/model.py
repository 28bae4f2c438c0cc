"""The network of a tagger: words or frames, an optional encoder of letters, the cell, attention, a linear head."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from minigrad import affine, concat, dropout_mask, einsum, log_softmax, pick, softmax, sum, take, tanh, trees, where
from minigrad.initializers import glorot_uniform, zeros
from minigrad.scan import Lookup
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.stacked import drop_steps
from rnn_plugins.data.tagged import Example
from rnn_plugins.tasks import blocks
from rnn_plugins.tasks.blocks import Symbols
from rnn_plugins.tasks.task import Batch

Array: TypeAlias = NDArray[Any]

SPREAD = 0.1
"""The deviation of a new embedding of words. Most words are seldom seen, and a large random vector would not be
unlearnt: with a deviation of 1, 6.8 % of the tags of English words are wrong after 6 epochs, with this 5.7 %."""

Attention = Literal["none", "luong"]

UNKNOWN = 0
"""The id of a word that is not in the vocabulary."""


class Spelling(NamedTuple):
    """The distinct words of a batch, letter by letter.

    Attributes:
        letters: (L, D), ids.
        lengths: (D,).
        which: (T, B), the word at each step.
    """

    letters: Array
    lengths: Array
    which: Array


class Inputs(NamedTuple):
    """The inputs of a batch.

    Attributes:
        xs: ids of words (T, B), or frames (T, B, F).
        lengths: (B,).
        spelling: the words' letters if they are read, otherwise None.
    """

    xs: Array
    lengths: Array
    spelling: Spelling | None


class Targets(NamedTuple):
    """What is to be predicted, and how much each step counts.

    Attributes:
        tags: (T, B), ids.
        weights: (T, B), 0 for padding.
    """

    tags: Array
    weights: Array


def pack(examples: Sequence[Example]) -> Batch:
    """Some examples side by side, padded to the longest."""
    xs, lengths = blocks.padded([example.xs for example in examples])
    tags, _ = blocks.padded([example.tags for example in examples])
    weights, _ = blocks.padded([example.weights for example in examples])
    spelling: Spelling | None = None
    if examples[0].spelling:
        words: dict[str, int] = {}
        letters: list[Array] = []
        for example in examples:
            for token, spelt in zip(example.tokens, example.spelling, strict=True):
                if words.setdefault(token, len(letters)) == len(letters):
                    letters.append(spelt)
        which, _ = blocks.padded([[words[token] for token in example.tokens] for example in examples])
        spelling = Spelling(*blocks.padded(letters), which)
    return Batch(Inputs(xs, lengths, spelling), Targets(tags, weights), float(weights.sum(dtype=np.float64)))


@dataclass(frozen=True)
class Speller:
    """An encoder of words by their letters: two cells, one per direction, and their last outputs.

    After Lample et al. (2016, arXiv:1603.01360), with cells of the same kind as the tagger's.

    Attributes:
        symbols: the letters.
        cell: one cell per direction.
    """

    symbols: Symbols
    cell: Cell

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``symbols`` and ``cell``."""
        return {"symbols": self.symbols.init_params(rng), "cell": self.cell.init_params(rng)}

    def __call__(self, params: Tree, spelling: Spelling) -> Any:
        """The encodings of the words at all steps, (T, B, output_size).

        There is no dropout within: its masks would belong to distinct words, and not to rows of the batch.
        """
        letters = self.symbols(params["symbols"], spelling.letters)
        ys = blocks.unroll(self.cell, params["cell"], letters, spelling.lengths, letters.dtype, None)
        return take(blocks.pool(ys, spelling.lengths, "last", self.cell), spelling.which)


@dataclass(frozen=True)
class Tagger(blocks.Embedded):
    """A label at every step, without the parameters.

    Attributes:
        cell: the recurrent part, in one or two directions.
        tags: the number K of labels.
        words: the words; None for frames.
        speller: the encoder of letters; None for none.
        attention: ``luong``: over the outputs at the other steps of the same sequence.
        seen_once: the first id of the words that occur once in training, which are the last ones.
        word_dropout: the rate at which these are replaced by the unknown word during training.
        vectors: those that the embedding of words begins with; None for none.
        dropout: the rate before the cell and before the head during training.
        variational: whether to use one dropout mask for all steps.
        dtype: of parameters and activations.
    """

    table: ClassVar[str] = "words"

    cell: Cell
    tags: int
    words: Symbols | None
    speller: Speller | None = None
    attention: Attention = "none"
    seen_once: int = 0
    word_dropout: float = 0.0
    vectors: blocks.Vectors | None = None
    dropout: float = 0.0
    variational: bool = False
    dtype: str = "float32"

    def shapes_known(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the head and the embedding."""
        shapes: dict[str, tuple[int, ...]] = {"head.W": (self.cell.output_size, self.tags), "head.b": (self.tags,)}
        if self.words and self.words.width:
            shapes["words"] = (self.words.size, self.words.width)
        return shapes

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``cell``, ``head``, and where there are such parts ``words``, ``speller``, ``attention``."""
        size = self.cell.output_size
        params: dict[str, Any] = {"cell": self.cell.init_params(rng)}
        if self.words and self.words.width:
            params["words"] = self.words.init_params(rng) * np.float32(SPREAD)
        if self.speller:
            params["speller"] = self.speller.init_params(rng)
        if self.attention != "none":
            params["attention"] = {
                "score": glorot_uniform(rng, (size, size)),
                "combine": {"W": glorot_uniform(rng, (2 * size, size)), "b": zeros(rng, (size,))},
            }
        params["head"] = {"W": glorot_uniform(rng, (size, self.tags)), "b": zeros(rng, (self.tags,))}
        return trees.cast(params, self.dtype)

    def loss(self, params: Tree, carry: Tree, batch: Batch, rng: np.random.Generator | None) -> tuple[Any, Tree]:
        """The mean of -log p(tag), each step with its weight, and the carry as it was."""
        nats = surprise(self.scores(params, batch.inputs, rng), batch.targets.tags)
        return sum(nats * batch.targets.weights.astype(nats.dtype)) / nats.dtype.type(batch.weight), carry

    def scores(self, params: Tree, inputs: Inputs, rng: np.random.Generator | None = None) -> Any:
        """The scores of all tags at each step, (T, B, K)."""
        ys = self.states(params, self.see(params, inputs, rng), inputs.lengths, rng)
        return affine(params["head"], self.attended(params, ys, inputs.lengths)[0])

    def see(self, params: Tree, inputs: Inputs, rng: np.random.Generator | None = None) -> Any:
        """What the cell reads: vectors of words with their spelling, or frames, (T, B, I)."""
        if self.words is None:
            return inputs.xs.astype(self.dtype)
        ids = inputs.xs
        if self.word_dropout and rng is not None:
            dropped = dropout_mask(ids.shape, self.word_dropout, rng, axis=1) == 0
            ids = np.where(dropped & (ids >= self.seen_once), UNKNOWN, ids)
        words = self.words(self.embedding(params), ids)
        if self.speller is None or inputs.spelling is None:
            return words
        return concat(words.array(), self.speller(params["speller"], inputs.spelling))

    def states(self, params: Tree, xs: Any, lengths: Array, rng: np.random.Generator | None = None) -> Any:
        """The cell's outputs along inputs (T, B, I), with dropout before and after, (T, B, output_size)."""
        ys = blocks.unroll(self.cell, params["cell"], self._dropped(xs, rng), lengths, self.dtype, rng)
        return self._dropped(ys, rng)

    def _dropped(self, xs: Any, rng: np.random.Generator | None) -> Any:
        if not self.dropout or rng is None:
            return xs
        xs = xs.array() if isinstance(xs, Lookup) else xs
        return drop_steps(xs, self.dropout, self.variational, rng)

    def attended(self, params: Tree, ys: Any, lengths: Array) -> tuple[Any, Any]:
        """The head's inputs (T, B, output_size), and the attention that each step pays to each other, (B, T, T).

        Luong, Pham and Manning (2015, arXiv:1508.04025), with the score "general" and the sequence's own outputs as the
        memory: a_ts = softmax_s(h_t W h_s) over the other steps s != t, and tanh(W_c [sum_s a_ts h_s, h_t]) goes to the
        head. A step does not attend to itself, since its output is there anyway; the only step of a sequence reads 0.
        """
        if self.attention == "none":
            return ys, None
        live = blocks.mask(lengths, len(ys)).T[:, None, :] & ~np.eye(len(ys), dtype=bool)  # (B, T, T)
        scores = einsum("tbh,sbh->bts", ys @ params["attention"]["score"], ys)
        weights = where(live, softmax(where(live, scores, -1e9)), 0)
        read = einsum("bts,sbh->tbh", weights, ys)
        return self.combined(params, read, ys), weights

    def combined(self, params: Tree, read: Any, ys: Any) -> Any:
        """The head's inputs from what is attended to and the outputs, both (..., output_size)."""
        return tanh(affine(params["attention"]["combine"], concat(read, ys)))


def surprise(scores: Any, tags: Array) -> Any:
    """-log p(tag) in nats: scores (..., K) and tags (...) give (...)."""
    return -pick(log_softmax(scores), tags)
