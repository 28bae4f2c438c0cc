"""Sample text from a language model, symbol by symbol, with several ways to choose the next one."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from minigrad import log_softmax, trees
from minigrad.scan.planned import DrawingStepper
from minigrad.trees import Tree
from rnn_plugins.data.vocabulary import StreamDecoder, Vocabulary
from rnn_plugins.errors import UserError
from rnn_plugins.language.model import Model

Array = NDArray[Any]

COLDEST = 1e-100
"""Below this temperature the likeliest symbol has all the probability, and dividing by it might overflow."""

OPENING = 100
"""Symbols that are read, but not printed, before a text without a prime."""

BEFORE_PLANNING = 200
"""Symbols drawn before the model's step is compiled: a short text is finished sooner without."""

DRAWN_AHEAD = 512
"""Maximum number of symbols drawn in one call."""

FLOW = 0.004
"""Maximum seconds for such a call, so that text appears steadily."""

MUTED = -1e30
"""The score of a symbol that is never drawn: far below all others, but finite, so that no difference is NaN."""

READ_AT_ONCE = 1000
"""Symbols of a prime that are read in one call, to limit memory."""


@dataclass(frozen=True)
class Choice:
    """How the next symbol is chosen from the model's distribution.

    Attributes:
        temperature: divides the log probabilities: below 1 safer, above 1 more random; 0 is ``greedy``.
        top_k: only the k likeliest symbols; 0 for all.
        top_p: only the likeliest symbols that together have this probability (Holtzman et al. 2020); 1 for all.
        greedy: always the likeliest.
        never: symbols that are never drawn, such as ``Vocabulary.unwritten``.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    greedy: bool = False
    never: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check the ranges of the values.

        Raises:
            UserError: a value is out of range.
        """
        if not 0 <= self.temperature < math.inf:
            raise UserError(f"--temperature is {self.temperature:g}; it must be a finite number, at least 0")
        if self.top_k < 0:
            raise UserError(f"--top-k is {self.top_k}; it must be at least 1, or 0 for no limit")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p is {self.top_p:g}; it must be above 0 and at most 1")

    @property
    def draws(self) -> bool:
        """Whether the choice is random."""
        return not self.greedy and self.temperature >= COLDEST

    @property
    def plain(self) -> bool:
        """Whether all symbols may be chosen, so that sorting is unnecessary."""
        return not self.draws or (not self.top_k and self.top_p == 1)

    def pick(self, scores: Array, rng: np.random.Generator) -> int:
        """One symbol from logits or log probabilities (V,).

        Temperature comes first, then ``top_k``, then ``top_p`` of what is left.

        Raises:
            UserError: the scores are NaN.
        """
        if not self.draws:
            best = int(scores.argmax())
            if math.isnan(scores[best]):
                raise _no_numbers()
            return best
        p = scores.astype(np.float64)
        p -= p.max()
        p /= self.temperature
        np.exp(p, out=p)
        if self.top_k and self.top_k < len(p):
            p[np.argsort(-p, kind="stable")[self.top_k :]] = 0
        if self.top_p < 1:
            order = np.argsort(-p, kind="stable")
            reached = np.cumsum(p[order]) / p.sum()
            # The symbol that crosses the threshold belongs to the nucleus, which is therefore never empty.
            p[order[1:][reached[:-1] >= self.top_p]] = 0
        cumulated = p.cumsum()
        total = cumulated[-1]
        if not total > 0:
            raise _no_numbers()
        return int(cumulated.searchsorted(rng.random() * total, side="right"))


def _no_numbers() -> UserError:
    return UserError("the model's scores are NaN, so its training failed; sample another run")


def opening(vocabulary: Vocabulary, tokens: Array) -> list[int]:
    """What a model reads before a text without a prime: a piece of ``tokens`` that ends with a line feed.

    So the text begins like a line, from a carry as in training, where a line feed never follows the initial carry.
    Without line feeds, the piece ends with a space, or else with the last symbol.

    Args:
        vocabulary: the model's vocabulary.
        tokens: the training text, (N,).
    """
    tail = np.asarray(tokens[-2 * OPENING :], np.intp)
    for mark in "\n ":
        marks = [i for i, symbol in enumerate(vocabulary.symbols) if symbol and not symbol.strip(mark)]
        found = np.flatnonzero(np.isin(tail, marks))
        if len(found):
            tail = tail[: found[-1] + 1]
            break
    return [int(symbol) for symbol in tail[-OPENING:]]


