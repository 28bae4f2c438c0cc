"""The task paint: the bound against closed forms, the windows against their formulas, and images that it learns."""

import gzip
import json
import math
import os
import re
import struct
import sys
from collections import deque
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import refused, settle, trained
from safetensors.numpy import load_file

import rnn_lab
from minigrad import stepgraph, trees
from minigrad.optimizers import adam
from minigrad.schedules import constant
from minigrad.training import start, train
from rnn_cells import Stacked
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_cli.main import rnn
from rnn_lab.runs import Run
from rnn_plugins import registry
from rnn_plugins.data.numbered import Stored
from rnn_plugins.errors import UserError
from rnn_plugins.reports.gradients import measure_flow
from rnn_plugins.tasks.paint.model import Inputs, Painter, Window
from rnn_plugins.tasks.paint.showing import characters
from rnn_plugins.tasks.paint.task import Paint
from rnn_plugins.tasks.task import Data, Network
from rnn_plugins.testing import check_task

RNG = np.random.default_rng(0)
SHAPE = (5, 4, 1)


def network(make=GRU, size=6, dtype="float64", **more):
    return Network(lambda width: make(width, size), size, None, dtype=dtype, **more)


def painter(shape=SHAPE, latent=2, read=2, write=3, mean=0.2, binarised="no", **more):
    return Painter.make(
        network(**more), shape, latent=latent, read_size=read, write_size=write, mean=(mean,) * shape[2],
        binarised=binarised,
    )  # fmt: skip


def noisy(model, scale=0.3, seed=1):
    rng = np.random.default_rng(seed)
    return trees.map(lambda x: x + rng.normal(0, scale, x.shape), model.init_params(rng))


def drawn(shape=SHAPE, count=3, steps=4, latent=2, seed=2):
    rng = np.random.default_rng(seed)
    pixels = (rng.random((count, *shape)) < 0.4).astype(float)
    return Inputs(pixels, rng.random(pixels.shape), rng.normal(size=(steps, count, latent)))


# --- the bound -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("read", "write"), [(0, 0), (2, 3)])
def test_a_decoder_that_ignores_the_code_gives_the_likelihood_of_independent_pixels(read, write):
    model = painter(read=read, write=write, mean=0.3)
    params = model.init_params(np.random.default_rng(0))
    for name in ("stroke", "code"):
        params[name] = trees.map(np.zeros_like, params[name])
    reconstruction, divergence = model.terms(params, drawn())
    ones = drawn().pixels.sum(axis=(1, 2, 3))
    np.testing.assert_allclose(reconstruction, -ones * math.log(0.3) - (20 - ones) * math.log(0.7), rtol=1e-6)
    np.testing.assert_array_equal(divergence, 0)


@pytest.mark.parametrize("shape", [SHAPE, (3, 4, 3)])
def test_a_decoder_that_ignores_the_code_gives_the_likelihood_of_independent_levels(shape):
    stats = pytest.importorskip("scipy.stats")
    model = painter(shape, mean=0.3, binarised="levels")
    params = model.init_params(np.random.default_rng(0))
    params["stroke"] = trees.map(np.zeros_like, params["stroke"])
    params["scale"] = np.log(np.linspace(0.1, 0.3, shape[2]))
    levels = np.random.default_rng(1).integers(0, 256, (3, *shape))
    reconstruction, _ = model.terms(params, drawn(shape)._replace(pixels=levels / 255))
    borders = np.array([-np.inf, *(np.arange(255) + 0.5) / 255, np.inf])
    p = np.stack([np.diff(stats.logistic.cdf(borders, 0.3, scale)) for scale in np.exp(params["scale"])])  # (C, 256)
    expected = -np.log(p[np.arange(shape[2]), levels]).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(reconstruction, expected, rtol=1e-5)


def test_the_divergence_is_that_of_the_code_at_each_step():
    model = painter()
    params = noisy(model)
    params["code"] = {"W": np.zeros((6, 4)), "b": np.array([0.7, -1.2, -0.5, 0.3])}  # two means, two log deviations
    x = np.linspace(-20, 20, 20_001)

    def density(mean, deviation):
        return np.exp(-((x - mean) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))

    each = 0.0
    for mean, deviation in ((0.7, math.exp(-0.5)), (-1.2, math.exp(0.3))):
        q = density(mean, deviation)
        each += np.trapezoid(q * (np.log(np.maximum(q, 1e-300)) + x**2 / 2 + math.log(2 * math.pi) / 2), x)
    np.testing.assert_allclose(model.terms(params, drawn(steps=4))[1], 4 * each, rtol=1e-6)


