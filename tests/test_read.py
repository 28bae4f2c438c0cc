"""The task that reads numbers in glimpses: sensor, loss, canvas, results, messages, commands."""

import gzip
import itertools
import json
import math
import os
import re
import struct
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import settle
from test_house_numbers import HEADER, write_mnist

import minigrad
from minigrad import log_softmax, pick, value_and_grad, where
from minigrad.functions import Share
from minigrad.optimizers import adam
from minigrad.scan import use_backend
from minigrad.schedules import constant
from minigrad.training import start, train
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_cells.stacked import Stacked
from rnn_cli.main import rnn
from rnn_plugins.data.images import Named
from rnn_plugins.data.number_files import is_table
from rnn_plugins.data.numbered import Drawn
from rnn_plugins.errors import UserError
from rnn_plugins.tasks.paint.task import Paint
from rnn_plugins.tasks.read.canvas import OnCanvas
from rnn_plugins.tasks.read.explaining import left_out
from rnn_plugins.tasks.read.results import likeliest
from rnn_plugins.tasks.read.sensor import Sensor, coarse
from rnn_plugins.tasks.read.task import Read
from rnn_plugins.tasks.task import Inputs, Network
from rnn_plugins.testing import check_task

SMALL = {
    "glimpses": 2,
    "size": 3,
    "scales": 1,
    "layers": 1,
    "attention": "hard",
    "image_size": 12,
    "valid_fraction": 0.2,
}
NUMBERS = "builtin:numbers:60"


def network(dtype="float32", **settings):
    return Network(lambda width: GRU(width, 6), 6, dtype=dtype, **settings)


def made(dtype="float32", files=(NUMBERS,), **options):
    """A task, its data, and a new model of it with parameters."""
    task = Read(**(SMALL | options))
    data = task.read(list(files))
    model = task.model(data.facts, network(dtype))
    return task, data, model, model.init_params(np.random.default_rng(0))


