"""The networks of reading and painting equal the same in PyTorch: losses of a few steps of training."""

import logging

import glimpses
import numpy as np
import pytest
from glimpses import Case, our_turn, torch_turn

from minigrad import value_and_grad
from minigrad.compiled import jit
from minigrad.scan import use_backend
from minigrad.scan.planned import watched
from minigrad.scan.program import describe


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(("task", "attention"), [("paint", True), ("paint", False), ("read", True)])
def test_equals_pytorch(task, attention, cell, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.setattr(glimpses, "BATCHES", 3)
    monkeypatch.setattr(glimpses, "SIDE", 11)
    case = Case(task, attention, cell, 7, 4)
    with use_backend("numpy"):
        turn, theirs = our_turn(case), torch_turn(case)
        losses = [turn() for _ in range(4)]
    assert losses == pytest.approx([theirs() for _ in range(4)], rel=2e-5)
    assert losses[3] < losses[0]


@pytest.mark.skipif(not jit.available(), reason="needs llvmlite")
@pytest.mark.parametrize(
    ("task", "attention", "stages", "products"),
    [
        ("paint", True, ["loop", "output"], ["5x28 @ 28x28, 5x28 @ 28x5", "28x5 @ 5x5, 28x5 @ 5x28"]),
        ("paint", False, ["context", "loop", "output"], ["context: 1 product (784x1024)", "256x784"]),
        ("read", True, ["input", "loop", "output"], ["8x28 @ 28x28, 8x28 @ 28x8"]),
    ],
)
def test_the_time_loop_is_compiled_whole(task, attention, stages, products, caplog):
    """With one stage of each kind, and all that is known before the loop outside of it."""
    ours = Case(task, attention, "lstm", 256, 4).ours()
    params, rng = ours.init_params(np.random.default_rng(0)), np.random.default_rng(0)
    with caplog.at_level(logging.WARNING, "minigrad"), use_backend("compiled"), watched() as calls:
        value_and_grad(ours.loss, has_aux=True)(params, (), ours.batch(0), rng)
    assert not caplog.records
    (call,) = calls
    assert (call.backend, call.reason) == ("compiled", "")
    assert [stage.name for stage in call.program.stages] == stages
    assert [stage.name for stage in call.program.stages if stage.by_step] == ["loop"]
    lines = "\n".join(describe(call.program))
    for product in products:
        assert product in lines
