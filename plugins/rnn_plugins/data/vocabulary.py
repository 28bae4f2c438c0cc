"""Vocabularies: the symbols of a text (characters, bytes, words or tokens), and encoding and decoding with them."""

import codecs
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import repeat
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rnn_plugins.errors import UserError
from rnn_plugins.words import amount, listing

Level = Literal["char", "byte", "word"]
TextLevel = Literal["char", "byte", "word", "bpe"]
Unknown = Literal["error", "skip", "replace"]

NOUNS: dict[TextLevel, str] = {"char": "character", "byte": "byte", "word": "word", "bpe": "token"}
UNK = "<unk>"
MAX_WORDS = 10_000
MAX_TOKENS = 65_536
# Labels of bytes: ASCII as itself, all others as numbers.
BYTES = tuple(chr(byte) if byte < 0x80 else f"\\x{byte:02x}" for byte in range(256))

MANY_PIECES = 1 << 20  # pieces whose tokens are known at a time

_BLOCK = 1 << 20  # ids counted at a time, also of a memory-mapped array


@dataclass(frozen=True)
class Vocabulary:
    """The symbols of a text in the order of their ids, 0 to `len(vocabulary) - 1`.

    - `char`: a symbol is one Unicode code point; they are sorted by code point. Nothing is normalised: combining
      marks, a byte order mark and CRLF are symbols like any other, so a text of known characters is decoded exactly.
    - `byte`: a symbol is one byte of the UTF-8 encoding, and its id is its value. All 256 are always present, so any
      file can be encoded, and a model can continue training on any text. UTF-8 text is decoded exactly.
    - `word`: a symbol is a piece of text: a word (letters, digits, `_` and the marks on them, 64 at most), a run of up
      to 16 equal blanks, tabs or line feeds, or any other single character. The pieces joined are the text, so a text
      is decoded exactly **if all its pieces are known**; unknown ones become `<unk>`, which has id 0. The others are
      sorted by decreasing frequency. Scripts without spaces are not divided into words.
    - `bpe`: a symbol is a character, or a token of several that byte-pair encoding has merged (see `data.bpe`). No
      token crosses the border of a word with the space before it, or of a run of up to 16 equal blanks, tabs, line
      feeds, or other characters. A text of known characters is decoded exactly.

    Attributes:
        level: The kind of symbols.
        symbols: All of them.
        merges: At level `bpe`, the pairs of symbols in the order in which they are merged.

    Raises:
        ValueError: The level is unknown, a symbol occurs twice, or the symbols are not of that level.
    """

    level: TextLevel
    symbols: tuple[str, ...]
    merges: tuple[tuple[str, str], ...] = ()

    def __post_init__(self) -> None:
        if self.level not in NOUNS:
            raise ValueError(f"the level {self.level!r} is unknown; use one of {', '.join(NOUNS)}")
        if len(set(self.symbols)) < len(self.symbols):
            raise ValueError("a symbol occurs twice in the vocabulary; give each symbol once")
        if self.level == "char" and any(len(symbol) != 1 for symbol in self.symbols):
            raise ValueError("a symbol of a char vocabulary is not one code point; use level 'word' for longer ones")
        if self.level == "byte" and self.symbols != BYTES:
            raise ValueError("a byte vocabulary always has the same 256 symbols; use Vocabulary.build([], 'byte')")
        if self.level == "word" and self.symbols[:1] != (UNK,):
            raise ValueError(f"a word vocabulary begins with {UNK}; put it before the other symbols")
        known = set(self.symbols) if self.level == "bpe" else set[str]()
        if "" in known or any({first, second, first + second} - known for first, second in self.merges):
            raise ValueError("a symbol is empty, or one that is merged is not in the vocabulary")

    @classmethod
    def build(cls, chunks: Iterable[str], level: TextLevel = "char", max_words: int = MAX_WORDS) -> "Vocabulary":
        """The vocabulary of a text in chunks, which may be cut anywhere.

        Args:
            chunks: The text; unused at level `byte`.
            level: `char`, `byte` or `word`.
            max_words: The number of pieces that a `word` vocabulary keeps beside `<unk>`: the commonest, ties broken by
                code points.
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

    @classmethod
    def tokens(cls, chunks: Iterable[str], characters: Iterable[str], size: int) -> "Vocabulary":
        """A vocabulary of level `bpe`.

        Args:
            chunks: The text to learn the merges from, in chunks, which may be cut anywhere.
            characters: The characters that are symbols; all of `chunks` are among them.
            size: The number of symbols, or more than that of characters.

        Raises:
            UserError: The library tokenizers is not installed.
        """
        from rnn_plugins.data.bpe import learn

        return cls("bpe", *learn(split_words(chunks, spaced=True), sorted(characters), size))

    def __len__(self) -> int:
        return len(self.symbols)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The narrowest unsigned integer type for all ids."""
        return np.min_scalar_type(max(len(self) - 1, 0))

    @property
    def replacement(self) -> int:
        """The id that replaces an unknown symbol: `<unk>`, or of characters the space, or else the first."""
        return self._ids.get(" ", 0) if self.level in ("char", "bpe") else 0

    @property
    def unwritten(self) -> tuple[int, ...]:
        """The ids without a text of their own, which are not sampled by default: `<unk>`."""
        return (0,) if self.level == "word" else ()

    def encode(self, text: str, unknown: Unknown = "error", called: str = "the text") -> NDArray[np.intp]:
        """The ids of the symbols of `text`, shape (N,).

        Args:
            text: Any text. Level `byte` encodes escaped bytes (as from `os.fsdecode`) as those bytes.
            unknown: What to do with symbols that are not in the vocabulary: `error`, `skip` (leave out) or `replace`.
            called: The text's name in the message, such as "the prime".

        Raises:
            UserError: A symbol is unknown (`unknown="error"`), or the text has a lone surrogate at level `byte`.
        """
        ids, missing = self.encode_known(text, called)
        if missing and unknown == "error":
            raise UserError(self.unknown_message(missing, called))
        return self.replace_unknown(ids, unknown).astype(np.intp)

    def encode_known(self, text: str, called: str = "the text") -> tuple[NDArray[Any], list[str]]:
        """The ids of the symbols of a text, (N,), with -1 for unknown ones, and the different unknown symbols.

        Raises:
            UserError: The text has a lone surrogate at level `byte`.
        """
        units: str | bytes | list[str] = text
        if self.level == "byte":
            try:
                units = text.encode("utf-8", "surrogateescape")
            except UnicodeEncodeError as error:
                raise UserError(
                    f"{called} has a lone surrogate at position {error.start}, which is not a character; leave it out"
                ) from None
        elif self.level in ("word", "bpe"):
            units = [unit for units in self.units([text]) for unit in units]
        ids = self.lookup(units)
        return ids, list(dict.fromkeys(str(units[i]) for i in np.flatnonzero(ids < 0)))

    def units(self, chunks: Iterable[Any]) -> Iterator[Any]:
        """The content of a text in chunks, which may be cut anywhere, as `lookup` takes it.

        Raises:
            UserError: The library tokenizers is not installed, at level `bpe`.
        """
        if self.level == "word":
            yield from split_words(chunks)
        elif self.level == "bpe":
            known = self._split
            for pieces in split_words(chunks, spaced=True):
                if len(known) > MANY_PIECES:
                    known.clear()
                yield [token for piece in pieces for token in known[piece]]
        else:
            yield from chunks

    def lookup(self, units: str | bytes | list[str]) -> NDArray[Any]:
        """The id of each symbol, -1 where it is unknown, shape (N,).

        Args:
            units: A string at level `char`, bytes at level `byte`, a list of symbols, known or not, at other levels.
        """
        if isinstance(units, bytes):
            return np.frombuffer(units, np.uint8)
        if isinstance(units, str):
            return self._table.take(_code_points(units), mode="clip")
        return np.fromiter(map(self._ids.get, units, repeat(-1)), np.int32, len(units))

    def replace_unknown(self, ids: NDArray[Any], unknown: Unknown) -> NDArray[Any]:
        """The ids from `lookup` without -1: `skip` leaves it out, otherwise it becomes `replacement`."""
        known = ids >= 0
        if known.all():
            return ids
        return ids[known] if unknown == "skip" else np.where(known, ids, self.replacement)

    def unknown_message(self, symbols: Iterable[str], called: str = "the text", distinct: int | None = None) -> str:
        """The sentence on symbols that are not in the vocabulary; `distinct` is their number, by default all given."""
        symbols, noun = list(symbols), NOUNS["char" if self.level == "bpe" else self.level]
        return (
            f"{called} has {amount(distinct or len(symbols), noun)} that the model has never seen: "
            f"{listing(map(show, symbols), distinct)}; --unknown skip leaves them out, "
            f"--unknown replace puts {show(self.symbols[self.replacement])} in their place"
        )

    def decode(self, ids: ArrayLike, errors: Literal["replace", "surrogateescape"] = "replace") -> str:
        """The text of `ids`, shape (N,).

        Args:
            ids: The symbols.
            errors: At level `byte`, how to decode bytes that are not UTF-8: as U+FFFD, or as surrogates that encode the
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
        """The numbers of characters and of UTF-8 bytes in the text of `ids`, for losses per character or byte.

        `<unk>` counts as five characters. At level `byte`, characters are counted by their first bytes, which is an
        estimate if the bytes are not UTF-8.
        """
        if self.level == "byte":
            return count_characters(np.asarray(ids, np.uint8)), len(ids)
        characters, size = self._counts(ids) @ self._sizes
        return int(characters), int(size)

    def characters_per_symbol(self, ids: NDArray[Any]) -> float:
        """The mean number of characters per symbol of `ids`, for losses per character; see `measure`."""
        if self.level == "char":
            return 1.0
        return max(self.measure(ids)[0], 1) / max(len(ids), 1)

    def ends(self, ids: NDArray[Any]) -> NDArray[np.int64]:
        """The number of characters up to the end of each of `ids`, not at level `byte`; shape (N,)."""
        return np.cumsum(self._sizes[:, 0][np.asarray(ids)])

    def words(self, ids: NDArray[Any]) -> int:
        """The number of `ids` that are words, `<unk>` included, not spaces or punctuation; 0 unless at level `word`."""
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
        """The vocabulary as JSON types; the inverse of `from_json`."""
        if self.level == "byte":
            return {"level": "byte"}
        merges = {"merges": [list(pair) for pair in self.merges]} if self.level == "bpe" else {}
        return {"level": self.level, "symbols": list(self.symbols), **merges}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> "Vocabulary":
        """The vocabulary from the value of `to_json`.

        Raises:
            ValueError: The value is not from `to_json`.
        """
        try:
            level = value["level"]
            symbols = BYTES if level == "byte" else tuple(map(str, value["symbols"]))
            merges = tuple((str(first), str(second)) for first, second in value["merges"]) if level == "bpe" else ()
            return cls(level, symbols, merges)
        except (KeyError, TypeError):
            raise ValueError(
                "this is not a vocabulary; expected its level and its symbols, as to_json writes them"
            ) from None

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {symbol: i for i, symbol in enumerate(self.symbols)}

    @cached_property
    def _split(self) -> "_Split":
        from rnn_plugins.data.bpe import splitter

        return _Split(splitter(self.symbols, self.merges))

    @cached_property
    def _table(self) -> NDArray[np.int32]:
        """Ids by code point, -1 for none; the last entry is for all higher code points."""
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
    """Decodes ids to text one at a time, in whole characters.

    The results of `feed` and `flush`, joined, equal `Vocabulary.decode` of the same ids. At level `byte`, bytes are
    buffered until their character is complete.
    """

    def __init__(self, vocabulary: Vocabulary, errors: Literal["replace", "surrogateescape"] = "replace") -> None:
        self._vocabulary = vocabulary
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)

    def feed(self, symbol_id: int) -> str:
        """The text that `symbol_id` completes: at level `byte`, zero or more characters, else one symbol.

        Raises:
            ValueError: The id is negative or not below the vocabulary's size.
        """
        if self._vocabulary.level == "byte":
            return self._utf8.decode(bytes([symbol_id]))
        return self._vocabulary.decode([symbol_id])

    def flush(self) -> str:
        """The text of the buffered, incomplete bytes; the decoder is reset."""
        rest = self._utf8.decode(b"", final=True)
        self._utf8.reset()
        return rest


class _Split(dict[str, tuple[str, ...]]):
    """The tokens of pieces of text, computed when they are first asked for: most pieces occur again and again."""

    def __init__(self, split: Callable[[str], tuple[str, ...]]) -> None:
        super().__init__()
        self._split = split

    def __missing__(self, piece: str) -> tuple[str, ...]:
        self[piece] = tokens = self._split(piece)
        return tokens


def level_of(text: str) -> tuple[TextLevel, int]:
    """A level and its number of symbols from `char`, `byte`, `word` or `bpe:N`; the number is 0 but for `bpe`.

    Raises:
        ValueError: It is none of these.
    """
    kind, colon, number = text.partition(":")
    if kind == "bpe" and number.isdecimal() and 2 <= int(number) <= MAX_TOKENS:
        return "bpe", int(number)
    if kind not in get_args(Level) or colon:
        raise ValueError(
            f"level is {text!r}; it must be char, byte, word, or bpe:N with a number of symbols from 2 to "
            f"{MAX_TOKENS:,}, such as bpe:1000"
        )
    return cast(Level, kind), 0


def split_words(chunks: Iterable[str], spaced: bool = False) -> Iterator[list[str]]:
    """The pieces of a text in chunks, which may be cut anywhere; one list per chunk.

    All pieces joined are the text. `Vocabulary` defines a piece; if `spaced`, that of level `bpe`.
    """
    findall = (_spaced_pieces if spaced else _pieces)().findall
    rest = ""
    for chunk in chunks:
        pieces = findall(rest + chunk)
        rest = pieces.pop() if pieces else ""  # the next chunk may continue it
        yield pieces
    if rest:
        yield [rest]


def count_characters(data: NDArray[np.uint8]) -> int:
    """The number of characters in UTF-8 bytes: all bytes but continuation bytes, 10xxxxxx."""
    return int(np.count_nonzero(data.view(np.int8) >= -64))


def show(symbol: str) -> str:
    """A symbol for a message: quoted, with its code point if it might be confused with another."""
    if len(symbol) != 1 or symbol.isascii():
        return repr(symbol)
    code = f"U+{ord(symbol):04X}"
    return f"{symbol!r} ({code})" if symbol.isprintable() and not unicodedata.combining(symbol) else code


@cache
def marks() -> str:
    """All combining marks, such as a Russian stress mark or a Hindi vowel sign.

    Regular expressions do not count them among letters, which would cut words at them.
    """
    return "".join(chr(code) for code in range(0x10000) if unicodedata.category(chr(code)).startswith("M"))


@cache
def _pieces() -> re.Pattern[str]:
    return re.compile(rf"\w[\w{marks()}]{{0,63}}| {{1,16}}|\n{{1,16}}|\t{{1,16}}|[\s\S]")


@cache
def _spaced_pieces() -> re.Pattern[str]:
    return re.compile(
        rf" ?\w[\w{marks()}]{{0,63}}| ?[^\w\s][^\w\s{marks()}]{{0,15}}| {{1,16}}|\n{{1,16}}|\t{{1,16}}|[\s\S]"
    )


def _code_points(text: str) -> NDArray[Any]:
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
