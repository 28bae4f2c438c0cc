"""The networks of reading and painting equal the same in PyTorch: losses of a few steps of training."""

import glimpses
import pytest
from glimpses import Case, our_turn, torch_turn

from minigrad.scan import use_backend


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
