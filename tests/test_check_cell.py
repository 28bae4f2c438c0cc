"""``check_cell`` on cells with one mistake each: it must report that mistake and no other."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import pytest

import minigrad.tensor
from minigrad import concat, concatenate, maximum, relu, tanh, where
from minigrad.tensor import elementwise, value_of
from rnn_cells import Bidirectional, Cell, Stacked
from rnn_plugins.testing import CheckError, check_cell


@dataclass(frozen=True)
class Good(Cell):
    """The plainest cell; each wrong one below changes one thing in it."""

    def init_params(self, rng):
        return {"W": rng.normal(0, 0.5, (self.input_size + self.hidden_size, self.hidden_size)).astype(np.float32)}

    def __call__(self, params, h, x):
        h = self.activation(concat(h, x) @ params["W"])
        return h, h

    def activation(self, x):
        return tanh(x)


def failures(cell: Cell, seed: int = 0) -> dict[str, str]:
    """What a check finds, with # for the numbers, which differ from machine to machine."""
    found = check_cell(cell, rng=np.random.default_rng(seed)).failures
    return {check.name: re.sub(r"\d\.\de[+-]\d\d", "#", check.detail) for check in found}


def test_a_right_cell_passes_every_check():
    report = check_cell(Good(3, 4))
    report.raise_if_failed()
    assert report.passed
    assert [check.name for check in report.checks] == [
        "parameters", "step", "carry structure", "sequence", "purity",
        "gradient of parameter 'W'", "gradient of the carry", "gradient of the input", "gradient with lengths",
        "steps", "chunks", "later inputs",
        "batch rows", "lengths", "reverse", "float32", "small sizes", "checkpoint", "planned loop",
    ]  # fmt: skip
    assert 0 < report.error < 1e-8


# --- gradients --------------------------------------------------------------------------------------------------------


@pytest.fixture
def primitive() -> Iterator[Any]:
    """Makes primitives that are gone after the test, for the tables of primitives are checked elsewhere."""
    made: list[str] = []
    ufuncs = dict(minigrad.tensor.UFUNCS)

    def make(forward, *rules):
        made.append(f"of_test_{len(made)}")
        return elementwise(forward, *rules, name=made[-1])

    yield make
    for name in made:
        del minigrad.tensor.PRIMITIVES[name]
    minigrad.tensor.UFUNCS.update(ufuncs)


EVERY_GRADIENT = (
    "gradient of parameter 'W'", "gradient of the carry", "gradient of the input", "gradient with lengths",
)  # fmt: skip
OFF = "the relative error is #; it must be at most 1e-06"


@pytest.mark.parametrize(
    "rule",
    [
        lambda g, y, x: g * (1 - y * y) * 1.0001,
        lambda g, y, x: g * 2.001 * (1 - y * y),
        lambda g, y, x: g * (1 - y),
        lambda g, y, x: g * (1 - y * y) * np.where(value_of(x) < 0, 1.01, 1),
        lambda g, y, x: -g * (1 - y * y),
    ],
)
def test_a_wrong_derivative_rule_is_found(primitive, rule):
    wrong = primitive(np.tanh, rule)

    class Wrong(Good):
        def activation(self, x):
            return wrong(x)

    assert failures(Wrong(3, 4)) == dict.fromkeys(EVERY_GRADIENT, OFF)


def test_a_gradient_that_is_lost_on_the_way_is_found_in_its_own_row():
    class Detached(Good):
        def __call__(self, params, h, x):
            h = tanh(concat(h, value_of(x)) @ params["W"])
            return h, h

    assert failures(Detached(3, 4)) == dict.fromkeys(("gradient of the input", "gradient with lengths"), OFF)


