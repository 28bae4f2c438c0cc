"""Texts from files, folders, globs, standard input and built-in generators, as one array of ids with its vocabulary.

A text is read in a stream and never held whole, only its ids are. What a network makes of them is the task's concern.
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
    Level,
    Unknown,
    Vocabulary,
    amount,
    count_characters,
    listing,
    show,
    split_words,
)
from rnn_plugins.errors import UserError, why

SMALL = 1 << 20  # bytes; a smaller text is encoded faster than a cache is opened, and leaves nothing behind
IN_MEMORY = 1 << 28  # bytes; more ids than that are mapped from the disk
MANY = 5_000  # characters; a larger vocabulary is worth a word

_FORMAT = 2  # of the cached files; raise it when what is written under the same key changes


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as ids, and what is to be said of it.

    Attributes:
        tokens: The ids in order, shape (N,), read-only, in the narrowest unsigned type; in memory, or where they are
            many, mapped from a file that nobody else can reach.
        vocabulary: What the ids stand for.
        digest: SHA-256, in hexadecimal, of the content: the bytes of all texts in order, unpacked.
        sources: The texts as they were named.
        characters: The characters of the text; of bytes that are no UTF-8, an estimate (see `Vocabulary.measure`).
        bytes: The bytes of the content.
        unknown: The share of its symbols that the vocabulary does not have; at level `word`, of its words.
        notices: Sentences that the user should see.
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
    level: Level = "char",
    valid_fraction: float = 0.1,
    vocabulary: Vocabulary | None = None,
    unknown: Unknown = "error",
    max_words: int = MAX_WORDS,
    recorded: bool = False,
    most: int | None = None,
    cache_dir: Path | None = None,
) -> Corpus:
    """Reads texts and encodes them, joined in the order given, nothing put between them.

    A source is a file, a folder (its files, at any depth, in the order of their paths; hidden ones and those that are
    no text are left out), a glob, `-` for standard input, or a built-in text such as `builtin:latex`. What ends in
    `.gz` is unpacked. What a text is and how it is decoded, `decoding` says; a notice tells what that changed. Level
    `byte` takes any file as it is.

    The content is read once for its digest. If its ids are not in the cache, it is read once more for the vocabulary,
    unless that is given, and once more to encode it. The cache is `cache_dir`, by default the folder that RNN_LAB_CACHE
    names or the user's own cache folder; it may be emptied at any time. Texts below a megabyte are not cached, unless
    they came through a pipe and cannot be read again. What the cache holds is believed only as far as its checksums go.

    Args:
        sources: One or more sources.
        level: What a symbol is: `char`, `byte` or `word`. A vocabulary that is given brings its own.
        valid_fraction: The part held out at the end, in [0, 1); here only for the notice on symbols seen nowhere else.
        vocabulary: The vocabulary to encode with; by default that of the whole text is made.
        unknown: What becomes of characters that a given vocabulary has not: `error`, `skip` or `replace`. Words that a
            word vocabulary has not are read as `<unk>` unless they are skipped.
        max_words: The size of a word vocabulary that is made here.
        recorded: Whether a run has the sources on record, and nobody has named them now: then no pipe is waited for.
        most: The bytes after which no more are read, as the text is another then.
        cache_dir: The folder of the cache.

    Raises:
        UserError: A source cannot be read or is no text, or the text is empty, has unknown symbols, or only one symbol.
    """
    if not sources:
        raise ValueError("no source was given; name a text, such as 'builtin:latex'")
    check_fraction(valid_fraction)
    level = vocabulary.level if vocabulary else level
    if level == "word" and unknown == "error":
        unknown = "replace"
    with ExitStack() as stack:
        parts, notices = find(sources, level, stack, pipes=not recorded)
        content = Content(label_of(sources), parts, level, most)
        if not content.bytes:
            raise UserError(f"{content.label} is empty; give a text of at least two different characters")
        store = _Cache(cache_dir or cache_folder(), wanted=content.bytes >= SMALL or content.piped)
        model = vocabulary
        vocabulary = model or _vocabulary(content, level, max_words, store)
        tokens, facts = _tokens(content, vocabulary, unknown, store)
    notices += Changes(facts.marks, facts.line_ends).notice(content.label)
    if model:
        notices += _unseen_notices(content, vocabulary, facts, unknown)
    else:
        notices += _text_notices(content, vocabulary, facts, valid_fraction)
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
    """A text that is in the cache, when it cannot be read again, as it came through standard input.

    Args:
        digest: That of its content.
        vocabulary: The vocabulary that it was encoded with.
        sources: How it was named.
        unknown: As it was given to `load_corpus`.
        cache_dir: The folder of the cache; see `load_corpus`.

    Returns:
        The text, its size measured by its ids; None if it is not there.
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
    """The ids to train on and the ids held out: the first and the last part of the text, as views.

    The part held out is rounded down, so that of a text of a few symbols nothing is.

    Raises:
        UserError: `valid_fraction` is not in [0, 1).
    """
    border = _border(len(corpus.tokens), check_fraction(valid_fraction))
    return corpus.tokens[:border], corpus.tokens[border:]


