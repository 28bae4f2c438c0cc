"""A step that reads a global variable, as in a notebook: the next call uses its current value."""

import argparse
import collections
import functools
import gc
import sys
import types
import weakref
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest

from minigrad import Tensor, reads, stepgraph, tanh
from minigrad.reads import Reads
from minigrad.scan import available_backends, plans, use_backend
from minigrad.tensor import value_of
from rnn_cells import Cell, Stacked
from rnn_cells.gru import GRU

every_backend = pytest.mark.parametrize("backend", available_backends())

LEAK: Any = np.float32(0.5)
SCALES: Any = np.ones(3, np.float32)
LIST: Any = [0.5, [2.0]]
TABLE: Any = {"leak": 0.5, "deep": {"scale": np.ones(3, np.float32)}}
SPACE: Any = types.SimpleNamespace(leak=0.5)
CONTEXT: Any = ContextVar("leak", default=0.5)
TENSOR: Any = Tensor(np.ones(3, np.float32))
QUEUE: Any = collections.deque([0.5])
MODULE: Any = types.ModuleType("settings_of_an_experiment")
MODULE.leak = 0.5
CALLS: Any = []
OPTIONS: Any = argparse.Namespace(leak=0.5)
PROXY: Any = types.MappingProxyType(TABLE)
CHAIN: Any = collections.ChainMap(TABLE)
LOOK_UP: Any = TABLE.get


@functools.singledispatch
def dispatched(h: Any) -> Any:
    return h * LEAK


@functools.cache
def remembered() -> Any:
    return LIST[0]


class Kind(type):
    @property
    def leak(cls) -> Any:
        return LEAK


class OfKind(metaclass=Kind):
    pass


class Settings:
    leak = 0.5

    def __init__(self) -> None:
        self.scale = 1.0

    def strength(self) -> Any:
        return self.leak * self.scale


class Slotted:
    __slots__ = ("leak",)


SETTINGS: Any = Settings()
SLOTTED: Any = Slotted()
SLOTTED.leak = 0.5


def helper(h: Any) -> Any:
    return h * LEAK


def outer(h: Any, scale: Any = None) -> Any:
    return helper(h) if scale is None else h * scale[0]


def factory(start: Any) -> Any:
    held = start

    def get() -> Any:
        return held

    def put(value: Any) -> None:
        nonlocal held
        held = value

    return get, put


GET, PUT = factory(0.5)
DEFAULT: Any = [0.5]


def with_default(h: Any, scale: Any = DEFAULT) -> Any:
    return h * scale[0]


@dataclass(frozen=True)
class Reader(Cell):
    how: str = ""
    own: ClassVar[Any] = 0.5

    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        h = tanh(READERS[self.how](self, h) + x)
        return h, h

    @property
    def strength(self) -> Any:
        return self.own

    def method(self, h: Any) -> Any:
        return h * self.own


def import_within(cell: Any, h: Any) -> Any:
    import settings_of_an_experiment as settings

    return h * settings.leak


READERS: dict[str, Any] = {
    "a global": lambda cell, h: h * LEAK,
    "an array": lambda cell, h: h * SCALES,
    "a tensor": lambda cell, h: h * TENSOR,
    "a list": lambda cell, h: h * LIST[0] * LIST[1][0],
    "a dict": lambda cell, h: h * TABLE["leak"] * TABLE["deep"]["scale"],
    "a queue": lambda cell, h: h * QUEUE[0],
    "a namespace": lambda cell, h: h * SPACE.leak,
    "a context variable": lambda cell, h: h * CONTEXT.get(),
    "an object": lambda cell, h: h * SETTINGS.strength(),
    "an object with slots": lambda cell, h: h * SLOTTED.leak,
    "a module": lambda cell, h: h * MODULE.leak,
    "an import": import_within,
    "a function": lambda cell, h: outer(h),
    "a function within": lambda cell, h: (lambda z: helper(z))(h),
    "a default": lambda cell, h: with_default(h),
    "a closure": lambda cell, h: h * GET(),
    "a class attribute": lambda cell, h: h * cell.own,
    "a property": lambda cell, h: h * cell.strength,
    "a method": lambda cell, h: cell.method(h),
    "a name in a text": lambda cell, h: h * globals()["LEAK"] * getattr(MODULE, "leak"),  # noqa: B009
    "parsed options": lambda cell, h: h * OPTIONS.leak,
    "a proxy": lambda cell, h: h * PROXY["leak"],
    "a chain": lambda cell, h: h * CHAIN["leak"],
    "a method of a dict": lambda cell, h: h * LOOK_UP("leak"),
    "a dispatched function": lambda cell, h: dispatched(h),
    "a function with a cache": lambda cell, h: h * remembered(),
    "a metaclass": lambda cell, h: h * OfKind.leak,
}


