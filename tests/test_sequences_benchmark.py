"""The networks of classification and translation equal the same in PyTorch: losses of a few steps of training."""

import os
import subprocess
import sys
from pathlib import Path

import common
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


def test_our_side_has_the_threads_of_products_that_training_has():
    """Threads of OpenBLAS that spin would take the processors from those of the time loop."""
    code = (
        "import common; from minigrad import blas; import numpy as np\n"
        "common.enter_backend('numpy'); np.ones((9, 9)) @ np.ones((9, 9))\n"
        "print(blas.is_given(), blas.counts().small, max(x.num_threads for x in blas._libraries()))"
    )
    given = os.environ | {"OPENBLAS_NUM_THREADS": "2", "PYTHONPATH": str(Path(common.__file__).parent)}
    shown = subprocess.run([sys.executable, "-c", code], env=given, capture_output=True, text=True, check=True).stdout
    assert shown.split() == ["False", "1", "1"]
