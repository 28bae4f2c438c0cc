"""Texts from files, folders, globs, standard input and built-in generators, as one array of ids with its vocabulary.

A text is read as a stream; only its ids are kept in memory.
"""

import hashlib
import io
import json
import os
import tempfile
import time
import unicodedata
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from rnn_plugins.data.decoding import Changes
from rnn_plugins.data.sources import CHUNK, Content, find, label_of
from rnn_plugins.data.vocabulary import (
    MAX_WORDS,
    NOUNS,
    TextLevel,
    Unknown,
    Vocabulary,
    count_characters,
    level_of,
    show,
)
from rnn_plugins.errors import UserError, why
from rnn_plugins.words import amount, listing, percent

SMALL = 1 << 20  # bytes; encoding a smaller text is faster than opening the cache
IN_MEMORY = 1 << 28  # bytes; more ids are memory-mapped
MANY = 5_000  # characters; a larger vocabulary gets a notice

_FORMAT = 2  # of the cached files; increase it when the content stored under a key changes


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as ids, and notices on it.

    Attributes:
        tokens: The ids in order, shape (N,), read-only, in the narrowest unsigned type; in memory, or if there are
            many, mapped from a file that no other process can open.
        vocabulary: What the ids stand for.
        digest: SHA-256, in hexadecimal, of the content: the unpacked bytes of all texts in order.
        sources: The names of the texts, as given.
        characters: The number of characters; an estimate if the bytes are not UTF-8 (see `Vocabulary.measure`).
        bytes: The size of the content in bytes.
        unknown: The share of its symbols that the vocabulary does not have; at level `word`, of its words.
        notices: Sentences for the user.
    """

    tokens: NDArray[Any]
    vocabulary: Vocabulary
    digest: str
    sources: tuple[str, ...]
    characters: int
    bytes: int
    unknown: float
    notices: tuple[str, ...]


def load_corpus(
    sources: Sequence[str],
    *,
    level: str = "char",
    valid_fraction: float = 0.1,
    vocabulary: Vocabulary | None = None,
    unknown: Unknown = "error",
    max_words: int = MAX_WORDS,
    recorded: bool = False,
    most: int | None = None,
    cache_dir: Path | None = None,
) -> Corpus:
    """Reads texts, joins them in the order given, with nothing in between, and encodes them.

    A source is a file, a folder (its files, at any depth, sorted by path, without hidden files and files that are not
    text), a glob, `-` for standard input, or a built-in text such as `builtin:latex`. Files that end in `.gz` are
    unpacked. `decoding` defines what is a text and how it is decoded; a notice lists what decoding changed. Level
    `byte` accepts any file unchanged.

    The content is read once for its digest. If its ids are not in the cache, it is read again for the vocabulary,
    unless that is given, and once more to encode it. The cache is `cache_dir`, by default the folder that RNN_LAB_CACHE
    names or the user's cache folder; it may be emptied at any time. Texts below a megabyte are not cached, unless they
    came through a pipe and cannot be read again. Cached files are verified by their checksums.

    Args:
        sources: One or more sources.
        level: What a symbol is: `char`, `byte`, `word` or `bpe:N`. A given vocabulary determines it.
        valid_fraction: The fraction held out at the end, in [0, 1). A vocabulary of level `bpe` that is built here is
            learnt from the characters before it, and has those of the whole text.
        vocabulary: The vocabulary to encode with; by default it is built from the whole text.
        unknown: What to do with characters that a given vocabulary lacks: `error`, `skip` or `replace`. Words that a
            word vocabulary lacks are read as `<unk>` unless they are skipped.
        max_words: The size of a word vocabulary that is built here.
        recorded: Whether the sources come from a run's manifest and not from the user; then no pipe is read.
        most: Stop reading after so many bytes, since the text then differs from the recorded one.
        cache_dir: The folder of the cache.

    Raises:
        UserError: A source cannot be read or is not text, or the text is empty, has unknown symbols, or only one
            symbol.
    """
    if not sources:
        raise ValueError("no source was given; name a text, such as 'builtin:latex'")
    check_fraction(valid_fraction)
    kind, size = (vocabulary.level, len(vocabulary)) if vocabulary else level_of(level)
    if kind == "word" and unknown == "error":
        unknown = "replace"
    with ExitStack() as stack:
        parts, notices = find(sources, kind, stack, pipes=not recorded)
        content = Content(label_of(sources), parts, kind, most)
        if not content.bytes:
            raise UserError(f"{content.label} is empty; give a text of at least two different characters")
        store = _Cache(cache_dir or cache_folder(), wanted=content.bytes >= SMALL or content.piped)
        model = vocabulary
        if model:
            vocabulary = model
        elif kind == "bpe":
            vocabulary = _tokens_of(content, size, valid_fraction, store)
        else:
            vocabulary = _vocabulary(content, kind, max_words, store)
        tokens, facts = _tokens(content, vocabulary, unknown, store)
    notices += Changes(facts.marks, facts.line_ends).notice(content.label)
    if model:
        notices += _unseen_notices(content, vocabulary, facts, unknown)
    else:
        notices += _text_notices(content, vocabulary, facts)
        notices += _late_notices(content, vocabulary, facts, tokens, valid_fraction)
    return Corpus(
        tokens=tokens,
        vocabulary=vocabulary,
        digest=content.digest,
        sources=tuple(sources),
        characters=facts.characters,
        bytes=content.bytes,
        unknown=_unknown(tokens, vocabulary, facts, unknown),
        notices=(*notices, *store.notices),
    )


def recall_corpus(
    digest: str,
    vocabulary: Vocabulary,
    *,
    sources: Sequence[str] = (),
    unknown: Unknown = "error",
    cache_dir: Path | None = None,
) -> Corpus | None:
    """A text from the cache, for when it cannot be read again because it came through standard input.

    Args:
        digest: The digest of its content.
        vocabulary: The vocabulary that it was encoded with.
        sources: The names of its sources.
        unknown: As for `load_corpus`.
        cache_dir: The folder of the cache; see `load_corpus`.

    Returns:
        The text, with its size computed from its ids; None if it is not in the cache.
    """
    if vocabulary.level == "word" and unknown == "error":
        unknown = "replace"
    store = _Cache(cache_dir or cache_folder(), wanted=True)
    kept = _kept(store.path(digest, vocabulary.to_json(), unknown), vocabulary, store)
    if kept is None:
        return None
    tokens, facts = kept
    share = _unknown(tokens, vocabulary, facts, unknown)
    return Corpus(tokens, vocabulary, digest, tuple(sources), facts.characters, facts.bytes, share, notices=())


def split(corpus: Corpus, valid_fraction: float = 0.1) -> tuple[NDArray[Any], NDArray[Any]]:
    """The training ids and the held-out ids: the first and the last part of the text, as views.

    The held-out part is rounded down, so a text of a few symbols has none. At level `bpe` it is that share of the
    characters, so that the text is the same as at level `char`; a token across its border belongs to the first part.

    Raises:
        UserError: `valid_fraction` is not in [0, 1).
    """
    check_fraction(valid_fraction)
    border = _border_in(corpus.tokens, corpus.vocabulary, valid_fraction)
    return corpus.tokens[:border], corpus.tokens[border:]


def check_fraction(valid_fraction: float) -> float:
    """`valid_fraction`, if it is valid."""
    if not 0 <= valid_fraction < 1:
        raise UserError(f"--valid-fraction is {valid_fraction:g}; it must be at least 0 and below 1")
    return valid_fraction


def cache_folder() -> Path:
    """The folder of encoded texts: RNN_LAB_CACHE if set, else a folder in the user's cache."""
    return Path(os.environ.get("RNN_LAB_CACHE") or platformdirs.user_cache_dir("rnn-lab", appauthor=False))


