"""Training: the hook between gradient and clipping, and two processes that train one network on shares of a batch."""

import copy
import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest

from minigrad import affine, dropout_mask, log_softmax, one_hot, pick, trees, value_and_grad
from minigrad.functions import Share, dropout
from minigrad.optimizers import adam, sgd
from minigrad.training import StepRecord, TrainingState, start, train
from rnn_cells import Stacked
from rnn_cells.gru import GRU
from rnn_cells.stacked import drop_steps
from rnn_plugins.tasks.language_model import LanguageModel
from rnn_plugins.tasks.task import Network as TaskNetwork

SYMBOLS, SIZE, LENGTH = 5, 6, 7
LENGTHS = np.array([7, 2, 7, 1, 3, 5])
SHARES = slice(0, 2), slice(2, 6)
"""Of different size, so that their terms weigh differently in every way."""


class Batch(NamedTuple):
    """Symbols (T, B), those after them, and how many of them there are in each sequence."""

    inputs: Any
    targets: Any
    lengths: Any
    weight: float


@dataclass(frozen=True)
class Network:
    """Predicts symbols, with dropout between two layers and before the head, and on what each sequence begins with."""

    rate: float = 0.0
    variational: bool = False
    dtype: str = "float32"

    @property
    def cell(self) -> Stacked:
        return Stacked([GRU(SYMBOLS, 8), GRU(8, 8)], self.rate, self.variational)

    def init_params(self, rng):
        head = {"W": rng.normal(0, 0.3, (8, SYMBOLS)), "b": np.zeros(SYMBOLS)}
        first = rng.normal(0, 0.3, (1, 8))
        return trees.cast({"cell": self.cell.init_params(rng), "head": head, "first": first}, self.dtype)

    def loss(self, params, carry, batch, rng):
        below, above = trees.cast(self.cell.init_carry(len(batch.lengths)), self.dtype)
        first = below + params["first"]
        carry = (dropout(first, self.rate, rng), above)
        xs = one_hot(batch.inputs, SYMBOLS, self.dtype)
        _, ys = self.cell.unroll(params["cell"], carry, xs, lengths=batch.lengths, rng=rng)
        if self.rate:
            ys = drop_steps(ys, self.rate, self.variational, rng)
        nats = -pick(log_softmax(affine(params["head"], ys)), batch.targets)
        live = np.arange(LENGTH)[:, None] < batch.lengths
        return (nats * live.astype(self.dtype)).sum() / batch.weight, ()


def batch(step: int, rows: slice = slice(None)) -> Batch:
    symbols = np.random.default_rng(step).integers(0, SYMBOLS, (LENGTH + 1, SIZE))[:, rows]
    lengths = LENGTHS[rows]
    return Batch(symbols[:-1], symbols[1:], lengths, float(lengths.sum()))


NETWORKS = [Network(), Network(rate=0.4), Network(rate=0.4, variational=True)]


class Ranks:
    """The weighted mean over two threads, which wait for one another."""

    def __init__(self) -> None:
        self.found: dict[int, Any] = {}
        self.barrier = threading.Barrier(2, timeout=60)

    def mean(self, rank: int, gradients: Any, loss: float, weight: float) -> tuple[Any, float]:
        self.found[rank] = gradients, loss, weight
        self.barrier.wait()
        (a, a_loss, a_weight), (b, b_loss, b_weight) = self.found[0], self.found[1]
        self.barrier.wait()
        whole = a_weight + b_weight
        share = np.float32(a_weight / whole)
        mean = trees.map(lambda x, y: x * share + y * (1 - share), a, b)
        return mean, (a_loss * a_weight + b_loss * b_weight) / whole


