"""Tokens of short texts: characters, bytes or words with symbols of their own, such as padding or an end."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_plugins.data.vocabulary import BYTES, UNK, Level, marks


@dataclass(frozen=True)
class Tokens:
    """The symbols of texts in the order of their ids: specials, then pieces by falling frequency, ties by code points.

    - ``char``: a piece is a code point.
    - ``byte``: a piece is a byte of the UTF-8 encoding; all 256 are always present, in their order.
    - ``word``: a piece is a word, or a character that is neither in a word nor a space. Clitics are words, as in the
      Penn Treebank and in pretrained vectors: ``does n't``, ``that 's``, ``l' homme``.

    Attributes:
        level: ``char``, ``byte`` or ``word``.
        symbols: the specials, then the pieces.
        specials: the number of specials, at least one; the first, with id 0, stands for unknown pieces.
        lower: whether texts are lower-cased.
        spaces: whether a word carries the space before it, so that ``decode`` gives back a text of known pieces.

    Raises:
        ValueError: the level is unknown, a symbol occurs twice, or there are no specials.
    """

    level: Level
    symbols: tuple[str, ...]
    specials: int = 1
    lower: bool = False
    spaces: bool = False

    def __post_init__(self) -> None:
        if self.level not in get_args(Level):
            raise ValueError(f"the level {self.level!r} is unknown; use one of {', '.join(get_args(Level))}")
        if not 0 < self.specials <= len(self.symbols):
            raise ValueError("the first symbol must be a special, for unknown pieces")
        if len(set(self.symbols)) < len(self.symbols):
            raise ValueError("a symbol occurs twice; give each symbol once")

    @classmethod
    def build(
        cls,
        texts: Iterable[str | Sequence[str]],
        level: Level,
        *,
        limit: int = 0,
        lower: bool = False,
        specials: Sequence[str] = (UNK,),
        spaces: bool = False,
    ) -> "Tokens":
        """The tokens of some texts.

        Args:
            texts: the texts; one that is a sequence of pieces is not divided.
            level: ``char``, ``byte`` or ``word``.
            limit: the number of words to keep, the commonest; 0 for all. Characters and bytes are all kept.
            lower: whether to lower-case texts.
            specials: symbols without a text of their own; the first stands for unknown pieces.
            spaces: see the class.
        """
        tokens = cls(level, tuple(specials), len(specials), lower, spaces)
        if level == "byte":
            pieces: Sequence[str] = BYTES
        else:
            counts: Counter[str] = Counter()
            for text in texts:
                counts.update(tokens.pieces(text))
            for special in specials:
                counts.pop(special, None)
            ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))
            pieces = ranked[:limit] if limit and level == "word" else ranked
        return cls(level, (*specials, *pieces), len(specials), lower, spaces)

    def __len__(self) -> int:
        return len(self.symbols)

    def pieces(self, text: str | Sequence[str]) -> list[str]:
        """A text divided into pieces; one that is a sequence of pieces is not divided."""
        if not isinstance(text, str):
            return [piece.lower() for piece in text] if self.lower else list(text)
        if self.lower:
            text = text.lower()
        if self.level == "char":
            return list(text)
        if self.level == "byte":
            return [BYTES[byte] for byte in text.encode("utf-8", "surrogatepass")]
        if not self.spaces:
            return _words().findall(text)
        # The space before the text makes a word at its beginning the same symbol as elsewhere.
        return _spaced_words().findall(" " + text) if text else []

    def encode(self, text: str | Sequence[str]) -> NDArray[np.intp]:
        """The ids of the pieces of a text, shape (N,); 0 for unknown ones."""
        pieces = self.pieces(text)
        return np.fromiter((self._ids.get(piece, 0) for piece in pieces), np.intp, len(pieces))

    def decode(self, ids: ArrayLike) -> str:
        """The text of ids, shape (N,), without specials except the unknown symbol.

        Words without spaces are joined by spaces. Bytes that are not UTF-8 become U+FFFD.
        """
        ids = [i for i in np.asarray(ids, np.intp).tolist() if i == 0 or i >= self.specials]
        if self.level == "byte":
            values = (self.symbols[0].encode() if i == 0 else bytes([i - self.specials]) for i in ids)
            return b"".join(values).decode("utf-8", "replace")
        pieces = [self.symbols[i] for i in ids]
        if self.level == "char":
            return "".join(pieces)
        if not self.spaces:
            return " ".join(pieces)
        unknown = " " + self.symbols[0]
        return "".join(piece if i else unknown for i, piece in zip(ids, pieces, strict=True)).removeprefix(" ")

    def to_json(self) -> dict[str, Any]:
        """The tokens as JSON types; the inverse of ``from_json``."""
        kept = self.symbols[: self.specials] if self.level == "byte" else self.symbols
        return {
            "level": self.level,
            "symbols": list(kept),
            "specials": self.specials,
            "lower": self.lower,
            "spaces": self.spaces,
        }

    @classmethod
    def from_json(cls, value: Any) -> "Tokens":
        """The tokens from the value of ``to_json``.

        Raises:
            ValueError: the value is not from ``to_json``.
        """
        try:
            symbols = [str(symbol) for symbol in value["symbols"]]
            level = value["level"]
            known = level in get_args(Level) and all(type(value[name]) is bool for name in ("lower", "spaces"))
            if not known or type(value["specials"]) is not int:
                raise TypeError
            pieces = BYTES if level == "byte" else ()
            return cls(level, (*symbols, *pieces), value["specials"], value["lower"], value["spaces"])
        except (KeyError, TypeError):
            raise ValueError("these are not tokens; expected what to_json writes: level, symbols, specials") from None

    @cached_property
    def _ids(self) -> dict[str, int]:
        """Ids by piece; a piece of a text that looks like a special is unknown."""
        return {symbol: i for i, symbol in enumerate(self.symbols) if i >= self.specials}


@cache
def _word() -> str:
    letter = rf"[\w{marks()}]"
    clitic = r"['’](?:s|re|ve|m|ll|d)\b"
    negated = r"n['’]t\b"
    return (
        rf"{letter}+?(?=(?i:{negated}))|(?i:{negated})|{letter}+(?=(?i:{clitic}))|(?i:{clitic})"
        rf"|{letter}+['’](?={letter})|{letter}+|[^\w\s]"
    )


@cache
def _words() -> re.Pattern[str]:
    return re.compile(_word())


@cache
def _spaced_words() -> re.Pattern[str]:
    return re.compile(rf"\s?(?:{_word()})|\s")
