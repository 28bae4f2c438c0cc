"""Classification of texts, rows of numbers and images: files, network, metrics, predictions and explanations."""

from __future__ import annotations

import csv
import gzip
import json
import re
import sys
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import trained
from PIL import Image as Picture
from test_documentation import ROOT, commands

import rnn_lab
from minigrad import sum as total
from minigrad import trees
from rnn_cells import GRU, LSTM
from rnn_cli.main import rnn
from rnn_plugins.errors import UserError
from rnn_plugins.reports.report import Chart, Image
from rnn_plugins.tasks.attribution import TOLERANCE, integrated_gradients
from rnn_plugins.tasks.classify.sequences import numbers as numbers_of
from rnn_plugins.tasks.classify.task import Classify
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


@pytest.mark.parametrize(
    ("file", "options", "first"),
    [
        (lambda: table(Path("reviews.tsv"), reviews()), {}, "fine"),
        (lambda: numbers(Path("shapes.csv")), {"width": 3}, "1"),
        (lambda: images(Path("shapes.npz")), {}, "1"),
    ],
    ids=["texts", "rows", "images"],
)
def test_a_probe_names_the_class_of_each_sequence(file, options, first):
    """So that pictures of states are coloured by it, also where steps are numbers."""
    data, model, params = built(Classify(**options), file())
    probe = Classify(**options).probe(model, params, data.train, data.facts)
    for end in probe.ends(2)[:10]:
        found = probe.labels(end, 2)
        assert found.targets == (data.facts["labels"][data.train[end].label],)
        assert len(found.inputs) == 2
    assert probe.labels(probe.ends(1)[0], probe.lengths[probe.ends(1)[0]]).inputs[0] == first


# The kit


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pool": "mean", "directions": 2, "weighted": True, "word_dropout": 0.2},
        {"pool": "attention", "level": "char"},
        {"pool": "max", "level": "byte"},
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
    Path("packed.tsv.gz").write_bytes(gzip.compress(Path("reviews.tsv").read_bytes(), mtime=0))
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
    assert folder.about == "6 texts in 2 classes (Greek: 3 and Irish: 3); a vocabulary of 22"
    data = Classify(valid_fraction=0).read([str(films())])
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
        "r.tsv, line 1: there is no column 'text'. The columns are 'label' and 'review'; name another one with "
        "--task-option text_column=NAME",
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


def test_unknown_words_are_told_of_the_texts_that_are_measured():
    Path("r.tsv").write_text(REVIEWS)
    Path("v.tsv").write_text("label\ttext\nneg\ta word that nobody wrote\n")
    task = Classify(valid_fraction=0)
    data = task.read(["r.tsv"])
    assert data.notices == ()
    other = task.read(["v.tsv"], data.facts, purpose="evaluate")
    assert other.notices == ("80.0 % of the words in v.tsv are not in the vocabulary",)
    divided = Classify(valid_fraction=0.5).read(["r.tsv"])
    share = np.mean(np.concatenate([example.xs for example in divided.valid]) == 0)
    assert divided.notices == (f"{100 * share:.1f} % of the words in held-out texts are not in the vocabulary",)


def test_texts_of_one_word_in_a_folder_pass_the_kit_and_are_predicted():
    Path("names").mkdir()
    Path("names/Italian.txt").write_text("Rossi\nRusso\nFerrari\nEsposito\nBianchi\n")
    Path("names/Russian.txt").write_text("Ivanov\nSmirnov\nPopov\nPetrov\nSokolov\n")
    check_task(Classify(), ["names"]).raise_if_failed()
    task = Classify()
    shown = [given.shown for given in task.inputs("names", task.read(["names"]).facts)]
    assert shown == [name for file in sorted(Path("names").iterdir()) for name in file.read_text().split()]


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


def test_what_came_through_a_pipe_is_not_waited_for():
    with pytest.raises(UserError, match=r"^they came through a pipe and were not saved$"):
        Classify().read(["-"], purpose="again")


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


