"""The symbols a text is made of, and the way from text to their numbers and back: characters, bytes or words.

It opens no files; reading them in a stream and keeping the numbers is the corpus's work.
"""

import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import repeat
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_plugins.errors import UserError

Level = Literal["char", "byte", "word"]
Unknown = Literal["error", "skip", "replace"]

NOUNS: dict[Level, str] = {"char": "character", "byte": "byte", "word": "word"}
UNK = "<unk>"
MAX_WORDS = 10_000
# A byte has a fixed label each: ASCII stands for itself, everything else is written as its number.
BYTES = tuple(chr(byte) if byte < 0x80 else f"\\x{byte:02x}" for byte in range(256))

_NAMED = 8  # how many symbols a message names before it says "and n more"
_BLOCK = 1 << 20  # how many ids are counted at a time, whatever the length of a memory-mapped array


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a text in the order of their ids, 0 to `len(vocabulary) - 1`.

    - `char`: a symbol is one Unicode code point; they stand in the order of code points. Nothing is normalised:
      combining marks, a byte order mark and CRLF are symbols like any other, so a text of known characters comes back
      as it was.
    - `byte`: a symbol is one byte of the UTF-8 encoding, and its id is its value. All 256 are always there, seen or
      not: so no file is ever unknown, and a model can go on with any other text. A text in UTF-8 comes back as it was.
    - `word`: a symbol is a piece of text: a word (letters, digits, `_` and the marks on them, 64 at most), a run of up
      to 16 equal blanks, tabs or line feeds, or any other single character. The pieces joined are the text again, so a
      text comes back exactly **if all its pieces are known**; one that is not comes back as `<unk>`, which has id 0.
      The rest follow by falling frequency. Scripts without spaces are not cut into words.

    Raises:
        ValueError: The level is unknown, a symbol stands twice, or the symbols are none of that level.
    """

    level: Level
    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.level not in NOUNS:
            raise ValueError(f"the level {self.level!r} is unknown; use one of {', '.join(NOUNS)}")
        if len(set(self.symbols)) < len(self.symbols):
            raise ValueError("a symbol stands twice in the vocabulary; give each symbol once")
        if self.level == "char" and any(len(symbol) != 1 for symbol in self.symbols):
            raise ValueError("a symbol of a char vocabulary is not one code point; use level 'word' for longer ones")
        if self.level == "byte" and self.symbols != BYTES:
            raise ValueError(
                "a byte vocabulary has the same 256 symbols always; make it with Vocabulary.build([], 'byte')"
            )
        if self.level == "word" and self.symbols[:1] != (UNK,):
            raise ValueError(f"a word vocabulary begins with {UNK}; put it before the other symbols")

    @classmethod
    def build(cls, chunks: Iterable[str], level: Level = "char", max_words: int = MAX_WORDS) -> "Vocabulary":
        """The vocabulary of a text that comes in chunks; where it is cut does not matter.

        Args:
            chunks: The text. Level `byte` does not look at it.
            level: `char`, `byte` or `word`.
            max_words: How many of the commonest pieces a `word` vocabulary keeps beside `<unk>`; of equally common ones
                the first in the order of code points.
        """
        if level == "byte":
            return cls("byte", BYTES)
        if level == "char":
            seen = np.zeros(0x110000, bool)
            for chunk in chunks:
                seen[_code_points(chunk)] = True
            return cls("char", tuple(map(chr, np.flatnonzero(seen))))
        counts: Counter[str] = Counter()
        for pieces in split_words(chunks):
            counts.update(pieces)
        ranked = sorted(counts, key=lambda piece: (-counts[piece], piece))
        return cls(level, (UNK, *ranked[:max_words]))

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest unsigned integer type that holds every id."""
        return np.min_scalar_type(max(len(self) - 1, 0))

    @property
    def replacement(self) -> int:
        """The id that stands in for an unknown symbol: `<unk>`, or at level `char` the space, or else the first."""
        return self._ids.get(" ", 0) if self.level == "char" else 0

    @property
    def unwritten(self) -> tuple[int, ...]:
        """The ids that stand for no text of their own, which a model is not to write unless asked: `<unk>`."""
        return (0,) if self.level == "word" else ()

    def encode(self, text: str, unknown: Unknown = "error", called: str = "the text") -> NDArray[np.intp]:
        """The ids of the symbols of `text`, shape (N,).

        Args:
            text: Any text. Level `byte` reads escaped bytes (as in `os.fsdecode`) back as those bytes.
            unknown: What becomes of symbols that are not in the vocabulary: `error`, `skip` (left out) or `replace`.
            called: How the message calls the text, such as "the prime".

        Raises:
            UserError: A symbol is unknown (`unknown="error"`), or level `byte` meets a lone surrogate.
        """
        units: str | bytes | list[str] = text
        if self.level == "byte":
            try:
                units = text.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{called} has a lone surrogate at position {error.start}, which is no character; leave it out"
                ) from None
        elif self.level == "word":
            units = _pieces().findall(text)
        ids = self.lookup(units)
        missing = np.flatnonzero(ids < 0)
        if missing.size and unknown == "error":
            raise UserError(self.unknown_message(dict.fromkeys(str(units[i]) for i in missing), called))
        return self.settle(ids, unknown).astype(np.intp)

    def lookup(self, units: str | bytes | list[str]) -> NDArray[Any]:
        """The id of each symbol, -1 where it is unknown, shape (N,).

        Args:
            units: A string at level `char`, bytes at level `byte`, pieces (see `split_words`) at level `word`.
        """
        if isinstance(units, bytes):
            return np.frombuffer(units, np.uint8)
        if isinstance(units, str):
            return self._table.take(_code_points(units), mode="clip")
        return np.fromiter(map(self._ids.get, units, repeat(-1)), np.int32, len(units))

    def settle(self, ids: NDArray[Any], unknown: Unknown) -> NDArray[Any]:
        """What `lookup` gave, without its -1: left out by `skip`, else replaced by `replacement`."""
        known = ids >= 0
        if known.all():
            return ids
        return ids[known] if unknown == "skip" else np.where(known, ids, self.replacement)

    def unknown_message(self, symbols: Iterable[str], called: str = "the text", distinct: int | None = None) -> str:
        """The sentence on symbols that are not in the vocabulary: `distinct` of them, by default all that are given."""
        symbols = list(symbols)
        return (
            f"{called} has {amount(distinct or len(symbols), NOUNS[self.level])} that the model has never seen: "
            f"{listing(map(show, symbols), distinct)}; --unknown skip leaves out what is unknown, "
            f"--unknown replace puts {show(self.symbols[self.replacement])} in its place"
        )

    def decode(self, ids: ArrayLike, errors: Literal["replace", "surrogateescape"] = "replace") -> str:
        """The text of `ids`, shape (N,).

        Args:
            ids: The symbols.
            errors: At level `byte`, what becomes of bytes that are no UTF-8: U+FFFD, or surrogates that stand for the
                bytes (as in `os.fsdecode`).

        Raises:
            ValueError: An id is negative or not below `len(self)`.
        """
        array = np.asarray(ids, np.intp)
        if array.size and not 0 <= array.min() <= array.max() < len(self):
            wrong = array.min() if array.min() < 0 else array.max()
            raise ValueError(
                f"the id {wrong} is outside a vocabulary of {len(self)} symbols; ids go from 0 to {len(self) - 1}"
            )
        if self.level == "byte":
            return array.astype(np.uint8).tobytes().decode("utf-8", errors)
        return "".join(map(self.symbols.__getitem__, array.tolist()))

    def measure(self, ids: NDArray[Any]) -> tuple[int, int]:
        """How many characters and how many UTF-8 bytes the text of `ids` has, for losses a character or a byte.

        `<unk>` counts as the five characters that it is written with. At level `byte`, the characters are the bytes
        that begin one; of bytes that are no UTF-8 this is an estimate.
        """
        if self.level == "byte":
            return count_characters(np.asarray(ids, np.uint8)), len(ids)
        characters, size = self._counts(ids) @ self._sizes
        return int(characters), int(size)

    def characters_per_symbol(self, ids: NDArray[Any]) -> float:
        """How many characters a symbol of `ids` has on average, for losses per character; see `measure`."""
        if self.level == "char":
            return 1.0
        return max(self.measure(ids)[0], 1) / max(len(ids), 1)

    def words(self, ids: NDArray[Any]) -> int:
        """How many of `ids` are words, `<unk>` among them, and not spaces or punctuation; 0 unless of level `word`."""
        if self.level != "word":
            return 0
        is_word = np.array([symbol == UNK or symbol[0].isalnum() or symbol[0] == "_" for symbol in self.symbols])
        return int(self._counts(ids) @ is_word)

    def _counts(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        counts = np.zeros(len(self), np.int64)
        for start in range(0, len(ids), _BLOCK):
            counts += np.bincount(ids[start : start + _BLOCK], minlength=len(self))
        return counts

    def to_json(self) -> dict[str, Any]:
        """The vocabulary in JSON's types; `from_json` takes it back."""
        return {"level": "byte"} if self.level == "byte" else {"level": self.level, "symbols": list(self.symbols)}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Vocabulary":
        """The vocabulary that `to_json` wrote.

        Raises:
            ValueError: The value was not written by `to_json`.
        """
        try:
            level = value["level"]
            return cls(level, BYTES if level == "byte" else tuple(map(str, value["symbols"])))
        except (KeyError, TypeError):
            raise ValueError(
                "this is no vocabulary; expected its level and its symbols, as to_json writes them"
            ) from None

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @cached_property
    def _table(self) -> NDArray[np.int32]:
        """From code point to id, -1 where there is none; its last row stands for all code points above."""
        codes = _code_points("".join(self.symbols))
        table = np.full(int(codes.max(initial=0)) + 2, -1, np.int32)
        table[codes] = np.arange(len(self))
        return table

    @cached_property
    def _sizes(self) -> NDArray[np.int64]:
        """Characters and bytes of each symbol, shape (V, 2)."""
        return np.array([(len(s), len(s.encode("utf-8", "surrogatepass"))) for s in self.symbols], np.int64).reshape(
            -1, 2
        )


class StreamDecoder:
    """Turns ids into text one at a time, never giving out a part of a character.

    All that `feed` and `flush` return, joined, is what `Vocabulary.decode` makes of the same ids. At level `byte`,
    bytes are held back until their character is whole.
    """

    def __init__(self, vocabulary: Vocabulary, errors: Literal["replace", "surrogateescape"] = "replace") -> None:
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)

    def feed(self, symbol_id: int) -> str:
        """The text that `symbol_id` completes: at level `byte`, none or more characters, else one symbol.

        Raises:
            ValueError: The id is negative or not below the vocabulary's size.
        """
        if self._vocabulary.level == "byte":
            return self._utf8.decode(bytes([symbol_id]))
        return self._vocabulary.decode([symbol_id])

    def flush(self) -> str:
        """What was held back and will not be completed; the decoder is as new afterwards."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


def split_words(chunks: Iterable[str]) -> Iterator[list[str]]:
    """The pieces of a text that comes in chunks, a list for each chunk; where it is cut does not matter.

    All pieces joined are the text. What a piece is, `Vocabulary` says.
    """
    findall = _pieces().findall
    rest = ""
    for chunk in chunks:
        pieces = findall(rest + chunk)
        rest = pieces.pop() if pieces else ""  # the next chunk may go on with it
        yield pieces
    if rest:
        yield [rest]


def count_characters(data: NDArray[np.uint8]) -> int:
    """How many characters UTF-8 bytes hold: all bytes but those of the form 10xxxxxx, which go on with one."""
    return int(np.count_nonzero(data.view(np.int8) >= -64))


def show(symbol: str) -> str:
    """A symbol as a message names it: quoted, and with its code point where it might be taken for another."""
    if len(symbol) != 1 or symbol.isascii():
        return repr(symbol)
    code = f"U+{ord(symbol):04X}"
    return f"{symbol!r} ({code})" if symbol.isprintable() and not unicodedata.combining(symbol) else code


def listing(names: Iterable[str], total: int | None = None) -> str:
    """`a, b and c`: the first eight names, and how many more there are of `total` (by default as many as are given)."""
    names = list(names)
    named = names[:_NAMED]
    more = (total or len(names)) - len(named)
    if more:
        return f"{', '.join(named)} and {more:,} more"
    return " and ".join(filter(None, [", ".join(named[:-1]), named[-1]]))


def amount(count: int, noun: str) -> str:
    """`1 word`, `2,000 words`."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


@cache
def _pieces() -> re.Pattern[str]:
    # `\w` has no combining marks: without them the stress of a Russian word and the vowels of a Hindi one would cut it.
    marks = "".join(chr(code) for code in range(0x10000) if unicodedata.category(chr(code)).startswith("M"))
    return re.compile(rf"\w[\w{marks}]{{0,63}}| {{1,16}}|\n{{1,16}}|\t{{1,16}}|[\s\S]")


def _code_points(text: str) -> NDArray[Any]:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