UNDO: list[Any] = []


@pytest.fixture(autouse=True)
def undo() -> Any:
    yield
    while UNDO:
        UNDO.pop()()


def put(container: Any, key: Any, value: Any) -> None:
    """Assign an element, until the test ends."""
    before = container[key]
    UNDO.append(lambda: container.__setitem__(key, before))
    container[key] = value


def redefined(h: Any) -> Any:
    return h * 0.25 * LEAK


def code_changed(_: Any) -> None:
    """As IPython's autoreload does it, in place."""
    code = helper.__code__
    UNDO.append(lambda: setattr(helper, "__code__", code))
    helper.__code__ = redefined.__code__


def context_changed(_: Any) -> None:
    token = CONTEXT.set(3.0)
    UNDO.append(lambda: CONTEXT.reset(token))


def closure_changed(_: Any) -> None:
    PUT(3.0)
    UNDO.append(lambda: PUT(0.5))


def cache_changed(_: Any) -> None:
    UNDO.append(remembered.cache_clear)
    put(LIST, 0, 3.0)
    remembered.cache_clear()


CHANGES: dict[str, list[Any]] = {
    "a global": [lambda m: m.setattr(HERE, "LEAK", np.float32(0)), lambda m: m.setattr(HERE, "LEAK", 3)],
    "an array": [lambda m: put(SCALES, 1, 3), lambda m: m.setattr(HERE, "SCALES", SCALES * 5)],
    "a tensor": [lambda m: put(TENSOR.value, 1, 3)],
    "a list": [lambda m: put(LIST, 0, 3.0), lambda m: put(LIST[1], 0, 0.1)],
    "a dict": [lambda m: put(TABLE, "leak", 3.0), lambda m: put(TABLE["deep"]["scale"], 0, 7)],
    "a queue": [lambda m: put(QUEUE, 0, 3.0)],
    "a namespace": [lambda m: m.setattr(SPACE, "leak", 3.0)],
    "a context variable": [context_changed],
    "an object": [
        lambda m: m.setattr(SETTINGS, "scale", 3.0),
        lambda m: m.setattr(Settings, "leak", 0.1),
        lambda m: m.setattr(SETTINGS, "leak", 0.7, raising=False),
        lambda m: m.setattr(Settings, "strength", lambda self: 0.05),
    ],
    "an object with slots": [lambda m: m.setattr(SLOTTED, "leak", 3.0)],
    "a module": [lambda m: m.setattr(MODULE, "leak", 3.0)],
    "an import": [lambda m: m.setattr(MODULE, "leak", 3.0)],
    "a function": [
        lambda m: m.setattr(HERE, "LEAK", 0.1),
        lambda m: m.setattr(HERE, "helper", redefined),
        lambda m: m.setattr(HERE, "LEAK", 0.7),
        lambda m: m.setattr(outer, "__defaults__", ([3.0],)),
    ],
    "a function within": [lambda m: m.setattr(HERE, "LEAK", 0.1), code_changed],
    "a default": [lambda m: put(DEFAULT, 0, 3.0), lambda m: m.setattr(with_default, "__defaults__", ([0.2],))],
    "a closure": [closure_changed],
    "a class attribute": [lambda m: m.setattr(Reader, "own", 3.0)],
    "a property": [lambda m: m.setattr(Reader, "own", 3.0), lambda m: m.setattr(Reader, "strength", 0.1)],
    "a method": [lambda m: m.setattr(Reader, "own", 3.0), lambda m: m.setattr(Reader, "method", lambda self, h: h)],
    "a name in a text": [lambda m: m.setattr(HERE, "LEAK", 0.1), lambda m: m.setattr(MODULE, "leak", 30.0)],
    "parsed options": [lambda m: m.setattr(OPTIONS, "leak", 3.0)],
    "a proxy": [lambda m: put(TABLE, "leak", 3.0)],
    "a chain": [lambda m: put(TABLE, "leak", 3.0)],
    "a method of a dict": [lambda m: put(TABLE, "leak", 3.0)],
    "a dispatched function": [lambda m: m.setattr(HERE, "LEAK", 0.1)],
    "a function with a cache": [cache_changed],
    "a metaclass": [lambda m: m.setattr(HERE, "LEAK", 0.1)],
}
HERE = sys.modules[__name__]


def outcome(cell: Any, backend: str) -> Any:
    xs = np.random.default_rng(0).standard_normal((4, 2, 3)).astype(np.float32)
    with use_backend(backend):
        return value_of(cell.unroll({}, np.ones((2, 3), np.float32), xs)[1])