def test_inputs_of_another_kind_are_refused():
    of_images = Classify().read([images(Path("shapes.npz"))]).facts
    of_rows = Classify().read([numbers(Path("shapes.csv"))]).facts
    Path("r.tsv").write_text(REVIEWS)
    of_texts = Classify().read(["r.tsv"]).facts
    Path("two.csv").write_text("1,2\n3,4\n")
    for facts, file, message in (
        (of_rows, "shapes.npz", "shapes.npz has images; expected rows, as the network was trained on"),
        (of_texts, "shapes.npz", "shapes.npz has images; expected texts, as the network was trained on"),
        (of_images, "two.csv", "two.csv is read as images, as the network was trained on: 'two.csv' has "),
        (of_images, "r.tsv", "r.tsv is read as images, as the network was trained on: 'r.tsv', line 2: "),
    ):
        with pytest.raises(UserError) as error:
            list(Classify().inputs(file, facts))
        assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_words": -1}, "max_words is -1; it must be at least 0"),
        ({"width": 0}, "width is 0; it must be at least 1"),
        ({"valid_fraction": 1.0}, "valid_fraction is 1; it must be at least 0 and below 1"),
        ({"word_dropout": -0.5}, "word_dropout is -0.5; it must be at least 0 and below 1"),
        ({"freeze": True}, "freeze needs pretrained vectors: give embedding their file"),
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


# The network


def test_padding_and_pooling_by_hand():
    """Each way to pool, computed step by step for each text alone."""
    rows = [("pos", "a fine film"), ("neg", "dull"), ("pos", "warm and witty"), ("neg", "so flat a plot of the year")]
    file = table(Path("r.tsv"), rows)
    for how in ("last", "mean", "max", "attention"):
        data, model, params = built(Classify(pool=how, valid_fraction=0, directions=2), file)
        batch = Classify(pool=how).pack(data.train)
        found = np.asarray(model.scores(params, batch.inputs))
        for example, scores in zip(data.train, found, strict=True):
            xs = np.eye(len(data.facts["tokens"]["symbols"]), dtype=np.float32)[example.xs]
            outputs = []
            for way, steps in (("forward", xs), ("backward", xs[::-1])):
                cell, carry = getattr(model.cell, way), np.zeros((1, 6), np.float32)
                ys = []
                for x in steps:
                    carry, y = cell(params["cell"][way], carry, x[None])
                    ys.append(np.asarray(y)[0])
                outputs.append(np.stack(ys if way == "forward" else ys[::-1]))
            ys = np.concatenate(outputs, 1)  # (T, 12)
            if how == "last":
                pooled = np.concatenate([ys[-1, :6], ys[0, 6:]])
            elif how == "attention":
                weights = params["attention"]
                energy = (np.tanh(ys @ weights["W"] + weights["b"]) @ weights["v"])[:, 0]
                shares = np.exp(energy) / np.exp(energy).sum()
                pooled = shares @ ys
            else:
                pooled = getattr(ys, how)(0)
            np.testing.assert_allclose(scores, pooled @ params["head"]["W"] + params["head"]["b"], atol=1e-5)