def check_fraction(valid_fraction: float) -> float:
    """`valid_fraction` itself, if a text can be split by it."""
    if not 0 <= valid_fraction < 1:
        raise UserError(f"--valid-fraction is {valid_fraction:g}; give a number from 0 up to, but without, 1")
    return valid_fraction


def cache_folder() -> Path:
    """Where encoded texts are kept: RNN_LAB_CACHE if it is set, else a folder among the user's caches."""
    return Path(os.environ.get("RNN_LAB_CACHE") or platformdirs.user_cache_dir("rnn-lab", appauthor=False))


def _border(length: int, valid_fraction: float) -> int:
    return length - int(length * valid_fraction)


# Encoding -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Facts:
    """What is known of an encoded text beside its ids.

    Attributes:
        length: How many ids there are.
        first: For each symbol of the vocabulary, the place of its first id, or -1.
        unseen: How many times the text has a symbol that is not in the vocabulary.
        distinct: How many different ones these are.
        commonest: The commonest of them.
        characters: How many characters the text has.
        bytes: How many bytes the content has.
        marks: How many byte order marks were left out.
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
    """What tells data from others and from those that belong under another name; `so_far` is that of what came before.

    It is meant for damage, not for forgery: CRC-32, which takes a third of the time that the text's SHA-256 does.
    """
    return zlib.crc32(data, zlib.crc32(path.stem.encode()) if so_far is None else so_far)


class _Cache:
    """The files kept between runs. What cannot be read is as if absent; what cannot be written costs a notice."""

    def __init__(self, folder: Path, wanted: bool) -> None:
        self.folder = folder
        self.wanted = wanted
        self.notices: list[str] = []

    def path(self, *key: Any) -> Path:
        """The file that stands for these things, without its ending."""
        letters = unicodedata.unidata_version  # what a letter is decides where a word ends
        return self.folder / hashlib.sha256(json.dumps([_FORMAT, letters, *key]).encode()).hexdigest()

    def read(self, path: Path) -> Any:
        """The JSON value kept under `path`, None if there is none, or another than was written there."""
        with suppress(OSError, ValueError, TypeError, KeyError):
            kept = json.loads(path.with_suffix(".json").read_bytes() if self.wanted else b"{}")
            if kept["checksum"] == checksum(path, json.dumps(kept["value"]).encode()):
                return kept["value"]
        return None

    def write(self, path: Path, value: Any) -> None:
        """Keeps a JSON value under `path`."""
        kept = {"value": value, "checksum": checksum(path, json.dumps(value).encode())}
        with self.writer(path.with_suffix(".json")) as file:
            file.write(json.dumps(kept).encode())

    @contextmanager
    def writer(self, path: Path) -> Iterator[IO[bytes]]:
        """A file that takes the name `path` once it is whole and on the disk."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(OSError):
            for left in path.parent.glob(".new-*"):  # by a process that was killed, if it has not grown for an hour
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
        """Says that this text is not kept."""
        self.wanted = False
        self.notices.append(
            f"the encoded text could not be kept in {str(self.folder)!r} ({why(error)}), so it stays in memory and is "
            "encoded anew next time; RNN_LAB_CACHE names another folder"
        )


def _unknown(tokens: NDArray[Any], vocabulary: Vocabulary, facts: _Facts, unknown: Unknown) -> float:
    if not facts.unseen:
        return 0.0
    known = vocabulary.words(tokens) if vocabulary.level == "word" else len(tokens)
    return facts.unseen / max(known + (facts.unseen if unknown == "skip" else 0), 1)


def _vocabulary(content: Content, level: Level, max_words: int, store: _Cache) -> Vocabulary:
    if level == "byte":
        return Vocabulary.build([], level)
    path = store.path(content.digest, level, max_words)
    with suppress(TypeError, ValueError):
        return Vocabulary.from_json(store.read(path))
    vocabulary = Vocabulary.build(content.read(), level, max_words)
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
    with suppress(OSError, TypeError, ValueError):  # nothing kept, or something else than was written
        facts = _Facts(**store.read(path))
        tokens, found = _private(path, vocabulary)
        if (len(tokens), len(vocabulary), found) == (facts.length, len(facts.first), facts.checksum):
            return tokens, facts
    return None


