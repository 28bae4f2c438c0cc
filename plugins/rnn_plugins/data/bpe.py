"""Byte-pair encoding: merges of characters to tokens, learnt from a text and applied by the library tokenizers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from rnn_plugins.errors import UserError

LEAST_COUNT = 2
"""How often a pair of tokens must occur for a merge."""


def learn(
    pieces: Iterable[list[str]], characters: Sequence[str], size: int
) -> tuple[tuple[str, ...], tuple[tuple[str, str], ...]]:
    """Merge the commonest pair of tokens, again and again (Sennrich, Haddow and Birch 2016, arXiv:1508.07909).

    Args:
        pieces: lists of the pieces of a text, in which no merge crosses a border.
        characters: the first symbols; all that occur are among them.
        size: the number of symbols to stop at; fewer are found if no pair occurs ``LEAST_COUNT`` times.

    Returns:
        The symbols, and the pairs in the order in which they are merged.

    Raises:
        UserError: the library is not installed.
    """
    library = _library()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=list(characters), min_frequency=LEAST_COUNT, show_progress=False
    )
    tokenizer = library.Tokenizer(library.models.BPE())
    tokenizer.train_from_iterator(pieces, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    symbols = sorted(model["vocab"], key=model["vocab"].__getitem__)
    return tuple(symbols), tuple((first, second) for first, second in model["merges"])


def splitter(symbols: Sequence[str], merges: Sequence[tuple[str, str]]) -> Callable[[str], tuple[str, ...]]:
    """A function that splits a piece of text into tokens; a character that is no symbol is one by itself.

    Raises:
        UserError: the library is not installed.
    """
    model = _library().models.BPE({symbol: i for i, symbol in enumerate(symbols)}, list(merges))
    known = {symbol for symbol in symbols if len(symbol) == 1}

    def split(piece: str) -> tuple[str, ...]:
        if known.issuperset(piece):
            return tuple(token.value for token in model.tokenize(piece))
        unknown = next(i for i, character in enumerate(piece) if character not in known)
        before = split(piece[:unknown]) if unknown else ()
        return (*before, piece[unknown], *(split(piece[unknown + 1 :]) if piece[unknown + 1 :] else ()))

    return split


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError("--level bpe needs the library tokenizers: pip install 'rnn-lab[bpe]'") from None
    return tokenizers