def test_weights_make_classes_count_alike():
    file = table(Path("r.tsv"), [*[row for row in reviews(40) if row[0] == "pos"], ("neg", "dull"), ("neg", "so flat")])
    task = Classify(weighted=True, valid_fraction=0)
    data, model, params = built(task, file)
    weights = {example.label: example.weight for example in data.train}
    assert weights == {0: pytest.approx(22 / 4), 1: pytest.approx(22 / 40)}
    batch = task.pack(data.train)
    assert batch.weight == pytest.approx(22)
    plain = Classify(valid_fraction=0).read([file])
    losses = [
        Classify().evaluate(model, params, [example for example in plain.train if example.label == label])["loss"]
        for label in (0, 1)
    ]
    assert float(model.loss(params, (), batch, None)[0]) == pytest.approx(np.mean(losses), rel=1e-5)
    assert task.evaluate(model, params, data.train)["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_words_are_dropped_to_the_unknown_one_in_training_alone():
    _, model, params = built(Classify(word_dropout=0.5), table(Path("r.tsv"), reviews()))
    xs = np.full((1000, 1), 3)
    kept = np.asarray(model.see(params, xs, np.random.default_rng(0)).indices)
    assert set(kept.reshape(-1).tolist()) == {0, 3}
    assert 0.4 < (kept == 0).mean() < 0.6
    assert (np.asarray(model.see(params, xs).indices) == 3).all()


def test_dropout_is_on_embeddings_and_before_the_head():
    _, model, params = built(Classify(), table(Path("r.tsv"), reviews()), embedding_size=8, dropout=0.5)
    seen = np.asarray(model.see(params, np.full((200, 3), 1), np.random.default_rng(0)))
    assert 0.4 < (seen == 0).mean() < 0.6
    flat = params | {"head": {"W": np.ones((6, 2), np.float32), "b": np.zeros(2, np.float32)}}
    ys = np.ones((4, 500, 6), np.float32)
    sums = np.asarray(model.judge(flat, ys, np.full(500, 4), np.random.default_rng(0)))[:, 0]
    assert set(np.round(sums).tolist()) == {0, 2, 4, 6, 8, 10, 12}
    assert (np.asarray(model.judge(flat, ys, np.full(500, 4)))[:, 0] == 6).all()


def test_an_embedding_of_numbers_is_refused():
    data = Classify().read([numbers(Path("shapes.csv"))])
    with pytest.raises(UserError, match=r"^--embedding-size is 4, but the inputs are rows: leave it out$"):
        Classify().model(data.facts, network(4))


def glove(path: Path) -> str:
    path.write_text("fine 1 0 0.5\ndull -1 0 0.5\nunseen 9 9 9\n")
    return str(path)


def test_vectors_are_those_of_the_file_and_stay_if_they_are_frozen():
    file, vectors = table(Path("r.tsv"), reviews()), glove(Path("glove.txt"))
    task = Classify(embedding=vectors, freeze=True)
    data, model, params = built(task, file)
    symbols = data.facts["tokens"]["symbols"]
    assert data.facts["vectors"] == 3
    assert data.notices == (f"glove.txt has vectors of 2 of the {len(symbols) - 1} words",)
    after = model.pretrained(params)
    assert after["embedding"][symbols.index("fine")].tolist() == [1, 0, 0.5]
    assert after["embedding"][symbols.index("dull")].tolist() == [-1, 0, 0.5]
    assert not after["embedding"][symbols.index("film")].any()
    with pytest.raises(UserError) as error:
        task.model(data.facts, network(8))
    assert str(error.value) == "--embedding-size is 8, and the vectors of 'glove.txt' have 3 numbers: leave it out"
    options = ["--task-option", "embedding=glove.txt", "--task-option", "freeze=true", "--optimizer", "adamw"]
    run, _ = trained("--task", "classify", "r.tsv", *SMALL, *options)
    Path("glove.txt").unlink()  # a run has all that it needs
    trained_weights = rnn_lab.load(run.name).folder.params()
    assert trained_weights["embedding"][symbols.index("fine")].tolist() == [1, 0, 0.5]


# Use

SMALL = [
    "--hidden-size",
    "8",
    "--batch-size",
    "8",
    "--seed",
    "1",
    "--steps",
    "120",
    "--valid-every",
    "40",
    "--learning-rate",
    "0.02",
]


def learnt(*arguments: str) -> rnn_lab.Run:
    run, _ = trained("--task", "classify", *arguments)
    return rnn_lab.load(run.name)


def test_a_network_learns_and_is_compared_with_baselines():
    run = learnt(table(Path("r.tsv"), reviews(200)), *SMALL)
    found = run.evaluate()
    assert found["accuracy"] == 1
    result = CliRunner().invoke(rnn, ["eval", run.folder.name])
    assert result.exit_code == 0, result.output
    assert "the commonest class    0.5000    0.3333  0.693" in result.stdout
    assert "bag of words           1.0000    1.0000" in result.stdout
    said = " ".join(result.stdout.split())
    assert "is better than that of the commonest class (0.5000)." in said
    assert "The network's accuracy is level with that of bag of words (1.0000)." in said


def test_the_baselines_are_those_of_scikit_learn():
    text = pytest.importorskip("sklearn.feature_extraction.text")
    from sklearn.linear_model import LogisticRegression

    rows = [(label if i % 5 else "pos", words) for i, (label, words) in enumerate(reviews(120, seed=3))]  # with noise
    task = Classify(valid_fraction=0.25)
    data, model, params = built(task, table(Path("r.tsv"), rows))
    found = task.assess(model, params, data, name="run", training=data.train)
    line = [int(example.where.rpartition(" ")[2]) - 2 for example in (*data.train, *data.valid)]
    texts, labels = [rows[i][1] for i in line], [rows[i][0] for i in line]
    counter = text.CountVectorizer(token_pattern=r"\S+")
    fitted = LogisticRegression(max_iter=200).fit(counter.fit_transform(texts[:90]), labels[:90])
    expected = fitted.score(counter.transform(texts[90:]), labels[90:])
    common, bag = found.scores[1:]
    assert (bag.name, bag.metrics["accuracy"]) == ("bag of words", pytest.approx(expected))
    assert common.metrics["accuracy"] < expected < 1
    assert found.figures[0].heads[0] == "CLASS"
    assert found.figures[1].values.shape == (2, 2)


def test_without_scikit_learn_a_sentence_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    task = Classify(level="char")
    data, model, params = built(task, table(Path("r.tsv"), reviews()))
    found = task.assess(model, params, data, name="run", training=data.train)
    assert [score.name for score in found.scores] == ["run", "the commonest class"]
    assert found.notices == (
        "the baseline bag of character n-grams needs the extra metrics: pip install 'rnn-lab[metrics]'",
    )


def test_predictions_are_labels_with_probabilities():
    run = learnt(table(Path("r.tsv"), reviews(200)), *SMALL)
    first, second = run.predict(["a fine film", "the dull plot"], top=2)
    assert (first["input"], first["label"], second["label"]) == ("a fine film", "pos", "neg")
    assert [share["label"] for share in first["top"]] == ["pos", "neg"]
    assert first["top"][0]["probability"] == first["probability"]
    assert sum(share["probability"] for share in first["top"]) == pytest.approx(1)
    assert [*run.predict(["a fine film"])] == [{key: first[key] for key in ("input", "label", "probability")}]
    Path("lines.txt").write_text("a fine film\nthe dull plot\n")
    Path("t.tsv").write_text("id\ttext\n1\ta fine film\n2\tthe dull plot\n")
    for file in ("lines.txt", "t.tsv"):
        assert [record["label"] for record in run.predict(file)] == ["pos", "neg"]
    Path("empty.txt").write_text("a fine film\n \nflat\n")
    result = CliRunner().invoke(rnn, ["predict", run.folder.name, "empty.txt"])
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: empty.txt, line 2: the text is empty; expected at least one word\n",
    )


