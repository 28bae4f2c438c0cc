"""Tied embeddings, and whole symbols dropped from the input of a language model."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import SMALL, refused, settle, trained
from test_scan_planned import no_reference_loop

from minigrad import mean, trees, value_and_grad
from minigrad.functions import Share
from minigrad.scan import available_backends, use_backend
from minigrad.scan.planned import watched
from rnn_cells.gru import GRU
from rnn_cells.lstm import LSTM
from rnn_cli.main import rnn
from rnn_lab.runs import Run
from rnn_lab.sessions import same_weights
from rnn_plugins.language.model import Model
from rnn_plugins.language.sampling import Choice, sample

BACKENDS = ("reference", *available_backends())
T, B, V, H = 6, 3, 11, 8


def model(width: int = H, cell: Any = GRU, tied: bool = True, dtype: str = "float64", **more: Any) -> Model:
    return Model(cell(width or V, H), V, width, dtype=dtype, tied=tied, **more)


def given(network: Model) -> tuple[Any, Any, Any, Any]:
    rng = np.random.default_rng(0)
    params = trees.map(lambda leaf: leaf + rng.normal(0, 0.3, leaf.shape), network.init_params(rng))
    tokens = np.random.default_rng(1).integers(0, V, (T + 1, B))
    return trees.cast(params, network.dtype), network.init_carry(B), tokens[:-1], tokens[1:]


def loss_of(network: Model, params: Any, rng: Any = None) -> Any:
    _, carry, tokens, targets = given(network)
    return mean(network.losses(params, carry, tokens, targets, rng=rng)[1])


def untied(params: Any) -> Any:
    """The parameters of a network that is not tied, and computes the same."""
    head = params["head"]
    W = params["embedding"].T
    inputs = params["embedding"] * math.sqrt(params["embedding"].shape[1])
    return params | {"embedding": inputs, "head": {"W": head["P"] @ W if "P" in head else W, "b": head["b"]}}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("width", [H, 5])
def test_a_tied_network_is_one_whose_head_is_its_embedding(width: int, backend: str) -> None:
    network = model(width)
    params, *_ = given(network)
    assert set(params["head"]) == ({"b"} if width == H else {"P", "b"})
    with use_backend("reference"):
        expected, gradient = value_and_grad(lambda p: loss_of(model(width, tied=False), untied(p)))(params)
    with use_backend(backend):
        found, other = value_and_grad(lambda p: loss_of(network, p))(params)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    for a, b in trees.zip_leaves(other, gradient):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("width", [H, 5])
def test_the_gradient_by_differences(width: int) -> None:
    network = model(width, embedding_dropout=0.3)
    params, *_ = given(network)
    rng = np.random.default_rng(3)
    direction = trees.map(lambda p: rng.standard_normal(p.shape), params)

    def at(step: float) -> float:
        moved = trees.map(lambda p, d: p + step * d, params, direction)
        return float(loss_of(network, moved, np.random.default_rng(7)))

    _, gradient = value_and_grad(lambda p: loss_of(network, p, np.random.default_rng(7)))(params)
    expected = sum(float((g * d).sum()) for g, d in trees.zip_leaves(gradient, direction))
    assert (at(1e-6) - at(-1e-6)) / 2e-6 == pytest.approx(expected, rel=1e-7)


def test_every_way_to_score_is_tied() -> None:
    network = model(5)
    params, carry, tokens, _ = given(network)
    plain, other = model(5, tied=False), untied(params)
    np.testing.assert_allclose(network.unroll(params, carry, tokens)[1], plain.unroll(other, carry, tokens)[1])
    np.testing.assert_allclose(network.step(params, carry, tokens[0])[1], plain.step(other, carry, tokens[0])[1])
    assert network.evaluate(params, tokens[:, 0]) == pytest.approx(plain.evaluate(other, tokens[:, 0]), rel=1e-12)
    written = [
        list(zip(range(20), sample(one, some, [1], Choice(never=(2,)), np.random.default_rng(1)), strict=False))
        for one, some in ((network, params), (plain, other))
    ]
    assert written[0] == written[1]
    assert 2 not in {symbol for _, symbol in written[0]}
    work = network.work()
    assert work.step(work.params, work.carry, work.x)[1].shape == (1, V)


def test_the_embedding_starts_as_a_head_does() -> None:
    params = model(256, lambda width, _: GRU(width, 256), dtype="float32").init_params(np.random.default_rng(0))
    limit = np.sqrt(6 / (V + 256))
    assert 0.9 * limit < np.abs(params["embedding"]).max() <= limit
    assert network_size(model(H)) == network_size(model(H, tied=False)) - H * V
    for width in (H, 5):
        flat = trees.flatten(model(width).init_params(np.random.default_rng(0)))
        for path, shape in model(width).shapes_known().items():
            assert flat[path].shape == shape


def network_size(network: Model) -> int:
    return trees.count(network.init_params(np.random.default_rng(0)))


# --- dropped symbols -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(("width", "tied"), [(5, False), (0, False), (H, True)])
def test_a_dropped_symbol_is_read_as_zeros_wherever_it_occurs(width: int, tied: bool, backend: str) -> None:
    network = model(width, tied=tied, embedding_dropout=0.5)
    params, carry, tokens, targets = given(network)
    mask = (np.random.default_rng(9).random((V, 1), np.float32) >= 0.5) * 2.0
    assert 0 < np.count_nonzero(mask) < V
    xs = network.table(params)[tokens] * mask[tokens]
    with use_backend("reference"):
        _, ys = network.cell.unroll(params["cell"], carry, xs)
        expected = np.mean(network.surprise(params, ys, targets))
    with use_backend(backend), watched() as calls:
        found = loss_of(network, params, np.random.default_rng(9))
    assert float(found) == pytest.approx(float(expected), rel=1e-12)
    assert backend == "reference" or [call.backend for call in calls] == [backend] * 2
    without = replace(network, embedding_dropout=0.0)
    assert float(loss_of(network, params)) == float(loss_of(without, params))  # in evaluation, all are read


@pytest.mark.parametrize("backend", available_backends())
def test_it_is_planned_once_whatever_the_mask(backend: str) -> None:
    network, rng = model(5, LSTM, embedding_dropout=0.4), np.random.default_rng(0)
    params, *_ = given(network)
    programs = []
    for _ in range(3):
        with use_backend(backend), watched() as calls, no_reference_loop():
            value_and_grad(lambda p: loss_of(network, p, rng))(params)
        programs.append([id(call.program) for call in calls])
    assert programs[0] == programs[1] == programs[2]


def test_all_shares_of_a_batch_drop_the_same_symbols() -> None:
    network = model(5, tied=False, embedding_dropout=0.5)
    params, carry, tokens, targets = given(network)
    whole = network.losses(params, carry, tokens, targets, rng=np.random.default_rng(4))[1]
    for rows in (slice(0, 1), slice(1, 3)):
        share = Share(np.random.default_rng(4).bit_generator, rows, B)
        part = network.losses(
            params, network.init_carry(len(range(B)[rows])), tokens[:, rows], targets[:, rows], rng=share
        )
        np.testing.assert_allclose(part[1], whole[:, rows], rtol=1e-12)


# --- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settle(tmp_path, monkeypatch)
    return tmp_path


@pytest.mark.usefixtures("home")
def test_a_tied_run_from_training_to_sampling() -> None:
    run, _ = trained("fox.txt", *SMALL, "--tie", "--embedding-dropout", "0.2", "--num-layers", "2")
    assert (run.settings.embedding_size, run.settings.task_option["tie"]) == (5, True)
    assert run.settings.task_option["embedding_dropout"] == 0.2
    assert set(trees.flatten(run.params()["head"])) == {"b"}
    for command in (["sample", run.name, "--length", "9"], ["eval", run.name], ["predict", run.name, "the"]):
        result = CliRunner().invoke(rnn, command)
        assert result.exit_code == 0, result.output
    again = CliRunner().invoke(rnn, ["rerun", run.name])
    assert "The weights are identical to those of gru-fox." in again.stdout
    narrow, _ = trained("fox.txt", *SMALL, "--tie", "--embedding-size", "3", "--name", "narrow")
    assert narrow.params()["head"]["P"].shape == (5, 3)
    other, _ = trained("fox.txt", "--init-from", narrow.name, *SMALL, "--name", "other")
    assert Run(other.path).settings.task_option["tie"] is True
    assert not same_weights(narrow, other)


@pytest.mark.usefixtures("home")
def test_what_cannot_be_tied() -> None:
    assert refused("fox.txt", "--tie", "--embedding-size", "0") == (
        "--tie makes the embedding the output matrix, and with --embedding-size 0 there is none: leave one of them out"
    )
    Path("reviews.tsv").write_text("label\ttext\n" + "a\tgood\nb\tbad\n" * 9)
    assert refused("--task", "classify", "reviews.tsv", "--tie").startswith(
        "the task 'classify' has no option called 'tie'."
    )
    assert refused("fox.txt", "--embedding-dropout", "1") == (
        "--embedding-dropout is 1; it must be at least 0 and below 1"
    )