@every_backend
@pytest.mark.parametrize("how", READERS)
def test_a_change_of_what_a_step_reads_is_seen(how, backend, monkeypatch):
    monkeypatch.setitem(sys.modules, "settings_of_an_experiment", MODULE)
    cell = Reader(3, 3, how)
    last = outcome(cell, "reference")
    np.testing.assert_allclose(outcome(cell, backend), last, rtol=1e-5, atol=1e-6)
    assert reads.identity_of(cell) == reads.identity_of(Reader(3, 3, how))
    for change in CHANGES[how]:
        change(monkeypatch)
        expected = outcome(cell, "reference")
        assert np.abs(expected - last).max() > 1e-3
        np.testing.assert_allclose(outcome(cell, backend), expected, rtol=1e-5, atol=1e-6)
        last = expected


@every_backend
@pytest.mark.parametrize("name", [{"__name__": "__main__"}, {}], ids=["notebook", "exec"])
def test_a_cell_of_a_notebook_that_is_run_again(name, backend):
    """Its names live in a module of their own; the cell with LEAK is changed, or the one with the class is."""
    cells = {
        "constant": "LEAK = np.float32({})",
        "class": """
@dataclass(frozen=True)
class Leaky(Cell):
    def __call__(self, params, h, x):
        h = tanh(h * LEAK + x){}
        return h, h
""",
    }
    notebook = {**name, "np": np, "dataclass": dataclass, "Cell": Cell, "tanh": tanh}

    def run(cell: str, text: Any) -> None:
        exec(cells[cell].format(text), notebook)

    run("constant", 0.5)
    run("class", "")
    for cell, text in (("constant", 0), ("constant", 0.5), ("class", " * 2"), ("constant", 0.1)):
        run(cell, text)
        leaky = notebook["Leaky"](3, 3)
        for x, y in zip(outcome(leaky, backend), outcome(leaky, "reference"), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-6)


def stepped(own: Any, params: Any, h: Any, x: Any, *, leak: Any) -> Any:
    h = tanh(h * leak[0] + x)
    return h, h


@dataclass(frozen=True)
class Partial(Cell):
    __call__ = functools.partialmethod(stepped, leak=LIST)  # type: ignore[assignment]


@every_backend
def test_a_step_that_is_no_plain_function_is_looked_at(backend):
    last = outcome(Partial(3, 3), backend)
    put(LIST, 0, 3.0)
    assert np.abs(outcome(Partial(3, 3), backend) - last).max() > 1e-3


@dataclass(frozen=True)
class Signed(Cell):
    zero: float = 0.0

    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        h = tanh(h * float(np.arctan2(0.0, self.zero)) + x)
        return h, h


@every_backend
def test_zeros_of_two_signs_are_two_fields(backend):
    for zero in (0.0, -0.0):
        cell = Signed(3, 3, zero)
        np.testing.assert_allclose(outcome(cell, backend), outcome(cell, "reference"), rtol=1e-5, atol=1e-6)


@dataclass(frozen=True)
class Wrapper(Cell):
    cell: Any = None
    strength: Any = field(default=1.0)

    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        h, y = self.cell(params, h * self.cell.own, x)
        return h, y


@every_backend
def test_a_wrapper_reads_the_class_of_what_it_wraps(backend, monkeypatch):
    cell = Wrapper(3, 3, Reader(3, 3, "a global"))
    first = outcome(cell, backend)
    monkeypatch.setattr(Reader, "own", 3.0)
    second = outcome(cell, backend)
    assert np.abs(second - first).max() > 1e-3
    np.testing.assert_allclose(second, outcome(cell, "reference"), rtol=1e-5)


@dataclass(frozen=True)
class Counting(Cell):
    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        CALLS.append(1)
        h = tanh(h + x)
        return h, h


def traces(cell: Any, calls: int, monkeypatch: Any) -> tuple[int, int]:
    """How often a step is traced, and planned, in so many calls."""
    traced, made = [], []
    trace, plan = stepgraph._trial, plans.plan
    monkeypatch.setattr(stepgraph, "_trial", lambda *args: traced.append(1) or trace(*args))
    monkeypatch.setattr(plans, "plan", lambda *args, **kwargs: made.append(1) or plan(*args, **kwargs))
    monkeypatch.setattr(plans, "_plans", type(plans._plans)())
    monkeypatch.setattr(stepgraph, "_known", {})
    for _ in range(calls):
        outcome(cell, "numpy")
    return len(traced) // 2, len(made)