def test_one_wrong_parameter_is_named():
    class TwoParameters(Good):
        def init_params(self, rng):
            return {"gate": {"W": super().init_params(rng)["W"], "b": np.zeros(self.hidden_size, np.float32)}}

        def __call__(self, params, h, x):
            h = tanh(concat(h, x) @ params["gate"]["W"] + value_of(params["gate"]["b"]))
            return h, h

    assert failures(TwoParameters(3, 4)) == dict.fromkeys(
        ("gradient of parameter 'gate.b'", "gradient with lengths"), OFF
    )


def test_a_wrong_gradient_that_shows_only_in_the_second_step_is_found(primitive):
    # At the first step the carry is zero, so only a check through several steps can see it.
    wrong = primitive(lambda h: h * h, lambda g, y, h: g * h)

    class Wrong(Good):
        def __call__(self, params, h, x):
            h = tanh(concat(wrong(h), x) @ params["W"])
            return h, h

    assert failures(Wrong(3, 4)) == dict.fromkeys(EVERY_GRADIENT, OFF)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("kinked", [relu, abs, lambda x: maximum(x, 0.3 * x), lambda x: where(x > 0, x, 0.1 * x)])
def test_kinks_are_no_faults(kinked, seed):
    class Kinked(Good):
        def activation(self, x):
            return kinked(x)

    check_cell(Kinked(3, 16), rng=np.random.default_rng(seed)).raise_if_failed()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "rule",
    [
        lambda g, y, x: g * (x > -1),  # right for most
        lambda g, y, x: g * (x > 0) * 1.0001,
        lambda g, y, x: g * (x < 0),
        lambda g, y, x: g,
    ],
)
def test_a_wrong_gradient_does_not_hide_behind_kinks(primitive, rule, seed):
    wrong = primitive(lambda x: np.maximum(x, 0), rule)

    class Wrong(Good):
        def activation(self, x):
            return wrong(x)

    assert failures(Wrong(3, 16), seed) == dict.fromkeys(EVERY_GRADIENT, OFF)


def test_a_straight_through_gradient_is_no_gradient(primitive):
    rounded = primitive(lambda x: np.round(x), lambda g, y, x: g)

    class Rounded(Good):
        def activation(self, x):
            return rounded(x)

    assert failures(Rounded(3, 4)) == dict.fromkeys(EVERY_GRADIENT, OFF)


def test_a_gradient_that_is_no_number_is_reported(primitive):
    wrong = primitive(np.tanh, lambda g, y, x: g * np.nan)

    class NoNumber(Good):
        def activation(self, x):
            return wrong(x)

    assert failures(NoNumber(3, 4)) == {
        **dict.fromkeys(EVERY_GRADIENT, "a value or a gradient is not finite"),
        "small sizes": "with T = 1 and B = 1: a gradient is not finite",
        "planned loop": "the backend numpy differs from the reference loop: the relative difference is nan",
    }


def test_a_function_that_jumps_everywhere_is_reported(primitive):
    noise = primitive(lambda x: np.modf(x * 1e9)[0], lambda g, y, x: g * 0)

    class Jumps(Good):
        def activation(self, x):
            return noise(x)

    assert failures(Jumps(3, 16))["gradient of the input"] == (
        "at each of 5 points even the shortest finite differences cross a kink or a jump"
    )


# --- everything else: one wrong cell, the checks that fail, and what each says ----------------------------------------


class Raises(Good):
    def __call__(self, params, h, x):
        raise KeyError("gate")


class WrongOutputShape(Good):
    def __call__(self, params, h, x):
        h, y = super().__call__(params, h, x)
        return h, y[:, :2]


class LosesStructure(Good):
    def init_carry(self, batch_size):
        return super().init_carry(batch_size), super().init_carry(batch_size)

    def __call__(self, params, carry, x):
        h, y = super().__call__(params, carry[0], x)
        return h, y


class CarryGrows(Good):
    def __call__(self, params, h, x):
        new, y = super().__call__(params, h[:, : self.hidden_size], x)
        return concat(h, new), y