def test_the_bound_exceeds_the_likelihood_by_the_divergence_of_the_code_from_the_posterior():
    model = painter((2, 2, 1), latent=1, read=0, write=0)
    params = noisy(model, 0.8)
    nodes, weights = np.polynomial.hermite_e.hermegauss(120)
    weights = weights / weights.sum()
    images = np.array(list(product((0.0, 1.0), repeat=4))).reshape(-1, 2, 2, 1)

    codes = model.paint(params, nodes.reshape(1, -1, 1)).canvases[-1].reshape(-1, 4)
    given = np.exp(-(np.logaddexp(0, codes) @ np.ones(4))[:, None] + codes @ images.reshape(-1, 4).T)  # p(x | z)
    likelihood = weights @ given
    assert likelihood.sum() == pytest.approx(1)  # over all images

    bounds = np.zeros(len(images))
    for node, weight in zip(nodes, weights, strict=True):
        noise = np.full((1, len(images), 1), node)
        bounds += weight * sum(map(np.asarray, model.terms(params, Inputs(images, images, noise))))
    assert (bounds > -np.log(likelihood)).all()

    x = np.linspace(-12, 12, 8001)
    log_p = model.paint(params, x.reshape(1, -1, 1)).canvases[-1].reshape(-1, 4)
    for i, image in enumerate(images.reshape(-1, 4)):
        zero, one = (model.terms(params, Inputs(images[i : i + 1], images[i : i + 1], np.full((1, 1, 1), e)))[1]
                     for e in (0, 1))  # fmt: skip
        assert zero == one  # the divergence does not depend on the noise
        q = posterior_of(model, params, images[i : i + 1], x)
        posterior = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * np.exp(log_p @ image - np.logaddexp(0, log_p).sum(1))
        posterior = posterior / likelihood[i]
        gap = np.trapezoid(np.where(q > 0, q * np.log(np.maximum(q, 1e-300) / posterior), 0), x)
        assert bounds[i] + math.log(likelihood[i]) == pytest.approx(gap, rel=1e-3)


def posterior_of(model, params, image, x):
    """The density of the code at x: from where two kinds of noise move the first canvas of a decoder that is linear."""
    seen = np.concatenate([image.reshape(1, -1), image.reshape(1, -1) - sigmoid(params["canvas"].reshape(1, -1))], 1)
    g = np.zeros((1, 6))
    _, h = model.parts.encoder(params["encoder"], np.zeros((1, 6)), np.concatenate([seen, g], axis=1))
    mean, log_deviation = (np.asarray(h) @ params["code"]["W"] + params["code"]["b"])[0]
    deviation = math.exp(log_deviation)
    return np.exp(-((x - mean) ** 2) / (2 * deviation**2)) / (deviation * math.sqrt(2 * math.pi))


def sigmoid(x):
    return 0.5 + 0.5 * np.tanh(x / 2)


# --- the equations ---------------------------------------------------------------------------------------------------


def bank(params, h, points, height, width):
    """Equations 19 to 26 of the paper, which counts pixels from 1."""
    gx, gy, log_variance, log_spacing, log_intensity = h @ params["W"] + params["b"]
    gx, gy = (width + 1) / 2 * (gx + 1), (height + 1) / 2 * (gy + 1)
    spacing = (max(height, width) - 1) / (points - 1) * math.exp(log_spacing)
    filters = []
    for centre, side in ((gy, height), (gx, width)):
        rows = np.zeros((points, side))
        for i in range(1, points + 1):
            mean = centre + (i - points / 2 - 0.5) * spacing
            rows[i - 1] = [math.exp(-((a - mean) ** 2) / (2 * math.exp(log_variance))) for a in range(1, side + 1)]
            rows[i - 1] /= max(rows[i - 1].sum(), 1e-8)
        filters.append(rows)
    return *filters, math.exp(log_intensity)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("attention", [False, True])
