"""The matrix products of a compiled time loop as LLVM text: a small tile of C stays in registers, B is packed before.

They are for products whose second factor is the same over many steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from minigrad.compiled import jit
from minigrad.compiled.llvm import SIZES, Function, Register, addresses, module, transposed, vector

DEPTH = 192
"""Rows of A and B that ``outer`` packs at a time: few enough for a panel of B to stay in the first-level cache."""

AHEAD = 24
"""Rows of B that ``outer`` prefetches when packing: they are too far apart for the processor's prefetcher."""

LINE = 64
"""Bytes of a cache line."""

SMALL = "nounwind noinline optsize"
"""Attributes for short code, for functions that take little time."""


@dataclass(frozen=True)
class Tile:
    """The block of C that stays in registers: ``rows`` x (``vectors`` * ``lanes``) numbers.

    Args:
        dtype: "float32" or "float64".
        lanes: numbers per vector register.
        rows: a power of two.
        vectors: registers per row.
    """

    dtype: str
    lanes: int
    rows: int
    vectors: int

    @property
    def columns(self) -> int:
        """The width of a panel of the packed matrix."""
        return self.lanes * self.vectors

    @property
    def scalar(self) -> str:
        """LLVM's name of the dtype."""
        return {"float32": "float", "float64": "double"}[self.dtype]

    @property
    def suffix(self) -> str:
        """The suffix of the functions' names."""
        return {"float32": "f32", "float64": "f64"}[self.dtype]

    @property
    def size(self) -> int:
        """Bytes of one number."""
        return SIZES[self.scalar]


def host_tile(dtype: str) -> Tile:
    """The tile that fills the host's vector registers, leaving some for a row of B and a number of A."""
    return Tile(dtype, jit.vector_width(dtype), rows=8 if jit.vector_registers() == 32 else 4, vectors=3)


def packed_size(tile: Tile, k: int, n: int) -> int:
    """Elements of a packed k x n matrix. The caller allocates them, zeroed, aligned to 64 bytes."""
    return k * _round_up(n, tile.columns)


def outer_work(tile: Tile, m: int) -> int:
    """Elements of scratch memory that ``outer`` needs for a result of ``m`` rows."""
    return DEPTH * (_round_up(m, tile.rows) + tile.columns)


def ir(tile: Tile) -> str:
    """The LLVM text of ``pack``, ``gemm`` and ``outer`` for one dtype; each name ends in ``_f32`` or ``_f64``.

    Strides count elements. A packed matrix consists of panels of ``tile.columns`` columns; a panel contains its rows
    one after the other.

    - ``void pack(i64 k, i64 n, ptr b, i64 b_row, i64 b_col, ptr bp, i64 bp_k, i64 k0, i64 n0)`` writes the k x n
      matrix B, its element (l, j) at ``b[l * b_row + j * b_col]``, into the packed matrix ``bp`` of ``bp_k`` rows, from
      row ``k0`` and column ``n0`` on. The caller zeroes the columns that fill up the last panel, once.
    - ``void gemm(i64 m, i64 n, i64 k, ptr a, i64 a_row, ptr bp, ptr c, i64 c_row, i32 accumulate)`` computes
      C = A B, or with ``accumulate`` C + A B. No memory beyond the n columns of C is touched.
    - ``void outer(i64 m, i64 n, i64 k, ptr a, i64 a_row, ptr b, i64 b_row, ptr c, i64 c_row, i32 accumulate, ptr
      work)`` computes C = A^T B, or C + A^T B, for a k x m A and a k x n B; ``work`` has ``outer_work`` elements.
    """
    kernels = [(rows, vectors, False) for rows in _heights(tile) for vectors in range(1, tile.vectors + 1)]
    kernels.append((tile.rows, tile.vectors, True))
    return module(
        addresses(f"tiles_{tile.suffix}", [_kernel_name(tile, *kernel) for kernel in kernels]),
        *(_tile_kernel(tile, *kernel) for kernel in kernels),
        *(write(tile) for write in (_rows, _gemm, _pack, _pack_numbers, _pack_narrow, _outer)),
    )


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _kernel_name(tile: Tile, rows: int, vectors: int, packing: bool) -> str:
    return f"{'packing_' if packing else ''}tile_{rows}x{vectors}_{tile.suffix}"


