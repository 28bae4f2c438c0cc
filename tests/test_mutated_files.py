"""Damaged files of every format: a reader, and every task, takes them or says in a sentence what is wrong."""

import contextlib
import gzip
import io
import json
import signal
import struct
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from mutations import mutated

from minigrad.scan import use_backend
from rnn_cells.gru import GRU
from rnn_plugins.data.conll import sentences
from rnn_plugins.data.images import read_images
from rnn_plugins.data.tables import frames, pairs, records
from rnn_plugins.data.vectors import read_vectors
from rnn_plugins.errors import UserError
from rnn_plugins.registry import entries, make_task
from rnn_plugins.tasks.task import Data, Network, Task

SECONDS = 60
"""What takes more of the processor hangs."""

SMALL = 20_000
"""Bytes of files that networks read too; longer ones take too much time."""

LONGEST = 2000
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
    "numbers": Subject({"a.csv.gz": gzip.compress(NUMBERS, mtime=0)}, lambda: frames("a.csv.gz", label_column="26")),
    "vectors": Subject({"a.txt": VECTORS}, lambda: read_vectors("a.txt", WORDS)),
    "idx": Subject(
        {"i-images-idx3-ubyte": idx(PIXELS), "i-labels-idx1-ubyte": idx(np.arange(COUNT, dtype=np.uint8) % 3)},
        lambda: read_images("i-images-idx3-ubyte"),
    ),
    "npz": Subject({"a.npz": NPZ}, lambda: read_images("a.npz")),
    "pixels": Subject({"a.csv": NUMBERS}, lambda: read_images("a.csv")),
    "pictures": Subject({"a/x.png": png(0), "a/y.png": png(9), "b/z.png": png(99)}, lambda: read_images(".")),
}


@dataclass(frozen=True)
class Work:
    """A task and the files that it reads.

    Attributes:
        task: its name.
        files: good files, by name.
        given: what the user names.
        options: of the task.
    """

    task: str
    files: dict[str, bytes]
    given: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)


LINES_OF = {f"{label}.txt": rows("", "", TEXTS[i::3]) for i, label in enumerate(("pos", "neg", "none"))}
TEXTS_OF = {f"texts/c{i % 3}/{i}.txt": text.encode() for i, text in enumerate(TEXTS)}
PICTURES = {f"pictures/c{i % 3}/{i}.png": png(20 * i) for i in range(9)}
NAMED = [name.removeprefix("pictures/") for name in PICTURES]
COLOURED = RNG.integers(0, 256, (COUNT, 6, 6, 3)).astype(np.uint8)
DATED = rows(",", "date,x,y", [f"2024-01-{i + 1:02d}" for i in range(40)], SERIES[:, 0], SERIES[:, 1])
IDX = {"i-images-idx3-ubyte": idx(PIXELS), "i-labels-idx1-ubyte": idx(np.arange(COUNT, dtype=np.uint8) % 3)}
NUMBERED = {"a.tsv": rows("\t", "image\ttext", NAMED, [str(i) for i in range(9)])}
LAYOUTS = {
    "layouts.tsv": rows(
        "\t",
        "filename\tnumber\tboxes_left_top_width_height",
        [f"{i}.png" for i in range(COUNT)],
        [f"{i % 3}{i % 2}" for i in range(COUNT)],
        ["4,2,9,14;14,3,8,13"] * COUNT,
    )
}
TASKS: dict[str, Work] = {
    "language-model": Work("language-model", {"a.txt": PLAIN * 4}, ("a.txt",), {"seq_length": 8}),
    "classify-tsv": Work("classify", {"a.tsv": TSV}, ("a.tsv",)),
    "classify-csv": Work("classify", {"a.csv": CSV}, ("a.csv",), {"level": "char", "pool": "max"}),
    "classify-jsonl": Work("classify", {"a.jsonl": JSONL}, ("a.jsonl",), {"level": "byte"}),
    "classify-lines": Work("classify", LINES_OF, tuple(LINES_OF), {"directions": 2, "lower": True}),
    "classify-texts": Work("classify", TEXTS_OF, ("texts",), {"pool": "attention"}),
    "classify-numbers": Work("classify", {"a.csv": NUMBERS}, ("a.csv",), {"width": 5}),
    "classify-idx": Work("classify", IDX, ("i-images-idx3-ubyte",)),
    "classify-npz": Work("classify", {"a.npz": NPZ}, ("a.npz",), {"order": "permuted"}),
    "classify-pictures": Work("classify", PICTURES, ("pictures",), {"order": "pixels", "weighted": True}),
    "classify-vectors": Work("classify", {"a.tsv": TSV, "v.txt": VECTORS}, ("a.tsv",), {"embedding": "v.txt"}),
    "tag-conll": Work("tag", {"a.tsv": CONLL}, ("a.tsv",), {"characters": 3}),
    "tag-conll-u": Work("tag", {"a.conllu": CONLL_U}, ("a.conllu",), {"attention": "luong"}),
    "tag-frames": Work("tag", {"a.csv": FRAMES, "b.csv": FRAMES}, ("a.csv", "b.csv"), {"label_column": "phase"}),
    "tag-vectors": Work("tag", {"a.tsv": CONLL, "v.txt": VECTORS}, ("a.tsv",), {"embedding": "v.txt", "freeze": True}),
    "translate-tsv": Work("translate", {"a.tsv": PAIRS}, ("a.tsv",)),
    "translate-parallel": Work("translate", {"a.en": PLAIN, "a.fr": PLAIN}, ("a.en", "a.fr"), {"level": "char"}),
}
TASKS |= {
    "caption-npz": Work(
        "caption",
        {"a.npz": npz(images=COLOURED), "a.tsv": rows("\t", "caption\tgroup", TEXTS, LABELS)},
        ("a.npz", "a.tsv"),
        {"convolutions": 1, "filters": 2},
    ),
    "caption-folder": Work(
        "caption",
        PICTURES | {"a.csv": rows(",", "image,caption", NAMED, quoted(TEXTS[:9]))},
        ("pictures", "a.csv"),
        {"convolutions": 1, "filters": 2, "attention": "luong"},
    ),
    "forecast-csv": Work("forecast", {"a.csv": DATED}, ("a.csv",), {"horizon": 2, "window": 4, "season": 3}),
    "forecast-tsv": Work(
        "forecast", {"a.tsv": DATED.replace(b",", b"\t"), "b.csv": DATED}, ("a.tsv", "b.csv"), {"horizon": 3}
    ),
    "read-idx": Work("read", IDX, ("i-images-idx3-ubyte",), {"size": 2, "glimpses": 1}),
    "read-layouts": Work(
        "read",
        LAYOUTS | IDX,
        ("layouts.tsv", "i-images-idx3-ubyte"),
        {"image_size": 8, "size": 2, "valid_fraction": 0.4},
    ),
    "read-pictures": Work("read", PICTURES | NUMBERED, ("pictures", "a.tsv"), {"size": 2, "attention": "none"}),
    "paint-npz": Work("paint", {"a.npz": npz(images=COLOURED)}, ("a.npz",), {"steps": 2, "latent": 2}),
    "paint-pictures": Work("paint", PICTURES, ("pictures",), {"steps": 2, "attention": False}),
}
GENERATED = {"memory"}
"""Tasks that read no files."""


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

    before = signal.signal(signal.SIGPROF, give_up)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


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


