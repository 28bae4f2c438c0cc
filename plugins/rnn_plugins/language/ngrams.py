"""Baselines for a network on a text: n-grams and compressors."""

import bz2
import lzma
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[Any]

BZ2_BLOCK = 899_000  # bz2 at level 9 sorts blocks of 900,000 bytes, less a few of its own
XZ_WINDOW = 8 << 20  # the dictionary of xz's default preset


class Table(NamedTuple):
    """The counts of one order n: U distinct n-grams of C distinct contexts of n - 1 tokens, and one more token.

    An unseen n-gram has rank -1, so each array of counts ends in a zero.
    """

    codes: Array  # (U,) sorted: rank of the context times the vocabulary's size, plus the last token
    counts: Array  # (U + 1,) how often the n-gram occurs
    totals: Array  # (C + 1,) how many tokens follow the context
    types: Array  # (C + 1,) how many different tokens follow the context

    def rank(self, codes: Array) -> Array:
        """The index of each code among those counted, -1 if it was never seen."""
        if not self.codes.size:
            return np.full(codes.shape, -1)
        indices = np.minimum(np.searchsorted(self.codes, codes), self.codes.size - 1)
        return np.where(self.codes[indices] == codes, indices, -1)


class NGram:
    """Interpolated n-grams with Witten-Bell smoothing (Witten and Bell 1991, doi:10.1109/18.87000, method C).

        p(w | c) = (N(c, w) + T(c) p(w | c')) / (N(c) + T(c))

    N(c, w) counts the token w after the context c of n - 1 tokens, N(c) all tokens after it, T(c) the different ones;
    c' is c without its first token. Order 0 is the uniform distribution over the vocabulary. For a context that was
    never followed by a token, p(w | c) = p(w | c').

    An n-gram is coded as the rank of its first n - 1 tokens among those seen, and a token, so neither a large
    vocabulary nor a high order overflows. Counting takes about 70 bytes per token.

    Raises:
        ValueError: the order or the size of the vocabulary is below 1.
    """

    def __init__(self, order: int, vocabulary_size: int):
        if order < 1:
            raise ValueError(f"the order of an n-gram is {order}; expected 1 or more")
        if vocabulary_size < 1:
            raise ValueError(f"the vocabulary has {vocabulary_size} symbols; expected 1 or more")
        self.order = order
        self.vocabulary_size = vocabulary_size
        self.tables: list[Table] = []

    def fit(self, tokens: ArrayLike) -> "NGram":
        """Count the n-grams of every order up to `order` in `tokens` (N,), and return the model.

        Raises:
            TypeError: the tokens are not integers.
            ValueError: they are not one-dimensional, or one is outside the vocabulary.
        """
        text = self._checked(tokens)
        self.tables = []
        contexts, contexts_seen = np.zeros(len(text) + 1, np.int64), 1
        for order in range(1, self.order + 1):
            ends = text[order - 1 :]  # the last token of every n-gram
            codes, contexts, counts = np.unique(
                contexts[: len(ends)] * self.vocabulary_size + ends, return_inverse=True, return_counts=True
            )
            before = codes // self.vocabulary_size
            totals = np.bincount(before, counts, contexts_seen + 1)
            types = np.bincount(before, minlength=contexts_seen + 1)
            self.tables.append(Table(codes, np.append(counts, 0), totals, types))
            contexts_seen = len(codes)
        return self

    def cross_entropies(self, tokens: ArrayLike, context: ArrayLike = ()) -> list[float]:
        """Mean nats per token of `tokens` under the orders 1, 2, ..., `order`; every order uses the one below.

        Args:
            tokens: the text to score, (N,).
            context: the tokens before it, (M,). Without it the first tokens have shorter contexts, as for a network
                that starts with an initial carry.

        Raises:
            TypeError: tokens are not integers.
            ValueError: they are not one-dimensional, one is outside the vocabulary, or there are none to score.
        """
        text, before = self._checked(tokens), self._checked(context)
        if not text.size:
            raise ValueError("the text to score is empty; expected one token or more")
        before = before[max(0, len(before) - (self.order - 1)) :]
        text = np.concatenate([before, text])
        entropies = []
        contexts = np.zeros(len(text), np.int64)
        p = np.full(len(text), 1 / self.vocabulary_size)
        for table in self.tables:
            grams = table.rank(contexts * self.vocabulary_size + text)  # below 0, so not found, after a context of -1
            count, total, types = table.counts[grams], table.totals[contexts], table.types[contexts]
            p = np.where(total > 0, (count + types * p) / np.maximum(total + types, 1), p)
            entropies.append(float(-np.log(p[len(before) :]).mean()))
            contexts = np.concatenate([[-1], grams[:-1]])
        return entropies

    def _checked(self, tokens: ArrayLike) -> Array:
        text = np.asarray(tokens)
        if text.ndim != 1:
            raise ValueError(f"tokens of shape {text.shape}; expected one dimension")
        if text.size and not np.issubdtype(text.dtype, np.integer):
            raise TypeError(f"tokens of type {text.dtype}; expected integers")
        if text.size and not 0 <= int(text.min()) <= int(text.max()) < self.vocabulary_size:
            raise ValueError(
                f"tokens from {text.min()} to {text.max()}; expected 0 to {self.vocabulary_size - 1}, "
                f"the vocabulary has {self.vocabulary_size} symbols"
            )
        return text.astype(np.int64)


def baselines(
    train_tokens: ArrayLike,
    test_tokens: ArrayLike,
    vocabulary_size: int,
    orders: Iterable[int] = range(1, 7),
    context: ArrayLike = (),
) -> dict[int, float]:
    """Mean nats per token of the test text under n-grams counted on the training text, by order.

    One count of the highest order gives all. The test text starts without a context unless one is given; see
    `NGram.cross_entropies`.

    Raises:
        TypeError: tokens are not integers.
        ValueError: they are not one-dimensional, one is outside the vocabulary, or there are none to score; or an order
            is below 1.
    """
    wanted = sorted(set(orders))
    if not wanted:
        return {}
    model = NGram(wanted[-1], vocabulary_size).fit(train_tokens)
    entropies = model.cross_entropies(test_tokens, context)
    return {order: entropies[order - 1] for order in wanted}


def compressors(train: bytes | None, text: bytes) -> dict[str, float]:
    """Bits per byte of `text` under bz2 and xz, with the defaults of the commands `bzip2` and `xz`, by name.

    With `train` None the text is compressed alone, headers included: easy to reproduce, but unfavourable for a short
    text. Otherwise it is what the text adds to the training text, (size(train + text) - size(train)) / bytes of text,
    which is the fairer comparison with a model trained on it. Only the end of the training text within the compressor's
    window is used: 8 MiB for xz, and for bz2, which sorts blocks of 900 kB, what fits into one block together with the
    text. From 900 kB of text on, bz2 gains nothing from the training text.

    Raises:
        ValueError: the text is empty.
    """
    if not text:
        raise ValueError("the text to compress is empty; expected one byte or more")
    rivals: dict[str, tuple[Callable[[bytes], bytes], int]] = {
        "bz2": (bz2.compress, BZ2_BLOCK - len(text)),
        "xz": (lzma.compress, XZ_WINDOW),
    }
    bits = {}
    for name, (compress, reach) in rivals.items():
        before = train[-reach:] if train and reach > 0 else b""
        size = len(compress(before + text)) - (len(compress(before)) if before else 0)
        bits[name] = 8 * size / len(text)
    return bits
