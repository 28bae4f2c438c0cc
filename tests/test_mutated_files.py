"""Damaged files of every format: a reader, and every task, takes them or says in a sentence what is wrong."""

import contextlib
import gzip
import io
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mutations import mutated

from rnn_plugins.data.conll import sentences
from rnn_plugins.data.images import read_images
from rnn_plugins.data.tables import frames, pairs, records
from rnn_plugins.data.vectors import read_vectors
from rnn_plugins.errors import UserError

SECONDS = 60
"""What takes longer hangs."""

LONGEST = 1000
"""Characters of a message: it quotes no huge field."""

EXAMPLES = 10
"""Times the examples of the profile, for all subjects together: 10,000 in the profile thorough."""


@dataclass(frozen=True)
class Subject:
    """What reads files.

    Attributes:
        files: good files, by name.
        read: reads files of these names, in the working folder, to the end.
    """

    files: dict[str, bytes]
    read: Callable[[], Any]


def png(shade: int, size: int = 4) -> bytes:
    image = pytest.importorskip("PIL.Image")
    target = io.BytesIO()
    image.fromarray(np.full((size, size, 3), shade, np.uint8)).save(target, "PNG")
    return target.getvalue()


def npz(**arrays: Any) -> bytes:
    target = io.BytesIO()
    np.savez(target, **arrays)
    return target.getvalue()


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()


RNG = np.random.default_rng(0)
COUNT = 12
LABELS = [f"label{i % 3}" for i in range(COUNT)]
WORDS = [
    "the",
    "film",
    "is",
    "a",
    "dull",
    "one",
    ",",
    "and",
    "it's",
    "not",
    "fine",
    "at",
    "all",
    ";",
    "l'été",
    "n'est",
    "pas",
    "fini",
]
TEXTS = [" ".join(RNG.choice(WORDS, 1 + i % 7)) for i in range(COUNT)]
PIXELS = RNG.integers(0, 256, (COUNT, 5, 5)).astype(np.uint8)
SERIES = np.round(RNG.normal(size=(40, 2)), 3)


def rows(separator: str, header: str, *columns: Any) -> bytes:
    lines = [separator.join(map(str, row)) for row in zip(*columns, strict=True)]
    return "\n".join([*([header] if header else []), *lines, ""]).encode()


def quoted(texts: list[str]) -> list[str]:
    return [f'"{text}"' for text in texts]


TSV = rows("\t", "label\ttext", LABELS, TEXTS)
CSV = rows(",", "text,label", quoted(TEXTS), LABELS)
JSONL = rows("", "", [f'{{"text": "{text}", "label": "{label}"}}' for text, label in zip(TEXTS, LABELS, strict=True)])
PAIRS = rows("\t", "", TEXTS, TEXTS[::-1])
PLAIN = rows("", "", TEXTS)
CONLL = "\n\n".join("\n".join(f"{word}\tTAG{len(word) % 3}" for word in text.split()) for text in TEXTS).encode()
CONLL_U = "\n\n".join(
    f"# text = {text}\n"
    + "\n".join(f"{i}\t{word}\t{word}\tTAG{len(word) % 3}" + "\t_" * 6 for i, word in enumerate(text.split(), 1))
    for text in TEXTS
).encode()
FRAMES = rows(",", "x,y,timestamp,phase", SERIES[:, 0], SERIES[:, 1], range(40), [f"p{i // 10}" for i in range(40)])
NUMBERS = rows(",", "", *PIXELS.reshape(COUNT, 25).T, [i % 3 for i in range(COUNT)])
VECTORS = rows(" ", "", WORDS, *RNG.normal(size=(3, len(WORDS))).round(2))
NPZ = npz(images=PIXELS, labels=np.arange(COUNT) % 3)

READERS: dict[str, Subject] = {
    "tsv": Subject({"a.tsv": TSV}, lambda: list(records("a.tsv", ["text", "label"]))),
    "csv": Subject({"a.csv": CSV}, lambda: list(records("a.csv", ["text"], optional=["label"]))),
    "jsonl": Subject({"a.jsonl": JSONL}, lambda: list(records("a.jsonl", ["text", "label"]))),
    "text": Subject({"a.txt": PLAIN}, lambda: list(records("a.txt", ["text"], bare=["text"]))),
    "pairs": Subject({"a.tsv": PAIRS}, lambda: list(pairs(["a.tsv"]))),
    "parallel": Subject({"a.en": PLAIN, "a.fr": PLAIN}, lambda: list(pairs(["a.en", "a.fr"]))),
    "sources": Subject({"a": PLAIN}, lambda: list(pairs(["a"], targets=False))),
    "conll": Subject({"a.tsv": CONLL}, lambda: list(sentences("a.tsv"))),
    "conll-u": Subject({"a.conllu": CONLL_U}, lambda: list(sentences("a.conllu", tags=False))),
    "frames": Subject({"a.csv": FRAMES}, lambda: frames("a.csv", label_column="phase")),
    "numbers": Subject({"a.csv.gz": gzip.compress(NUMBERS)}, lambda: frames("a.csv.gz", label_column="26")),
    "vectors": Subject({"a.txt": VECTORS}, lambda: read_vectors("a.txt", WORDS)),
    "idx": Subject(
        {"i-images-idx3-ubyte": idx(PIXELS), "i-labels-idx1-ubyte": idx(np.arange(COUNT, dtype=np.uint8) % 3)},
        lambda: read_images("i-images-idx3-ubyte"),
    ),
    "npz": Subject({"a.npz": NPZ}, lambda: read_images("a.npz")),
    "pixels": Subject({"a.csv": NUMBERS}, lambda: read_images("a.csv")),
    "pictures": Subject({"a/x.png": png(0), "a/y.png": png(9), "b/z.png": png(99)}, lambda: read_images(".")),
}


@contextlib.contextmanager
def folder_of(files: dict[str, bytes]) -> Iterator[None]:
    """A working folder with these files alone."""
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        for name, content in files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(content)
        yield


@contextlib.contextmanager
def no_hang() -> Iterator[None]:
    def give_up(*_: Any) -> None:
        raise AssertionError(f"it takes more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def accepted(read: Callable[[], Any]) -> Any:
    """What a call gives; None if it is refused, in a sentence."""
    try:
        return read()
    except UserError as error:
        message = str(error)
        assert 0 < len(message) < LONGEST, message
        assert "\n" not in message
        return None


def contents() -> list[bytes]:
    return [content for subject in READERS.values() for content in subject.files.values()]


def damage(subject: Subject, data: st.DataObject) -> dict[str, bytes]:
    name = data.draw(st.sampled_from(sorted(subject.files)))
    return subject.files | {name: data.draw(mutated(subject.files[name], contents()))}


def examples(subjects: int) -> int:
    return max(5, EXAMPLES * settings.default.max_examples // subjects)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=examples(len(READERS)))
@given(st.data())
def test_readers(name, data):
    subject = READERS[name]
    with folder_of(damage(subject, data)), no_hang():
        accepted(subject.read)


@pytest.mark.parametrize("name", READERS)
def test_readers_take_the_good_files(name):
    subject = READERS[name]
    with folder_of(subject.files):
        subject.read()
