"""Parts of models that several tasks share, and batches of examples of like length."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib import import_module

import numpy as np
import pytest

from minigrad import sum, value_and_grad
from rnn_cells import GRU, LSTM, Bidirectional
from rnn_plugins import registry
from rnn_plugins.data.balance import weights_of
from rnn_plugins.data.tokens import Tokens
from rnn_plugins.errors import UserError
from rnn_plugins.options import options_of
from rnn_plugins.tasks import blocks
from rnn_plugins.tasks.task import POOL, Batch, Data, Network, Task

NETWORK = Network(lambda width: GRU(width, 4))
SEQUENCES = [np.array([1, 4, 2]), np.array([0, 3, 3, 1, 2]), np.array([4])]


@dataclass(frozen=True)
class Lengths(Task):
    """Examples that are numbers of steps."""

    def read(self, files, facts=None, *, purpose="train"):
        return Data(list(range(1, 1 + int(files[0]))), [], {})

    def model(self, facts, network):
        raise NotImplementedError

    def length(self, example):
        return example

    def pack(self, examples):
        return Batch(examples, None, len(examples))


def batches(count: int, size: int, epoch: int = 0) -> list[list[int]]:
    task = Lengths()
    data = task.read([str(count)])
    steps = task.steps_per_epoch(data, size)
    return [task.batch(data, epoch * steps + step, size).inputs for step in range(steps)]


def test_a_batch_has_examples_of_like_length():
    found = batches(4 * POOL * 8, 8)
    assert sorted(sum_of(found)) == list(range(1, 1 + 4 * POOL * 8))
    spread = np.mean([max(batch) - min(batch) for batch in found])
    assert spread < 0.05 * 4 * POOL * 8
    longest = [max(batch) for batch in found]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.3  # short ones do not come first


def sum_of(found: list[list[int]]) -> list[int]:
    return [example for batch in found for example in batch]


def test_epochs_have_other_batches_and_leave_out_other_examples():
    first, second = batches(103, 10), batches(103, 10, epoch=1)
    assert {frozenset(batch) for batch in first} != {frozenset(batch) for batch in second}
    left_out = [set(range(1, 104)) - set(sum_of(found)) for found in (first, second)]
    assert left_out[0] != left_out[1]
    assert not left_out[0] & {103, 102, 101} or not left_out[1] & {103, 102, 101}  # not always the longest


def test_a_batch_is_a_function_of_the_step_and_rows_are_its_share():
    task = Lengths()
    data = task.read(["103"])
    backwards = [task.batch(data, step, 10).inputs for step in reversed(range(20))]
    assert backwards[::-1] == [task.batch(task.read(["103"]), step, 10).inputs for step in range(20)]
    whole = task.batch(data, 3, 10).inputs
    assert task.batch(data, 3, 10, slice(0, 5)).inputs + task.batch(data, 3, 10, slice(5, 10)).inputs == whole


def test_another_seed_gives_other_batches():
    task = Lengths()
    data = task.read(["103"])
    first, again, other = (task.batch(replace(data, seed=seed), 3, 10).inputs for seed in (1, 1, 2))
    assert first == again != other


def test_lengths_are_counted_once(monkeypatch: pytest.MonkeyPatch):
    counted: list[int] = []
    monkeypatch.setattr(Lengths, "length", lambda self, example: counted.append(example) or example)
    task = Lengths()
    data = task.read(["40"])
    for step in range(12):
        task.batch(data, step, 10)
    assert len(counted) == 40


def test_padding():
    together, lengths = blocks.padded(SEQUENCES, fill=9)
    assert together.tolist() == [[1, 0, 4], [4, 3, 9], [2, 3, 9], [9, 1, 9], [9, 2, 9]]
    assert lengths.tolist() == [3, 5, 1]
    live = blocks.mask(lengths, 5)
    assert live.sum(axis=0).tolist() == [3, 5, 1]
    assert blocks.masked_mean(together.astype(float), live) == pytest.approx(together[live].mean())


@pytest.mark.parametrize("width", [0, 3])
@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("how", ["last", "mean", "max"])
def test_pooled_outputs_do_not_depend_on_padding(width: int, directions: int, how: blocks.Pool):
    rng = np.random.default_rng(0)
    symbols = blocks.Symbols(5, width, "float64")
    cell = blocks.recurrent(NETWORK, symbols.input_size, directions)
    assert isinstance(cell, Bidirectional) == (directions == 2)
    params = {"symbols": symbols.init_params(rng), "cell": blocks.trees.cast(cell.init_params(rng), "float64")}

    def total(params, sequences):
        ids, lengths = blocks.padded(sequences)
        ys = blocks.unroll(cell, params["cell"], symbols(params["symbols"], ids), lengths, "float64", None)
        return sum(blocks.pool(ys, lengths, how, cell) ** 2)

    value, gradient = value_and_grad(total)(params, SEQUENCES)
    alone = [value_and_grad(total)(params, [sequence]) for sequence in SEQUENCES]
    assert value == pytest.approx(np.sum([value for value, _ in alone]), rel=1e-12)
    for leaves in zip(*map(blocks.trees.leaves, (gradient, *(gradient for _, gradient in alone))), strict=True):
        np.testing.assert_allclose(leaves[0], np.sum(leaves[1:], axis=0), rtol=1e-9, atol=1e-12)


def test_the_last_output_of_each_direction_is_taken():
    cell = Bidirectional(GRU(2, 3), LSTM(2, 1))
    ys = np.arange(2 * 2 * 4, dtype=float).reshape(2, 2, 4)
    found = blocks.pool(ys, np.array([1, 2]), "last", cell)
    assert found.tolist() == [[*ys[0, 0, :3], *ys[0, 0, 3:]], [*ys[1, 1, :3], *ys[0, 1, 3:]]]


def test_items_are_taken_as_they_are_needed():
    taken: list[int] = []
    parts = blocks.chunks((taken.append(i) or i for i in range(10)), 4)
    assert next(parts) == [0, 1, 2, 3]
    assert len(taken) == 4
    assert [len(part) for part in parts] == [4, 2]


def test_the_width_of_an_embedding():
    assert blocks.with_width(NETWORK, 256).embedding_size == 0
    assert blocks.with_width(NETWORK, 257).embedding_size == 128
    assert blocks.with_width(Network(NETWORK.make_cell, 64), 257).embedding_size == 64
    assert blocks.with_width(NETWORK, 257, vectors=300).embedding_size == 300
    assert blocks.with_width(Network(NETWORK.make_cell, embedding_size=7), 257, vectors=300).embedding_size == 7
    blocks.require_width(0, 2048, "words")
    blocks.require_width(3, 5000, "words", vectors=3, file="glove.txt")
    with pytest.raises(UserError) as caught:
        blocks.require_width(0, 2049, "characters")
    assert str(caught.value) == (
        "--embedding-size is 0, so 2,049 characters would be one-hot vectors, which are for at most 2,048: give a "
        "width, such as 128"
    )


@pytest.mark.parametrize("option", ["max_words", "image_size", "directions", "freeze", "beam"])
def test_an_option_of_several_tasks_has_one_help(option: str):
    helps = {
        entry.name: found.help
        for entry in registry.entries("tasks")
        for found in options_of(registry.load("tasks", entry.name))
        if found.name == option
    }
    assert len(helps) > 1
    assert len(set(helps.values())) == 1


def test_labels_are_weighed_by_their_counts():
    assert weights_of([6, 2], balanced=False).tolist() == [1, 1]
    weights = weights_of([6, 2], balanced=True)
    assert (weights * [6, 2]).tolist() == [4, 4]  # alike together, and 1 in the mean
    assert weights_of([6, 0, 2], balanced=True).tolist() == [*weights[:1], 4, *weights[1:]]


@pytest.mark.parametrize(("module", "name"), [("classify", "Classify"), ("caption", "Caption")])
def test_many_words_need_an_embedding(module: str, name: str):
    task = getattr(import_module(f"rnn_plugins.tasks.{module}.task"), name)()
    words = Tokens("word", ("<unk>", "<end>", *(f"w{i}" for i in range(3000))), 2).to_json()
    facts = {"kind": "texts", "labels": ["a", "b"], "vectors": 0, "tokens": words}
    facts |= {"shape": [8, 8, 1], "mean": [0.0], "deviation": [1.0]}
    with pytest.raises(UserError, match=r"^--embedding-size is 0, so 3,002 words would be one-hot .* set max_words$"):
        task.model(facts, Network(NETWORK.make_cell, embedding_size=0))


def test_an_embedding_is_refused_where_there_are_no_symbols():
    blocks.no_embedding(NETWORK, "the inputs are images")
    with pytest.raises(UserError, match=r"^--embedding-size is 8, but the inputs are images: leave it out$"):
        blocks.no_embedding(Network(NETWORK.make_cell, embedding_size=8), "the inputs are images")