def _border_in(tokens: NDArray[Any], vocabulary: Vocabulary, valid_fraction: float) -> int:
    """The number of training ids of a text; see `split`."""
    if vocabulary.level != "bpe" or not valid_fraction:
        return _border(len(tokens), valid_fraction)
    ends = vocabulary.ends(tokens)
    return int(np.searchsorted(ends, _border(int(ends[-1]), valid_fraction))) + 1


def _border(length: int, valid_fraction: float) -> int:
    return length - int(length * valid_fraction)


# Encoding -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    """Facts on an encoded text beside its ids.

    Attributes:
        length: The number of ids.
        first: For each symbol of the vocabulary, the position of its first occurrence, or -1.
        unseen: The number of symbols in the text that are not in the vocabulary.
        distinct: The number of different ones.
        commonest: The commonest of them.
        characters: The number of characters in the text.
        bytes: The number of bytes in the content.
        marks: The number of byte order marks removed.
        line_ends: The line ends that were read as line feeds.
        checksum: Of the ids.
    """

    length: int
    first: list[int]
    unseen: int
    distinct: int
    commonest: list[str]
    characters: int
    bytes: int
    marks: int
    line_ends: list[str]
    checksum: int


def checksum(path: Path, data: Any, so_far: int | None = None) -> int:
    """CRC-32 of data and of the name it is stored under; `so_far` is the checksum of the preceding data.

    It detects damage, not forgery, in a third of the time that SHA-256 takes.
    """
    return zlib.crc32(data, zlib.crc32(path.stem.encode()) if so_far is None else so_far)


class _Cache:
    """Files cached between runs. A file that cannot be read counts as absent; a failed write adds a notice."""

    def __init__(self, folder: Path, wanted: bool) -> None:
        self.folder = folder
        self.wanted = wanted
        self.notices: list[str] = []

    def path(self, *key: Any) -> Path:
        """The path for a key, without its ending."""
        letters = unicodedata.unidata_version  # the definition of a letter decides where a word ends
        return self.folder / hashlib.sha256(json.dumps([_FORMAT, letters, *key]).encode()).hexdigest()

    def read(self, path: Path) -> Any:
        """The JSON value stored under `path`; None if there is none or it is damaged."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(path.with_suffix(".json").read_bytes() if self.wanted else b"{}")
            if kept["checksum"] == checksum(path, json.dumps(kept["value"]).encode()):
                return kept["value"]
        return None

    def write(self, path: Path, value: Any) -> None:
        """Stores a JSON value under `path`."""
        kept = {"value": value, "checksum": checksum(path, json.dumps(value).encode())}
        with self.writer(path.with_suffix(".json")) as file:
            file.write(json.dumps(kept).encode())

    @contextmanager
    def writer(self, path: Path) -> Iterator[IO[bytes]]:
        """A file that is renamed to `path` once it is complete and flushed to disk."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            for left in path.parent.glob(".new-*"):  # from a process that was killed, if unchanged for an hour
                if time.time() - left.stat().st_mtime > 3600:
                    left.unlink()
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".new-", delete=False) as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise

    def give_up(self, error: OSError) -> None:
        """Adds a notice that this text is not cached."""
        self.wanted = False
        self.notices.append(
            f"the encoded text could not be cached in {str(self.folder)!r} ({why(error)}), so it stays in memory and "
            "is encoded again next time; set RNN_LAB_CACHE to another folder"
        )


def _unknown(tokens: NDArray[Any], vocabulary: Vocabulary, facts: _Facts, unknown: Unknown) -> float:
    if not facts.unseen:
        return 0.0
    known = vocabulary.words(tokens) if vocabulary.level == "word" else len(tokens)
    return facts.unseen / max(known + (facts.unseen if unknown == "skip" else 0), 1)


def _tokens_of(content: Content, size: int, valid_fraction: float, store: _Cache) -> Vocabulary:
    """The vocabulary of byte-pair encoding that is learnt from the characters before the held-out ones.

    Raises:
        UserError: the text has more characters than the vocabulary is to have symbols.
    """
    path = store.path(content.digest, "bpe", size, valid_fraction)
    with suppress(TypeError, ValueError):
        return Vocabulary.from_json(store.read(path))
    characters = Vocabulary.build(content.read(), "char").symbols
    if size < len(characters):
        raise UserError(
            f"--level bpe:{size} is a vocabulary of {size}, and {content.label} has {len(characters):,} different "
            "characters: give more, such as bpe:1000"
        )
    most = _border(sum(map(len, content.read())), valid_fraction)

    def first() -> Iterator[str]:
        rest = most
        for chunk in content.read():  # to its end, where it is checked
            yield chunk[:rest]
            rest = max(rest - len(chunk), 0)

    vocabulary = Vocabulary.tokens(first(), characters, size)
    return _stored(vocabulary, path, store)


def _vocabulary(content: Content, level: TextLevel, max_words: int, store: _Cache) -> Vocabulary:
    if level == "byte":
        return Vocabulary.build([], level)
    path = store.path(content.digest, level, max_words)
    with suppress(TypeError, ValueError):
        return Vocabulary.from_json(store.read(path))
    vocabulary = Vocabulary.build(content.read(), level, max_words)
    return _stored(vocabulary, path, store)


def _stored(vocabulary: Vocabulary, path: Path, store: _Cache) -> Vocabulary:
    if store.wanted:
        try:
            store.write(path, vocabulary.to_json())
        except OSError as error:
            store.give_up(error)
    return vocabulary


def _tokens(content: Content, vocabulary: Vocabulary, unknown: Unknown, store: _Cache) -> tuple[NDArray[Any], _Facts]:
    path = store.path(content.digest, vocabulary.to_json(), unknown)
    if kept := _kept(path, vocabulary, store):
        return kept
    if store.wanted:
        try:
            with store.writer(path.with_suffix(".ids")) as file:
                facts = _encode(content, vocabulary, unknown, file, path)
            store.write(path, asdict(facts))
        except OSError as error:
            store.give_up(error)
        if kept := _kept(path, vocabulary, store):
            return kept
    memory = io.BytesIO()
    facts = _encode(content, vocabulary, unknown, memory, path)
    tokens = np.frombuffer(memory.getbuffer(), vocabulary.dtype)
    tokens.flags.writeable = False
    return tokens, facts


def _kept(path: Path, vocabulary: Vocabulary, store: _Cache) -> tuple[NDArray[Any], _Facts] | None:
    with suppress(OSError, TypeError, ValueError):  # nothing cached, or damaged
        facts = _Facts(**store.read(path))
        tokens, found = _private(path, vocabulary)
        if (len(tokens), len(vocabulary), found) == (facts.length, len(facts.first), facts.checksum):
            return tokens, facts
    return None


def _private(path: Path, vocabulary: Vocabulary) -> tuple[NDArray[Any], int]:
    """The ids cached under `path` and their checksum, in a copy that no other process can change or truncate.

    They are read into memory, or if there are many, copied into an unnamed file and mapped from there.
    """
    found = checksum(path, b"")
    with open(path.with_suffix(".ids"), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= IN_MEMORY:
            tokens = np.empty(size // vocabulary.dtype.itemsize, vocabulary.dtype)
            data, offset = tokens.view(np.uint8).data, 0
            while count := file.readinto(data[offset : offset + CHUNK]):  # each piece is summed while it is cached
                found = checksum(path, data[offset : offset + count], found)
                offset += count
            tokens.flags.writeable = False
            return tokens, found
        with tempfile.TemporaryFile(dir=path.parent, prefix=".new-") as copy:
            while chunk := file.read(CHUNK):
                found = checksum(path, chunk, found)
                copy.write(chunk)
            copy.flush()
            # A plain view: slicing np.memmap itself costs several times as much as slicing an array.
            return np.memmap(copy, vocabulary.dtype, "r").view(np.ndarray), found


def _encode(content: Content, vocabulary: Vocabulary, unknown: Unknown, file: IO[bytes], path: Path) -> _Facts:
    """Writes the ids of the content to `file`, in the vocabulary's type; `path` is where they will be stored."""
    first = np.full(len(vocabulary), -1, np.int64)
    unseen: Counter[str] = Counter()
    length = characters = 0
    found, changes = checksum(path, b""), Changes()
    stream = content.read(changes, line_ends=_ends_lines(vocabulary))
    for units in vocabulary.units(stream):
        ids = vocabulary.lookup(units)
        unseen.update(units[i] for i in np.flatnonzero(ids < 0))
        ids = vocabulary.replace_unknown(ids, unknown)
        new = np.flatnonzero(first.take(ids) < 0)
        if new.size:
            symbols, positions = np.unique(ids[new], return_index=True)
            first[symbols] = length + new[positions]
        data = ids.astype(vocabulary.dtype).data
        file.write(data)
        found = checksum(path, data, found)
        length += len(ids)
        characters += _characters(units)
    commonest = [symbol for symbol, _ in unseen.most_common(8)]
    if unseen and unknown == "error":
        raise UserError(vocabulary.unknown_message(commonest, content.label, len(unseen)))
    if not length and not unseen:
        raise UserError(f"{content.label} has nothing but byte order marks; give a text of at least two characters")
    if not length:
        noun = NOUNS[vocabulary.level]
        raise UserError(
            f"the model knows no {noun} of {content.label}; give a text like the one that it was trained on"
        )
    return _Facts(
        length,
        first.tolist(),
        unseen.total(),
        len(unseen),
        commonest,
        characters,
        content.bytes,
        changes.marks,
        changes.line_ends,
        found,
    )


