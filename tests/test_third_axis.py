"""The benchmark's cells with a third axis, and steps that read a context: sound, planned, and equal to PyTorch's."""

import numpy as np
import pytest
import third_axis_cells as cells
from test_scan_planned import TOLERANCE, no_reference_loop
from third_axis import CASES, Case, difference, our_gradient, torch_gradient, where_it_runs

from minigrad.scan import available_backends, plans, use_backend
from rnn_plugins.testing import check_cell

TINY = {
    "mLSTM": Case(cells.MLSTM(3, 8, heads=2), "mlstm"),
    "fast weights": Case(cells.FastWeights(3, 4, inner=2), "fast_weights"),
    "NTM": Case(cells.NTM(3, 4, locations=5, width=3), "ntm"),
    "stack RNN": Case(cells.StackRNN(3, 4, stacks=2, depth=4), "stack_rnn"),
    "LSTMN": Case(cells.LSTMN(3, 4, window=3), "lstmn"),
    "ConvLSTM": Case(cells.ConvLSTM(18, 27, side=3), "conv_lstm"),
    "DeltaNet": Case(cells.DeltaNet(3, 8, heads=2), "delta_net"),
    "S6": Case(cells.S6(3, 4, states=3, rank=2), "s6"),
    "second-order": Case(cells.SecondOrder(3, 4), "second_order"),
    "Bahdanau": Case(cells.Bahdanau(3, 4, source=6), "bahdanau"),
    "Luong": Case(cells.Luong(3, 4, source=6), "luong"),
    "DRAW read": Case(cells.DrawRead(3, 4, side=6, filters=3), "draw_read"),
}
every_case = pytest.mark.parametrize("name", TINY)


def tiny(name: str) -> Case:
    return Case(TINY[name].cell, TINY[name].peer, length=5, batch=3)


def test_every_case_of_the_benchmark_is_here():
    assert {name: (type(case.cell), case.peer) for name, case in TINY.items()} == {
        name: (type(case.cell), case.peer) for name, case in CASES.items()
    }


@pytest.mark.parametrize("name", [name for name, case in TINY.items() if not hasattr(case.cell, "init_context")])
def test_is_a_sound_cell(name):
    check_cell(TINY[name].cell).raise_if_failed()


@every_case
def test_equals_its_peer(name):
    pytest.importorskip("torch")
    with use_backend("reference"):
        value, gradient = our_gradient(tiny(name), "float64")()
    other, others = torch_gradient(tiny(name), "float64")()
    assert value == pytest.approx(other, rel=1e-12)
    assert difference(gradient, others) < TOLERANCE["float64"]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("backend", available_backends())
@every_case
def test_is_planned_and_equals_the_reference_loop(name, backend, dtype):
    step = our_gradient(tiny(name), dtype)
    with use_backend("reference"):
        value, gradient = step()
    plans._plans.clear()
    with use_backend(backend), no_reference_loop():
        for _ in range(2):  # the second call finds memory that the first one used
            found, others = step()
            assert found == pytest.approx(value, abs=TOLERANCE[dtype] * max(1, abs(value)))
            assert difference(others, gradient) < TOLERANCE[dtype]
            assert [array.dtype for array in others] == [np.dtype(dtype)] * len(others)
        assert where_it_runs(backend) == backend