def test_the_terms_are_those_of_the_equations(attention, channels):
    shape, read, write = (5, 4, channels), 2 * attention, 3 * attention
    model, inputs = painter(shape, read=read, write=write), drawn(shape)
    params = noisy(model)
    reconstruction, divergence = map(np.asarray, model.terms(params, inputs))
    for b, x in enumerate(inputs.pixels):
        canvas, g, total = params["canvas"].copy(), np.zeros(6), 0.0
        encoder, decoder = np.zeros((1, 6)), np.zeros((1, 6))
        for noise in inputs.noise[:, b]:
            parts = [x, x - sigmoid(canvas)]
            if attention:
                fy, fx, intensity = bank(params["read"], g, read, 5, 4)
                parts = [intensity * np.einsum("nh,hwc,mw->nmc", fy, part, fx) for part in parts]
            seen = np.concatenate([*(part.ravel() for part in parts), g])[None]
            encoder, h = model.parts.encoder(params["encoder"], encoder, seen)
            code = (h @ params["code"]["W"] + params["code"]["b"])[0]
            mean, deviation = code[:2], np.exp(code[2:])
            total += 0.5 * np.sum(mean**2 + deviation**2 - np.log(deviation**2)) - 2 / 2  # equation 11
            decoder, out = model.parts.decoder(params["decoder"], decoder, (mean + deviation * noise)[None])
            g = out[0]
            stroke = g @ params["stroke"]["W"] + params["stroke"]["b"]
            if attention:
                fy, fx, intensity = bank(params["write"], g, write, 5, 4)
                canvas = canvas + np.einsum("nh,nmc,mw->hwc", fy, stroke.reshape(3, 3, channels), fx) / intensity
            else:
                canvas = canvas + stroke.reshape(shape)
        assert divergence[b] == pytest.approx(total)
        log_p = x * np.log(sigmoid(canvas)) + (1 - x) * np.log(1 - sigmoid(canvas))
        assert reconstruction[b] == pytest.approx(-log_p.sum())


def test_the_first_window_is_the_whole_image():
    window = Window(3, 9, 9)
    params = window.init_params(np.random.default_rng(0), 2)
    place = window.place(params, np.zeros((1, 2)))
    np.testing.assert_allclose(place[0], [4, 4, 4, 4, 1])  # centre, variance, spacing, intensity
    rows, _ = window.filters(place)
    np.testing.assert_allclose((rows[0] * np.arange(9)).sum(axis=1)[1], 4)


def test_the_first_window_of_a_single_pixel_is_finite_and_shows_it():
    window = Window(3, 1, 1)
    place = window.place(window.init_params(np.random.default_rng(0), 2), np.zeros((1, 2)))
    np.testing.assert_allclose(place[0], [0, 0, 0.0625, 0.5, 1])
    rows, columns = window.filters(place)
    np.testing.assert_allclose(rows[0, 1], 1)
    np.testing.assert_allclose(columns[0, 1], 1)


def test_painting_from_the_codes_of_an_image_gives_its_canvases():
    model, inputs = painter(), drawn()
    params = noisy(model)
    params["code"] = {"W": np.zeros((6, 4)), "b": np.array([0.7, -1.2, 0, 0])}
    again = model.again(params, inputs)
    new = model.paint(params, inputs.noise + np.array([0.7, -1.2]))
    np.testing.assert_allclose(again.canvases, new.canvases)
    np.testing.assert_allclose(again.writes, new.writes)
    assert again.canvases.shape == (4, 3, *SHAPE)
    assert again.reads.shape == again.writes.shape == (4, 3, 5)
    assert new.reads is None
    assert new.divergence is None
    np.testing.assert_allclose(again.divergence.sum(axis=0), model.terms(params, inputs)[1])


def test_a_step_is_traced_once(monkeypatch):
    traced, trace = [], stepgraph._traced
    monkeypatch.setattr(stepgraph, "_known", {})  # which is emptied when it is full
    monkeypatch.setattr(stepgraph, "_traced", lambda *given: traced.append(1) or trace(*given))
    for _ in range(2):  # a session makes the model anew, with another function that makes cells
        model = painter(latent=3)
        params = model.init_params(np.random.default_rng(0))
        for count in (3, 5):
            model.terms(params, drawn(count=count, latent=3))
    assert len(traced) == 1