class CarryWithoutBatch(Good):
    def init_carry(self, batch_size):
        return {"h": super().init_carry(batch_size), "count": np.zeros((), np.float32)}

    def __call__(self, params, carry, x):
        h, y = super().__call__(params, carry["h"], x)
        return {"h": h, "count": carry["count"] + 1}, y


class NotFinite(Good):
    def activation(self, x):
        return x + np.nan


class CarryNotFinite(Good):
    def init_carry(self, batch_size):
        return {"h": super().init_carry(batch_size), "c": super().init_carry(batch_size)}

    def __call__(self, params, carry, x):
        h, y = super().__call__(params, carry["h"], x)
        return {"h": h, "c": carry["c"] + np.nan}, y


class UnrollTakesNoGenerator(Good):
    def unroll(self, params, carry, xs, *, lengths=None, mask=None, reverse=False):
        return super().unroll(params, carry, xs, lengths=lengths, mask=mask, reverse=reverse)


class Overflows(Good):
    def activation(self, x):
        return np.exp(np.exp(np.exp(x * x * 9)))


class MixesTheBatch(Good):
    def activation(self, x):
        return tanh(x - x.mean(axis=0, keepdims=True)) if x.shape[0] else x


class CountsTheBatch(Good):
    def activation(self, x):
        return tanh(x * (1 + x.shape[0]))


class PeeksAhead(Good):
    def unroll(self, params, carry, xs, **kwargs):
        return super().unroll(params, carry, xs + concatenate([xs[1:], xs[-1:]]), **kwargs)


class StepsDiffer(Good):
    def unroll(self, params, carry, xs, **kwargs):
        return super().unroll(params, carry, xs * 2, **kwargs)


class ForgetsTheCarry(Good):
    def unroll(self, params, carry, xs, **kwargs):
        if not len(xs):
            return super().unroll(params, carry, xs, **kwargs)
        return super().unroll(params, carry * 0, xs, **kwargs)


class IgnoresLengths(Good):
    def unroll(self, params, carry, xs, *, lengths=None, mask=None, **kwargs):
        return super().unroll(params, carry, xs, **kwargs)


class OutputsAfterTheEnd(Good):
    def unroll(self, params, carry, xs, **kwargs):
        carry, ys = super().unroll(params, carry, xs, **kwargs)
        return carry, ys + 1


class IgnoresTheMask(Good):
    def unroll(self, params, carry, xs, *, mask=None, **kwargs):
        return super().unroll(params, carry, xs, **kwargs)


class IgnoresReverse(Good):
    def unroll(self, params, carry, xs, *, reverse=False, **kwargs):
        return super().unroll(params, carry, xs, **kwargs)


class LeavesOutputsReversed(Good):
    def unroll(self, params, carry, xs, *, reverse=False, **kwargs):
        after, ys = super().unroll(params, carry, xs[::-1] if reverse else xs, **kwargs)
        return after, ys


class ChangesTheCarry(Good):
    def __call__(self, params, h, x):
        new = super().__call__(params, h, x)
        if isinstance(h, np.ndarray):
            h *= 0.5
        return new


class ChangesTheInput(Good):
    def unroll(self, params, carry, xs, **kwargs):
        new = super().unroll(params, carry, xs, **kwargs)
        if isinstance(xs, np.ndarray):
            xs[...] = 0
        return new


class ChangesAParameter(Good):
    def __call__(self, params, h, x):
        new = super().__call__(params, h, x)
        if isinstance(params["W"], np.ndarray):
            params["W"] += 1
        return new


@dataclass(frozen=True)
class KeepsABuffer(Good):
    buffers: dict[Any, Any] = field(default_factory=dict, compare=False)

    def unroll(self, params, carry, xs, **kwargs):
        carry, ys = super().unroll(params, carry, xs, **kwargs)
        if not isinstance(ys, np.ndarray):
            return carry, ys
        out = self.buffers.setdefault((ys.shape, ys.dtype), np.empty_like(ys))
        out[...] = ys
        return carry, out


