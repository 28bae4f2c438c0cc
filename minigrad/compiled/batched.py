"""Small matrix products whose sizes and strides are known in advance, as functions that kernels call for every row.

Each function keeps a tile of C in vector registers. Lanes of a vector lie along the columns of C, its rows, or the axis
that is summed over: the strides decide which needs the fewest instructions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from minigrad.compiled import jit
from minigrad.compiled.llvm import Function, Register, totals, transposed, vector


def product(
    name: str,
    *,
    shape: tuple[int, int, int],
    strides: Sequence[Sequence[int]],
    dtype: str,
    lanes: int,
    linkage: str = "internal",
) -> Function:
    """A function ``void name(ptr a, ptr b, ptr c)`` that computes C = A B for matrices of these sizes.

    Args:
        name: the function's name.
        shape: (m, n, k), for an m x k A and a k x n B; each at least 1.
        strides: of A, B and C: elements from one row to the next, and from one column to the next.
        dtype: ``float`` or ``double``.
        lanes: numbers of that type per vector register.
        linkage: LLVM's.
    """
    parameters = ", ".join(f"{dtype}* noalias {matrix}" for matrix in "abc")
    f = Function(name, parameters, linkage=linkage, attributes="nounwind noinline")  # inlined, it is optimised twice
    a, b, c = (_Matrix(base, *each) for base, each in zip(f.parameters, strides, strict=True))
    m, n, k = shape
    given = _Product(f, a, b, c, m, n, k, lanes)
    turned = _Product(f, b.turned, a.turned, c.turned, n, m, k, lanes)  # C^T = B^T A^T
    _, write = min([*given.ways(), *turned.ways()], key=lambda way: way[0])
    write()
    return f


@dataclass(frozen=True)
class _Matrix:
    """A matrix in memory, and its strides."""

    base: Register
    row: int
    column: int

    def at(self, i: Register | int, j: Register | int) -> Register:
        """The address of an element."""
        return self.base + i * self.row + j * self.column

    @property
    def turned(self) -> _Matrix:
        """Its transpose."""
        return _Matrix(self.base, self.column, self.row)


@dataclass(frozen=True)
class _Product:
    """A product to be written into a function, and the ways to write it."""

    f: Function
    a: _Matrix
    b: _Matrix
    c: _Matrix
    m: int
    n: int
    k: int
    lanes: int

    def ways(self) -> Iterator[tuple[int, Callable[[], None]]]:
        """Each with about how many instructions it runs; the weights are fitted to measurements."""
        width = self._width(self.n)
        vectors = _count(self.n, width)
        stores = self.m * (vectors if self._adjacent(self.c) else 3 * self.n)
        if self._adjacent(self.b):
            loads = self.k * vectors
        elif self.b.row == 1:
            loads = self.k * vectors * (width.bit_length() + 2)
        else:
            loads = self.k * self.n * 3
        times = _count(self.m, self._most_rows(_balanced(vectors, _VECTORS)))
        yield self.m * vectors * self.k + times * loads + stores, self.write_in_rows
        if self.a.column == 1 and self.b.row == 1:
            yield self.m * self.n * (_count(self.k, self._width(self.k)) + 4) + stores, self.write_in_sums

    def write_in_rows(self) -> None:
        """With lanes along the rows of B and C: sums over k of a number of A times a row of B."""
        width = self._width(self.n)
        vectors = _balanced(_count(self.n, width), _VECTORS)
        height = _balanced(self.m, self._most_rows(vectors))
        # Rows of B whose columns are not adjacent are copied first, a few at a time.
        copied = None if self._adjacent(self.b) else self.f.memory(self.b.base.element, width * vectors * width)
        for j, columns in self._parts(self.n, vectors * width):
            for i, rows in self._parts(self.m, height):
                self._tile(i, rows, j, [min(width, columns - at) for at in range(0, columns, width)], copied)

    def _tile(self, i: Register, rows: int, j: Register, live: list[int], copied: Register | None) -> None:
        """A tile of C; ``live`` has the columns of each vector."""
        f, width = self.f, self._width(self.n)
        cells = [(r, v) for r in range(rows) for v in range(len(live))]
        zero = f.constant(vector(self.a.base.element, width), 0)
        # A sum waits about four cycles for the previous one, and the processor starts two in each.
        chains = min(self.k, max(1, 8 // len(cells)))
        sums = [{cell: f.variable(zero) for cell in cells} for _ in range(chains)]
        for start, depth in self._parts(self.k, self.k if copied is None else width):
            b = _Matrix(self.b.at(start, j), self.b.row, self.b.column)
            masks = [None if columns == width else f.first_lanes(width, columns) for columns in live]
            if copied is not None:
                b, masks = self._copy(b, depth, live, copied), [None] * len(live)
            for step, count in self._parts(depth, chains):
                for u in range(count):
                    row = [b.at(step + u, v * width).load(width, mask) for v, mask in enumerate(masks)]
                    for r in range(rows):
                        number = self.a.at(i + r, start + step + u).load().splat(width)
                        for v in range(len(live)):
                            sums[u][r, v].set(number.intrinsic("fmuladd", row[v], sums[u][r, v].get()))
        for r, v in cells:
            total = sums[0][r, v].get()
            for each in sums[1:]:
                total = total + each[r, v].get()
            self._store(total, i + r, j + v * width, live[v])

    def _copy(self, b: _Matrix, depth: int, live: list[int], to: Register) -> _Matrix:
        """Copy ``depth`` rows of B to rows of adjacent columns."""
        width = self._width(self.n)
        target = _Matrix(to, len(live) * width, 1)
        if b.row != 1:
            with self.f.loop(0, depth) as i, self.f.loop(0, sum(live)) as j:
                target.at(i, j).store(b.at(i, j).load())
            return target
        mask = None if depth == width else self.f.first_lanes(width, depth)
        for v, columns in enumerate(live):
            block = [b.at(0, v * width + column).load(width, mask) for column in range(columns)]
            block += [block[0].like(0)] * (width - columns)
            for row, numbers in enumerate(transposed(block)[:depth]):
                target.at(row, v * width).store(numbers)
        return target

    def write_in_sums(self) -> None:
        """With lanes along k: of each number of C a vector, whose lanes are summed at the end."""
        f, width = self.f, self._width(self.k)
        zero = f.constant(vector(self.a.base.element, width), 0)
        together = min(width, self._width(self.n))
        for j, columns in self._parts(self.n, together):
            for i, _ in self._parts(self.m, 1):
                sums = [f.variable(zero) for _ in range(together)]
                for start, depth in self._parts(self.k, width):
                    mask = None if depth == width else f.first_lanes(width, depth)
                    row = self.a.at(i, start).load(width, mask)
                    for column in range(columns):
                        other = self.b.at(start, j + column).load(width, mask)
                        sums[column].set(row.intrinsic("fmuladd", other, sums[column].get()))
                self._store(totals([each.get() for each in sums]), i, j, columns)

    def _store(self, row: Register, i: Register, j: Register, columns: int) -> None:
        """Store a vector, or the first columns of it, in C."""
        if self._adjacent(self.c):
            mask = None if columns == row.lanes else self.f.first_lanes(row.lanes, columns)
            self.c.at(i, j).store(row, mask)
            return
        for column in range(columns):
            self.c.at(i, j + column).store(row.lane(column))

    def _parts(self, total: int, part: int) -> Iterator[tuple[Register, int]]:
        """What follows, written for each part of a range: a loop over the full parts, and the rest after it."""
        full = total - total % part
        if full > part:
            with self.f.loop(0, full, part) as i:
                yield i, part
        elif full:
            yield self.f.integer(0), part
        if full < total:
            yield self.f.integer(full), total - full

    def _adjacent(self, matrix: _Matrix) -> bool:
        """Whether the columns of B, or of C, are adjacent; a single one is."""
        return matrix.column == 1 or self.n == 1

    def _width(self, numbers: int) -> int:
        """Lanes of a vector along an axis of so many numbers."""
        return min(self.lanes, 1 << (numbers - 1).bit_length())

    def _most_rows(self, vectors: int) -> int:
        """The most rows of a tile whose sums stay in registers."""
        return (24 if jit.vector_registers() == 32 else 12) // vectors


_VECTORS = 3
"""The most vectors in a row of a tile."""


def _count(total: int, part: int) -> int:
    """Parts of this size in a range, the last of which may be smaller."""
    return -(-total // part)


def _balanced(total: int, most: int) -> int:
    """The size of parts of a range, at most so large, and as equal as can be."""
    return _count(total, _count(total, most))