def test_pixels_are_binarised():
    pixels = np.array([0, 0.3, 0.5, 0.9, 1]).reshape(1, 5, 1, 1)
    draws = np.array([0, 0.29, 0.5, 0.95, 0.999]).reshape(1, 5, 1, 1)
    for how, expected in (
        ("anew", [0, 1, 0, 0, 1]), ("once", [0, 1, 0, 0, 1]), ("threshold", [0, 0, 1, 1, 1]), ("no", pixels.ravel()),
    ):  # fmt: skip
        seen = painter((5, 1, 1), binarised=how).seen(Inputs(pixels, draws, np.zeros((1, 1, 2))))
        assert seen.ravel().tolist() == list(expected)


# --- the task --------------------------------------------------------------------------------------------------------


def bars(side=6, count=200, seed=0):
    """Images with one vertical or horizontal bar: 12 of them, all equally likely."""
    which = np.random.default_rng(seed).integers(0, 2 * side, count)
    pixels = np.zeros((count, side, side, 1), np.uint8)
    for image, place in zip(pixels, which, strict=True):
        if place < side:
            image[place] = 255
        else:
            image[:, place - side] = 255
    return pixels


def data_of(pixels, held_out=20, how="threshold", seed=0):
    names = [f"image {i}" for i in range(len(pixels))]
    train, valid = (Stored(pixels, (), names, places) for places in (range(held_out, len(pixels)), range(held_out)))
    mean = pixels.mean(axis=(0, 1, 2)) / 255
    facts = {"shape": list(pixels.shape[1:]), "white": 255, "mean": mean.tolist(), "binarised": how}
    return Data(train, valid, facts, digest="bars", seed=seed)


def write_idx(path, pixels):
    with gzip.open(path, "wb") as file:
        file.write(struct.pack(">4B3I", 0, 0, 8, 3, *pixels.shape[:3]) + pixels.tobytes())
    return str(path)


@pytest.fixture
def images(tmp_path, monkeypatch):
    settle(tmp_path, monkeypatch)
    return write_idx(tmp_path / "bars-idx3-ubyte.gz", bars(count=60))


@pytest.mark.parametrize(
    "options",
    [{}, {"attention": False, "binarised": "threshold"}, {"binarised": "once"}, {"binarised": "no"}],
    ids=str,
)
def test_the_task_passes_its_check(images, options):
    check_task(Paint(steps=3, latent=2, read_size=2, write_size=3, **options), [images]).raise_if_failed()


def test_the_task_passes_its_check_with_a_stack_on_coloured_pictures(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (4, 5, 3), np.uint8)
        image.fromarray(pixels).save(tmp_path / f"{i}.png")
    stack = lambda width: Stacked([LSTM(width, 5), GRU(5, 8)])  # noqa: E731
    task = Paint(steps=2, latent=2, read_size=1, write_size=2)
    check_task(task, [str(tmp_path)], cell=stack).raise_if_failed()
    facts = task.read([str(tmp_path)]).facts
    assert facts["shape"] == [4, 5, 3]
    assert facts["binarised"] == "levels"


@pytest.mark.parametrize("name", [entry.name for entry in registry.entries("cells")])
def test_any_cell_paints(name):
    model = painter(make=lambda width, size: registry.make_cell(name, width, size, {}), size=8, dtype="float32")
    params = model.init_params(np.random.default_rng(0))
    inputs = drawn()
    terms = model.terms(params, inputs)
    assert all(np.isfinite(term).all() and term.dtype == np.float32 for term in map(np.asarray, terms))
    assert model.paint(params, inputs.noise).canvases.shape == (4, 3, *SHAPE)


def test_images_are_drawn_anew_in_each_epoch_or_once():
    pixels = np.full((40, 4, 4, 1), 128, np.uint8)
    pixels[:, 0, 0, 0] = np.arange(40)  # to tell them apart
    for how, alike in (("anew", False), ("once", True)):
        task, data = Paint(steps=2, latent=1, valid_fraction=0), data_of(pixels, 0, how)
        model = task.model(data.facts, network())
        found = []
        for epoch in range(2):
            batches = [task.batch(data, epoch * 4 + step, 10) for step in range(4)]
            seen = {
                round(255 * float(image[0, 0, 0])): drawn.tolist()
                for batch in batches
                for image, drawn in zip(batch.inputs.pixels, model.seen(batch.inputs)[:, 1:], strict=True)
            }
            assert len(seen) == 40
            found.append(seen)
        assert (found[0] == found[1]) == alike
        evaluated = model.seen(task.pack(data.train[:40]).inputs)[:, 1:]
        assert ([found[0][i] for i in range(40)] == evaluated.tolist()) == alike