@dataclass(frozen=True)
class KeepsState(Good):
    calls: list[int] = field(default_factory=list)

    def activation(self, x):
        self.calls.append(1)
        return tanh(x + 0.001 * len(self.calls))


class KeepsTheLast(Good):
    def __call__(self, params, h, x):
        object.__setattr__(self, "last", x)
        return super().__call__(params, h, x)


class DrawsAtRandom(Good):
    def activation(self, x):
        return tanh(x + np.random.default_rng().random(x.shape).astype(x.dtype))


class IgnoresTheSeed(Good):
    def init_params(self, rng):
        return super().init_params(np.random.default_rng())


ZEROS = {n: np.zeros((n, 4), np.float32) for n in range(9)}


class OneArrayForAll(Good):
    def init_carry(self, batch_size):
        return ZEROS[batch_size]


class Float64Parameters(Good):
    def init_params(self, rng):
        return {"W": super().init_params(rng)["W"].astype(np.float64)}


class Float64Carry(Good):
    def init_carry(self, batch_size):
        return np.zeros((batch_size, self.hidden_size))


class Upcasts(Good):
    def activation(self, x):
        return tanh(x * np.float64(0.5))


class UpcastsTheOutput(Good):
    def __call__(self, params, h, x):
        h, y = super().__call__(params, h, x)
        return h, y * np.ones(self.hidden_size)


class FailsWithoutBatch(Good):
    def activation(self, x):
        return tanh(x - 0 * value_of(x).max())


class ComputesASizeWithoutBatch(Good):
    def activation(self, x):
        return tanh(x.reshape(x.shape[0], -1))


class WarnsWithoutBatch(Good):
    def activation(self, x):
        return tanh(x) + 0 * float(value_of(x).mean())


class FailsWithoutSteps(Good):
    def unroll(self, params, carry, xs, **kwargs):
        return super().unroll(params, carry, xs + 0 * xs[-1], **kwargs)


class LosesTheLastAxis(Good):
    def unroll(self, params, carry, xs, **kwargs):
        carry, ys = super().unroll(params, carry, xs, **kwargs)
        return carry, ys if xs.shape[1] != 1 else ys[:, 0]


class NumberAsParameter(Good):
    def init_params(self, rng):
        return super().init_params(rng) | {"scale": 0.5}

    def __call__(self, params, h, x):
        h = tanh(params["scale"] * concat(h, x) @ params["W"])
        return h, h


class IntegersAsParameter(Good):
    def init_params(self, rng):
        return super().init_params(rng) | {"order": np.arange(self.hidden_size)}

    def __call__(self, params, h, x):
        return super().__call__(params, h[:, params["order"]], x)


class GivesNoPair(Good):
    def __call__(self, params, h, x):
        return super().__call__(params, h, x)[0]


class FunctionAsParameter(Good):
    def init_params(self, rng):
        return super().init_params(rng) | {"activation": np.tanh}


class Weights(NamedTuple):
    W: Any


class NamedParameters(Good):
    def init_params(self, rng):
        return Weights(super().init_params(rng)["W"])

    def __call__(self, params, h, x):
        h = tanh(concat(h, x) @ params.W)
        return h, h


class ReadsTheCarryByPlace(Good):
    """Its step lists the carry in another order than its first carry has, which is what a carry is loaded into."""

    def init_carry(self, batch_size):
        return {"h": super().init_carry(batch_size), "c": super().init_carry(batch_size)}

    def __call__(self, params, carry, x):
        first, second = carry.values()
        h, y = super().__call__(params, first - 0.5 * second, x)
        return {"c": 0.5 * h, "h": h}, y


class ChangesTheCarryWithoutSteps(Good):
    def unroll(self, params, carry, xs, **kwargs):
        after, ys = super().unroll(params, carry, xs, **kwargs)
        return (after if len(xs) else after + 1), ys