def muted(params: Tree, never: Sequence[int]) -> Tree:
    """Parameters with which the model never draws these symbols; the scores of all others are unchanged."""
    if not never:
        return params
    head = params["head"]
    return {**params, "head": {**head, "b": _muted(head["b"], never)}}


def _muted(scores: Array, never: Sequence[int]) -> Array:
    scores = np.array(scores)
    scores[..., list(never)] = MUTED
    return scores


@dataclass(frozen=True)
class Position:
    """A position in a text, with the state needed to continue from it.

    Attributes:
        carry: the model's carry after all symbols so far, for one sequence.
        scores: the logits of the next symbol, (V,).
        read: the number of symbols so far, drawn ones included.
        drawn: the number drawn since the last prime; it decides which code runs the next step, and so the rounding.
    """

    carry: Tree
    scores: Array
    read: int
    drawn: int = 0


def begin(model: Model, params: Tree, prime: Sequence[int], after: Position | None = None) -> Position:
    """The position after ``prime``, read from ``after``, or else from the model's initial carry."""
    if after is None:
        return Position(*start_of_text(model, params, prime), len(prime))
    if not prime:
        return after
    return Position(*start_of_text(model, params, prime, after.carry), after.read + len(prime))


def start_of_text(model: Model, params: Tree, prime: Sequence[int], carry: Tree = None) -> tuple[Tree, Array]:
    """Read ``prime``: the carry after it and the logits of the next symbol, (V,).

    Without a prime nothing has been read, and all symbols are equally likely.

    Args:
        model: the model.
        params: its parameters, plain arrays.
        prime: symbols.
        carry: the carry before the prime, for one sequence; None is the model's initial carry.
    """
    carry = model.init_carry(1) if carry is None else carry
    ids = np.asarray(prime, np.intp)
    for start in range(0, len(ids) - 1, READ_AT_ONCE):
        carry, _ = model.unroll(params, carry, ids[:-1][start : start + READ_AT_ONCE, None])
    if not len(ids):
        return carry, np.zeros(model.vocabulary_size)
    carry, logits = model.step(params, carry, ids[-1:])
    return carry, logits[0]


def sample(
    model: Model,
    params: Tree,
    prime: Sequence[int],
    choice: Choice,
    rng: np.random.Generator,
    after: Position | None = None,
) -> Iterator[int]:
    """An endless sequence of symbols.

    Args:
        model: the model.
        params: its parameters, plain arrays.
        prime: symbols that the text starts with; they are read and not yielded.
        choice: how to choose a symbol.
        rng: the random generator.
        after: the position before the prime; None is the beginning.

    Raises:
        UserError: the model's scores are NaN.
    """
    params = muted(params, choice.never)
    at = begin(model, params, prime, after)
    carry, logits = at.carry, _muted(at.scores, choice.never)
    for _ in range(at.drawn, BEFORE_PLANNING):
        symbol = choice.pick(logits, rng)
        yield symbol
        carry, rows = model.step(params, carry, np.array([symbol]))
        logits = rows[0]
    symbol = choice.pick(logits, rng)
    yield symbol
    step = model.stepper(params, carry)
    if isinstance(step, DrawingStepper) and choice.plain:
        yield from _drawn_ahead(step, symbol, choice, rng)
    while True:
        if step is not None:
            (rows,) = step([symbol])
        else:
            carry, rows = model.step(params, carry, np.array([symbol]))
        symbol = choice.pick(rows[0], rng)
        yield symbol


def follow(
    model: Model, params: Tree, at: Position, choice: Choice, rng: np.random.Generator
) -> Iterator[tuple[int, Position]]:
    """The symbols that ``sample`` yields from a position, each with the position after it.

    It is slower, because no symbols are drawn in advance.

    Raises:
        UserError: the model's scores are NaN.
    """
    step, prepared = None, False
    params, at = muted(params, choice.never), replace(at, scores=_muted(at.scores, choice.never))
    while True:
        symbol = choice.pick(at.scores, rng)
        if at.drawn >= BEFORE_PLANNING and not prepared:
            step, prepared = model.stepper(params, at.carry), True
        if step is not None:
            (rows,) = step([symbol])
            carry = trees.unflatten(at.carry, step.carry)
        else:
            carry, rows = model.step(params, at.carry, np.array([symbol]))
        at = Position(carry, np.array(rows[0]), at.read + 1, at.drawn + 1)
        yield symbol, at