def test_the_order_and_the_noise_depend_on_the_seed_of_the_run():
    task = Paint(steps=2, latent=1)
    one, same, other = (task.batch(data_of(bars(), seed=seed), 3, 10) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(one.inputs, same.inputs, strict=True))
    assert not any(np.array_equal(a, b) for a, b in zip(one.inputs, other.inputs, strict=True))


def test_auto_goes_by_the_share_of_pixels_that_are_nearly_black_or_white(images, tmp_path):
    assert Paint().read([images]).facts["binarised"] == "anew"
    grey = write_idx(tmp_path / "grey-idx3-ubyte.gz", np.full((20, 4, 4, 1), 90, np.uint8))
    data = Paint().read([grey])
    assert data.facts == {"shape": [4, 4, 1], "white": 255, "mean": pytest.approx([90 / 255]), "binarised": "levels"}
    assert data.about.endswith("; pixels keep their levels")
    some = np.full((20, 4, 4, 1), 90, np.uint8)
    some[:, :2, :, 0] = 255  # half of the pixels
    data = Paint().read([write_idx(tmp_path / "some-idx3-ubyte.gz", some)])
    assert data.facts["binarised"] == "threshold"


@pytest.fixture(scope="module")
def learnt():
    """The task, its data, and a network that has learnt them."""
    task, data = Paint(steps=3, latent=4, read_size=4, write_size=4), data_of(bars())
    model = task.model(data.facts, network(LSTM, 24, "float32"))
    state = start(model.init_params(np.random.default_rng(0)), adam(), (), np.random.default_rng(0))
    batches = (task.batch(data, step, 20) for step in range(300))
    deque(train(model.loss, state, batches, optimizer=adam(), schedule=constant(0.01), clip_norm=5), maxlen=0)
    return task, data, model, state.params


def test_it_learns_bars(learnt):
    task, data, model, params = learnt
    found = task.evaluate(model, params, data.train)
    assert found["loss"] == pytest.approx(found["reconstruction"] + found["divergence"])
    assert math.log(12) < found["loss"] + 0.3  # no code is shorter than the number of the bar
    assert found["loss"] < 10  # independent pixels: 16
    rng = np.random.default_rng(0)
    new = model.paint(params, rng.standard_normal((3, 40, 4), np.float32)).canvases[-1] > 0
    every = {image.tobytes() for image in bars(count=300) > 0}
    assert sum(image.tobytes() in every for image in new) > 4


def test_scores_beside_independent_pixels(learnt):
    task, data, model, params = learnt
    assessment = task.assess(model, params, data, name="run", training=data.train)
    assert [score.name for score in assessment.scores] == ["run", "a mean for each pixel", "one mean for all pixels"]
    images = np.stack([example.pixels() for example in data.valid]) / 255.0
    means = (sum(example.pixels() / 255.0 for example in data.train) + 1) / (len(data.train) + 2)
    expected = [np.log(np.where(images > 0, p, 1 - p)).sum() / -20 for p in (means, means.mean())]
    assert [score.metrics["loss"] for score in assessment.scores[1:]] == pytest.approx(expected)
    assert assessment.scores[1].metrics["divergence"] is None
    assert assessment.verdict[0].startswith("The network's bound, ")
    assert assessment.notices == (
        "the baselines take all pixels to be independent: one mean for all pixels is that of the training images, by "
        "channel; a mean for each pixel is that of 180 training images",
    )
    (chart,) = assessment.figures
    found = assessment.scores[0].metrics
    assert [curve.y[-1] for curve in chart.curves] == pytest.approx(
        [found["reconstruction"], found["divergence"], found["loss"]], rel=1e-5
    )
    assert [score.name for score in task.assess(model, params, data, name="run").scores[1:]] == [
        "one mean for all pixels"
    ]
    assert task.contains(data.train, data.train[:3])
    assert task.guessing(data.facts) == pytest.approx(36 * math.log(2))


