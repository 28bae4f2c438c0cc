"""Classification of texts, rows of numbers and images: files, network, metrics, predictions and explanations."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from rnn_cells import GRU, LSTM
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.classify import Classify
from rnn_plugins.tasks.task import Network
from rnn_plugins.testing import check_task

GOOD, BAD, NEUTRAL = ("fine", "warm", "witty"), ("dull", "cold", "flat"), ("a", "film", "of", "the", "year", "plot")
SHAPES = {"bar": [[0, 9, 0], [0, 9, 0], [0, 9, 0]], "box": [[9, 9, 9], [9, 0, 9], [9, 9, 9]]}


def reviews(number: int = 60, seed: int = 0) -> list[tuple[str, str]]:
    """Texts of several lengths, each with one word that tells its class."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(number):
        words = list(rng.choice(NEUTRAL, rng.integers(2, 7)))
        words.insert(int(rng.integers(len(words) + 1)), str(rng.choice((GOOD, BAD)[i % 2])))
        rows.append((("pos", "neg")[i % 2], " ".join(words)))
    return rows


def table(path: Path, rows: list[tuple[str, str]], header: tuple[str, str] = ("label", "text")) -> str:
    lines = ["\t".join(row) for row in [header, *rows]]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def numbers(path: Path, number: int = 24, seed: int = 1, header: str = "") -> str:
    """Noisy pictures of 3x3 pixels, a row each, with the class at the end."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(number):
        pixels = np.array(list(SHAPES.values())[i % 2]) + rng.integers(0, 4, (3, 3))
        rows.append(",".join(map(str, [*pixels.reshape(-1), i % 2])))
    path.write_text(header + "\n".join(rows) + "\n")
    return str(path)


def images(path: Path, number: int = 24) -> str:
    rng = np.random.default_rng(2)
    pixels = np.stack(
        [20 * np.array(list(SHAPES.values())[i % 2]) + rng.integers(0, 60, (3, 3)) for i in range(number)]
    )
    np.savez(path, images=pixels.astype(np.uint8)[..., None], labels=np.array(list(SHAPES))[np.arange(number) % 2])
    return str(path)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNN_RUNS", "runs")
    monkeypatch.setenv("RNN_LAB_CACHE", "cache")
    monkeypatch.setenv("COLUMNS", "200")


def network(embedding_size: int | None = None, **options: object) -> Network:
    return Network(lambda width: GRU(width, 6), 6, embedding_size, **options)


def built(task: Classify, *files: str, **options: object):
    """The data, the model and its parameters, away from their initial values."""
    data = task.read(files)
    model = task.model(data.facts, network(**options))
    return data, model, model.init_params(np.random.default_rng(0))


# The kit


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": "mean", "directions": 2, "weighted": True, "word_dropout": 0.2},
        {"pool": "attention", "level": "char"},
        {"pool": "max", "level": "byte", "freeze": True},
    ],
    ids=str,
)
def test_texts_pass_the_kit(options):
    rows = reviews()
    file = table(Path("reviews.tsv"), rows[:40] + [row for row in rows[40:] if row[0] == "pos"])
    check_task(Classify(**options), [file]).raise_if_failed()


@pytest.mark.parametrize(
    "options",
    [{}, {"width": 3, "directions": 2, "pool": "attention"}, {"width": 3, "order": "permuted", "weighted": True}],
    ids=str,
)
def test_rows_of_numbers_pass_the_kit(options):
    check_task(Classify(**options), [numbers(Path("shapes.csv"))]).raise_if_failed()


def test_images_pass_the_kit_with_any_cell():
    file = images(Path("shapes.npz"))
    check_task(Classify(order="pixels", pool="max"), [file], cell=lambda width: LSTM(width, 5)).raise_if_failed()


# Files


def test_tables_of_all_kinds_have_the_same_examples():
    rows = [*reviews(20), ("pos", 'a "warm", slow film')]
    files = [table(Path("reviews.tsv"), rows)]
    with open("reviews.csv", "w", newline="") as file:
        csv.writer(file).writerows(
            [("id", "text", "label"), *((i, text, label) for i, (label, text) in enumerate(rows))]
        )
    Path("reviews.jsonl").write_text("".join(json.dumps({"text": t, "label": y}) + "\n" for y, t in rows))
    Path("packed.tsv.gz").write_bytes(gzip.compress(Path("reviews.tsv").read_bytes()))
    first = None
    for file in [*files, "reviews.csv", "reviews.jsonl", "packed.tsv.gz"]:
        data = Classify().read([file])
        found = [(example.xs.tolist(), example.label) for example in (*data.train, *data.valid)]
        first = first or (found, data.facts)
        assert (found, data.facts) == first, file


def test_a_split_is_stratified_and_the_vocabulary_that_of_the_training_part():
    data = Classify(valid_fraction=0.2).read([table(Path("r.tsv"), [*reviews(50), ("pos", "fine " * 3)] * 2)])
    labels = [example.label for example in data.valid]
    assert (len(data.train), len(labels), labels.count(0)) == (82, 20, 10)
    assert data.facts["labels"] == ["neg", "pos"]
    assert data.facts["counts"] == [40, 42]
    rows = [(label, f"the word{i}") for i, label in enumerate("aabb")]
    apart = Classify(valid_fraction=0.5).read([table(Path("s.tsv"), rows)])
    assert apart.facts["tokens"]["symbols"][:2] == ["<unk>", "the"]
    assert len(apart.facts["tokens"]["symbols"]) == 4
    assert [example.xs.tolist() for example in apart.valid] == [[1, 0], [1, 0]]


def test_a_file_or_a_folder_for_each_class():
    Path("names").mkdir()
    Path("names/Greek.txt").write_text("Adamou\n\nKonstantinou\nPapadopoulos\n")
    Path("names/Irish.txt").write_text("Byrne\nFlynn\nMurphy\n")
    task = Classify(level="char", valid_fraction=0)
    folder = task.read(["names"])
    files = task.read(["names/Greek.txt", "names/Irish.txt"])
    assert folder.facts == files.facts
    assert folder.digest == files.digest
    assert [len(example.xs) for example in folder.train] == [6, 12, 12, 5, 5, 6]
    assert folder.train[1].where == "names/Greek.txt, line 3"
    assert folder.notices == ("names/Greek.txt: 1 empty line left out (line 2)",)
    assert folder.about == (
        "6 texts in 2 classes (Greek 3 and Irish 3), 6 to train on, 0 held out; a vocabulary of 22, with 0.0 % of the "
        "characters unknown"
    )
    for label, texts in (("neg", ["a dull\nfilm", "flat"]), ("pos", ["a fine film", "warm"])):
        Path("films", label).mkdir(parents=True)
        for i, text in enumerate(texts):
            Path("films", label, f"{i}.txt").write_text(text)
    data = Classify(valid_fraction=0).read(["films"])
    assert [len(example.xs) for example in data.train] == [3, 1, 3, 1]
    assert [example.label for example in data.train] == [0, 0, 1, 1]


def test_names_at_word_level_are_told_of_letters():
    Path("Greek.txt").write_text("Adamou\nKonstantinou\n")
    Path("Irish.txt").write_text("Byrne\nFlynn\n")
    data = Classify(valid_fraction=0).read(["Greek.txt", "Irish.txt"])
    assert data.notices == ("most texts are a single word; --level char reads their letters",)


def test_rows_are_read_in_the_order_that_is_asked_for():
    file = numbers(Path("shapes.csv"))
    by_rows, by_pixels, mixed = (
        Classify(width=3, order=order).read([file]).train[0].xs for order in ("rows", "pixels", "permuted")
    )
    assert (by_rows.shape, by_pixels.shape, mixed.shape) == ((3, 3), (9, 1), (9, 1))
    np.testing.assert_array_equal(by_rows.reshape(-1), by_pixels[:, 0])
    data = Classify(width=3, order="permuted").read([file])
    places = data.facts["permutation"]
    assert sorted(places) == list(range(9)) != places
    np.testing.assert_array_equal(mixed, by_pixels[places])
    everything = np.stack([example.xs for example in data.train])
    assert everything.mean() == pytest.approx(0, abs=1e-6)
    assert everything.std() == pytest.approx(1, rel=1e-6)
    assert data.notices == ("shapes.csv has no header, so the last of its 10 columns is the class",)


def test_a_table_of_numbers_may_have_a_header():
    columns = ",".join([*(f"p{i}" for i in range(9)), "label"]) + "\n"
    data = Classify().read([numbers(Path("shapes.csv"), header=columns)])
    assert data.facts["labels"] == ["0", "1"]
    assert data.notices == ()
    named = columns.replace("label", "shape")
    assert Classify(label_column="shape").read([numbers(Path("named.csv"), header=named)]).facts == data.facts


def test_pixels_are_between_0_and_1_in_any_file():
    file = images(Path("shapes.npz"))
    task = Classify()
    data = task.read([file])
    xs, lengths = task.pack(data.train).inputs
    assert (xs.shape, xs.dtype, lengths.tolist()) == ((3, 22, 3), np.float32, [3] * 22)
    assert 0 <= xs.min() < xs.max() <= 1
    assert data.facts["labels"] == ["bar", "box"]
    assert "3 steps of 3 numbers" in data.about


REVIEWS = "label\ttext\npos\ta fine film\nneg\ta dull film\nneg\tso flat\npos\tso warm\n"

MISTAKES = {
    "a missing column": (
        {"r.tsv": REVIEWS.replace("text", "review")},
        {},
        "r.tsv, line 1: there is no column 'text'. The columns are 'label' and 'review'",
    ),
    "three fields": (
        {"r.tsv": REVIEWS + "pos\ta\tb\n"},
        {},
        "r.tsv, line 6: it has 3 fields where 2 are expected (label and text)",
    ),
    "an empty text": (
        {"r.tsv": REVIEWS + "pos\t \n"},
        {},
        "r.tsv, line 6: the text is empty; expected at least one word",
    ),
    "an empty class": (
        {"r.tsv": REVIEWS + " \tfine\n"},
        {},
        "r.tsv, line 6: the column 'label' is empty; expected the class of the text",
    ),
    "one class": (
        {"r.tsv": REVIEWS.replace("neg", "pos")},
        {},
        "all 4 examples have the class 'pos'; expected two classes at least: give a file for each, or a table with "
        "several classes",
    ),
    "a class with one example": (
        {"r.tsv": REVIEWS + "mixed\tso so\n"},
        {},
        "r.tsv, line 6: this is the only example of the class 'mixed'; expected two at least, one of them to hold out: "
        "add some, or remove it",
    ),
    "a file without text": (
        {"a.txt": "x\n", "b.txt": "\n \n"},
        {},
        "b.txt has no text; expected one on each line, of the class 'b'",
    ),
    "files of two kinds": (
        {"a.txt": "x\ny\n", "n.csv": "1,2,0\n3,4,1\n"},
        {},
        "n.csv has rows and a.txt has texts; give files of one kind",
    ),
    "an unsuitable width": (
        {"n.csv": "1,2,3,0\n3,4,5,1\n"},
        {"width": 2},
        "n.csv has 3 columns of numbers, and width is 2; expected a multiple of the width, which is the numbers of one "
        "step",
    ),
    "numbers without a class": (
        {"n.csv": "a,b\n1,2\n3,4\n"},
        {},
        "n.csv has no column 'label' for the class; its columns are a and b: name one with --task-option "
        "label_column=NAME",
    ),
    "rows of two sizes": (
        {"a.csv": "1,2,0\n3,4,1\n1,3,0\n4,4,1\n", "b.csv": "1,2,3,1\n1,2,3,0\n"},
        {"valid_fraction": 0},
        "b.csv, line 1: it has 3 numbers; expected 2, as a.csv, line 1 has",
    ),
    "vectors of numbers": (
        {"n.csv": "1,2,0\n3,4,1\n1,3,0\n4,4,1\n"},
        {"embedding": "glove.txt"},
        "embedding is 'glove.txt', but these are rows, without words: leave it out",
    ),
    "nothing": (
        {},
        {},
        "there is nothing to classify: name a table with the columns text and label, a text file for each class, or "
        "images with classes",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_in_a_file_is_told_with_its_place(name):
    files, options, expected = MISTAKES[name]
    for file, content in files.items():
        Path(file).write_text(content)
    with pytest.raises(UserError) as error:
        Classify(**options).read(list(files))
    assert str(error.value) == expected


def test_a_single_example_of_a_class_is_told_where_nothing_is_held_out():
    Path("r.tsv").write_text(REVIEWS + "mixed\tso so\n")
    data = Classify(valid_fraction=0).read(["r.tsv"])
    assert data.notices == ("r.tsv, line 6: this is the only example of the class 'mixed'",)


OTHERS = {
    "a class seen only in validation": (
        "r.tsv",
        REVIEWS + "mixed\tso so\n",
        "r.tsv, line 6: the class 'mixed' is not among those that were trained on: neg and pos",
    ),
    "another kind": ("n.csv", "1,2,0\n3,4,1\n", "n.csv has rows; expected texts, as the network was trained on"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_files_must_be_like_those_of_training(name):
    file, content, expected = OTHERS[name]
    facts = Classify().read([table(Path("train.tsv"), reviews())]).facts
    Path(file).write_text(content)
    with pytest.raises(UserError) as error:
        Classify(valid_fraction=0).read([file], facts, purpose="evaluate")
    assert str(error.value) == expected


def test_images_and_rows_of_another_size_are_refused():
    facts = Classify().read([images(Path("shapes.npz"))]).facts
    np.savez("large.npz", images=np.zeros((4, 5, 5, 1), np.uint8), labels=np.array(["bar", "box"] * 2))
    message = "'large.npz' has images of 5x5; expected 3x3 (height x width), as the network was trained on: scale them"
    with pytest.raises(UserError) as error:
        Classify().read(["large.npz"], facts, purpose="evaluate")
    assert str(error.value) == message
    facts = Classify().read([numbers(Path("shapes.csv"))]).facts
    Path("longer.csv").write_text("1,2,3,4,5,6,7,8,9,10,1\n")
    with pytest.raises(UserError) as error:
        Classify().read(["longer.csv"], facts, purpose="evaluate")
    assert str(error.value) == "longer.csv, line 1: it has 10 numbers; expected 9"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_words": -1}, "max_words is -1; it must be at least 0"),
        ({"width": 0}, "width is 0; it must be at least 1"),
        ({"valid_fraction": 1.0}, "valid_fraction is 1; it must be at least 0 and below 1"),
        ({"word_dropout": -0.5}, "word_dropout is -0.5; it must be at least 0 and below 1"),
    ],
    ids=str,
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match="^" + message.replace(".", r"\.") + "$"):
        Classify(**options)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"labels": ["pos"]}, "its labels are not two or more different texts"),
        ({"counts": [1, 0]}, "its counts are not a whole number above 0 for each label"),
        ({"vectors": -1}, "its width of vectors is not a whole number"),
    ],
    ids=str,
)
def test_damaged_facts_of_texts(damage, message):
    facts = Classify().read([table(Path("train.tsv"), reviews())]).facts
    assert Classify().check_facts(facts) == facts
    with pytest.raises(ValueError, match=message):
        Classify().check_facts({**facts, **damage})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ({"shape": [3, 0, 1]}, "its kind or its shape is unknown"),
        ({"kind": "sounds"}, "its kind or its shape is unknown"),
        ({"scaling": [0.0, 0.0]}, "its scaling is not a mean and a number above 0"),
        ({"permutation": [0, 0, 1]}, "its order of pixels is not a permutation"),
    ],
    ids=str,
)
def test_damaged_facts_of_numbers(damage, message):
    task = Classify(order="permuted")
    facts = task.read([numbers(Path("shapes.csv"))]).facts
    assert task.check_facts(facts) == facts
    with pytest.raises(ValueError, match=message):
        task.check_facts({**facts, **damage})