def films() -> Path:
    """A folder with a folder of texts, a file each, for each class."""
    for label, texts in (("neg", ["a dull\nfilm", "flat"]), ("pos", ["a fine film", "warm"])):
        Path("films", label).mkdir(parents=True)
        for i, text in enumerate(texts):
            Path("films", label, f"{i}.txt").write_text(text)
        Path("films", label, ".hidden").mkdir()
        for hidden in (".DS_Store", ".hidden/2.txt"):  # such files are no texts
            Path("films", label, hidden).write_bytes(b"\0\1")
    return Path("films")


def test_every_text_of_a_folder_is_predicted():
    films()
    run = learnt("films", "--steps", "2", "--cell", "gru", "--hidden-size", "4", "--valid-fraction", "0.5")
    found = [*run.predict("films")]
    assert [record["file"] for record in found] == [
        f"films/{name}.txt" for name in ("neg/0", "neg/1", "pos/0", "pos/1")
    ]
    assert [record["input"] for record in found] == ["a dull\nfilm", "flat", "a fine film", "warm"]
    assert [record["file"] for record in run.predict("films/neg")] == ["films/neg/0.txt", "films/neg/1.txt"]
    result = CliRunner().invoke(rnn, ["predict", run.folder.name, "films/neg"])
    assert re.fullmatch(
        r"\w+ 0\.\d{3}  films/neg/0.txt  a dull film\n\w+ 0\.\d{3}  films/neg/1.txt  flat\n", result.stdout
    )
    Path("names").mkdir()
    Path("names/Greek.txt").write_text("Adamou\n\nKonstantinou\n")
    Path("names/Irish.txt.gz").write_bytes(gzip.compress(b"Byrne\nFlynn\n", mtime=0))
    run = learnt("names", "--steps", "2", "--cell", "gru", "--hidden-size", "4", "--level", "char")
    found = [*run.predict("names")]
    assert [record["input"] for record in found] == ["Adamou", "Konstantinou", "Byrne", "Flynn"]
    assert not any("file" in record for record in found)
    Path("nothing").mkdir()
    refused = CliRunner().invoke(rnn, ["predict", run.folder.name, "nothing"])
    assert refused.exit_code == 2
    assert refused.stderr == "Error: there is no file in the folder 'nothing'; expected text files\n"