def test_baselines_are_means_of_pixels_after_the_threshold():
    pixels = np.random.default_rng(0).choice(np.array([80, 220], np.uint8), (60, 2, 2, 1))  # grey, not black or white
    data = data_of(pixels)
    task = Paint(steps=1, latent=1)
    model = task.model(data.facts, network())
    params = model.init_params(np.random.default_rng(0))
    assessment = task.assess(model, params, data, name="run", training=data.train)
    valid, means = pixels[:20] > 127, ((pixels[20:] > 127).sum(axis=0) + 1) / 42
    expected = [np.log(np.where(valid, p, 1 - p)).sum() / -20 for p in (means, means.mean())]
    assert [score.metrics["loss"] for score in assessment.scores[1:]] == pytest.approx(expected)


def test_levels_have_baselines_and_a_probe_of_their_own():
    pixels = np.random.default_rng(0).integers(0, 4, (50, 2, 3, 1), np.uint8)
    data = data_of(pixels, how="levels")
    task = Paint(steps=2, latent=1)
    model = task.model(data.facts, network())
    params = model.init_params(np.random.default_rng(0))
    assessment = task.assess(model, params, data, name="run", training=data.train)
    known, seen = (some[..., None] == np.arange(256) for some in (pixels[20:], pixels[:20]))
    each = (known.sum(axis=0) + 1) / (30 + 256)
    together = (known.sum(axis=(0, 1, 2, 3)) + 1) / (180 + 256)
    expected = [-(seen * np.log(p)).sum() / 20 for p in (each, together)]
    assert [score.name for score in assessment.scores[1:]] == [
        "frequencies for each pixel",
        "frequencies for all pixels",
    ]
    assert [score.metrics["loss"] for score in assessment.scores[1:]] == pytest.approx(expected)
    assert assessment.notices == (
        "the baselines take all pixels to be independent, and their levels as frequent as in 30 training images, by "
        "channel",
    )
    assert task.guessing(data.facts) == pytest.approx(6 * math.log(256))
    probe = task.probe(model, params, data.valid, data.facts)
    window, ends = probe.window(np.arange(20), 2), np.arange(20)
    _, outputs = probe.cell.unroll(probe.params, window.carry, window.xs)
    losses = np.asarray(probe.loss(outputs, probe.targets(ends, 2)))
    np.testing.assert_allclose(losses, model.terms(params, task.pack(data.valid).inputs)[0], rtol=1e-6)


def test_the_default_files_need_no_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    task = Paint()
    assert task.default_files == ("builtin:numbers:5000",)
    assert len(task.read(task.default_files).train) == 5000


def test_grey_pixels_have_an_entropy_of_their_own():
    data = data_of(np.full((30, 2, 2, 1), 64, np.uint8), how="no")
    task = Paint(steps=1, latent=1)
    model = task.model(data.facts, network())
    assessment = task.assess(model, model.init_params(np.random.default_rng(0)), data, name="run")
    p = 64 / 255
    entropy = -4 * (p * math.log(p) + (1 - p) * math.log(1 - p))
    assert assessment.notices[1] == (
        f"the pixels are means of Bernoulli variables, whose own entropy, {entropy:.2f} nats per image, is part of "
        "each bound"
    )


def test_the_probe_has_the_reconstruction_of_the_model_and_gradients_of_every_stroke(learnt):
    task, data, model, params = learnt
    probe = task.probe(model, params, data.valid, data.facts)
    assert [state.name for state in probe.anatomy.states] == [
        "h",
        "canvas",
        "decoder.0",
        "decoder.1",
        "encoder.0",
        "encoder.1",
    ]
    ends = np.arange(20)
    window = probe.window(ends, 3)
    _, outputs = probe.cell.unroll(probe.params, window.carry, window.xs)
    losses = np.asarray(probe.loss(outputs, probe.targets(ends, 3)))
    reconstruction, _ = model.terms(params, task.pack(data.valid[:20]).inputs)
    np.testing.assert_allclose(losses, reconstruction, rtol=1e-4)
    norms = measure_flow(probe, 2, 20)
    assert (norms.mean[0] > 0).all()
    # Whatever is on the canvas stays there, so its gradient is at least that of the last one through no other path.
    canvas = norms.mean[1]
    errors = [
        np.linalg.norm(sigmoid(y) - x)
        for y, x in zip(np.asarray(outputs)[-1], bars()[:20].reshape(20, -1) / 255, strict=True)
    ]
    assert canvas[0] == pytest.approx(np.mean(errors), rel=1e-4)