def _characters(units: str | bytes | list[str]) -> int:
    if isinstance(units, bytes):
        return count_characters(np.frombuffer(units, np.uint8))
    return len(units) if isinstance(units, str) else sum(map(len, units))


def _ends_lines(vocabulary: Vocabulary) -> bool:
    """Whether line ends become line feeds; not for models of older versions, which were trained on text with CR."""
    return "\r" not in vocabulary.symbols


# Notices ------------------------------------------------------------------------------------------------------


def _text_notices(content: Content, vocabulary: Vocabulary, facts: _Facts) -> list[str]:
    """Notices on a text that a vocabulary was built from; an error if nothing can be learnt from it."""
    noun = NOUNS[vocabulary.level]
    seen = [symbol for symbol, position in zip(vocabulary.symbols, facts.first, strict=True) if position >= 0]
    if len(seen) == 1:
        raise UserError(
            f"{content.label} has only one {noun}, {show(seen[0])}; give a text of at least two different ones"
        )
    notices = []
    if vocabulary.level == "char" and len(vocabulary) > MANY:
        notices.append(
            f"{content.label} has {len(vocabulary):,} different characters; so large a vocabulary makes the model "
            "large and slow; --level byte always has 256 symbols"
        )
    if facts.unseen:
        notices.append(
            f"{content.label} has {amount(facts.distinct, 'word')} beyond the {len(vocabulary) - 1:,} commonest; "
            f"{percent(facts.unseen / facts.length)} of the text is read as <unk>"
        )
    return notices


