"""Texts from files, folders, globs, standard input and built-in generators, as one array of ids with its vocabulary.

A text is read in a stream and never held whole, only its ids are. What a network makes of them is the task's concern.
"""

import hashlib
import io
import json
import os
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
import platformdirs
from numpy.typing import NDArray

from rnn_plugins.errors import UserError
from rnn_plugins.text.sources import Content, find, label_of, why
from rnn_plugins.text.vocabulary import (
    MAX_WORDS,
    NOUNS,
    Level,
    Unknown,
    Vocabulary,
    amount,
    listing,
    show,
    split_words,
)

SMALL = 1 << 20  # bytes; a smaller text is encoded faster than a cache is opened, and leaves nothing behind
MANY = 5_000  # characters; a larger vocabulary is worth a word

_FORMAT = 1  # of the cached files; raise it when what is written under the same key changes


@dataclass(frozen=True, eq=False)
class Corpus:
    """A text as ids, and what is to be said of it.

    Attributes:
        tokens: The ids in order, shape (N,), read-only, in the narrowest unsigned type; memory-mapped if cached.
        vocabulary: What the ids stand for.
        digest: SHA-256, in hexadecimal, of the content: the bytes of all texts in order, unpacked.
        sources: The texts as they were named.
        characters: The characters of the content; of bytes that are no UTF-8, an estimate (see `Vocabulary.measure`).
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
    cache_dir: Path | None = None,
) -> Corpus:
    """Reads texts and encodes them, joined in the order given, nothing put between them.

    A source is a file, a folder (its files, at any depth, in the order of their paths; hidden ones and those that are
    no text are left out), a glob, `-` for standard input, or a built-in text such as `builtin:latex`. What ends in
    `.gz` is unpacked. Text is UTF-8, and nothing in it is changed: a byte order mark and CRLF stay. Level `byte` takes
    any file.

    The content is read once for its digest. If its ids are not in the cache, it is read once more for the vocabulary,
    unless that is given, and once more to encode it. The cache is `cache_dir`, by default the folder that RNN_LAB_CACHE
    names or the user's own cache folder; it may be emptied at any time. Texts below a megabyte are not cached.

    Args:
        sources: One or more sources.
        level: What a symbol is: `char`, `byte` or `word`. A vocabulary that is given brings its own.
        valid_fraction: The part held out at the end, in [0, 1); here only for the notice on symbols seen nowhere else.
        vocabulary: The vocabulary to encode with; by default that of the whole text is made.
        unknown: What becomes of characters that a given vocabulary has not: `error`, `skip` or `replace`. Words that a
            word vocabulary has not are read as `<unk>` unless they are skipped.
        max_words: The size of a word vocabulary that is made here.
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
        parts, notices = find(sources, level, stack)
        content = Content(label_of(sources), parts, level)
        if not content.bytes:
            raise UserError(f"{content.label} is empty; give a text of at least two different characters")
        store = _Cache(cache_dir or cache_folder(), wanted=content.bytes >= SMALL)
        model = vocabulary
        vocabulary = model or _vocabulary(content, level, max_words, store)
        tokens, facts = _tokens(content, vocabulary, unknown, store)
    if model:
        notices += _unseen_notices(content, vocabulary, facts, unknown)
    else:
        notices += _text_notices(content, vocabulary, facts, valid_fraction)
    return Corpus(
        tokens=tokens,
        vocabulary=vocabulary,
        digest=content.digest,
        sources=tuple(sources),
        characters=content.characters,
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
    return Corpus(tokens, vocabulary, digest, tuple(sources), *vocabulary.measure(tokens), unknown=share, notices=())


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
    """

    length: int
    first: list[int]
    unseen: int
    distinct: int
    commonest: list[str]


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
        """The JSON value kept under `path`, None if there is none."""
        with suppress(OSError, ValueError):
            return json.loads(path.with_suffix(".json").read_bytes()) if self.wanted else None
        return None

    def write(self, path: Path, value: Any) -> None:
        """Keeps a JSON value under `path`."""
        with self.writer(path.with_suffix(".json")) as file:
            file.write(json.dumps(value).encode())

    @contextmanager
    def writer(self, path: Path) -> Iterator[IO[bytes]]:
        """A file that takes the name `path` once it is whole and on the disk."""
        path.parent.mkdir(parents=True, exist_ok=True)
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
                facts = _encode(content, vocabulary, unknown, file)
            store.write(path, asdict(facts))
            return _mapped(path, vocabulary), facts
        except OSError as error:
            store.give_up(error)
    memory = io.BytesIO()
    facts = _encode(content, vocabulary, unknown, memory)
    tokens = np.frombuffer(memory.getbuffer(), vocabulary.dtype)
    tokens.flags.writeable = False
    return tokens, facts


def _kept(path: Path, vocabulary: Vocabulary, store: _Cache) -> tuple[NDArray[Any], _Facts] | None:
    with suppress(OSError, TypeError, ValueError):  # nothing kept, or something else than was written
        facts = _Facts(**store.read(path))
        tokens = _mapped(path, vocabulary)
        if (len(tokens), len(vocabulary)) == (facts.length, len(facts.first)):
            return tokens, facts
    return None


def _mapped(path: Path, vocabulary: Vocabulary) -> NDArray[Any]:
    # A plain view: slices of np.memmap itself cost several times as much as those of an array.
    return np.memmap(path.with_suffix(".ids"), vocabulary.dtype, "r").view(np.ndarray)


def _encode(content: Content, vocabulary: Vocabulary, unknown: Unknown, file: IO[bytes]) -> _Facts:
    """Writes the ids of the content to `file`, in the vocabulary's type."""
    first = np.full(len(vocabulary), -1, np.int64)
    unseen: Counter[str] = Counter()
    length = 0
    stream = content.read()
    for units in split_words(stream) if vocabulary.level == "word" else stream:
        ids = vocabulary.lookup(units)
        unseen.update(units[i] for i in np.flatnonzero(ids < 0))
        ids = vocabulary.settle(ids, unknown)
        new = np.flatnonzero(first.take(ids) < 0)
        if new.size:
            symbols, places = np.unique(ids[new], return_index=True)
            first[symbols] = length + new[places]
        file.write(ids.astype(vocabulary.dtype).data)
        length += len(ids)
    commonest = [symbol for symbol, _ in unseen.most_common(8)]
    if unseen and unknown == "error":
        raise UserError(vocabulary.unknown_message(commonest, content.label, len(unseen)))
    if not length:
        noun = NOUNS[vocabulary.level]
        raise UserError(
            f"the model knows no {noun} of {content.label}; give a text like the one that it was trained on"
        )
    return _Facts(length, first.tolist(), unseen.total(), len(unseen), commonest)


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