def test_predictions_do_not_depend_on_their_company(learnt):
    task, data, model, params = learnt
    pixels = [example.pixels() for example in data.valid[:3]]
    found = list(task.predict(model, params, data.facts, pixels))
    assert [prediction.record["input"] for prediction in found] == ["image 0", "image 1", "image 2"]
    together = task._packed([(image / np.float32(255), 0) for image in pixels]).inputs
    reconstruction, divergence = model.terms(params, together)
    assert [prediction.record["bound"] for prediction in found] == pytest.approx(
        (reconstruction + divergence).tolist(), rel=1e-5
    )
    record = found[0].record
    assert found[0].text == (
        f"image 0\t{record['bound']:.2f} nats ({record['reconstruction']:.2f} + {record['divergence']:.2f})"
    )
    (alone,) = task.predict(model, params, data.facts, pixels[2:])
    assert alone.record["bound"] == pytest.approx(found[2].record["bound"])
    with pytest.raises(UserError, match="image 0 has images of 4x4; expected 6x6"):
        list(task.predict(model, params, data.facts, [pixels[0][:4, :4]]))


def test_an_excerpt_shows_new_images(learnt):
    task, data, model, params = learnt
    lines = task.excerpt(model, params, data, 100, np.random.default_rng(0)).splitlines()
    assert len(lines) == 3  # two rows of pixels in one of characters
    assert len(set("".join(lines))) > 3


def test_characters_are_as_dark_as_pixels():
    images = np.zeros((2, 4, 3))
    images[0, :2, 1] = 1
    images[1, 3] = 1
    assert characters(images) == [" @      ", "     +++"]


def choice(**how):
    from rnn_plugins.language.sampling import Choice

    return Choice(**how)


def test_new_images_are_painted_from_noise(learnt):
    task, data, model, params = learnt

    def new(count, **how):
        return list(task.generate(model, params, data.facts, [None] * count, choice(**how), np.random.default_rng(5)))

    found = new(3)
    assert [one.figures[0].title for one in found] == ["image 1", "image 2", "image 3"]
    codes = np.random.default_rng(5).standard_normal((3, 3, 4), np.float32).swapaxes(0, 1)
    expected = sigmoid(model.paint(params, codes).canvases)
    for i, (one, alone) in enumerate(zip(found, new(1) + [None] * 2, strict=True)):
        np.testing.assert_allclose(one.record["pixels"], expected[-1, i], atol=1e-6)
        if alone:  # it does not depend on how many follow
            np.testing.assert_allclose(one.record["pixels"], alone.record["pixels"], atol=1e-6)
        (shown,) = one.figures
        np.testing.assert_array_equal(shown.panels[0].pixels, np.rint(255 * expected[-1, i, :, :, 0]))
        assert [panel.label for panel in shown.steps] == ["stroke 1", "stroke 2", "stroke 3"]
        np.testing.assert_array_equal(shown.steps[1].pixels, np.rint(255 * expected[1, i, :, :, 0]))
        assert [frame.colour for panel in shown.steps for frame in panel.frames] == [0, 0, 0]
    cold, greedy = new(2, temperature=1e-8), new(2, greedy=True)
    for one in cold:
        np.testing.assert_allclose(one.record["pixels"], greedy[0].record["pixels"], atol=1e-3)
    with pytest.raises(UserError, match="--top-k and --top-p choose among symbols, and a code has none"):
        new(1, top_k=2)
    with pytest.raises(UserError, match="new images are painted from noise alone, without an INPUT"):
        list(task.generate(model, params, data.facts, ["a.png"], choice(), np.random.default_rng(5)))


def test_a_prediction_shows_the_image_painted_again_with_where_it_was_read_and_written(learnt):
    task, data, model, params = learnt
    pixels = data.valid[0].pixels()
    (found,) = task.predict(model, params, data.facts, [pixels], explain=True)
    (shown,) = found.figures
    assert [panel.label for panel in shown.panels] == ["image 0", "painted again"]
    np.testing.assert_array_equal(shown.panels[0].pixels, pixels[..., 0])
    batch = task.pack(data.valid[:1]).inputs  # its place is 0, as that of an array
    again = model.again(params, batch._replace(noise=np.zeros_like(batch.noise)))
    np.testing.assert_array_equal(shown.panels[1].pixels, np.rint(255 * sigmoid(again.canvases[-1, 0, :, :, 0])))
    for t, panel in enumerate(shown.steps):
        for frame, places in zip(panel.frames, (again.reads, again.writes), strict=True):
            x, y, variance, spacing, _ = places[t, 0]
            middle = frame.top + frame.height / 2, frame.left + frame.width / 2
            assert middle == pytest.approx((y + 0.5, x + 0.5))  # of pixels whose edges are at whole numbers
            assert frame.height == frame.width == pytest.approx(3 * spacing + 2 * math.sqrt(variance))