def digits(path, count=12, side=9):
    """An IDX file of digits with their classes: a bright square whose place says which."""
    labels = np.arange(count) % 10
    pixels = np.zeros((count, side, side), np.uint8)
    for image, label in zip(pixels, labels, strict=True):
        image[label // 5 * 4 : label // 5 * 4 + 3, label % 5 : label % 5 + 3] = 200
    header = struct.pack(">HBB3I", 0, 8, 3, *pixels.shape)
    Path(path).write_bytes(header + pixels.tobytes())
    beside = str(path).replace("images", "labels").replace("idx3", "idx1")
    Path(beside).write_bytes(struct.pack(">HBBI", 0, 8, 1, count) + labels.astype(np.uint8).tobytes())
    return str(path)


# The sensor


def test_a_patch_is_the_image_between_its_pixels():
    from scipy.ndimage import map_coordinates

    rng = np.random.default_rng(0)
    images, places = rng.random((3, 10, 14)), rng.uniform(-1.1, 1.1, (3, 2))
    (fine, wide) = Sensor((10, 14, 1), 5, 2).patches(images, places)
    assert fine.shape == wide.shape == (3, 5, 5)
    for image, place, patch in zip(images, places, fine, strict=True):
        rows, columns = ((1 + p) * (n - 1) / 2 + np.arange(-2, 3) for p, n in zip(place, image.shape, strict=True))
        expected = map_coordinates(image, np.meshgrid(rows, columns, indexing="ij"), order=1, mode="grid-constant")
        np.testing.assert_allclose(patch, expected, atol=1e-12)
    centre = Sensor((9, 9, 1), 3, 2).patches(images[:1, :9, :9], np.zeros((1, 2)))
    np.testing.assert_allclose(centre[0][0], images[0, 3:6, 3:6])


def test_the_second_patch_covers_twice_as_much():
    image = np.arange(64.0).reshape(1, 8, 8)
    place = np.full((1, 2), 3.0 / 7 * 2 - 1 + 1 / 7)  # between the pixels 3 and 4
    _, wide = Sensor((8, 8, 1), 4, 2).patches(image, place)
    np.testing.assert_allclose(wide[0], image[0].reshape(4, 2, 4, 2).mean((1, 3)))
    assert Sensor((8, 8, 1), 4, 2).frame(place[0], 1) == pytest.approx((0, 0, 8, 8))
    assert Sensor((8, 8, 1), 4, 2).frame(place[0], 0) == pytest.approx((2, 2, 4, 4))


def test_colours_are_seen_beside_each_other():
    rng = np.random.default_rng(0)
    images, places = rng.random((2, 6, 7, 3)), rng.uniform(-1, 1, (2, 2))
    (patch,) = Sensor((6, 7, 3), 4, 1).patches(images, places)
    assert patch.shape == (2, 4, 4, 3)
    for colour in range(3):
        (alone,) = Sensor((6, 7, 1), 4, 1).patches(images[..., colour], places)
        np.testing.assert_allclose(patch[..., colour], alone)


def test_the_whole_at_a_low_resolution_is_a_mean_of_rectangles():
    images = np.random.default_rng(0).random((2, 8, 12, 1))
    np.testing.assert_allclose(coarse(images, 4), images.reshape(2, 4, 2, 4, 3, 1).mean((2, 4)))
    np.testing.assert_allclose(coarse(images, 5).mean((1, 2)), images.mean((1, 2)))


# The loss


KINDS = [
    {"attention": "hard"},
    {"attention": "soft", "layers": 2, "context": 4},
    {"attention": "random", "samples": 2},
    {"attention": "hard", "layers": 2, "context": 4, "scales": 2, "samples": 2, "colour": True},
    {"attention": "none"},
]


@pytest.mark.parametrize("options", KINDS, ids=str)
def test_it_meets_the_requirements_of_tasks(options):
    check_task(Read(**(SMALL | options)), [NUMBERS]).raise_if_failed()


def test_rewards_move_the_locations_by_reinforce(tmp_path):
    """One glimpse of single digits: the gradient by W_m's bias is computed by hand."""
    file = digits(tmp_path / "images-idx3-ubyte", 20)
    task, data, model, params = made("float64", [file], glimpses=1, image_size=0)
    params = {**params, "expected": {"W": np.zeros((6, 1)), "b": np.array([0.3])}}
    params["where"] = {"W": np.zeros((6, 2)), "b": np.array([1.5, -0.2])}  # the first is outside the image
    batch = task.pack(data.train[:8])

    def loss(params, rng):
        return model.loss(params, (), batch, rng)[0]

    value, gradients = value_and_grad(lambda p: loss(p, np.random.default_rng(3)))(params)
    noise = model.noise(8, 1, np.random.default_rng(3))[0]
    seen = model.look(params, batch.inputs[0], noise[None])
    logits = np.asarray(model.logits(params, seen))[0]
    right = logits.argmax(1) == batch.targets[0]
    surprise = right - 0.3
    by_mean = -(surprise[:, None] * noise / task.spread).mean(0)
    np.testing.assert_allclose(gradients["where"]["b"], by_mean + np.array([1.0, 0]))
    np.testing.assert_allclose(gradients["expected"]["b"], -2 * surprise.mean())
    nats = np.log(np.exp(logits).sum(1)) - logits[np.arange(8), batch.targets[0]]
    assert float(value) == pytest.approx(nats.mean())  # the estimate of the gradient adds nothing to the loss


@pytest.mark.parametrize("layers", [1, 2])
def test_what_names_symbols_learns_from_the_cross_entropy_alone(layers):
    task, data, model, params = made("float64", layers=layers)
    batch = task.pack(data.train[:4])
    pixels, _, lengths = batch.inputs
    noise = model.noise(4, 2 * len(batch.targets), np.random.default_rng(5))
    places = np.asarray(model.look(params, pixels, noise).places)
    given = replace(model.at_given(), spread=1.0)
    _, sampled = value_and_grad(lambda p: model.loss(p, (), batch, np.random.default_rng(5))[0])(params)

    def cross_entropy(params):
        found = given.logits(params, given.look(params, pixels, places))
        live = np.arange(len(batch.targets))[:, None] < lengths
        return -minigrad.sum(where(live, pick(log_softmax(found), batch.targets), 0)) / int(live.sum())

    _, plain = value_and_grad(cross_entropy)(params)
    for part in ("reader", "glimpse", "head"):
        np.testing.assert_allclose(*(np.concatenate([np.ravel(x) for x in _leaves(g[part])]) for g in (sampled, plain)))
    assert np.any(sampled["where"]["W"])
    assert not np.any(plain["where"]["W"])
    if layers == 2:
        assert any(np.any(leaf) for leaf in _leaves(sampled["mover"]))


@pytest.mark.parametrize("attention", ["hard", "soft"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_context_learns_where_to_look_first(layers, attention):
    task, data, model, params = made("float64", layers=layers, attention=attention, context=4)
    batch = task.pack(data.train[:4])
    _, found = value_and_grad(lambda p: model.loss(p, (), batch, np.random.default_rng(5))[0])(params)
    for part in ("coarse", "first"):
        assert all(np.any(leaf) for leaf in _leaves(found["context"][part]))


def _leaves(tree):
    return [tree] if isinstance(tree, np.ndarray) else [leaf for part in tree.values() for leaf in _leaves(part)]


def test_rows_of_a_batch_get_their_noise():
    _, _, model, _ = made()
    for kind in ("hard", "random"):
        one = replace(model, attention=kind)
        whole = one.noise(6, 4, np.random.default_rng(1))
        part = one.noise(2, 4, Share(np.random.PCG64(1), slice(2, 4), 6))
        np.testing.assert_array_equal(part, whole[:, 2:4])
    assert abs(whole).max() <= 1


@pytest.mark.parametrize("options", KINDS[:3], ids=str)
def test_the_loop_over_glimpses_is_planned(options, caplog):
    task, data, model, params = made("float64", **options)
    batch = task.pack(data.train[:5])
    found = []
    for backend in ("reference", "numpy"):
        with use_backend(backend):
            gradient = value_and_grad(lambda p: model.loss(p, (), batch, np.random.default_rng(2))[0])
            found.append(gradient(params))
    assert "reference loop" not in caplog.text
    assert float(found[0][0]) == pytest.approx(float(found[1][0]), rel=1e-12)
    for one, other in zip(_leaves(found[0][1]), _leaves(found[1][1]), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-12)


def test_dropout_between_layers():
    task, data, _, _ = made()

    def make(width):
        return Stacked([LSTM(width, 6), LSTM(6, 6)])

    model = task.model(data.facts, Network(make, 6, dropout=0.5, variational_dropout=True))
    params = model.init_params(np.random.default_rng(0))
    batch = task.pack(data.train[:3])
    losses = [float(model.loss(params, (), batch, rng)[0]) for rng in (None, np.random.default_rng(1))]
    assert losses[0] != losses[1]
    assert np.isfinite(losses).all()


def test_it_learns_digits():
    pytest.importorskip("sklearn")
    task = Read(glimpses=3, size=4, scales=1, attention="hard", spread=0.2)
    data = task.read(["builtin:digits"])
    model = task.model(data.facts, Network(lambda width: GRU(width, 32), 32))
    state = start(model.init_params(np.random.default_rng(0)), adam(), (), np.random.default_rng(0))
    batches = (task.batch(data, step, 32) for step in range(250))
    for _ in train(model.loss, state, batches, optimizer=adam(), schedule=constant(0.005), clip_norm=5):
        pass
    found = task.evaluate(model, state.params, data.valid)
    assert found["accuracy"] > 0.7
    averaged = replace(task, samples=8).evaluate(model, state.params, data.valid)
    assert averaged["loss"] < task.guessing(data.facts)
    assert averaged["accuracy"] > 0.7


# Numbers


@pytest.mark.parametrize("classes", [10, 11])
def test_the_likeliest_numbers(classes):
    rows = np.log(np.random.default_rng(classes).dirichlet(np.ones(classes), 3))
    every = {}
    lengths = (3,) if classes == 10 else (1, 2)
    for length in lengths:
        for text in map("".join, itertools.product("0123456789", repeat=length)):
            nats = sum(rows[i, int(d)] for i, d in enumerate(text))
            every[text] = nats + (rows[length, 10] if classes == 11 and length < 2 else 0)
    best = sorted(every.items(), key=lambda one: -one[1])[:7]
    found = likeliest(rows, 7)
    assert [text for text, _ in found] == [text for text, _ in best]
    np.testing.assert_allclose([nats for _, nats in found], [nats for _, nats in best])


def test_what_is_lost_without_a_glimpse():
    task, data, model, params = made("float64", glimpses=1)
    batch = task.pack(data.train[:3])
    pixels, keys, lengths = batch.inputs
    falls = left_out(model, params, pixels, keys, batch.targets, lengths)
    assert falls.shape == (len(batch.targets), 3)
    seen = model.look(params, pixels, model.drawn(keys, len(batch.targets)))
    shown = np.ones((len(batch.targets), 3, 1))
    shown[0] = 0
    other = model.at_given().look(params, pixels, np.asarray(seen.places), shown=shown)
    for b, length in enumerate(lengths.tolist()):
        nats = [
            sum(
                float(_log_softmax(np.asarray(model.logits(params, s))[i, b])[batch.targets[i, b]])
                for i in range(length)
            )
            for s in (seen, other)
        ]
        assert falls[0, b] == pytest.approx(nats[0] - nats[1])


def _log_softmax(row):
    return row - np.log(np.exp(row).sum())


def test_the_path_of_the_glimpses():
    task, data, model, params = made(scales=2, colour=True, layers=2, context=4)
    (given,) = itertools.islice(task.inputs(NUMBERS, data.facts), 1)
    (said,) = task.predict(model, params, data.facts, [given], explain=True)
    path, lost = said.figures
    symbols = min(len(said.record["number"]) + 1, model.symbols)
    seen = model.look(params, given.pixels[None], np.zeros((2 * symbols, 1, 2), np.float32))
    assert len(path.steps) == len(lost.curves[0].y) == 2 * symbols
    assert [step.label for step in path.steps[:3]] == ["1.1", "1.2", "2.1"]
    for place, step in zip(np.asarray(seen.places)[:, 0], path.steps, strict=True):
        fine, wide = step.frames
        np.testing.assert_array_equal(step.pixels, given.pixels)
        assert (fine.height, fine.width, wide.height, wide.width) == (3, 3, 6, 6)
        assert (fine.top + 1.5, fine.left + 1.5) == pytest.approx(tuple((1 + place) * 5.5 + 0.5), abs=1e-4)
        assert (wide.top + 3, wide.left + 3) == pytest.approx((fine.top + 1.5, fine.left + 1.5))
    whole, *patches = path.panels
    assert whole.label == said.record["number"]
    assert [frame.colour for frame in whole.frames[:3]] == [0, 0, 1]
    assert {patch.pixels.shape for patch in patches} == {(3, 7, 3)}


@pytest.mark.parametrize(
    ("attention", "others"),
    [("random", set()), ("soft", {"where", "mover", "context"}), ("hard", {"where", "expected", "mover", "context"})],
)
def test_a_network_has_only_the_parts_that_it_uses(attention, others):
    _, _, _, params = made(attention=attention, layers=2, context=4)
    assert params.keys() == {"glimpse", "reader", "head"} | others


def test_reports_look_at_a_part_of_the_pictures(monkeypatch):
    monkeypatch.setattr("rnn_plugins.tasks.read.task.PROBED", 7)
    drawn = []
    pixels = Drawn.pixels
    monkeypatch.setattr(Drawn, "pixels", lambda self, place, *rest: drawn.append(place) or pixels(self, place, *rest))
    for attention in ("soft", "none"):
        task, data, model, params = made(attention=attention)
        drawn.clear()
        task.probe(model, params, data.train, data.facts)
        assert sorted(set(drawn)) == list(range(7))


def test_chance_depends_on_pixels_and_not_on_names(tmp_path):
    task, data, model, params = made(files=[digits(tmp_path / "images-idx3-ubyte", 20)], image_size=0, samples=2)
    pixels = data.train[0].picture.pixels()
    here, there = task.predict(model, params, data.facts, [Named("a.png", pixels), Named("folder/b.png", pixels)])
    assert here.record["probability"] == there.record["probability"]


def test_a_patch_is_shown_as_it_is_seen(tmp_path):
    task, data, model, params = made(files=[digits(tmp_path / "images-idx3-ubyte", 20)], glimpses=1, image_size=0)
    model = replace(model, attention="hard")
    params["where"] = {"W": params["where"]["W"] * 0, "b": params["where"]["b"]}  # the centre
    (given,) = itertools.islice(task.inputs(str(tmp_path / "images-idx3-ubyte"), data.facts), 1)
    (said,) = task.predict(model, params, data.facts, [given], explain=True)
    _, patch = said.figures[0].panels
    np.testing.assert_array_equal(patch.pixels, given.pixels[3:6, 3:6, 0])
    assert patch.label == "1"


def test_the_probe_has_the_losses_of_the_model():
    task, data, model, params = made("float64")
    examples = [example for example in data.train if len(example.text) == 2][:4]
    probe = task.probe(model, params, examples, data.facts)
    ends = [5, 11, 17, 23]  # three symbols of two glimpses each
    assert set(ends) <= set(probe.ends(6))
    carry, xs = probe.window(np.array(ends), 6)
    _, outputs = probe.cell.unroll(probe.params, carry, xs)
    losses = np.asarray(probe.loss(outputs, probe.targets(np.array(ends), 6)))
    assert not losses[::2].any()
    loss, _ = model.loss(params, (), task.pack(examples), None)
    assert losses[1::2].mean() == pytest.approx(float(loss))
    labels = probe.labels(5, 6)
    assert labels.inputs == ("1.1", "1.2", "2.1", "2.2", "3.1", "3.2")
    assert labels.targets == ("", examples[0].text[0], "", examples[0].text[1], "", "stop")


def test_the_probe_of_columns_has_the_losses_of_the_model():
    task, data, model, params = made("float64", attention="none")
    examples = [example for example in data.train if len(example.text) == 1][:3]
    probe = task.probe(model, params, examples, data.facts)
    ends = np.array([13, 27, 41])
    carry, xs = probe.window(ends, 14)
    _, outputs = probe.cell.unroll(probe.params, carry, xs)
    losses = np.asarray(probe.loss(outputs, probe.targets(ends, 14)))
    assert not losses[:12].any()
    loss, _ = model.loss(params, (), task.pack(examples), None)
    assert losses[12:].mean() == pytest.approx(float(loss))
    assert probe.labels(13, 14).inputs == (*map(str, range(1, 13)), "", "")
    assert probe.labels(13, 14).targets == (*[""] * 12, examples[0].text, "stop")


def test_what_is_lost_without_a_column():
    task, data, model, params = made(attention="none")
    (given,) = itertools.islice(task.inputs(NUMBERS, data.facts), 1)
    (said,) = task.predict(model, params, data.facts, [given], explain=True)
    (_, chart), number = said.figures, said.record["number"]
    blank = np.zeros((12, 12, 1), np.float32) + given.pixels / np.float32(255)
    blank[:, 4] = data.facts["mean"][0]
    wanted = [*map(int, number), *[10] * (len(number) < 5)]
    nats = [
        sum(model.read(params, pixels[None], np.zeros(1))[0, i, symbol] for i, symbol in enumerate(wanted))
        for pixels in (given.pixels, blank)
    ]
    assert len(chart.curves[0].y) == 12
    assert chart.curves[0].y[4] == pytest.approx(nats[0] - nats[1], abs=1e-5)


# The canvas


def test_a_canvas_has_the_picture_and_pieces_of_others(tmp_path):
    file = digits(tmp_path / "train-images-idx3-ubyte", 20)
    task = Read(canvas=30, clutter=3, glimpses=1, size=3, valid_fraction=0.2)
    data = task.read([file])
    assert data.facts["shape"] == [30, 30, 1]
    assert data.facts["placed"] == [9, 9, 1]
    assert data.about == "20 images of 9x9, on canvases of 30x30"
    example = data.train[0].picture
    assert isinstance(example.source, OnCanvas)
    first = example.pixels(0, 1)
    np.testing.assert_array_equal(first, example.pixels(0, 1))
    assert not np.array_equal(first, example.pixels(1, 1))
    assert not np.array_equal(first, example.pixels(0, 2))
    plain = replace(example.source, clutter=0).pixels(0, 0, 1)
    inside = example.source.pictures.pixels(0, 0, 1)
    assert plain.sum() == inside.sum()
    rows, columns = np.nonzero(plain[..., 0])
    assert (rows.max() - rows.min(), columns.max() - columns.min()) == (2, 2)
    assert first.astype(int).sum() > plain.astype(int).sum()


def test_pictures_of_one_digit_are_put_on_the_canvas_for_predictions(tmp_path):
    file = digits(tmp_path / "images-idx3-ubyte", 20)
    task, data, model, params = made(files=[file], canvas=20, image_size=0)
    (given, *_) = task.inputs(file, data.facts)
    assert given.pixels.shape == (20, 20, 1)
    (said,) = task.predict(model, params, data.facts, [np.zeros((9, 9), np.uint8)])
    assert said.text.startswith("image 0\t")
    whole = np.arange(400, dtype=np.uint8).reshape(20, 20)  # a canvas of the user's own is taken as it is
    np.save(tmp_path / "whole.npy", whole[None])
    (given,) = task.inputs(str(tmp_path / "whole.npy"), data.facts)
    np.testing.assert_array_equal(given.pixels[..., 0], whole)
    (one,), (other,) = (list(task.predict(model, params, data.facts, [each])) for each in (whole, given))
    assert one.record["probability"] == pytest.approx(other.record["probability"])
    with pytest.raises(UserError, match=r"^image 0 has images of 8x8; expected 9x9 "):
        list(task.predict(model, params, data.facts, [np.zeros((8, 8), np.uint8)]))


# Predictions


def test_predictions_and_alternatives():
    task, data, model, params = made()
    inputs = list(itertools.islice(task.inputs(NUMBERS, data.facts), 3))
    found = list(task.predict(model, params, data.facts, inputs, top=3))
    for given, said in zip(inputs, found, strict=True):
        top = said.record["top"]
        assert said.record["input"] == given.name
        assert said.record["number"] == top[0]["number"]
        assert [one["probability"] for one in top] == sorted((one["probability"] for one in top), reverse=True)
        assert "".join(one["digit"] for one in said.record["digits"]) == top[0]["number"]
        assert said.text.startswith(f"{given.name}\t{top[0]['number']} {top[0]['probability']:.3f}, ")
        assert said.figures == ()


def test_arrays_are_named_by_their_places():
    task, data, model, params = made()
    inputs = Inputs([data.valid[0].picture.pixels()], [299])
    (found,) = task.predict(model, params, data.facts, inputs)
    assert found.record["input"] == "image 299"
    with pytest.raises(UserError, match=r"^image 0 has rows of several lengths; expected \(height, width\)$"):
        list(task.predict(model, params, data.facts, [[[1, 2], [3]]]))


def test_glyphs_that_training_has_too_are_told_in_an_evaluation(tmp_path):
    (tmp_path / "layouts.tsv").write_text(HEADER + "".join(f"{i}.png\t{i % 9 + 1}\t{i},7,19,30\n" for i in range(30)))
    files = [str(tmp_path / "layouts.tsv"), write_mnist(tmp_path / "mnist")]
    task, data, model, params = made(files=files, valid_fraction=0.3)
    own = task.assess(model, params, data, name="run", training=data.train)
    folder = task.read(files, data.facts, purpose="evaluate")
    other = task.assess(model, params, folder, name="run", training=data.train)
    told = [notice for found in (own, other) for notice in found.notices if "images of digits" in notice]
    assert told == []
    named = [files[0], os.path.join(files[1], "train-images-idx3-ubyte.gz")]
    again = task.assess(
        model, params, task.read(named, data.facts, purpose="evaluate"), name="run", training=data.train
    )
    assert again.notices[-1] == (
        "28 of the 40 images of digits with which these house numbers are drawn are among those of training, so "
        "they are easier to read than with others: name other images of digits"
    )


@pytest.mark.parametrize("task", [Read(**SMALL | {"canvas": 40}), Paint(steps=1)])
def test_what_is_evaluated_of_layouts_and_digits_can_be_predicted(tmp_path, task):
    (tmp_path / "layouts.tsv").write_text(HEADER + "".join(f"{i}.png\t{i % 9 + 1}\t{i},7,19,30\n" for i in range(30)))
    files = [str(tmp_path / "layouts.tsv"), write_mnist(tmp_path / "mnist")]
    task = replace(task, image_size=16, valid_fraction=0.3)
    data = task.read(files)
    given = list(task.inputs_together(files, data.facts))
    evaluated = task.read(files, data.facts, purpose="evaluate").valid
    pictures = [getattr(example, "picture", example) for example in evaluated]
    assert [one.name for one in given] == [picture.name for picture in pictures]
    np.testing.assert_array_equal(given[-1].pixels, pictures[-1].pixels())
    assert len({one.pixels.tobytes() for one in given}) == len(given) == 90
    with pytest.raises(UserError, match=r"has layouts and no digits; name images of digits too: a folder with MNIST's"):
        task.inputs_together(files[:1], data.facts)
    assert task.inputs_together(files[1:], data.facts) is None  # each file is one of its own


PIXELS = "7\t0\t255\t9\t30\n"


@pytest.mark.parametrize(
    ("name", "first", "expected"),
    [
        ("a.tsv", "image\ttext\n", True),
        ("a.tsv", "1.png\t12\n", True),  # without a header
        ("a.tab", "picture\tnumber\n", True),  # whose columns the user is told to name
        ("a.tsv", PIXELS, False),
        ("a.csv", PIXELS.replace("\t", ","), False),
        ("a.csv", 'text, "image"\n', True),
        ("a.csv", "text;image;split\n", True),
        ("a.csv", "label,image0,image1,context\n", False),
        ("a.csv", "filename,number,boxes_left_top_width_height\n", True),
        ("a.jsonl", "{}\n", True),
        ("a.csv", "", False),
        ("a.txt", "image\ttext\n", False),
    ],
)
def test_tables_are_told_from_pixels(tmp_path, name, first, expected):
    (tmp_path / name).write_text(first)
    assert is_table(str(tmp_path / name)) is expected


def test_columns_with_numbers_are_of_a_table(tmp_path):
    (tmp_path / "a.csv").write_text("12,1.png\n")
    assert not is_table(str(tmp_path / "a.csv"))
    assert is_table(str(tmp_path / "a.csv"), "1", "2")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no named pipes")
def test_a_pipe_with_pixels_can_be_predicted(tmp_path):
    task, data, *_ = made()
    pipe = tmp_path / "a.csv"
    os.mkfifo(pipe)
    row = ",".join(["3", *["9"] * math.prod(data.facts["shape"])])
    writing = threading.Thread(target=pipe.write_text, args=(f"{row}\n{row}\n",), daemon=True)
    writing.start()
    assert task.inputs_together([str(pipe)], data.facts) is None
    assert len(list(task.inputs(str(pipe), data.facts))) == 2
    writing.join()


def test_scores_beside_baselines():
    pytest.importorskip("sklearn")
    task, data, model, params = made()
    found = task.assess(model, params, data, name="run", training=data.train)
    assert [score.name for score in found.scores] == ["run", "the commonest digits", "a linear model of 60 images"]
    lengths, glimpses = found.figures
    assert lengths.key == "lengths"
    assert sum(row[1] for row in lengths.rows) == len(data.valid)
    weighed = sum(row[1] * row[2] for row in lengths.rows) / len(data.valid)
    assert weighed == pytest.approx(found.scores[0].metrics["accuracy"])
    assert [row[0] for row in glimpses.rows] == [1, 2]
    assert sum(row[2] for row in glimpses.rows) == pytest.approx(1)
    assert task.assess(model, params, data, name="run").scores[1:] == ()
    assert task.contains(data.train, data.train[:3])
    assert not task.contains(data.train, data.valid)


def test_single_digits_have_a_table_by_class(tmp_path):
    task, data, model, params = made(files=[digits(tmp_path / "images-idx3-ubyte", 40)], image_size=0)
    found = task.assess(model, params, data, name="run")
    assert [figure.key for figure in found.figures] == ["classes", "confusion", "glimpses"]
    assert task.guessing(data.facts) == pytest.approx(np.log(10))
    assert model.symbols == 1


# Messages


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"glimpses": 0}, "glimpses is 0; it must be at least 1"),
        ({"size": 0}, "size is 0; it must be at least 1"),
        ({"spread": 0.0}, "spread is 0; it must be above 0 and at most 1"),
        ({"spread": float("nan")}, "spread is nan; it must be above 0 and at most 1"),
        ({"clutter": 4}, "clutter is 4, and there is no canvas for it: set canvas, such as canvas=60"),
        ({"valid_fraction": 1.0}, "valid_fraction is 1; it must be at least 0 and below 1"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Read(**options)


def refusal(function, *arguments, **options):
    with pytest.raises(UserError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def test_what_does_not_suit_the_network(tmp_path):
    task, data, _, _ = made()
    assert refusal(task.model, data.facts, replace(network(), embedding_size=5)) == (
        "--embedding-size is 5, but the inputs are images: leave it out"
    )
    assert refusal(replace(task, context=13).model, data.facts, network()) == (
        "context is 13, and the images are 12x12: it can be at most 12"
    )
    file = digits(tmp_path / "images-idx3-ubyte")
    assert refusal(Read(canvas=8).read, [file]) == "pictures of 9x9 do not fit on a canvas of 8x8"
    short = data.facts | {"longest": 2}
    assert refusal(task.read, [NUMBERS], short, purpose="evaluate").endswith(
        " digits; the network reads numbers of at most 2 digits, as those that it was trained on"
    )
    for name, wrong in (("mean", []), ("shape", [12, 12]), ("ends", 1), ("longest", 0)):
        with pytest.raises(ValueError, match=name):
            task.check_facts(data.facts | {name: wrong})
    assert task.check_facts(data.facts) is data.facts


@pytest.fixture
def home(tmp_path, monkeypatch):
    settle(tmp_path, monkeypatch)


def run(*arguments):
    result = CliRunner().invoke(rnn, arguments)
    assert result.exit_code == 0, result.output
    return result


def refused(*arguments):
    result = CliRunner().invoke(rnn, arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return result.stderr


TINY = ("--hidden-size", "6", "--batch-size", "5", "--steps", "4", "--seed", "1", "--task-option", "glimpses=2")


def test_a_folder_of_pictures_with_a_table(home):
    Image = pytest.importorskip("PIL.Image")
    Path("mine").mkdir()
    rows = ["image\ttext"]
    for i, text in enumerate(("7", "12", "365", "40", "81", "9") * 2):
        pixels = np.random.default_rng(i).integers(0, 256, (16, 20, 3), np.uint8)
        Image.fromarray(pixels).save(f"mine/{i}.png")
        rows.append(f"{i}.png\t{text}")
    Path("mine/numbers.tsv").write_text("\n".join(rows) + "\n")
    run("train", "--task", "read", "mine", *TINY, "--name", "mine", "--valid-fraction", "0.2")
    line = run("predict", "mine", "mine/3.png").stdout
    assert line.startswith("3.png\t")
    (record,) = map(json.loads, run("predict", "mine", "mine/3.png", "--json", "--explain").stdout.splitlines())
    assert record["input"] == "3.png"
    assert {figure["key"] for figure in record["figures"]} == {"path", "left_out"}
    run("predict", "mine", "mine/3.png", "--png", "path.png", "--html", "page.html")
    assert Path("path.png").read_bytes().startswith(b"\x89PNG")
    assert "data:image/png" in Path("page.html").read_text()
    assert "By number of digits" in run("eval", "mine").stdout
    run("report", "mine", "--kind", "flow", "--lags", "2", "--positions", "4")

    Image.new("L", (8, 8)).save("small.png")
    assert refused("predict", "mine", "small.png") == (
        "Error: 'small.png' has images of 8x8; expected 16x20 (height x width), as the network was trained on: scale "
        "them\n"
    )
    Path("damaged.png").write_bytes(Path("mine/3.png").read_bytes()[:60])
    said = refused("predict", "mine", "damaged.png")
    assert said.startswith("Error: 'damaged.png' cannot be read as a picture (")
    assert said.endswith("); expected PNG, JPEG, BMP, GIF or WebP\n")
    Path("empty").mkdir()
    assert refused("train", "--task", "read", "empty", *TINY) == (
        "Error: there is no picture in the folder 'empty'; expected files ending in .png, .jpg, .jpeg, .bmp, .gif and "
        ".webp\n"
    )
    Path("mine/numbers.tsv").write_text("\n".join(rows).replace("365", "365365") + "\n")
    assert refused("train", "--task", "read", "mine", *TINY) == (
        "Error: mine/numbers.tsv, line 4: the number of '2.png' is '365365'; expected 1 to 5 digits\n"
    )


data_folder = os.environ.get("RNN_LAB_DATA")


@pytest.mark.skipif(not data_folder, reason="RNN_LAB_DATA names no folder with real data")
def test_mnist():
    folder = Path(str(data_folder)) / "mnist"
    data = Read().read([str(folder)])
    assert (len(data.train), len(data.valid)) == (54_000, 6_000)
    assert [example.text for example in data.train[:3]] == ["5", "0", "4"]
    test = Read().read([str(folder)], data.facts, purpose="evaluate")
    assert len(test.valid) == 10_000
    with gzip.open(folder / "t10k-images-idx3-ubyte.gz") as file:
        assert file.read()[16 : 16 + 784] == test.valid[0].picture.pixels().tobytes()
    houses = Read(canvas=0, glimpses=1).read([str(folder.parent / "house-number-layouts.tsv"), str(folder)])
    assert houses.facts["shape"] == [54, 54, 1]
    assert houses.facts["ends"]
    assert houses.facts["longest"] == 5