@pytest.mark.parametrize("cell", [Counting(3, 3), Reader(3, 3, "an array"), Reader(3, 3, "an object")], ids=repr)
def test_a_step_is_traced_once(cell, monkeypatch):
    """Even one that writes to what it reads."""
    assert traces(cell, 5, monkeypatch) == (1, 1)


def test_what_was_planned_before_a_change_is_found_again(monkeypatch):
    cell = Reader(3, 3, "a global")
    assert traces(cell, 1, monkeypatch) == (1, 1)
    made = []
    plan = plans.plan
    monkeypatch.setattr(plans, "plan", lambda *args, **kwargs: made.append(1) or plan(*args, **kwargs))
    for leak in (0.25, 0.5, 0.25, 0.5):
        monkeypatch.setattr(HERE, "LEAK", np.float32(leak))
        outcome(cell, "numpy")
    assert len(made) == 1


def test_a_look_at_a_cell_reads_few_things(monkeypatch):
    """It is taken at every call of a loop."""
    assert len(Reads([GRU])._expected) < 60
    assert len(Reads([Stacked, GRU])._expected) < 200
    built = []
    monkeypatch.setattr(reads, "Reads", lambda classes: built.append(classes) or Reads(classes))
    reads._known.clear()
    for _ in range(3):
        reads.identity_of(GRU(3, 4))
        reads.identity_of(GRU(5, 6))
    assert built == [(GRU,)]


HELD_OBJECTS: Any = np.array([{"a": 1}], object)
HUGE: Any = [[i] for i in range(20_000)]
LARGE: Any = np.full(reads.MOST_BYTES, 0.5, np.float32)
BYTES: Any = bytearray([7])


@dataclass(frozen=True)
class Opaque(Cell):
    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        h = tanh(h * HELD_OBJECTS[0]["a"] + x)
        return h, h


@dataclass(frozen=True)
class Endless(Cell):
    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        h = tanh(h * HUGE[7][0] + x)
        return h, h


class Shy:
    leak: ClassVar[Any] = [0.5]

    @property
    def __dict__(self) -> Any:
        raise RuntimeError("nobody may look")


SHY: Any = Shy()


@dataclass(frozen=True)
class Refusing(Cell):
    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        h = tanh(h * SHY.leak[0] + x)
        return h, h


@dataclass(frozen=True)
class Heavy(Cell):
    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        h = tanh(h * LARGE[:3] + x)
        return h, h


@dataclass(frozen=True)
class Raw(Cell):
    def __call__(self, params: Any, h: Any, x: Any) -> Any:
        h = tanh(h * BYTES[0] + x)
        return h, h


@every_backend
@pytest.mark.parametrize("cell", [Opaque(3, 3), Endless(3, 3), Refusing(3, 3), Heavy(3, 3), Raw(3, 3)], ids=repr)
def test_what_cannot_be_looked_at_is_traced_anew(cell, backend, monkeypatch):
    built = []
    monkeypatch.setattr(reads, "Reads", lambda classes: built.append(classes) or Reads(classes))
    reads._known.clear()
    for _ in range(3):
        with pytest.raises(TypeError):
            reads.identity_of(cell)
    assert len(built) == 1  # it is looked at once
    outcome(cell, backend)
    put(HELD_OBJECTS[0], "a", 3)
    put(HUGE[7], 0, 3)
    put(LARGE, 0, 3)
    put(BYTES, 0, 3)
    put(SHY.leak, 0, 3)
    np.testing.assert_allclose(outcome(cell, backend), outcome(cell, "reference"), rtol=1e-5)


def test_large_data_is_not_kept_by_plans_of_cells_that_mention_its_name(monkeypatch):
    data = np.full(reads.MOST_BYTES, 0.5, np.float32)
    monkeypatch.setattr(HERE, "LARGE", data)
    outcome(Heavy(3, 3), "numpy")
    monkeypatch.undo()
    found = weakref.ref(data)
    del data
    gc.collect()
    assert found() is None


@every_backend
def test_a_constant_that_is_tried_with_many_values_takes_the_memory_of_few(backend, monkeypatch):
    monkeypatch.setattr(plans, "_plans", type(plans._plans)())
    for leak in np.linspace(0, 1, 2 * plans.LIVELY, dtype=np.float32):
        monkeypatch.setattr(HERE, "LEAK", leak)
        outcome(Reader(3, 3, "a global"), backend)
    executors = {executor for found in plans._plans.values() for executor in found.executors.values()}
    assert len(executors) == 2 * plans.LIVELY
    memory = [executor.idle if backend == "compiled" else executor._pool for executor in executors]
    assert sum(map(bool, memory)) <= plans.LIVELY