def test_without_attention_there_are_no_frames():
    data = data_of(bars(count=30))
    task = Paint(steps=2, latent=1, attention=False)
    model = task.model(data.facts, network())
    params = model.init_params(np.random.default_rng(0))
    (found,) = task.generate(model, params, data.facts, [None], choice(), np.random.default_rng(0))
    assert [panel.frames for panel in found.figures[0].steps] == [(), ()]
    assert found.figures[0].definition.endswith("the probability of white.")


# --- messages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("steps=0", "steps is 0; it must be at least 1"),
        ("latent=0", "latent is 0; it must be at least 1"),
        ("read_size=0", "read_size is 0; it must be at least 1"),
        ("image_size=-1", "image_size is -1; it must be at least 0"),
    ],
)
def test_options_out_of_range_are_refused(images, option, message):
    assert message in refused("--task", "paint", images, "--task-option", option)


def test_an_embedding_is_refused(images):
    assert refused("--task", "paint", images, "--embedding-size", "8") == (
        "--embedding-size is 8, but the inputs are images: leave it out"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [6, 6]}, "shape and white are [6, 6, 255]; expected four whole numbers of at least 1"),
        ({"mean": [2.0]}, "mean is [2.0]; expected a number from 0 to 1 per channel"),
        ({"binarised": "x"}, "binarised is 'x'; expected anew, once, threshold, levels, no"),
    ],
)
def test_damaged_facts_are_refused(change, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Paint().check_facts(data_of(bars()).facts | change)


# --- the commands ----------------------------------------------------------------------------------------------------

SMALL = [
    "--hidden-size", "6", "--batch-size", "10", "--seed", "1", "--dropout", "0.1", "--log-every", "1",
    "--task-option", "steps=2",
]  # fmt: skip


def run(*words):
    result = CliRunner().invoke(rnn, words)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_an_interrupted_run_goes_on_bit_for_bit(images):
    whole, _ = trained("--task", "paint", images, *SMALL, "--steps", "9", "--name", "whole")
    for record in rnn_lab.training(name="parts", **whole.settings.to_json()):
        if record["step"] == 5:
            break
    assert Run(Path("runs/parts")).manifest["outcome"] == "interrupted"
    run("train", "--resume", "parts")
    for file in ("last.safetensors", "model.safetensors"):
        one, other = (load_file(f"runs/{name}/{file}") for name in ("whole", "parts"))
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[key], other[key]) for key in one)


def test_from_training_to_prediction(images):
    run("train", "--task", "paint", images, *SMALL, "--steps", "3", "--name", "few")
    lines = run("predict", "few", images, "--json").splitlines()
    assert len(lines) == 60
    assert json.loads(lines[0]).keys() == {"input", "bound", "reconstruction", "divergence"}
    scores = run("eval", "few")
    assert "BOUND" in scores
    assert "one mean for all pixels" in scores
    drawn = run("sample", "few", "--count", "3", "--seed", "1", "--png", "new.png", "--gif", "new.gif")
    assert drawn == run("sample", "few", "--count", "3", "--seed", "1")
    assert Path("new.png").read_bytes().startswith(b"\x89PNG")
    assert Path("new.gif").read_bytes().startswith(b"GIF8")
    run("predict", "few", images, "--png", "again.png")
    assert Path("again.png").stat().st_size > 0
    assert "canvas" in run("report", "few", "--kind", "flow", "--lags", "1", "--positions", "2")


data_folder = os.environ.get("RNN_LAB_DATA")


@pytest.mark.skipif(not data_folder, reason="RNN_LAB_DATA names no folder with real data")
def test_mnist():
    data = Paint(valid_fraction=0.1).read([str(Path(str(data_folder)) / "mnist")])
    assert (len(data.train), len(data.valid)) == (54_000, 6_000)
    assert data.facts["binarised"] == "anew"
    assert data.facts["mean"][0] == pytest.approx(0.1307, abs=0.005)
