"""A loop in machine code that runs a step and draws the next symbol from its scores, many times."""

from __future__ import annotations

import math

from minigrad.compiled import jit
from minigrad.compiled.llvm import Function, Register, module, words
from minigrad.compiled.vector_math import FUNCTIONS

DRAWING, OVER = 1, 2
"""Values of ``sample``'s word ``state``, which is 0 before the start."""

LANES = 8
"""Numbers exponentiated at once, in double precision as in the Python version."""


def ir(dtype: str) -> str:
    """The LLVM text of ``sample``, for scores of type ``float`` or ``double``.

    ``void sample(ptr calls, i64 call_count, ptr copies, i64 copy_count, ptr index, ptr scores, i64 size, double
    temperature, ptr uniform, i64 count, ptr out, ptr work, ptr state)`` does the following ``count`` times: copies
    memory (``copies``: source, target and bytes of each), makes the calls (``calls``: a function, its pointer and five
    numbers each), and draws a symbol from the ``size`` scores divided by the temperature (the largest, if it is 0)
    with the next number of ``uniform``. The symbol goes to ``out`` and to ``index``, where the step reads it; it is -1
    if the scores are NaN, and then the loop ends. ``work`` has ``size`` doubles, rounded up to whole vectors. ``state``
    is a word that is set to DRAWING at the beginning and to OVER at the end.
    """
    f = Function(
        "sample",
        f"i64* calls, i64 call_count, i64* copies, i64 copy_count, i64* index, {dtype}* scores, i64 size, "
        "double temperature, double* uniform, i64 count, i64* out, double* work, i64* state",
    )
    calls, call_count, copies, copy_count, index, scores, size, temperature, uniform, count, out, work, state = (
        f.parameters
    )
    state.store_release(DRAWING)
    with f.loop(0, count) as k:

        def give_up(condition: Register) -> None:
            with f.when(condition):
                (out + k).store(-1)
                f.leave()

        with f.loop(0, copy_count) as i:
            source, target, length = ((copies + i * 3 + j).load() for j in range(3))
            pointers = (word.cast("inttoptr", "i8*") for word in (target, source))
            f.call("void", "llvm.memcpy.p0.p0.i64", *pointers, length, f.constant("i1", False))
        with f.loop(0, call_count) as i:
            function, pointer, *numbers = ((calls + i * 7 + j).load() for j in range(7))
            code = function.cast("inttoptr", "i8*")
            f.call("void", code, pointer.cast("inttoptr", "i8*"), *numbers)

        best, symbol = f.variable(f.constant("double", -math.inf)), f.variable(0)
        with f.loop(0, size) as i:
            x = _widened((scores + i).load())
            better = (x > best.get()) | x.compare("uno", x)
            best.set(better.select(x, best.get()))
            symbol.set(better.select(i, symbol.get()))
        largest = best.get()
        give_up(largest.compare("uno", largest))
        with f.when(temperature.compare("une", 0)):
            whole = size - size % LANES
            for start, stop, lanes in ((f.integer(0), whole, LANES), (whole, size, 1)):
                with f.loop(start, stop, lanes) as i:
                    x = _widened((scores + i).load(lanes))
                    x = (x - largest.splat(lanes)) / temperature.splat(lanes)
                    (work + i).store(FUNCTIONS["exp"](x))
            total = f.variable(f.constant("double", 0))
            with f.loop(0, size) as i:
                total.set(total.get() + (work + i).load())
                (work + i).store(total.get())
            give_up(~(total.get() > 0))
            mark = (uniform + k).load() * total.get()
            symbol.set(f.integer(0))
            with f.forever():
                i = symbol.get()
                with f.when(((work + i).load() > mark) | (i + 1 >= size)):
                    f.leave()
                symbol.set(i + 1)
        for place in (out + k, index):
            place.store(symbol.get())
    state.store_release(OVER)
    return module(f)


def _widened(x: Register) -> Register:
    return x.cast("fpext", "double") if x.element == "float" else x


SHARED_FROM = 65536
"""Elements of a matrix from which two threads are worth their synchronisation, a few hundred nanoseconds."""

HELP_PATIENCE = 10_000_000
"""Number of polls of a helper before it gives up: some hundredths of a second."""


def shared_ir(scalar: str, columns: int) -> str:
    """The LLVM text of a product of one row and a packed matrix that two threads share.

    ``use`` is called once with the address of ``gemm``. ``shared`` has the same signature: it computes the first half
    of the columns, and the second as well unless a thread in ``help`` has taken it, so it never waits for a thread that
    is not running. ``help`` takes the word ``state`` of a ``sample``, and ends with it, or if it does not start in
    time. One product at a time is shared.

    Args:
        scalar: ``float`` or ``double``.
        columns: columns per panel of the packed matrix.
    """
    use = Function("use", "i8* product")
    use.address_of("product", "i64").store(use.parameters[0])
    return module(
        words("product"), words("job", 8), *map(words, _COUNTS), use, _second_half(), _shared(scalar, columns), _help()
    )


_COUNTS = ("issued", "claimed", "done")
"""Words of memory: how many products were issued, had their second half taken, had it finished by a helper."""


def _second_half() -> Function:
    """``second_half``: the second half of the columns of the product in ``job``."""
    f = Function("second_half", "", linkage="internal")
    job = f.address_of("job", "i64")
    n, k, *pointers, more = ((job + i).load() for i in range(6))
    a, b, c = (pointer.cast("inttoptr", "i8*") for pointer in pointers)
    f.call("void", _product(f), 1, n, k, a, 0, b, c, 0, more.cast("trunc", "i32"))
    return f


def _product(f: Function) -> Register:
    return f.address_of("product", "i64").load().cast("inttoptr", "i8*")


def _shared(scalar: str, columns: int) -> Function:
    f = Function(
        "shared",
        f"i64 m, i64 n, i64 k, {scalar}* a, i64 a_row, {scalar}* b, {scalar}* c, i64 c_row, i32 more",
    )
    m, n, k, a, a_row, b, c, c_row, more = f.parameters
    issued, claimed, done = (f.address_of(name, "i64") for name in _COUNTS)
    product = _product(f)
    with f.when(~(m.equals(1) & (n * k >= SHARED_FROM))):
        f.call("void", product, m, n, k, a, a_row, b, c, c_row, more)
        f.give()
    first = n // columns // 2 * columns
    job = f.address_of("job", "i64")
    for i, word in enumerate((n - first, k, a, b + first * k, c + first, more.cast("zext", "i64"))):
        (job + i).store(word)
    before = issued.load()
    now = before + 1
    issued.store_release(now)
    f.call("void", product, 1, first, k, a, a_row, b, c, c_row, more)
    with f.when(claimed.exchange(before, now)):
        f.call("void", "second_half")
        f.give()
    with f.forever(), f.when(done.load_acquire().equals(now)):
        f.leave()
    return f


def _help() -> Function:
    f = Function("help", "i64* state")
    (state,) = f.parameters
    issued, claimed, done = (f.address_of(name, "i64") for name in _COUNTS)
    with jit.without_denormals(f):  # as in the thread that it helps
        with f.loop(0, HELP_PATIENCE), f.when(state.load_acquire().compare("ne", 0)):
            f.leave()
        last = f.variable(0)
        with f.forever():
            with f.when(state.load_acquire().compare("ne", DRAWING)):
                f.leave()
            now = issued.load_acquire()
            with f.when(now.compare("ne", last.get())):
                last.set(now)
                with f.when(claimed.exchange(now - 1, now)):
                    f.call("void", "second_half")
                    done.store_release(now)
    return f