def _private(path: Path, vocabulary: Vocabulary) -> tuple[NDArray[Any], int]:
    """The ids kept under `path` and their checksum, where no other process can change or cut them any more.

    They are read into memory, or where they are many, copied into a file without a name and mapped from there.
    """
    found = checksum(path, b"")
    with open(path.with_suffix(".ids"), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size <= IN_MEMORY:
            tokens = np.empty(size // vocabulary.dtype.itemsize, vocabulary.dtype)
            data, place = tokens.view(np.uint8).data, 0
            while count := file.readinto(data[place : place + CHUNK]):  # each piece is summed while it is in the caches
                found = checksum(path, data[place : place + count], found)
                place += count
            tokens.flags.writeable = False
            return tokens, found
        with tempfile.TemporaryFile(dir=path.parent, prefix=".new-") as copy:
            while chunk := file.read(CHUNK):
                found = checksum(path, chunk, found)
                copy.write(chunk)
            copy.flush()
            # A plain view: slices of np.memmap itself cost several times as much as those of an array.
            return np.memmap(copy, vocabulary.dtype, "r").view(np.ndarray), found


def _encode(content: Content, vocabulary: Vocabulary, unknown: Unknown, file: IO[bytes], path: Path) -> _Facts:
    """Writes the ids of the content to `file`, in the vocabulary's type; `path` is what they are kept under."""
    first = np.full(len(vocabulary), -1, np.int64)
    unseen: Counter[str] = Counter()
    length = characters = 0
    found, changes = checksum(path, b""), Changes()
    stream = content.read(changes, line_ends=_ends_lines(vocabulary))
    for units in split_words(stream) if vocabulary.level == "word" else stream:
        ids = vocabulary.lookup(units)
        unseen.update(units[i] for i in np.flatnonzero(ids < 0))
        ids = vocabulary.settle(ids, unknown)
        new = np.flatnonzero(first.take(ids) < 0)
        if new.size:
            symbols, places = np.unique(ids[new], return_index=True)
            first[symbols] = length + new[places]
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
    """Whether line ends become line feeds: not for models of older versions, which learnt the text with its CR."""
    return "\r" not in vocabulary.symbols


# Notices ------------------------------------------------------------------------------------------------------


def _text_notices(content: Content, vocabulary: Vocabulary, facts: _Facts, valid_fraction: float) -> list[str]:
    """What is to be said of a text that a vocabulary was made of; an error if nothing can be learnt from it."""
    noun = NOUNS[vocabulary.level]
    seen = [symbol for symbol, place in zip(vocabulary.symbols, facts.first, strict=True) if place >= 0]
    if len(seen) == 1:
        raise UserError(
            f"{content.label} has only one {noun}, {show(seen[0])}; give a text of at least two different ones"
        )
    notices = []
    if vocabulary.level == "char" and len(vocabulary) > MANY:
        notices.append(
            f"{content.label} has {len(vocabulary):,} different characters; so large a vocabulary makes a large "
            "and slow model, and --level byte has 256 symbols whatever the text"
        )
    if facts.unseen:
        notices.append(
            f"{content.label} has {amount(facts.distinct, 'word')} beyond the {len(vocabulary) - 1:,} commonest; "
            f"{facts.unseen / facts.length:.1%} of the text is read as <unk>"
        )
    border = _border(facts.length, valid_fraction)
    late = [show(symbol) for symbol, place in zip(vocabulary.symbols, facts.first, strict=True) if place >= border]
    if late:
        notices.append(
            f"the held-out last {100 * valid_fraction:g} % of {content.label} has {amount(len(late), noun)} that "
            f"training never sees: {listing(late)}"
        )
    return notices


def _unseen_notices(content: Content, vocabulary: Vocabulary, facts: _Facts, unknown: Unknown) -> list[str]:
    """What is to be said of a text that a given vocabulary encoded."""
    if not facts.unseen:
        return []
    fate = "left out" if unknown == "skip" else f"read as {show(vocabulary.symbols[vocabulary.replacement])}"
    return [
        f"{content.label} has {amount(facts.distinct, NOUNS[vocabulary.level])} that the model has never seen, "
        f"{fate} in {amount(facts.unseen, 'place')}: {listing(map(show, facts.commonest), facts.distinct)}"
    ]