def damage(subject: Subject | Work, data: st.DataObject) -> dict[str, bytes]:
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


def careless() -> list[float]:
    return [float(line.split(",")[1]) for line in Path("a.csv").read_text(encoding="utf-8").splitlines()[1:]]


@pytest.mark.parametrize("error", [ValueError, IndexError, UnicodeDecodeError])
def test_a_careless_reader_is_found_out(error):
    """Each kind of its errors is among those that the damage provokes."""

    @settings(max_examples=1000, database=None, derandomize=True, phases=[Phase.generate])
    @given(st.data())
    def provoke(data):
        others = tuple({ValueError, IndexError, UnicodeDecodeError} - {error})
        with folder_of(damage(Subject({"a.csv": FRAMES}, careless), data)):
            try:
                careless()
            except error:
                raise
            except others:
                pass

    with pytest.raises(error):
        provoke()


@pytest.mark.parametrize("name", READERS)
def test_readers_take_the_good_files(name):
    subject = READERS[name]
    with folder_of(subject.files):
        subject.read()


# Tasks --------------------------------------------------------------------------------------------------------


def network() -> Network:
    return Network(lambda width: GRU(width, 3), 3)


@cache
def good(name: str) -> tuple[Task, Data, Any, Any]:
    """The task, what it reads in its good files, and a network for that with its parameters."""
    work = TASKS[name]
    task = make_task(work.task, work.options)
    with folder_of(work.files):
        data = task.read(work.given)
        model = task.model(data.facts, network())
        return task, data, model, model.pretrained(model.init_params(np.random.default_rng(0)))


def learn(task: Task, data: Data) -> None:
    """What training does with what was read: facts through JSON, a model, one batch, one evaluation."""
    facts = task.check_facts(json.loads(json.dumps(data.facts, allow_nan=False)))
    assert all(isinstance(sentence, str) for sentence in (data.about, data.digest, *data.notices))
    model = task.model(facts, network())
    params = model.pretrained(model.init_params(np.random.default_rng(0)))
    if task.count(data.train):
        fitted, size, _ = task.fit(data, 4)
        batch = fitted.batch(data, 0, size)
        assert np.isfinite(float(model.loss(params, model.init_carry(size), batch, None)[0]))
    if task.count(data.valid):
        task.evaluate(model, params, data.valid)


def use(name: str, small: bool = True) -> None:
    """What evaluation and prediction do with files; if they are small, by a network for the good files."""
    work, (task, known, model, params) = TASKS[name], good(name)
    found = accepted(lambda: task.read(work.given, known.facts, purpose="evaluate"))
    if found and small:
        task.evaluate(model, params, found.valid)
    if type(task).inputs is Task.inputs:
        return
    for file in work.given:
        inputs = accepted(lambda file=file: list(islice(task.inputs(file, known.facts), 300)))
        if inputs and small:
            predictions = accepted(lambda inputs=inputs: list(task.predict(model, params, known.facts, inputs)))
            assert predictions is None or len(predictions) == len(inputs)


@pytest.mark.parametrize("name", TASKS)
@settings(max_examples=examples(len(TASKS)))
@given(st.data())
def test_tasks(name, data):
    work, (task, *_) = TASKS[name], good(name)
    files = damage(work, data)
    small = max(map(len, files.values())) < SMALL
    with folder_of(files), no_hang(), use_backend("numpy"):
        found = accepted(lambda: task.read(work.given))
        if found and small:
            accepted(lambda: learn(task, found))
        use(name, small)


@pytest.mark.parametrize("name", TASKS)
def test_tasks_take_the_good_files(name):
    task, data, *_ = good(name)
    with folder_of(TASKS[name].files), use_backend("numpy"):
        learn(task, data)
        use(name)


def test_each_task_reads_damaged_files():
    installed = {entry.name for entry in entries("tasks") if entry.distribution == "rnn-lab"}
    assert installed == {work.task for work in TASKS.values()} | GENERATED | {"lm"}