def _heights(tile: Tile) -> list[int]:
    """The rows of the full tile, and of the smaller ones for the remainder."""
    return [tile.rows, tile.rows // 2, 1]


def _tile_kernel(tile: Tile, rows: int, vectors: int, packing: bool = False) -> Function:
    """``tile_RxV``: a tile of C from R rows of A and V vectors of a panel of B, over all of k.

    The last vector of C has ``live`` lanes. Every step of k prefetches one line of the next data. With ``packing``, B
    is read unpacked, and the panel ``bp`` is written at the same time.
    """
    t = tile.scalar
    f = Function(
        _kernel_name(tile, rows, vectors, packing),
        f"i64 k, {t}* noalias a, i64 a_row, i64 a_col, {t}* noalias bp, {t}* noalias c, i64 c_row, i64 live, "
        f"i1 accumulate, {t}* next, i64 next_step{f', {t}* noalias b, i64 b_row' if packing else ''}",
        linkage="internal",
    )
    k, a, a_row, a_col, bp, c, c_row, live, accumulate, following, next_step, *unpacked = f.parameters
    b, b_row = unpacked if packing else (bp, f.integer(tile.columns))
    zero = f.constant(vector(t, tile.lanes), 0)
    # A sum waits about four cycles for the previous one: with few rows, unroll several steps of k into separate sums.
    unroll = max(1, 4 // rows)
    cells = [(i, v) for i in range(rows) for v in range(vectors)]
    sums = [{cell: f.variable(zero) for cell in cells} for _ in range(unroll)]
    a_at, bp_at, b_at, next_at = (f.variable(pointer) for pointer in (a, bp, b, following))
    ahead = b_row * AHEAD
    # By default the optimiser steps from row to row by additions, which compete with the products for slots.
    offsets = [(a_row * (i * tile.size)).opaque() for i in range(rows)]

    def steps(count: int) -> None:
        a, bp, b = a_at.get(), bp_at.get(), b_at.get()
        for u in range(count):
            # A single row reads the panels faster than they can be prefetched.
            if rows > 1:
                following = next_at.get()
                following.prefetch()
                next_at.set(following + next_step)
            columns = [v * tile.lanes for v in range(vectors)]
            if packing:
                for column in columns:
                    (b + ahead + column).prefetch()
            row = [(b + column).load(tile.lanes) for column in columns]
            if packing:
                for column, part in zip(columns, row, strict=True):
                    (bp + u * tile.columns + column).store(part)
            b = b + b_row
            for i in range(rows):
                number = (a.pointing_to("i8") + offsets[i]).pointing_to(t).load().splat(tile.lanes)
                for v in range(vectors):
                    sums[u][i, v].set(number.intrinsic("fmuladd", row[v], sums[u][i, v].get()))
            a = a + a_col
        a_at.set(a)
        bp_at.set(bp + count * tile.columns)
        b_at.set(b)

    mask = f.first_lanes(tile.lanes, live)
    masks = {(i, v): mask if v == vectors - 1 else None for i, v in cells}
    places = {(i, v): c + c_row * i + v * tile.lanes for i, v in cells}
    with f.when(accumulate):
        for place in places.values():
            place.prefetch()
    done = f.integer(0)
    if unroll > 1:
        with f.loop(0, k, unroll):
            steps(unroll)
        done = k - k % unroll
    with f.loop(done, k):
        steps(1)
    totals = {cell: sums[0][cell] for cell in cells}
    for total in sums[1:]:
        for cell in cells:
            totals[cell].set(totals[cell].get() + total[cell].get())
    with f.when(accumulate):
        for cell in cells:
            totals[cell].set(totals[cell].get() + places[cell].load(tile.lanes, masks[cell]))
    for cell in cells:
        places[cell].store(totals[cell].get(), masks[cell])
    return f


def _rows(tile: Tile) -> Function:
    """``rows``: all rows of C for one panel of B. ``a_tile`` is the distance between full tiles of A.

    The next data begin at ``next``; the tiles share the work of prefetching them.
    """
    t = tile.scalar
    f = Function(
        f"rows_{tile.suffix}",
        f"i64 m, i64 cols, i64 k, {t}* a, i64 a_tile, i64 a_row, i64 a_col, {t}* bp, {t}* c, i64 c_row, "
        f"i1 accumulate, {t}* next, i64 next_tile, i64 next_step",
        linkage="internal",
        attributes=SMALL,
    )
    m, cols, k, a, a_tile, a_row, a_col, bp, c, c_row, accumulate, following, next_tile, next_step = f.parameters
    last = (cols - 1) // tile.lanes
    live = cols - last * tile.lanes
    a_at, start = f.variable(a), f.variable(0)
    tiles = f.address_of(f"tiles_{tile.suffix}", "ptr")
    for index, rows in enumerate(_heights(tile)):
        kernel = (tiles + index * tile.vectors + last).load()
        with f.loop(start.get(), m, rows) as i:
            a = a_at.get()
            turn = (i // tile.rows).intrinsic("smin", tile.vectors)
            ahead = following + turn * next_tile
            f.call("void", kernel, k, a, a_row, a_col, bp, c + i * c_row, c_row, live, accumulate, ahead, next_step)
            a_at.set(a + (a_tile if rows == tile.rows else a_row * rows))
            start.set(i + rows)
    return f


def _gemm(tile: Tile) -> Function:
    t, line = tile.scalar, LINE // tile.size
    f = Function(
        f"gemm_{tile.suffix}",
        f"i64 m, i64 n, i64 k, {t}* noalias a, i64 a_row, {t}* noalias bp, {t}* noalias c, i64 c_row, i32 accumulate",
        attributes=SMALL,
    )
    m, n, k, a, a_row, bp, c, c_row, accumulate = f.parameters
    more = accumulate.compare("ne", 0)
    with _panels(f, n, tile) as (j, cols):
        # After the last panel comes the first one, in the next time step.
        after = j + tile.columns
        ahead = bp + (after < n).select(after, 0) * k
        f.call(
            "void", f"rows_{tile.suffix}", m, cols, k, a, a_row * tile.rows, a_row, 1, bp + j * k, c + j, c_row, more,
            ahead, k * line, line,
        )  # fmt: skip
    return f


@contextmanager
def _panels(f: Function, n: Register, tile: Tile) -> Iterator[tuple[Register, Register]]:
    """Repeat for each panel of n columns; yields its first column and how many it has."""
    with f.loop(0, n + (tile.columns - 1), tile.columns) as j:
        yield j, (n - j).intrinsic("smin", tile.columns)


def _pack(tile: Tile) -> Function:
    t = tile.scalar
    f = Function(
        f"pack_{tile.suffix}",
        f"i64 k, i64 n, {t}* noalias b, i64 b_row, i64 b_col, {t}* noalias bp, i64 bp_k, i64 k0, i64 n0",
        attributes=SMALL,
    )
    k, n, b, b_row, b_col, bp, bp_k, k0, n0 = f.parameters
    contiguous = b_col.equals(1)
    transposed = b_row.equals(1) & ~contiguous
    stop = n0 + n
    # The panels with columns n0 to n0 + n: the first and the last one may contain others too.
    with f.loop(n0 - n0 % tile.columns, stop + (tile.columns - 1), tile.columns) as panel:
        left = panel.intrinsic("smax", n0)
        cols = (panel + tile.columns).intrinsic("smin", stop) - left
        source = b + (left - n0) * b_col
        target = bp + panel * bp_k + k0 * tile.columns + (left - panel)
        full = contiguous & cols.equals(tile.columns)
        with f.when(full), f.loop(0, k) as r:
            row, target_row = source + r * b_row, target + r * tile.columns
            for column in range(0, tile.columns, tile.lanes):
                (target_row + column).store((row + column).load(tile.lanes))
        with f.when(contiguous & ~full), f.loop(0, cols + (tile.lanes - 1), tile.lanes) as j:
            mask = f.first_lanes(tile.lanes, (cols - j).intrinsic("smin", tile.lanes))
            with f.loop(0, k) as r:
                (target + r * tile.columns + j).store((source + r * b_row + j).load(tile.lanes, mask), mask)
        with f.when(transposed):
            _pack_transposed(f, tile, k, source, target, cols, b_row, b_col)
        with f.when(~(contiguous | transposed)):
            f.call("void", f"pack_numbers_{tile.suffix}", 0, k, cols, source, b_row, b_col, target)
    return f


def _pack_numbers(tile: Tile) -> Function:
    """``pack_numbers``: a few columns of one panel, number by number, for a range of rows."""
    t = tile.scalar
    f = Function(
        f"pack_numbers_{tile.suffix}",
        f"i64 row, i64 k, i64 cols, {t}* noalias b, i64 b_row, i64 b_col, {t}* noalias panel",
        linkage="internal",
        attributes="nounwind noinline optsize minsize",
    )
    row, k, cols, b, b_row, b_col, panel = f.parameters
    with f.loop(row, k) as r, f.loop(0, cols) as j:
        (panel + r * tile.columns + j).store((b + r * b_row + j * b_col).load())
    return f


def _pack_transposed(
    f: Function, tile: Tile, k: Register, source: Register, target: Register, cols: Register, b_row: Register,
    b_col: Register,
) -> None:  # fmt: skip
    """Square blocks, transposed in registers; the edges number by number."""
    side = min(8, tile.lanes)
    whole_rows, whole_cols = k & -side, cols & -side
    with f.loop(0, whole_cols, side) as j, f.loop(0, whole_rows, side) as r:
        block = [(source + (j + i) * b_col + r).load(side) for i in range(side)]
        for i, row in enumerate(transposed(block)):
            (target + (r + i) * tile.columns + j).store(row)
    edges = f"pack_numbers_{tile.suffix}"
    f.call("void", edges, whole_rows, k, whole_cols, source, b_row, b_col, target)
    right, target = source + whole_cols * b_col, target + whole_cols
    f.call("void", edges, 0, k, cols - whole_cols, right, b_row, b_col, target)


def _pack_narrow(tile: Tile) -> Function:
    """``pack_narrow``: k x m numbers into panels as wide as a tile of C is high; nothing beyond m is written."""
    t, rows = tile.scalar, tile.rows
    f = Function(
        f"pack_narrow_{tile.suffix}",
        f"i64 k, i64 m, {t}* noalias a, i64 a_row, {t}* noalias ap",
        linkage="internal",
        attributes=SMALL,
    )
    k, m, a, a_row, ap = f.parameters
    # Several panels at a time, so that a line is read once.
    together = 4
    whole = m & (-together * rows)
    with f.loop(0, whole, together * rows) as i, f.loop(0, k) as r:
        source, target = a + r * a_row + i, ap + i * k + r * rows
        for panel in range(together):
            (target + k * (panel * rows)).store((source + panel * rows).load(rows))
    with f.loop(whole, m + (rows - 1), rows) as i:
        mask = f.first_lanes(rows, m - i)
        target = ap + i * k
        with f.loop(0, k) as r:
            (target + r * rows).store((a + r * a_row + i).load(rows, mask), mask)
    return f


def _outer(tile: Tile) -> Function:
    t, suffix = tile.scalar, tile.suffix
    f = Function(
        f"outer_{suffix}",
        f"i64 m, i64 n, i64 k, {t}* noalias a, i64 a_row, {t}* noalias b, i64 b_row, {t}* noalias c, i64 c_row, "
        f"i32 accumulate, {t}* noalias work",
        attributes=SMALL,
    )
    m, n, k, a, a_row, b, b_row, c, c_row, accumulate, panel = f.parameters
    given = accumulate.compare("ne", 0)
    tiles = panel + DEPTH * tile.columns
    tall = m >= tile.rows
    # Without rows, one empty block still writes the zeros.
    with f.loop(0, k.intrinsic("smax", 1) + (DEPTH - 1), DEPTH) as start:
        depth = (k - start).intrinsic("smin", DEPTH)
        more = given | (start > 0)
        b_here = b + start * b_row
        f.call("void", f"pack_narrow_{suffix}", depth, m, a + start * a_row, a_row, tiles)
        with _panels(f, n, tile) as (j, cols):
            source, target = b_here + j, c + j
            ahead = source + tile.columns
            # With a full tile of rows, the panel is packed while its first tile is computed.
            by_the_way = tall & cols.equals(tile.columns)
            done = by_the_way.select(f.integer(tile.rows), 0)
            with f.when(by_the_way):
                kernel = _kernel_name(tile, tile.rows, tile.vectors, packing=True)
                f.call(
                    "void", kernel, depth, tiles, 1, tile.rows, panel, target, c_row, tile.lanes, more, ahead, b_row,
                    source, b_row,
                )  # fmt: skip
            with f.when(~by_the_way):
                f.call("void", f"pack_{suffix}", depth, cols, source, b_row, 1, panel, depth, 0, 0)
            f.call(
                "void", f"rows_{suffix}", m - done, cols, depth, tiles + done * depth, depth * tile.rows, 1, tile.rows,
                panel, target + done * c_row, c_row, more, ahead, LINE // tile.size, b_row,
            )  # fmt: skip
    return f