def in_two_ranks(run: Any) -> list[Any]:
    """What ``run(rank, reduce)`` gives for two ranks that take the mean of what they find."""
    ranks, results = Ranks(), {}

    def start_rank(rank: int) -> None:
        results[rank] = run(rank, lambda *found: ranks.mean(rank, *found))

    threads = [threading.Thread(target=start_rank, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [results[0], results[1]]


def trained(network: Network, rows: slice = slice(None), reduce: Any = None) -> tuple[TrainingState, list[StepRecord]]:
    generator: Any = np.random.default_rng(3)
    if reduce:
        generator = Share(generator.bit_generator, rows, SIZE)
    optimizer = adam()
    state = start(network.init_params(np.random.default_rng(0)), optimizer, (), generator)
    batches = (batch(step, rows) for step in range(5))
    steps = train(
        network.loss, state, batches, optimizer=optimizer, schedule=lambda step: 0.01, clip_norm=0.3, reduce=reduce
    )
    return state, list(steps)


@pytest.mark.parametrize("network", NETWORKS, ids=["plain", "dropout", "variational"])
def test_two_processes_train_as_one(network):
    results = in_two_ranks(lambda rank, reduce: trained(network, SHARES[rank], reduce))
    (first, first_steps), (second, second_steps) = results
    one, steps = trained(network)
    for a, b in trees.zip_leaves((first.params, first.optimizer), (second.params, second.optimizer)):
        np.testing.assert_array_equal(a, b)
    for a, b in trees.zip_leaves(first.params, one.params):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)
    assert [step.loss for step in first_steps] == [step.loss for step in second_steps]
    np.testing.assert_allclose([s.loss for s in first_steps], [s.loss for s in steps], rtol=1e-5)
    np.testing.assert_allclose([s.gradient_norm for s in first_steps], [s.gradient_norm for s in steps], rtol=1e-4)
    assert {step.weight for step in first_steps} == {9.0}
    assert {step.weight for step in second_steps} == {16.0}
    assert {step.weight for step in steps} == {25.0}
    assert first.rng.bit_generator.state == second.rng.bit_generator.state == one.rng.bit_generator.state


def test_two_processes_train_a_language_model_as_one(tmp_path, monkeypatch):
    monkeypatch.setenv("RNN_LAB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "fox.txt").write_text("the quick brown fox jumps over the lazy dog. " * 12)
    task = LanguageModel(seq_length=7)
    data = task.read([str(tmp_path / "fox.txt")])
    network = TaskNetwork(lambda width: Stacked([GRU(width, 6), GRU(6, 6)], 0.3), 6, 0, dropout=0.3)
    model = task.model(data.facts, network)

    def run(rank: int | None, reduce: Any = None) -> Any:
        rows = slice(None) if rank is None else SHARES[rank]
        generator: Any = np.random.default_rng(3)
        if reduce:
            generator = Share(generator.bit_generator, rows, SIZE)
        optimizer = adam()
        carry = model.init_carry(len(range(SIZE)[rows]))
        state = start(model.init_params(np.random.default_rng(0)), optimizer, carry, generator)
        batches = (task.batch(data, step, SIZE, rows) for step in range(6))
        list(train(model.loss, state, batches, optimizer=optimizer, schedule=lambda step: 0.01, reduce=reduce))
        return state

    (first, second), one = in_two_ranks(run), run(None)
    for a, b in trees.zip_leaves(first.params, second.params):
        np.testing.assert_array_equal(a, b)
    for a, b in trees.zip_leaves(first.params, one.params):
        np.testing.assert_allclose(a, b, rtol=0, atol=2e-5)
    for a, b, c in trees.zip_leaves(first.carry, second.carry, one.carry):
        np.testing.assert_allclose(np.concatenate([a, b]), c, rtol=0, atol=2e-5)


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("variational", [False, True])
def test_the_gradient_of_a_batch_is_the_weighted_mean_of_those_of_its_shares(rate, variational):
    network = Network(rate, variational, "float64")
    params = network.init_params(np.random.default_rng(0))
    gradient = value_and_grad(network.loss, has_aux=True)
    (whole, _), expected = gradient(params, (), batch(0), np.random.default_rng(1))
    loss, mean = 0.0, trees.zeros_like(params)
    for rows in SHARES:
        share = batch(0, rows)
        (value, _), found = gradient(params, (), share, Share(np.random.PCG64(1), rows, SIZE))
        loss += float(value) * share.weight / 25
        mean = trees.map(lambda m, g, w=share.weight: m + g * w / 25, mean, found)
    assert loss == pytest.approx(float(whole), rel=1e-12)
    for a, b in trees.zip_leaves(mean, expected):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("rows", [slice(None), slice(1, 3), slice(4, None), slice(0, 6, 2)])
def test_a_share_draws_the_rows_of_the_whole_mask(axis, rows):
    shape = (SIZE, 6, 3)
    whole = dropout_mask(shape, 0.5, np.random.default_rng(1), axis=axis)
    expected = np.moveaxis(np.moveaxis(whole, axis, 0)[rows], 0, axis)
    generator = Share(np.random.PCG64(1), rows, SIZE)
    np.testing.assert_array_equal(dropout_mask(expected.shape, 0.5, generator, axis=axis), expected)


def test_masks_are_drawn_as_ever():
    drawn = np.random.default_rng(1).random((4, 3), dtype=np.float32) >= 0.3
    expected = drawn.astype(np.float32) / np.float32(0.7)
    np.testing.assert_array_equal(dropout_mask((4, 3), 0.3, np.random.default_rng(1)), expected)
    np.testing.assert_array_equal(dropout_mask((4, 3), 0.3, np.random.default_rng(1), axis=1), expected)


def test_a_copy_of_a_share_draws_the_same_and_leaves_the_original_alone():
    share = Share(np.random.PCG64(1), slice(1, 3), 4)
    other = copy.deepcopy(share)
    assert (other.rows, other.size) == (slice(1, 3), 4)
    first = other.draw((2, 5), 0)
    np.testing.assert_array_equal(share.draw((2, 5), 0), first)


def parabola(params, carry, batch, rng):
    return (params["x"] * params["x"]).sum() / 2, carry


def descend(batches: list[Any], **options: Any) -> tuple[TrainingState, list[StepRecord]]:
    optimizer = sgd()
    state = start({"x": np.array([3.0, 4.0])}, optimizer, (), np.random.default_rng(0))
    return state, list(
        train(
            parabola, state, batches, optimizer=optimizer, schedule=lambda step: 1.0, watch=lambda step: True, **options
        )
    )


def test_a_hook_stands_between_the_gradient_and_its_clipping():
    seen = []

    def reduce(gradients, loss, weight):
        seen.append((gradients["x"].tolist(), loss, weight))
        return {"x": gradients["x"] * 2}, loss + 1

    state, (step,) = descend([Batch((), (), (), 7.0)], reduce=reduce, clip_norm=1.0)
    assert seen == [([3.0, 4.0], 12.5, 7.0)]
    assert (step.loss, step.gradient_norm, step.weight) == (13.5, 10.0, 7.0)
    assert step.details is not None
    assert step.details.gradients["x"].tolist() == [6.0, 8.0]
    np.testing.assert_allclose(state.params["x"], [3.0 - 0.6, 4.0 - 0.8])


def test_a_batch_that_names_no_weight_weighs_one():
    _, (step,) = descend([None])
    assert step.weight == 1.0