def _late_notices(
    content: Content, vocabulary: Vocabulary, facts: _Facts, tokens: NDArray[Any], valid_fraction: float
) -> list[str]:
    """A notice on what only the held-out part has: symbols, or at level `bpe` their characters."""
    first: dict[str, int] = {}
    for symbol, position in zip(vocabulary.symbols, facts.first, strict=True):
        if position >= 0:
            parts = symbol if vocabulary.level == "bpe" else [symbol]
            first |= {part: min(position, first.get(part, position)) for part in parts}
    border = _border_in(tokens, vocabulary, valid_fraction)
    late = [show(part) for part, position in first.items() if position >= border]
    if not late:
        return []
    return [
        f"the held-out last {100 * valid_fraction:g} % of {content.label} has "
        f"{amount(len(late), _noun(vocabulary))} that training never sees: {listing(late)}"
    ]


def _unseen_notices(content: Content, vocabulary: Vocabulary, facts: _Facts, unknown: Unknown) -> list[str]:
    """Notices on a text encoded with a given vocabulary."""
    if not facts.unseen:
        return []
    fate = "left out" if unknown == "skip" else f"read as {show(vocabulary.symbols[vocabulary.replacement])}"
    return [
        f"{content.label} has {amount(facts.distinct, _noun(vocabulary))} that the model has never seen, "
        f"{fate} at {amount(facts.unseen, 'position')}: {listing(map(show, facts.commonest), facts.distinct)}"
    ]


def _noun(vocabulary: Vocabulary) -> str:
    """What can be missing from a vocabulary: at level `bpe`, whose tokens are made of them, a character."""
    return NOUNS["char" if vocabulary.level == "bpe" else vocabulary.level]
