"""The builder of LLVM text: control flow, memory, words shared by threads; and that nothing else writes such text."""

from __future__ import annotations

import ast
import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import minigrad
from minigrad.compiled import jit, llvm
from minigrad.compiled.llvm import Function, module

LONG, POINTER = ctypes.c_int64, ctypes.c_void_p
PACKAGE = Path(minigrad.__file__).parent


def compiled(*functions: Function | str, result: Any = LONG, takes: list[Any]) -> Callable[..., Any]:
    """The last function."""
    pytest.importorskip("llvmlite")
    library = jit.compile_ir(module(*functions))
    last = functions[-1]
    assert isinstance(last, Function)
    function = ctypes.CFUNCTYPE(result, *takes)(library.address(last.name))
    function.library = library  # type: ignore[attr-defined]
    return function


def test_the_example_of_the_module_compiles() -> None:
    example = llvm.__doc__.split("::\n")[1].split("Types are")[0]  # type: ignore[union-attr]
    names: dict[str, Any] = {"Function": Function, "module": module}
    exec("\n".join(line.removeprefix("    ") for line in example.splitlines()), names)
    total = compiled(names["f"], result=ctypes.c_float, takes=[LONG, POINTER])
    x = np.arange(10, dtype=np.float32)
    assert total(10, x.ctypes.data) == 45


@pytest.mark.parametrize(
    ("start", "stop", "step"), [(0, 5, 1), (3, 3, 1), (4, 3, 1), (1, 10, 3), (0, 9, 3), (-2, 2, 2)]
)
def test_a_loop_counts_as_long_as_a_whole_step_is_left(start: int, stop: int, step: int) -> None:
    f = Function("f", "i64 start, i64 stop", returns="i64")
    total = f.variable(0)
    with f.loop(*f.parameters, step) as i:
        total.set(total.get() * 100 + i + 7)
    f.give(total.get())
    expected = 0
    for i in range(start, stop - step + 1, step):
        expected = expected * 100 + i + 7
    assert compiled(f, takes=[LONG, LONG])(start, stop) == expected


def test_leaving_ends_the_innermost_loop_and_giving_the_function() -> None:
    f = Function("f", "i64 n, i64 limit", returns="i64")
    n, limit = f.parameters
    count = f.variable(0)
    with f.loop(0, n):
        inner = f.variable(0)
        with f.forever():
            with f.when(inner.get() >= 3):
                f.leave()
            inner.set(inner.get() + 1)
            count.set(count.get() + 1)
        with f.when(count.get() > limit):
            f.give(-1)
    f.give(count.get())
    counted = compiled(f, takes=[LONG, LONG])
    assert counted(4, 100) == 12
    assert counted(4, 10) == -1


def test_integers_are_divided_shifted_and_compared() -> None:
    f = Function("f", "i64 x, i64 y, i64* found")
    x, y, found = f.parameters
    results = [x // y, x % y, x - y, 1 - y, -x, x << 1, (-x) >> 1, x & 6, x | 8, ~x]
    results += [(x > y).select(1, y), (x <= y).select(1, y), (x < y).select(x, 4), (x >= y).select(x, 4)]
    results += [x.equals(y).cast("zext", "i64"), (~x.equals(y)).cast("zext", "i64"), x.intrinsic("smin", y), x.opaque()]
    for place, result in enumerate(results):
        (found + place).store(result)
    numbers = np.zeros(len(results), np.int64)
    compiled(f, result=None, takes=[LONG, LONG, POINTER])(7, 3, numbers.ctypes.data)
    assert numbers.tolist() == [2, 1, 4, -2, -7, 14, -4, 6, 15, -8, 1, 3, 4, 7, 0, 1, 3, 7]


def test_words_of_a_module_keep_their_content() -> None:
    f = Function("f", "i64 i, i64 more", returns="i64")
    i, more = f.parameters
    word = f.address_of("kept", "i64") + i
    word.store(word.load() + more)
    f.give(word.load())
    add = compiled(llvm.words("kept", 3), f, takes=[LONG, LONG])
    assert [add(1, 5), add(2, 7), add(1, 6)] == [5, 7, 11]


def test_functions_of_the_module_are_not_declared_and_others_once() -> None:
    double = Function("double", "i64 x", returns="i64", linkage="internal")
    double.give(double.parameters[0] * 2)
    f = Function("f", "i64 x", returns="i64")
    (x,) = f.parameters
    f.give(f.call("i64", "double", x).intrinsic("smax", x).intrinsic("smax", 9))
    text = module(double, f)
    assert [line for line in text.splitlines() if line.startswith("declare")] == [
        "declare i64 @llvm.smax.i64(i64, i64)"
    ]
    doubled = compiled(double, f, takes=[LONG])
    assert [doubled(x) for x in (3, 6, -6)] == [9, 12, 9]


def test_a_word_is_exchanged_only_if_it_is_the_old_one() -> None:
    f = Function("f", "i64* word, i64 old", returns="i64")
    word, old = f.parameters
    with f.when(word.exchange(old, 5)):
        f.give(1)
    word.store_release(word.load_acquire() + 1)
    f.give(0)
    exchange = compiled(f, takes=[POINTER, LONG])
    word_ = ctypes.c_int64(3)
    assert (exchange(ctypes.addressof(word_), 3), word_.value) == (1, 5)
    assert (exchange(ctypes.addressof(word_), 3), word_.value) == (0, 6)


def test_a_square_is_transposed() -> None:
    f = Function("f", "double* x")
    (x,) = f.parameters
    for i, column in enumerate(llvm.transposed([(x + 4 * i).load(4) for i in range(4)])):
        (x + 4 * i).store(column)
    square = np.arange(16.0).reshape(4, 4)
    expected = square.T.copy()
    compiled(f, result=None, takes=[POINTER])(square.ctypes.data)
    np.testing.assert_array_equal(square, expected)


@pytest.mark.parametrize("count", [1, 2, 4, 8])
def test_vectors_are_summed_into_one(count: int) -> None:
    f = Function("f", "double* x, double* y")
    x, y = f.parameters
    y.store(llvm.totals([(x + 8 * i).load(8) for i in range(count)]))
    rows, sums = np.arange(8.0 * count).reshape(count, 8), np.zeros(count)
    compiled(f, result=None, takes=[POINTER, POINTER])(rows.ctypes.data, sums.ctypes.data)
    np.testing.assert_array_equal(sums, rows.sum(axis=1))


def test_a_register_is_no_condition_of_python() -> None:
    (x,) = Function("f", "i64 x").parameters
    with pytest.raises(TypeError, match="when the code runs"):
        assert x < 3


@pytest.mark.parametrize("path", sorted(set(PACKAGE.rglob("*.py")) - {Path(llvm.__file__)}), ids=lambda p: p.stem)
def test_only_the_builder_writes_llvm_text(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            assert not any(
                word in node.value for word in ("getelementptr", " phi ", " = alloca", "br i1", "br label", " x i64] ")
            )
        assert not (isinstance(node, ast.Attribute) and node.attr in ("let", "do")), ast.unparse(node)