STATE = "put all state into the carry"
ALONE = "a sequence of length {} in a batch of length 4 differs from it alone: the relative difference is #"
SCAN = (
    "ValueError: scan: the step got the carry with shape ({0}, 4) and dtype float32, and gave it back with "
    "({0}, 4) and float64: a carry keeps its shape and dtype"
)
NARROW = (
    "TypeError: Float64Parameters: the carry has dtype float32; expected float64: convert it, with "
    "minigrad.trees.cast(carry, np.float64)"
)
WIDE = (
    "TypeError: {}: a float32 tensor met float64 values, and nothing is widened silently: "
    "convert them first, with .astype(np.float32)"
)
TRAINED = (
    "parameter '{}' is of type {}; each parameter must be an array of floating-point numbers, since it is trained; "
    "put a constant into the step"
)
SMALL = "with T = 1 and B = 1: "

WRONG: dict[type[Cell], dict[str, str]] = {
    Raises: {"step": "KeyError: 'gate'"},
    WrongOutputShape: {"step": "the output is of shape (3, 2); expected (3, 4)"},
    LosesStructure: {
        "carry structure": 'a step turns the carry {"tuple": ["leaf", "leaf"]} into "leaf"; it must keep its structure'
    },
    CarryGrows: {"carry structure": "the carry after a step is of shape (3, 8); expected (3, 4)"},
    CarryWithoutBatch: {"carry structure": "carry 'count' is of shape (); its first axis must be the batch"},
    NotFinite: {"sequence": "an output is not finite"},
    CarryNotFinite: {"sequence": "carry 'c' is not finite after 4 steps"},
    UnrollTakesNoGenerator: {
        "sequence": "TypeError: UnrollTakesNoGenerator.unroll() got an unexpected keyword argument 'rng'"
    },
    Overflows: {"step": "RuntimeWarning: overflow encountered in exp"},
    MixesTheBatch: {
        "batch rows": "a sequence in a batch differs from it alone: the relative difference is #",
        "lengths": ALONE.format(4),
    },
    CountsTheBatch: {
        "batch rows": "a sequence in a batch differs from it alone: the relative difference is #",
        "lengths": ALONE.format(4),
    },
    PeeksAhead: {
        "steps": "unroll differs from single steps: the relative difference is #",
        "chunks": "a sequence of 4 steps, cut after step 1, differs from the whole: the relative difference is #",
        "later inputs": "inputs from step 1 on reach the outputs before it: the relative difference is #",
        "lengths": ALONE.format(2),
        "reverse": "reverse=True differs from the reversed sequence: the relative difference is #",
    },
    StepsDiffer: {"steps": "unroll differs from single steps: the relative difference is #"},
    ForgetsTheCarry: {
        "steps": "unroll differs from single steps: the relative difference is #",
        "chunks": "a sequence of 4 steps, cut after step 1, differs from the whole: the relative difference is #",
        "lengths": ALONE.format(0),
    },
    IgnoresLengths: {"lengths": ALONE.format(2)},
    OutputsAfterTheEnd: {
        "steps": "unroll differs from single steps: the relative difference is #",
        "lengths": "a sequence of length 2 has outputs after its end; they must be zero",
    },
    IgnoresTheMask: {"lengths": "a mask differs from the same lengths: the relative difference is #"},
    IgnoresReverse: {"reverse": "reverse=True differs from the reversed sequence: the relative difference is #"},
    LeavesOutputsReversed: {"reverse": "reverse=True differs from the reversed sequence: the relative difference is #"},
    ChangesTheCarry: {"purity": "the carry was changed in place; compute a new array instead"},
    ChangesTheInput: {"purity": "the input was changed in place; compute a new array instead"},
    ChangesAParameter: {"purity": "parameter 'W' was changed in place; compute a new array instead"},
    KeepsABuffer: {"purity": "a later call changed an earlier result: return a new array each time"},
    KeepsState: {"purity": f"the same inputs gave other outputs at another call: {STATE}"},
    KeepsTheLast: {"purity": f"the cell sets its attribute 'last' while it runs: {STATE}"},
    DrawsAtRandom: {"purity": f"the same inputs gave other outputs at another call: {STATE}"},
    IgnoresTheSeed: {"purity": "parameter 'W' has other initial values at a second call with the same arguments"},
    OneArrayForAll: {"purity": "the carry is initially the same array at every call; make a new one"},
    Float64Parameters: {
        "float32": "parameter 'W' is float64; expected float32",
        "small sizes": SMALL + NARROW,
        "checkpoint": NARROW,
    },
    Float64Carry: {
        "float32": "the carry is float64; expected float32",
        "small sizes": SMALL + WIDE.format("matmul"),
    },
    Upcasts: {
        "float32": SCAN.format(3),
        "small sizes": SMALL + SCAN.format(1),
        "checkpoint": SCAN.format(3),
    },
    UpcastsTheOutput: {
        "float32": "the output is float64; expected float32, like parameters, carry and input",
        "small sizes": SMALL + WIDE.format("multiply"),
    },
    FailsWithoutBatch: {
        "small sizes": "with T = 4 and B = 0: "
        "ValueError: zero-size array to reduction operation maximum which has no identity"
    },
    ComputesASizeWithoutBatch: {
        "small sizes": "with T = 4 and B = 0: ValueError: cannot reshape array of size 0 into shape (0,newaxis) "
        "(without elements, no size can be computed for a -1 in a reshape: write the number)"
    },
    WarnsWithoutBatch: {"small sizes": "with T = 4 and B = 0: RuntimeWarning: Mean of empty slice"},
    FailsWithoutSteps: {
        "lengths": "IndexError: index -1 is out of bounds for axis 0 with size 0",
        "small sizes": "with T = 0 and B = 3: IndexError: index -1 is out of bounds for axis 0 with size 0",
    },
    LosesTheLastAxis: {
        "batch rows": "a sequence in a batch differs from it alone: one is of shape (4, 1, 4); expected (4, 4)",
        "lengths": "a sequence of length 4 in a batch of length 4 differs from it alone: "
        "one is of shape (4, 1, 4); expected (4, 4)",
        "small sizes": SMALL + "the sequence of outputs is of shape (1, 4); expected (1, 1, 4)",
    },
    NumberAsParameter: {"parameters": TRAINED.format("scale", "float")},
    IntegersAsParameter: {"parameters": TRAINED.format("order", "int64")},
    FunctionAsParameter: {"parameters": TRAINED.format("activation", "ufunc")},
    GivesNoPair: {"step": "a step returns a ndarray; expected the pair (carry, y)"},
    NamedParameters: {
        "checkpoint": "a loaded cell does not run: 'tuple' object has no attribute 'W'; "
        "a named tuple of parameters is loaded as a plain one"
    },
    ReadsTheCarryByPlace: {
        "checkpoint": "the outputs after loading are not those before saving",
        "planned loop": "the backend numpy differs from the reference loop: the relative difference is #",
    },
    ChangesTheCarryWithoutSteps: {
        "lengths": ALONE.format(0),
        "small sizes": "with T = 0 and B = 3: the carry has changed",
    },
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_cell_is_found(wrong):
    assert failures(wrong(3, 4)) == WRONG[wrong]


def test_a_failing_report_raises_and_names_every_failure():
    report = check_cell(IgnoresReverse(3, 4))
    assert not report.passed
    (failure,) = report.failures
    with pytest.raises(CheckError) as caught:
        report.raise_if_failed()
    assert str(caught.value) == (
        f"IgnoresReverse(input_size=3, hidden_size=4) fails 1 of 19 checks:\n  reverse: {failure.detail}"
    )
    assert failure.error == report.error > 0.1


def test_it_takes_a_cell_and_no_class():
    with pytest.raises(TypeError, match=r"^check_cell: got <class '.*Good'>; expected a cell, such as Good\(3, 4\)$"):
        check_cell(Good)
    with pytest.raises(TypeError, match=r"^check_cell: got 'gru'; expected a cell, such as GRU\(3, 4\)$"):
        check_cell("gru")


# --- cells that are right in ways that a check could stumble over ----------------------------------------------------


class RemembersTheInput(Good):
    """Its carry is the input itself, and not a copy."""

    def init_carry(self, batch_size):
        return {"h": super().init_carry(batch_size), "x": np.zeros((batch_size, self.input_size), np.float32)}

    def __call__(self, params, carry, x):
        h, y = super().__call__(params, carry["h"], x - carry["x"])
        return {"h": h, "x": x}, y


class CountsSteps(Good):
    """Its carry has a part without a gradient."""

    def init_carry(self, batch_size):
        return super().init_carry(batch_size), np.zeros((batch_size, 1), np.int64)

    def __call__(self, params, carry, x):
        h, n = carry
        n = value_of(n)
        h, y = super().__call__(params, where(n % 2 == 1, h, 0), x)
        return (h, n + 1), y


class ReordersTheCarry(Good):
    """Its step fills the dict in another order than its first carry has, and one part has no gradient."""

    def init_carry(self, batch_size):
        return {"h": super().init_carry(batch_size), "n": np.zeros((batch_size, 1), np.int64)}

    def __call__(self, params, carry, x):
        n = value_of(carry["n"])
        h, y = super().__call__(params, where(n % 2 == 1, carry["h"], 0), x)
        return {"n": n + 1, "h": h}, y


class Carry(NamedTuple):
    h: Any
    c: Any


class NamedCarry(Good):
    def init_carry(self, batch_size):
        return Carry(super().init_carry(batch_size), super().init_carry(batch_size))

    def __call__(self, params, carry, x):
        h, y = super().__call__(params, carry.h - 0.5 * carry.c, x)
        return Carry(h=h, c=0.5 * carry.h), y


class ReordersItsStates(NamedCarry):
    def init_carry(self, batch_size):
        return super().init_carry(batch_size)._asdict()

    def __call__(self, params, carry, x):
        after, y = super().__call__(params, Carry(**carry), x)
        return {"c": after.c, "h": after.h}, y


class NoParameters(Good):
    def init_params(self, rng):
        return {}

    def __call__(self, params, h, x):
        h = tanh(h + x[:, : self.hidden_size])
        return h, h


class NoCarry(Good):
    def init_carry(self, batch_size):
        return ()

    def __call__(self, params, carry, x):
        return (), tanh(x @ params["W"][self.hidden_size :])


class CachesAConstant(Good):
    @cached_property
    def matrix(self):
        return np.eye(self.hidden_size, dtype=np.float32) * np.float32(0.5)

    def __call__(self, params, h, x):
        h = tanh(concat(h @ self.matrix.astype(h.dtype), x) @ params["W"])
        return h, h


@pytest.mark.parametrize(
    "cell",
    [
        RemembersTheInput, CountsSteps, ReordersTheCarry, NamedCarry, ReordersItsStates, NoParameters, NoCarry,
        CachesAConstant,
    ],
)  # fmt: skip
def test_unusual_cells_pass(cell):
    check_cell(cell(4, 4)).raise_if_failed()


def test_what_looks_ahead_has_no_steps_to_check():
    report = check_cell(Bidirectional(Good(3, 4), Good(3, 2)))
    report.raise_if_failed()
    assert not {"steps", "chunks", "later inputs"} & {check.name for check in report.checks}
    assert {"batch rows", "lengths", "reverse"} < {check.name for check in report.checks}


def test_a_fault_inside_a_stack_is_found():
    assert failures(Stacked([Good(3, 4), IgnoresReverse(4, 4)])) == WRONG[IgnoresReverse]
    assert set(failures(Bidirectional(Good(3, 4), IgnoresReverse(3, 4)))) == {"reverse"}