def test_a_folder_of_texts_is_read_file_by_file():
    facts = Classify(valid_fraction=0).read([str(films())]).facts
    Path("films/neg/1.txt").write_bytes(b"\xff\xfe\xff")
    given = Classify().inputs("films", facts)
    assert next(given).file == "films/neg/0.txt"
    with pytest.raises(UserError, match=r"^'?films/neg/1.txt"):
        next(given)


def test_a_folder_of_pictures_is_read_picture_by_picture():
    for i in range(4):
        picture = np.full((3, 3), 60 * i, np.uint8)
        Path("pictures", "ab"[i % 2]).mkdir(parents=True, exist_ok=True)
        Picture.fromarray(picture).save(Path("pictures", "ab"[i % 2], f"{i}.png"))
    facts = Classify(valid_fraction=0).read(["pictures"]).facts
    Path("pictures/a/2.png").write_bytes(b"none")
    given = Classify().inputs("pictures", facts)
    assert next(given).shown == "a/0.png"
    with pytest.raises(UserError, match=r"^'pictures/a/2.png' cannot be read as a picture"):
        next(given)


def test_files_of_images_with_other_ranges_of_pixels():
    bright = np.random.default_rng(0).integers(0, 256, (6, 5, 5))
    labels = ["x", "y"] * 3
    np.savez("a.npz", images=bright.astype(np.uint8), labels=labels)
    np.savez("b.npz", images=(bright / 255).astype(np.float32), labels=labels)
    np.savez("c.npz", images=bright // 16, labels=labels)
    task = Classify(valid_fraction=0)
    for files in (["a.npz", "b.npz"], ["b.npz", "a.npz"]):
        data = task.read(files)
        assert data.facts["white"] == 255
        first, second = (np.stack([numbers_of(example.xs) for example in data.train[i : i + 6]]) for i in (0, 6))
        assert np.allclose(first, second, atol=1e-6)
        again = task.read(files, data.facts, purpose="again")
        assert again.digest == data.digest
    assert np.allclose(
        [numbers_of(each.xs).max() for each in task.inputs("b.npz", data.facts)], bright.max((1, 2)) / 255
    )
    with pytest.raises(UserError) as error:
        task.read(["a.npz", "c.npz"])
    assert str(error.value) == "'c.npz' has pixels from 0 to 16, and 'a.npz' from 0 to 255: give files with one range"


def test_predictions_need_no_memory_for_what_comes_later():
    data, model, params = built(Classify(), table(Path("r.tsv"), reviews()))
    taken = count()
    endless = (f"a fine film {next(taken)}" for _ in iter(int, 1))
    found = [*islice(Classify().predict(model, params, data.facts, endless), 300)]
    assert (len(found), next(taken)) == (300, 512)
    assert [*Classify().predict(model, params, data.facts, [])] == []


def test_inputs_of_the_wrong_kind():
    texts, model, params = built(Classify(), table(Path("r.tsv"), reviews()))
    with pytest.raises(UserError) as error:
        list(Classify().predict(model, params, texts.facts, [np.zeros(3)]))
    assert str(error.value) == "the network was trained on texts; expected a text, and got a ndarray"
    with pytest.raises(UserError, match=r"^text 2: the text is empty; expected at least one word$"):
        list(Classify().predict(model, params, texts.facts, ["fine", " "]))
    rows, model, params = built(Classify(width=3), numbers(Path("shapes.csv")))
    with pytest.raises(UserError) as error:
        list(Classify(width=3).predict(model, params, rows.facts, ["a film"]))
    assert str(error.value) == (
        "the network was trained on rows; expected a file with rows, or an array of numbers, and got the text 'a film'"
    )


@pytest.mark.parametrize("kind", ["rows", "images"])
def test_arrays_and_files_of_numbers_have_the_same_predictions(kind):
    task = Classify(width=3, order="permuted")
    file = numbers(Path("shapes.csv")) if kind == "rows" else images(Path("shapes.npz"))
    data, model, params = built(task, file)
    facts = json.loads(json.dumps(data.facts))
    of_file = [*task.predict(model, params, facts, task.inputs(file, facts))]
    assert len(of_file) == 24
    if kind == "rows":
        arrays = [np.array(list(map(float, line.split(",")))[:9]) for line in Path(file).read_text().split()]
        assert of_file[3].record["input"] == "shapes.csv, line 4"
        Path("bare.csv").write_text("".join(line.rpartition(",")[0] + "\n" for line in Path(file).read_text().split()))
        again = [*task.predict(model, params, facts, task.inputs("bare.csv", facts))]
        assert [found.record["probability"] for found in again] == [found.record["probability"] for found in of_file]
    else:
        arrays = list(np.load(file)["images"])
    of_arrays = [*task.predict(model, params, facts, arrays)]
    for one, other in zip(of_file, of_arrays, strict=True):
        assert one.record["probability"] == pytest.approx(other.record["probability"], rel=1e-6)
        assert one.record["label"] == other.record["label"]
    assert of_arrays[3].record["input"] == f"{kind[:-1]} 4"


def test_an_excerpt_has_predictions_beside_the_truth():
    task = Classify(valid_fraction=0.2)
    data, model, params = built(task, table(Path("r.tsv"), reviews(60)))
    bold = params | {"head": {"W": np.zeros((6, 2), np.float32), "b": np.array([2, 0], np.float32)}}
    lines = task.excerpt(model, bold, data, 400, np.random.default_rng(0)).splitlines()
    texts = {text for _, text in reviews(60)}
    assert len(lines) == 6
    for line in lines:
        assert line.startswith(("neg 0.88 (right)  ", "neg 0.88 (true: pos)  "))
        assert line.partition(")  ")[2].replace("<unk>", "") in texts or "<unk>" in line
    assert (
        task.excerpt(model, bold, Classify(valid_fraction=0).read(data.sources), 400, np.random.default_rng(0)) is None
    )


# Explanations


def test_contributions_to_a_square_are_exact():
    xs = np.array([[1.0, -2], [3, 0.5]])
    found = integrated_gradients(lambda batch: total(batch, axis=(0, 2)) ** 2, xs)  # x_i times the sum
    np.testing.assert_allclose(found.values, xs * xs.sum())
    assert (found.score, found.baseline, found.exact) == (6.25, 0, True)


def test_contributions_that_are_not_exact_say_so():
    xs = np.full((1, 1), 1e6)
    found = integrated_gradients(lambda batch: total(np.sin(batch), axis=(0, 2)) * 1000, xs)
    assert not found.exact


@pytest.mark.parametrize("pool", ["last", "mean", "max", "attention"])
def test_contributions_sum_to_the_difference_of_log_odds(pool):
    """Completeness, the axiom of Sundararajan et al.: within TOLERANCE of the difference."""
    task = Classify(pool=pool)
    data, model, params = built(task, table(Path("r.tsv"), reviews()), embedding_size=5)
    params = trees.map(lambda x: x * 4, params)
    for text in ("a fine film", "dull", "the plot of the year so flat and cold of a film"):
        (found,) = task.predict(model, params, data.facts, [text], explain=True)
        record, (figure,) = found.record, found.figures
        xs = data_of(model, params, task, data.facts, text)
        label = data.facts["labels"].index(record["label"])

        def odds(inputs, label=label):
            scores = np.asarray(model.read(params, inputs, np.array([len(inputs)])), np.float64)[0]
            shares = np.exp(scores) / np.exp(scores).sum()
            return np.log(shares[label] / (1 - shares[label]))

        assert record["score"] == pytest.approx(odds(xs), abs=1e-4)
        assert record["baseline_score"] == pytest.approx(odds(np.zeros_like(xs)), abs=1e-4)
        difference = record["score"] - record["baseline_score"]
        assert record["exact"]
        assert sum(record["contributions"]) == pytest.approx(difference, abs=TOLERANCE * max(1, abs(difference)))
        assert "".join(figure.symbols).split() == text.split()
        np.testing.assert_array_equal(figure.values, record["contributions"])
        assert figure.high == -figure.low == np.abs(figure.values).max()


def data_of(model, params, task, facts, text):
    ids = np.array(
        [facts["tokens"]["symbols"].index(word) if word in facts["tokens"]["symbols"] else 0 for word in text.split()]
    )
    return params["embedding"][ids][:, None]


def test_an_image_is_explained_by_a_picture_and_a_row_by_a_chart():
    for order in ("rows", "pixels", "permuted"):
        task = Classify(order=order)
        data, model, params = built(task, images(Path("shapes.npz")))
        given = next(task.inputs("shapes.npz", data.facts))
        (found,) = task.predict(model, params, data.facts, [given], explain=True)
        (figure,) = found.figures
        assert isinstance(figure, Image)
        assert figure.values.shape == (3, 3)
        assert figure.values.sum() == pytest.approx(sum(found.record["contributions"]))
        black = np.load("shapes.npz")["images"][0, :, :, 0] == 0
        assert (figure.values[black] == 0).all()
    task = Classify()
    data, model, params = built(task, numbers(Path("shapes.csv")))
    (found,) = task.predict(model, params, data.facts, [np.arange(9)], explain=True)
    (figure,) = found.figures
    assert isinstance(figure, Chart)
    np.testing.assert_allclose(figure.curves[0].y, found.record["contributions"])


def test_reports_measure_a_run():
    run = learnt(
        table(Path("r.tsv"), reviews(200)), *SMALL, "--task-option", "directions=2", "--task-option", "pool=mean"
    )
    result = CliRunner().invoke(rnn, ["report", run.folder.name, "--lags", "4", "--positions", "20"])
    assert result.exit_code == 0, result.output
    assert "The network reads in both directions" in " ".join(result.output.split())


def test_real_files_are_read_whole(data):
    task = Classify(level="char", valid_fraction=0.2)
    names = task.read([str(data / "names")])
    assert (len(names.train), len(names.valid), len(names.facts["labels"])) == (16_040, 4_010, 18)
    reviews = Classify(valid_fraction=0).read([str(data / "reviews-train.tsv")])
    assert reviews.facts["counts"] == [4271, 4287]
    digits = Classify(width=8).read([str(data / "digits.csv.gz")])
    assert (len(digits.train) + len(digits.valid), digits.train[0].xs.shape) == (1797, (8, 8))
    mnist = Classify().read([str(data / "mnist" / "t10k-images-idx3-ubyte.gz")], purpose="train")
    assert (len(mnist.train), len(mnist.valid), mnist.facts["labels"]) == (9000, 1000, list("0123456789"))


def idx(path: Path, number: int) -> None:
    """Images and their classes in MNIST's own format, packed."""
    rng = np.random.default_rng(number)
    header = bytes([0, 0, 8, 3]) + b"".join(size.to_bytes(4, "big") for size in (number, 3, 3))
    path.write_bytes(gzip.compress(header + rng.integers(0, 256, number * 9).astype(np.uint8).tobytes(), mtime=0))
    labels = bytes([0, 0, 8, 1]) + number.to_bytes(4, "big") + bytes(i % 2 for i in range(number))
    Path(str(path).replace("images-idx3", "labels-idx1")).write_bytes(gzip.compress(labels, mtime=0))


def test_the_commands_of_the_page_run():
    for name in ("reviews", "reviews-train", "reviews-valid"):
        table(Path(f"{name}.tsv"), reviews(40))
    Path("names").mkdir()
    Path("names/Greek.txt").write_text("Adamou\nKonstantinou\nPapadopoulos\n" * 4)
    Path("names/Irish.txt").write_text("Byrne\nFlynn\nMurphy\n" * 4)
    rng = np.random.default_rng(0)
    lines = [",".join(map(str, [*rng.integers(0, 17, 64), i % 10])) for i in range(60)]
    Path("digits.csv.gz").write_bytes(gzip.compress(("\n".join(lines) + "\n").encode(), mtime=0))
    Path("mnist").mkdir()
    idx(Path("mnist/train-images-idx3-ubyte.gz"), 20)
    idx(Path("mnist/t10k-images-idx3-ubyte.gz"), 10)
    Path("images").mkdir()
    quick = ["--hidden-size", "4", "--steps", "2"]
    ran = commands(ROOT / "docs" / "classify.md")
    assert {"train", "eval", "predict", "compare"} <= {words[0] for words in ran}
    for words in ran:
        more = quick if words[0] == "train" else [*quick, "--seeds", "2"] if "--cell" in words else []
        result = CliRunner().invoke(rnn, [*words, *more])
        assert result.exit_code == 0, (words, result.output)
