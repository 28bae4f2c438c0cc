"""The networks of classification and translation equal the same in PyTorch: losses of a few steps of training."""

import pytest
import sequences
from sequences import Case, our_turn, torch_turn

from minigrad.scan import use_backend


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize(("task", "directions"), [("classify", 1), ("classify", 2), ("translate", 2)])
def test_equals_pytorch(task, directions, cell, monkeypatch):
    pytest.importorskip("torch")
    texts, options = sequences.TASKS[task]
    monkeypatch.setitem(sequences.TASKS, task, (lambda rng: texts(rng)[:50], options))
    monkeypatch.setattr(sequences, "BATCHES", 3)
    case = Case(task, cell, 7, 5, 4, directions)
    with use_backend("numpy"):
        turn, theirs = our_turn(case), torch_turn(case)
        losses = [turn() for _ in range(4)]
    assert losses == pytest.approx([theirs() for _ in range(4)], rel=2e-5)
    assert losses[3] < losses[0]
