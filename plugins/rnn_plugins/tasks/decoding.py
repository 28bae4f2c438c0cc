"""A decoder: a cell that writes symbols from a first state, with attention over a memory or without."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from minigrad import (
    affine,
    concat,
    concatenate,
    dropout_mask,
    einsum,
    log_softmax,
    no_grad,
    pick,
    scan,
    softmax,
    tanh,
    trees,
    where,
)
from minigrad.initializers import glorot_uniform, uniform
from minigrad.tensor import value_of
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.regularised import drop_weights
from rnn_cells.stacked import drop_steps
from rnn_plugins.data.vocabulary import UNK
from rnn_plugins.errors import UserError
from rnn_plugins.language.sampling import Choice
from rnn_plugins.tasks.blocks import Symbols, dense, masked_step, step_masks
from rnn_plugins.tasks.task import Network

Array = NDArray[Any]

Attention = Literal["none", "bahdanau", "luong"]
"""How a decoder reads a memory: not at all, or as in Bahdanau et al. 2015 or Luong et al. 2015."""

UNKNOWN, END = 0, 1
"""The ids of the symbol for all unknown ones, which is never written, and of the one that begins and ends a text."""

SPECIALS = (UNK, "<end>")
"""These two symbols, which have no text of their own."""

PLACES = 8
"""Memories are padded to multiples of this, because the time loop is planned anew for each size."""

AT_ONCE = 1 << 22
"""Maximum number of scores of symbols that are computed together without gradients, to limit memory."""


class Hypothesis(NamedTuple):
    """A text that a decoder found.

    Attributes:
        symbols: ids, without the end.
        log_probability: of the text and its end, in nats, given that no symbol is unknown.
        score: the same divided by the length penalty; hypotheses are in descending order of it.
    """

    symbols: Array
    log_probability: float
    score: float


@dataclass(frozen=True)
class Decoder:
    """A cell that reads its own last symbol and writes the next, without the parameters.

    With x the input of a symbol, m_s the rows of a memory, y the cell's output and o what the head reads:

        none:      y_t = cell(x_t),  o_t = y_t
        bahdanau:  e_s = v^T tanh(W_q y_{t-1} + W_m m_s + b),  c_t = softmax(e) m,
                   y_t = cell([x_t, c_t]),  o_t = tanh(W_o [y_t, c_t] + b_o)
        luong:     y_t = cell([x_t, o_{t-1}]),  e_s = y_t^T W_a m_s,  c_t = softmax(e) m,
                   o_t = tanh(W_o [y_t, c_t] + b_o)

    Bahdanau, Cho and Bengio 2015 (arXiv:1409.0473), with Luong's output layer in place of a maxout layer; Luong, Pham
    and Manning 2015 (arXiv:1508.04025), the score "general" and input feeding. A padded row of the memory has the
    weight 0. The first state is made of a summary: each leaf of the first carry is its usual first value plus
    tanh(W summary + b); a leaf with several axes gets the outer product of one such vector per axis.

    Attributes:
        cell: one cell or a stack.
        symbols: the inputs.
        attention: how the memory is read.
        memory_size: the width of a row of the memory.
        summary_size: the width of a summary.
        dropout: the rate on inputs, between layers and before the head during training.
        variational: whether to use one dropout mask for all steps.
        dtype: of parameters and activations.
    """

    cell: Cell
    symbols: Symbols
    attention: Attention
    memory_size: int
    summary_size: int
    dropout: float = 0.0
    variational: bool = False
    dtype: str = "float32"

    @classmethod
    def make(
        cls, network: Network, vocabulary_size: int, *, attention: Attention, memory_size: int, summary_size: int
    ) -> Self:
        """A decoder with the user's settings; ``memory_size`` is not used without attention."""
        symbols = Symbols(vocabulary_size, network.embedding_size or 0, network.dtype)
        read = {"none": 0, "bahdanau": memory_size, "luong": network.hidden_size}[attention]
        return cls(
            network.make_cell(symbols.input_size + read),
            symbols,
            attention,
            memory_size,
            summary_size,
            network.dropout,
            network.variational_dropout,
            network.dtype,
        )

    def init_params(self, rng: np.random.Generator) -> Tree:
        """``embedding``, ``bridge`` by path of the carry, ``cell``, ``attention``, ``output`` and ``head``."""
        size, memory = self.cell.output_size, self.memory_size
        params: dict[str, Any] = {"embedding": self.symbols.init_params(rng), "cell": self.cell.init_params(rng)}
        params["bridge"] = {
            path or "carry": dense(rng, self.summary_size, sum(leaf.shape[1:]) or 1)
            for path, leaf in trees.flatten(self.init_carry(1)).items()
            if leaf.dtype.kind == "f"
        }
        if self.attention == "bahdanau":
            params["attention"] = {
                "query": glorot_uniform(rng, (size, size)),
                "memory": dense(rng, memory, size),
                "v": uniform(rng, (size,), scale=size**-0.5),
            }
        elif self.attention == "luong":
            params["attention"] = {"query": glorot_uniform(rng, (size, memory))}
        if self.attention != "none":
            params["output"] = dense(rng, size + memory, size)
        params["head"] = dense(rng, size, self.symbols.size)
        return trees.cast(params, self.dtype)

    def init_carry(self, size: int) -> Tree:
        """The carry before a summary is added: the cell's; with attention, beside the last y (or o) of zeros."""
        carry = self.cell.init_carry(size)
        if self.attention != "none":
            carry = (carry, np.zeros((size, self.cell.output_size), self.dtype))
        return trees.cast(carry, self.dtype)

    def start(self, params: Tree, summary: Any) -> Tree:
        """The first carry for summaries (B, summary_size)."""
        first = self.init_carry(summary.shape[0])
        leaves = []
        for path, leaf in trees.flatten(first).items():
            if bridge := params["bridge"].get(path or "carry"):
                leaf = leaf + _outer(tanh(affine(bridge, summary)), leaf.shape)
            leaves.append(leaf)
        return trees.unflatten(first, leaves)

    def context(self, params: Tree, memory: Any, live: Array) -> Tree:
        """What the steps read of memories (S, B, memory_size); None without attention.

        Args:
            params: the parameters.
            memory: rows in order.
            live: (S, B), false where a memory has no row.
        """
        if self.attention == "none":
            return None
        missing = -len(live) % PLACES
        if missing:
            memory = concatenate([memory, np.zeros((missing, *memory.shape[1:]), memory.dtype)])
            live = np.pad(live, ((0, missing), (0, 0)))
        memory = memory.transpose(1, 0, 2)  # (B, S, M)
        context = {"memory": memory, "live": np.ascontiguousarray(live.T)}
        if self.attention == "bahdanau":
            context["keys"] = affine(params["attention"]["memory"], memory)
        return context

    def unroll(
        self,
        params: Tree,
        carry: Tree,
        context: Tree,
        symbols: Array,
        *,
        weights: bool = False,
        rng: np.random.Generator | None = None,
    ) -> Any:
        """What the head reads for the symbols before it, (T, B) -> (T, B, H); with ``weights`` those of the attention.

        Args:
            params: the parameters.
            carry: from ``start``.
            context: from ``context``.
            symbols: the cell's inputs; the first are ``END``.
            weights: whether to return the weights (T, B, S) instead.
            rng: draws the dropout masks; None for no dropout.
        """
        xs: Any = self.symbols(params["embedding"], symbols)
        params = params | {"cell": drop_weights(self.cell, params["cell"], rng)}
        step, drops = _Step(self.cell, self.attention, weights), bool(self.dropout and rng is not None)
        if rng is not None:
            steps, size = symbols.shape
            masks = step_masks(self.cell, steps, size, self.dropout, self.variational, rng, self.dtype)
            if drops:
                xs = drop_steps(xs.array(), self.dropout, self.variational, rng)
            if drops or masks:
                xs = (xs, *masks)
        _, ys = scan(step, _of_step(params), carry, xs, context=context)
        return drop_steps(ys, self.dropout, self.variational, rng) if drops and rng is not None else ys

    def losses(
        self,
        params: Tree,
        carry: Tree,
        context: Tree,
        targets: Array,
        *,
        own: float = 0.0,
        rng: np.random.Generator | None = None,
    ) -> Any:
        """-log p(target), (T, B), in nats, where the cell reads the targets before (teacher forcing).

        Scheduled sampling (Bengio et al. 2015) replaces a share of what the cell reads by its own predictions. They
        come from one pass with teacher forcing, all steps together (parallel scheduled sampling, Duckworth et al. 2019,
        arXiv:1906.04331; Mihaylova and Martins 2019, arXiv:1906.07651), and are the likeliest symbols.

        Args:
            params: the parameters.
            carry: from ``start``.
            context: from ``context``.
            targets: (T, B), each text with its end.
            own: that share.
            rng: draws dropout masks and which symbols are replaced; None for neither.
        """
        read = shifted(targets)
        if own and rng is not None:
            with no_grad():
                plain, first, memory = (trees.map(value_of, tree) for tree in (params, carry, context))
                guessed = shifted(self.scored(plain, first, memory, targets)[1])
            replaced = dropout_mask(read.shape, own, rng, axis=1) == 0
            replaced[0] = False
            read = np.where(replaced, guessed, read)
        ys = self.unroll(params, carry, context, read, rng=rng)
        return scan(_Head(), params["head"], (), (ys, targets))[1]

    def scored(self, params: Tree, carry: Tree, context: Tree, targets: Array) -> tuple[Array, Array]:
        """-log p(target) and the likeliest symbols, both (T, B), with teacher forcing and without gradients."""
        ys = np.asarray(self.unroll(params, carry, context, shifted(targets)))
        rows, wanted = ys.reshape(-1, ys.shape[-1]), targets.reshape(-1)
        losses, best = np.empty(len(rows), ys.dtype), np.empty(len(rows), np.intp)
        at_once = max(1, AT_ONCE // self.symbols.size)
        for start in range(0, len(rows), at_once):
            some = slice(start, start + at_once)
            logits = affine(params["head"], rows[some])
            losses[some] = -pick(log_softmax(logits), wanted[some])
            best[some] = logits.argmax(axis=1)
        return losses.reshape(targets.shape), best.reshape(targets.shape)

    def step(self, params: Tree, carry: Tree, context: Tree, symbols: Array) -> tuple[Tree, Array]:
        """One step for symbols (B,), on plain arrays -> the carry and the logits of the next, (B, V)."""
        x = self.symbols(params["embedding"], symbols).array()
        arguments = () if context is None else (context,)
        carry, y = _Step(self.cell, self.attention)(_of_step(params), carry, x, *arguments)
        return carry, affine(params["head"], y)

    def _written(self, params: Tree, carry: Tree, context: Tree, symbols: Array) -> tuple[Tree, Array]:
        """The same where the unknown symbol is impossible."""
        carry, logits = self.step(params, carry, context, symbols)
        logits[:, UNKNOWN] = -np.inf
        return carry, logits

    def search(
        self, params: Tree, carry: Tree, context: Tree, limits: Array, *, width: int = 1, penalty: float = 0.0
    ) -> list[list[Hypothesis]]:
        """The best texts that a beam search finds, at most ``width`` per row; with width 1 it is greedy.

        At each step the ``width`` likeliest continuations of all hypotheses remain; one that ends is set aside. The
        search ends with ``width`` such texts. Their log probabilities are divided by ((5 + n) / 6) ** penalty for n
        symbols, the end included (Wu et al. 2016, arXiv:1609.08144, without the coverage).

        Args:
            params: the parameters, plain arrays.
            carry: from ``start``.
            context: from ``context``.
            limits: (B,), the maximum number of symbols; a text that reaches it has no end.
            width: the number of hypotheses.
            penalty: the exponent of the length.

        Raises:
            UserError: the scores are NaN.
        """
        found: list[list[Hypothesis]] = [[] for _ in limits]
        sources = np.arange(len(limits))  # those that are not finished
        carry, context = (trees.map(lambda x: np.repeat(x, width, axis=0), tree) for tree in (carry, context))
        totals = np.where(np.arange(width) == 0, 0.0, -np.inf) + np.zeros((len(limits), 1))  # (B, K)
        texts = np.empty((len(limits), width, 0), np.intp)

        def keep(b: int, text: Array, total: float) -> None:
            length = len(text) + 1
            found[sources[b]].append(Hypothesis(text, total, total / ((5 + length) / 6) ** penalty))

        while len(sources):
            last = texts[:, :, -1].reshape(-1) if texts.shape[2] else np.full(len(sources) * width, END)
            carry, logits = self._written(params, carry, context, last)
            gained, symbols = _largest(log_softmax(logits), width + 1)  # (B * K, K + 1)
            if np.isnan(gained[:, 0]).any():
                raise UserError("the model's scores are NaN, so its training failed; use another run")
            shape = (len(sources), width * (width + 1))
            gained, symbols = (totals.reshape(-1, 1) + gained).reshape(shape), symbols.reshape(shape)
            ends = symbols == END
            best = np.argsort(-gained, axis=1, kind="stable")[:, :width]
            rows = np.arange(len(sources))[:, None]
            for b, j in np.argwhere(ends[rows, best] & np.isfinite(gained[rows, best])).tolist():
                place = best[b, j]
                keep(b, texts[b, place // (width + 1)], float(gained[b, place]))
            best = np.argsort(np.where(ends, np.inf, -gained), axis=1, kind="stable")[:, :width]
            parents, totals = best // (width + 1), np.where(ends, -np.inf, gained)[rows, best]
            texts = np.concatenate([texts[rows, parents], symbols[rows, best][:, :, None]], axis=2)
            full = np.array([len(found[source]) >= width for source in sources])
            late = ~full & (texts.shape[2] >= limits[sources])
            for b in np.flatnonzero(late).tolist():
                for k in np.flatnonzero(np.isfinite(totals[b])):
                    keep(b, texts[b, k], float(totals[b, k]))
            going = np.flatnonzero(~(full | late))
            chosen = (going[:, None] * width + parents[going]).reshape(-1)
            carry = trees.map(lambda x, chosen=chosen: x[chosen], carry)
            if len(going) < len(sources):
                context = trees.map(lambda x, chosen=chosen: x[chosen], context)
                sources, texts, totals = sources[going], texts[going], totals[going]
        return [sorted(some, key=lambda h: -h.score)[:width] for some in found]

    def drawn(
        self, params: Tree, carry: Tree, context: Tree, limits: Array, choice: Choice, rng: np.random.Generator
    ) -> list[Hypothesis]:
        """A text drawn for each row, at most ``limits`` (B,) symbols long.

        Its log probability is the model's own, whatever ``choice`` is.

        Raises:
            UserError: the scores are NaN.
        """
        texts: list[list[int]] = [[] for _ in limits]
        totals, going = np.zeros(len(limits)), np.arange(len(limits))
        last = np.full(len(limits), END)
        while len(going):
            carry, logits = self._written(params, carry, context, last)
            last = np.array([choice.pick(row, rng) for row in logits])
            totals[going] += pick(log_softmax(logits), last)
            for b, symbol in zip(going, last, strict=True):
                if symbol != END:
                    texts[b].append(int(symbol))
            some = np.flatnonzero((last != END) & (np.array([len(texts[b]) for b in going]) < limits[going]))
            carry, context = (trees.map(lambda x, some=some: x[some], tree) for tree in (carry, context))
            going, last = going[some], last[some]
        return [Hypothesis(np.array(t, np.intp), float(p), float(p)) for t, p in zip(texts, totals, strict=True)]

    def astype(self, dtype: str) -> Decoder:
        """The same with another dtype."""
        return replace(self, dtype=dtype, symbols=replace(self.symbols, dtype=dtype))


def share_unknown(texts: Sequence[Array]) -> float:
    """The share of unknown symbols in texts, given as ids, ends left out."""
    counts = np.bincount(np.concatenate([np.zeros(0, np.intp), *texts]), minlength=2)
    return float(counts[UNKNOWN] / max(counts.sum() - counts[END], 1))


def shifted(targets: Array) -> Array:
    """What the cell reads before each target (T, B): the one before, at first ``END``."""
    return np.concatenate([np.full_like(targets[:1], END), targets[:-1]])


@dataclass(frozen=True)
class _Step:
    """A step of the cell with attention; see ``Decoder`` for its equations.

    Attributes:
        cell: the cell.
        attention: how the memory is read.
        weights: whether the output is that of the attention.
    """

    cell: Cell
    attention: Attention
    weights: bool = False

    def __call__(self, params: Tree, carry: Tree, x: Any, context: Tree = None) -> tuple[Tree, Any]:
        """One step: x (B, E), or in training a tuple of it and the masks of layers -> what the head reads."""
        x, masks = (x[0], x[1:]) if isinstance(x, tuple) else (x, ())
        if self.attention == "none":
            return masked_step(self.cell, params["cell"], carry, x, masks)
        carry, before = carry
        p, live, memory = params["attention"], context["live"], context["memory"]
        if self.attention == "bahdanau":
            query = before @ p["query"]
            scores = tanh(query.reshape(-1, 1, query.shape[-1]) + context["keys"]) @ p["v"]
            a = softmax(where(live, scores, -1e9))  # (B, S)
            c = einsum("bs,bsm->bm", a, memory)
            carry, y = masked_step(self.cell, params["cell"], carry, concat(x, c), masks)
            o = tanh(affine(params["output"], concat(y, c)))
            return (carry, y), a if self.weights else o
        carry, y = masked_step(self.cell, params["cell"], carry, concat(x, before), masks)
        a = softmax(where(live, einsum("bm,bsm->bs", y @ p["query"], memory), -1e9))
        o = tanh(affine(params["output"], concat(y, einsum("bs,bsm->bm", a, memory))))
        return (carry, o), a if self.weights else o


@dataclass(frozen=True)
class _Head:
    """From the decoder's outputs to losses, as a step without a carry: logits of all steps are never in memory."""

    def __call__(self, params: Tree, carry: Tree, x: tuple[Any, Any]) -> tuple[Tree, Any]:
        """One step: y (B, H) and the target (B,) -> -log p(target), (B,)."""
        y, target = x
        return carry, -pick(log_softmax(affine(params, y)), target)


def _of_step(params: Tree) -> Tree:
    return {name: params[name] for name in ("cell", "attention", "output") if name in params}


def _outer(x: Any, shape: tuple[int, ...]) -> Any:
    """The outer product of the parts of x (B, sum of the inner axes) as an array of a shape (B, ...)."""
    inner, product, begin = shape[1:], 1.0, 0
    if not inner:
        return x.reshape(shape)
    for axis, size in enumerate(inner):
        ones = [size if i == axis else 1 for i in range(len(inner))]
        product = product * x[:, begin : begin + size].reshape(-1, *ones)
        begin += size
    return product


def _largest(rows: Array, count: int) -> tuple[Array, Array]:
    """The largest numbers of rows (N, V), in descending order, and their places, both (N, count)."""
    rest, everywhere = np.array(rows), np.arange(len(rows))
    values, places = np.empty((len(rows), count), rows.dtype), np.empty((len(rows), count), np.intp)
    for i in range(count):  # for few of many columns, much faster than np.argpartition
        places[:, i] = rest.argmax(axis=1)
        values[:, i] = rest[everywhere, places[:, i]]
        rest[everywhere, places[:, i]] = -math.inf
    return values, places