def _drawn_ahead(step: DrawingStepper, symbol: int, choice: Choice, rng: np.random.Generator) -> Iterator[int]:
    """The endless symbols after ``symbol``, drawn several per call; ``rng`` ends as if each had been drawn alone."""
    count = 1
    while True:
        before = rng.bit_generator.state
        used = 0
        uniform = rng.random(count) if choice.draws else np.zeros(count)
        began = time.perf_counter()
        try:
            drawn = step.sample(symbol, uniform, choice.temperature if choice.draws else 0.0).tolist()
            quick = time.perf_counter() - began < FLOW / 2
            for symbol in drawn:
                if symbol < 0:
                    raise _no_numbers()
                used += 1
                yield symbol
        finally:
            if used < count and choice.draws:
                rng.bit_generator.state = before
                rng.random(used)
        if quick:  # affects when symbols are drawn, never which
            count = min(2 * count, DRAWN_AHEAD)


def write(
    symbols: Iterator[int],
    vocabulary: Vocabulary,
    length: int = 0,
    stop: Sequence[str] = (),
    errors: Literal["replace", "surrogateescape"] = "replace",
) -> Iterator[str]:
    """Decode symbols to pieces of whole characters, up to the end of the text.

    Args:
        symbols: from ``sample``; no more are consumed than needed.
        vocabulary: the model's vocabulary.
        length: the length of the text in characters; 0 for no end. At level ``word`` the last piece is not cut.
        stop: the text ends after the first occurrence of one of these.
        errors: how to decode bytes that are not UTF-8; see ``Vocabulary.decode``.
    """
    decoder = StreamDecoder(vocabulary, errors)
    marks = [mark for mark in stop if mark]
    reach = max(map(len, marks), default=0) - 1  # the number of earlier characters that may belong to a mark
    tail, written = "", 0
    for symbol in symbols:
        piece = decoder.feed(symbol)
        if length and vocabulary.level != "word":
            piece = piece[: length - written]
        text = tail + piece
        ends = [text.find(mark) + len(mark) for mark in marks if mark in text]
        if ends:
            yield piece[: min(ends) - len(tail)]
            return
        tail = text[-reach:] if reach > 0 else ""
        yield piece
        written += len(piece)
        if length and written >= length:
            return
    yield decoder.flush()


class Continuation(NamedTuple):
    """A text found by beam search.

    Attributes:
        symbols: the symbols after the prime.
        log_probability: of all of them, given the prime, in nats.
    """

    symbols: list[int]
    log_probability: float


def beam_search(
    model: Model,
    params: Tree,
    prime: Sequence[int],
    length: int,
    width: int,
    after: Position | None = None,
    never: Sequence[int] = (),
) -> list[Continuation]:
    """The likeliest continuations of ``length`` symbols that a beam of ``width`` texts finds, the likeliest first.

    Args:
        model: the model.
        params: its parameters, plain arrays.
        prime: symbols that the text starts with.
        length: how many symbols to add.
        width: how many texts are kept after each symbol; 1 is greedy.
        after: the position before the prime; None is the beginning.
        never: symbols that are never drawn.

    Raises:
        UserError: the model's scores are NaN.
    """
    params = muted(params, never)
    at = begin(model, params, prime, after)
    carry, rows = at.carry, _muted(at.scores, never)[None]
    scores = np.zeros(1)
    trail: list[tuple[Array, Array]] = []  # at each step, which text was continued and with which symbol
    for added in range(length):
        totals = scores[:, None] + log_softmax(rows.astype(np.float64))
        best = np.argsort(-totals, axis=None, kind="stable")[:width]
        best = best[~(totals.reshape(-1)[best] < MUTED / 2)]  # NaN is kept, and reported below
        parents, symbols = np.unravel_index(best, totals.shape)
        scores = totals.reshape(-1)[best]
        trail.append((parents, symbols))
        if added + 1 < length:
            carry = trees.map(lambda c, parents=parents: c[parents], carry)
            carry, rows = model.step(params, carry, symbols)
    if np.isnan(scores).any():
        raise _no_numbers()
    texts = np.arange(len(scores))
    backwards = []
    for parents, symbols in reversed(trail):
        backwards.append(symbols[texts])
        texts = parents[texts]
    columns = np.array(backwards[::-1], np.intp).reshape(length, len(scores)).T.tolist()
    return [Continuation(text, float(score)) for text, score in zip(columns, scores, strict=True)]
