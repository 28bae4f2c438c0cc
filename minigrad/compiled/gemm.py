"""The matrix products of a compiled time loop as LLVM text: a small tile of C stays in registers, B is packed before.

They are for products whose second factor is the same over many steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from minigrad.compiled import jit

DEPTH = 192
"""Rows of A and B that ``outer`` packs at a time: few enough for a panel of B to stay in the first-level cache."""

AHEAD = 24
"""Rows of B that ``outer`` prefetches when packing: they are too far apart for the processor's prefetcher."""

LINE = 64
"""Bytes of a cache line."""

_DTYPES = {"float32": ("float", "f32", 4), "float64": ("double", "f64", 8)}


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
        return _DTYPES[self.dtype][0]

    @property
    def suffix(self) -> str:
        """The suffix of the functions' names."""
        return _DTYPES[self.dtype][1]

    @property
    def size(self) -> int:
        """Bytes of one number."""
        return _DTYPES[self.dtype][2]

    @property
    def vector(self) -> str:
        """The LLVM type of one register."""
        return f"<{self.lanes} x {self.scalar}>"


def host_tile(dtype: str) -> Tile:
    """The tile that fills the host's vector registers, leaving some for a row of B and a number of A."""
    return Tile(dtype, jit.vector_width(dtype), rows=8 if jit.vector_registers() == 32 else 4, vectors=3)


def packed_size(tile: Tile, k: int, n: int) -> int:
    """Elements of a packed k x n matrix. The caller allocates them, zeroed, aligned to 64 bytes."""
    return k * _round_up(n, tile.columns)


def outer_work(tile: Tile, m: int, n: int) -> int:
    """Elements of scratch memory that ``outer`` needs for an m x n result; ``n`` is unused."""
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
    names = ", ".join(f"ptr @{_kernel_name(tile, *kernel)}" for kernel in kernels)
    parts = [_declarations(tile), *(_tile_kernel(tile, *kernel) for kernel in kernels)]
    parts.append(f"@tiles_{tile.suffix} = internal unnamed_addr constant [{len(kernels)} x ptr] [{names}]\n")
    parts += [_rows(tile), _gemm(tile), _pack(tile), _pack_numbers(tile), _pack_narrow(tile), _outer(tile)]
    return "\n".join(parts)


def _round_up(number: int, multiple: int) -> int:
    return -(-number // multiple) * multiple


def _kernel_name(tile: Tile, rows: int, vectors: int, packing: bool) -> str:
    return f"{'packing_' if packing else ''}tile_{rows}x{vectors}_{tile.suffix}"


def _heights(tile: Tile) -> list[int]:
    """The rows of the full tile, and of the smaller ones for the remainder."""
    return [tile.rows, tile.rows // 2, 1]


class _Function:
    """Builds the text of one function. Variables are on the stack; the optimiser moves them into registers.

    Args:
        head: the text between ``define`` and the attributes.
        attributes: by default those for short code, for functions that take little time.
    """

    def __init__(self, head: str, attributes: str = "nounwind noinline optsize") -> None:
        self._head = head
        self._attributes = attributes
        self._stack: list[str] = []
        self._lines: list[str] = []
        self._count = 0

    def name(self, stem: str) -> str:
        self._count += 1
        return f"{stem}{self._count}"

    def do(self, text: str) -> None:
        self._lines.append(f"  {text}")

    def let(self, text: str) -> str:
        name = self.name("%v")
        self.do(f"{name} = {text}")
        return name

    def variable(self, kind: str, value: str) -> str:
        name = self.name("%s")
        self._stack.append(f"  {name} = alloca {kind}")
        self.do(f"store {kind} {value}, ptr {name}")
        return name

    def get(self, kind: str, variable: str) -> str:
        return self.let(f"load {kind}, ptr {variable}")

    def set(self, kind: str, variable: str, value: str) -> None:
        self.do(f"store {kind} {value}, ptr {variable}")

    def add(self, x: str | int, y: str | int) -> str:
        return self.let(f"add i64 {x}, {y}")

    def sub(self, x: str | int, y: str | int) -> str:
        return self.let(f"sub i64 {x}, {y}")

    def mul(self, x: str | int, y: str | int) -> str:
        return self.let(f"mul i64 {x}, {y}")

    def minimum(self, x: str | int, y: str | int) -> str:
        return self.let(f"call i64 @llvm.smin.i64(i64 {x}, i64 {y})")

    def at(self, kind: str, base: str, *offsets: str | int) -> str:
        """The address at these offsets, in elements, from another."""
        for offset in offsets:
            base = self.let(f"getelementptr {kind}, ptr {base}, i64 {offset}")
        return base

    def _label(self, label: str) -> None:
        self._lines.append(f"{label}:")

    @contextmanager
    def loop(self, start: str | int, stop: str | int, step: int = 1) -> Iterator[str]:
        """Repeat for i = start, start + step, ... as long as i + step <= stop; yields i."""
        head, body, end = (self.name(stem) for stem in ("head", "body", "end"))
        counter = self.variable("i64", str(start))
        self.do(f"br label %{head}")
        self._label(head)
        i = self.get("i64", counter)
        after = self.add(i, step)
        self.do(f"br i1 {self.let(f'icmp sle i64 {after}, {stop}')}, label %{body}, label %{end}")
        self._label(body)
        yield i
        self.set("i64", counter, after)
        self.do(f"br label %{head}")
        self._label(end)

    @contextmanager
    def when(self, condition: str) -> Iterator[None]:
        then, end = self.name("then"), self.name("end")
        self.do(f"br i1 {condition}, label %{then}, label %{end}")
        self._label(then)
        yield
        self.do(f"br label %{end}")
        self._label(end)

    def text(self) -> str:
        lines = [f"define {self._head} {self._attributes} {{", "entry:", *self._stack, *self._lines, "  ret void", "}"]
        return "\n".join(lines) + "\n"


def _declarations(tile: Tile) -> str:
    kinds = {_mangled(tile, lanes): f"<{lanes} x {tile.scalar}>" for lanes in {tile.lanes, tile.rows}}
    lines = [f"declare i64 @llvm.{name}.i64(i64, i64)" for name in ("smin", "smax")]
    lines.append("declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
    lines.append(f"declare {tile.vector} @llvm.fmuladd.{_mangled(tile)}({tile.vector}, {tile.vector}, {tile.vector})")
    for suffix, kind in sorted(kinds.items()):
        mask = kind.replace(tile.scalar, "i1")
        lines.append(f"declare {kind} @llvm.masked.load.{suffix}.p0(ptr, i32, {mask}, {kind})")
        lines.append(f"declare void @llvm.masked.store.{suffix}.p0({kind}, ptr, i32, {mask})")
    return "\n".join(lines) + "\n"


def _mangled(tile: Tile, lanes: int | None = None) -> str:
    return f"v{lanes or tile.lanes}{tile.suffix}"


def _mask(f: _Function, lanes: int, live: str) -> str:
    """True in the first ``live`` lanes."""
    numbers = ", ".join(f"i32 {lane}" for lane in range(lanes))
    limit = _splat(f, lanes, "i32", f.let(f"trunc i64 {live} to i32"))
    return f.let(f"icmp ult <{lanes} x i32> <{numbers}>, {limit}")


def _splat(f: _Function, lanes: int, kind: str, value: str) -> str:
    first = f.let(f"insertelement <{lanes} x {kind}> poison, {kind} {value}, i64 0")
    return f.let(
        f"shufflevector <{lanes} x {kind}> {first}, <{lanes} x {kind}> poison, <{lanes} x i32> zeroinitializer"
    )


def _load(f: _Function, tile: Tile, address: str, mask: str | None = None, lanes: int | None = None) -> str:
    lanes = lanes or tile.lanes
    kind = f"<{lanes} x {tile.scalar}>"
    if mask is None:
        return f.let(f"load {kind}, ptr {address}, align {tile.size}")
    return f.let(
        f"call {kind} @llvm.masked.load.{_mangled(tile, lanes)}.p0(ptr {address}, i32 {tile.size}, "
        f"<{lanes} x i1> {mask}, {kind} zeroinitializer)"
    )


def _store(
    f: _Function, tile: Tile, value: str, address: str, mask: str | None = None, lanes: int | None = None
) -> None:
    lanes = lanes or tile.lanes
    kind = f"<{lanes} x {tile.scalar}>"
    if mask is None:
        f.do(f"store {kind} {value}, ptr {address}, align {tile.size}")
        return
    f.do(
        f"call void @llvm.masked.store.{_mangled(tile, lanes)}.p0({kind} {value}, ptr {address}, "
        f"i32 {tile.size}, <{lanes} x i1> {mask})"
    )


def _prefetch(f: _Function, address: str) -> None:
    """Prefetch the cache line of an address into the second-level cache; an invalid address is harmless."""
    f.do(f"call void @llvm.prefetch.p0(ptr {address}, i32 0, i32 2, i32 1)")


def _tile_kernel(tile: Tile, rows: int, vectors: int, packing: bool = False) -> str:
    """``tile_RxV``: a tile of C from R rows of A and V vectors of a panel of B, over all of k.

    The last vector of C has ``live`` lanes. Every step of k prefetches one line of the next data. With ``packing``, B
    is read unpacked, and the panel ``bp`` is written at the same time.
    """
    f = _Function(
        f"internal void @{_kernel_name(tile, rows, vectors, packing)}(i64 %k, ptr noalias %a, i64 %a_row, i64 %a_col, "
        "ptr noalias %bp, ptr noalias %c, i64 %c_row, i64 %live, i1 %accumulate, ptr %next, i64 %next_step"
        + (", ptr noalias %b, i64 %b_row)" if packing else ")"),
        "nounwind",
    )
    vec, t = tile.vector, tile.scalar
    # A sum waits about four cycles for the previous one: with few rows, unroll several steps of k into separate sums.
    unroll = max(1, 4 // rows)
    cells = [(i, v) for i in range(rows) for v in range(vectors)]
    sums = [{cell: f.variable(vec, "zeroinitializer") for cell in cells} for _ in range(unroll)]
    a_at, bp_at, next_at = (f.variable("ptr", pointer) for pointer in ("%a", "%bp", "%next"))
    b_at = f.variable("ptr", "%b") if packing else bp_at
    ahead = f.mul("%b_row", AHEAD) if packing else "0"
    # By default the optimiser steps from row to row by additions, which compete with the products for slots.
    offsets = [f.let(f'call i64 asm "", "=r,0"(i64 {f.mul("%a_row", i * tile.size)})') for i in range(rows)]

    def steps(count: int) -> None:
        a, bp, b = f.get("ptr", a_at), f.get("ptr", bp_at), f.get("ptr", b_at)
        for u in range(count):
            # A single row reads the panels faster than they can be prefetched.
            if rows > 1:
                following = f.get("ptr", next_at)
                _prefetch(f, following)
                f.set("ptr", next_at, f.at(t, following, "%next_step"))
            if packing:
                for v in range(vectors):
                    _prefetch(f, f.at(t, b, ahead, v * tile.lanes))
                row = [_load(f, tile, f.at(t, b, v * tile.lanes)) for v in range(vectors)]
                for v in range(vectors):
                    _store(f, tile, row[v], f.at(t, bp, u * tile.columns + v * tile.lanes))
                b = f.at(t, b, "%b_row")
            else:
                row = [_load(f, tile, f.at(t, bp, u * tile.columns + v * tile.lanes)) for v in range(vectors)]
            for i in range(rows):
                number = _splat(f, tile.lanes, t, f.let(f"load {t}, ptr {f.at('i8', a, offsets[i])}"))
                for v in range(vectors):
                    old = f.get(vec, sums[u][i, v])
                    new = f.let(
                        f"call {vec} @llvm.fmuladd.{_mangled(tile)}({vec} {number}, {vec} {row[v]}, {vec} {old})"
                    )
                    f.set(vec, sums[u][i, v], new)
            a = f.at(t, a, "%a_col")
        f.set("ptr", a_at, a)
        f.set("ptr", bp_at, f.at(t, bp, count * tile.columns))
        if packing:
            f.set("ptr", b_at, b)

    mask = _mask(f, tile.lanes, "%live")
    masks = {(i, v): mask if v == vectors - 1 else None for i, v in cells}
    addresses = {(i, v): f.at(t, "%c", f.mul("%c_row", i), v * tile.lanes) for i, v in cells}
    with f.when("%accumulate"):
        for address in addresses.values():
            _prefetch(f, address)
    done = "0"
    if unroll > 1:
        with f.loop(0, "%k", unroll):
            steps(unroll)
        done = f.sub("%k", f.let(f"and i64 %k, {unroll - 1}"))
    with f.loop(done, "%k"):
        steps(1)
    for u in range(1, unroll):
        for cell in cells:
            total = f.let(f"fadd {vec} {f.get(vec, sums[0][cell])}, {f.get(vec, sums[u][cell])}")
            f.set(vec, sums[0][cell], total)

    with f.when("%accumulate"):
        for cell in cells:
            old = _load(f, tile, addresses[cell], masks[cell])
            f.set(vec, sums[0][cell], f.let(f"fadd {vec} {f.get(vec, sums[0][cell])}, {old}"))
    for cell in cells:
        _store(f, tile, f.get(vec, sums[0][cell]), addresses[cell], masks[cell])
    return f.text()


def _rows(tile: Tile) -> str:
    """``rows``: all rows of C for one panel of B. ``a_tile`` is the distance between full tiles of A.

    The next data begin at ``next``; the tiles share the work of prefetching them.
    """
    f = _Function(
        f"internal void @rows_{tile.suffix}(i64 %m, i64 %cols, i64 %k, ptr %a, i64 %a_tile, i64 %a_row, i64 %a_col, "
        "ptr %bp, ptr %c, i64 %c_row, i1 %accumulate, ptr %next, i64 %next_tile, i64 %next_step)"
    )
    last = f.let(f"udiv i64 {f.sub('%cols', 1)}, {tile.lanes}")
    live = f.sub("%cols", f.mul(last, tile.lanes))
    a_at, start = f.variable("ptr", "%a"), f.variable("i64", "0")
    for index, rows in enumerate(_heights(tile)):
        entry = f.at("ptr", f"@tiles_{tile.suffix}", index * tile.vectors, last)
        kernel = f.let(f"load ptr, ptr {entry}")
        step = "%a_tile" if rows == tile.rows else f.mul("%a_row", rows)
        with f.loop(f.get("i64", start), "%m", rows) as i:
            a, c = f.get("ptr", a_at), f.at(tile.scalar, "%c", f.mul(i, "%c_row"))
            turn = f.minimum(f.let(f"udiv i64 {i}, {tile.rows}"), tile.vectors)
            following = f.at(tile.scalar, "%next", f.mul(turn, "%next_tile"))
            f.do(
                f"call void {kernel}(i64 %k, ptr {a}, i64 %a_row, i64 %a_col, ptr %bp, ptr {c}, i64 %c_row, "
                f"i64 {live}, i1 %accumulate, ptr {following}, i64 %next_step)"
            )
            f.set("ptr", a_at, f.at(tile.scalar, a, step))
            f.set("i64", start, f.add(i, rows))
    return f.text()


def _gemm(tile: Tile) -> str:
    f = _Function(
        f"void @gemm_{tile.suffix}(i64 %m, i64 %n, i64 %k, ptr noalias %a, i64 %a_row, ptr noalias %bp, "
        "ptr noalias %c, i64 %c_row, i32 %accumulate)"
    )
    more = f.let("icmp ne i32 %accumulate, 0")
    line = LINE // tile.size
    with _panels(f, tile) as (j, cols):
        b, c = f.at(tile.scalar, "%bp", f.mul(j, "%k")), f.at(tile.scalar, "%c", j)
        # After the last panel comes the first one, in the next time step.
        after = f.add(j, tile.columns)
        following = f.let(f"select i1 {f.let(f'icmp slt i64 {after}, %n')}, i64 {after}, i64 0")
        f.do(
            f"call void @rows_{tile.suffix}(i64 %m, i64 {cols}, i64 %k, ptr %a, i64 {f.mul('%a_row', tile.rows)}, "
            f"i64 %a_row, i64 1, ptr {b}, ptr {c}, i64 %c_row, i1 {more}, "
            f"ptr {f.at(tile.scalar, '%bp', f.mul(following, '%k'))}, i64 {f.mul('%k', line)}, i64 {line})"
        )
    return f.text()


@contextmanager
def _panels(f: _Function, tile: Tile) -> Iterator[tuple[str, str]]:
    """Repeat for each panel of n columns; yields its first column and how many it has."""
    with f.loop(0, f.add("%n", tile.columns - 1), tile.columns) as j:
        yield j, f.minimum(f.sub("%n", j), tile.columns)


def _pack(tile: Tile) -> str:
    f = _Function(
        f"void @pack_{tile.suffix}(i64 %k, i64 %n, ptr noalias %b, i64 %b_row, i64 %b_col, ptr noalias %bp, "
        "i64 %bp_k, i64 %k0, i64 %n0)"
    )
    t = tile.scalar
    contiguous = f.let("icmp eq i64 %b_col, 1")
    transposed = f.let(f"and i1 {f.let('icmp eq i64 %b_row, 1')}, {f.let('xor i1 ' + contiguous + ', true')}")
    first = f.let(f"urem i64 %n0, {tile.columns}")
    # The panels with columns n0 to n0 + n: the first and the last one may contain others too.
    with f.loop(f.sub("%n0", first), f.add(f.add("%n0", "%n"), tile.columns - 1), tile.columns) as panel:
        left = f.let(f"call i64 @llvm.smax.i64(i64 {panel}, i64 %n0)")
        right = f.minimum(f.add(panel, tile.columns), f.add("%n0", "%n"))
        cols = f.sub(right, left)
        source = f.at(t, "%b", f.mul(f.sub(left, "%n0"), "%b_col"))
        target = f.at(t, "%bp", f.mul(panel, "%bp_k"), f.mul("%k0", tile.columns), f.sub(left, panel))
        full = f.let(f"and i1 {contiguous}, {f.let(f'icmp eq i64 {cols}, {tile.columns}')}")
        with f.when(full), f.loop(0, "%k") as r:
            row, target_row = f.at(t, source, f.mul(r, "%b_row")), f.at(t, target, f.mul(r, tile.columns))
            for v in range(tile.vectors):
                _store(f, tile, _load(f, tile, f.at(t, row, v * tile.lanes)), f.at(t, target_row, v * tile.lanes))
        partial = f.let(f"xor i1 {full}, {contiguous}")
        with f.when(partial), f.loop(0, f.add(cols, tile.lanes - 1), tile.lanes) as j:
            mask = _mask(f, tile.lanes, f.minimum(f.sub(cols, j), tile.lanes))
            with f.loop(0, "%k") as r:
                row = _load(f, tile, f.at(t, source, f.mul(r, "%b_row"), j), mask)
                _store(f, tile, row, f.at(t, target, f.mul(r, tile.columns), j), mask)
        with f.when(transposed):
            _pack_transposed(f, tile, source, target, cols)
        neither = f.let(f"xor i1 {f.let(f'or i1 {contiguous}, {transposed}')}, true")
        with f.when(neither):
            _call_pack_numbers(f, tile, source, target, "0", cols)
    return f.text()


def _call_pack_numbers(f: _Function, tile: Tile, source: str, target: str, row: str, cols: str) -> None:
    f.do(
        f"call void @pack_numbers_{tile.suffix}(i64 {row}, i64 %k, i64 {cols}, ptr {source}, i64 %b_row, i64 %b_col, "
        f"ptr {target})"
    )


def _pack_numbers(tile: Tile) -> str:
    """``pack_numbers``: a few columns of one panel, number by number, for a range of rows."""
    f = _Function(
        f"internal void @pack_numbers_{tile.suffix}(i64 %row, i64 %k, i64 %cols, ptr noalias %b, i64 %b_row, "
        "i64 %b_col, ptr noalias %panel)",
        "nounwind noinline optsize minsize",
    )
    t = tile.scalar
    with f.loop("%row", "%k") as r, f.loop(0, "%cols") as j:
        number = f.let(f"load {t}, ptr {f.at(t, '%b', f.mul(r, '%b_row'), f.mul(j, '%b_col'))}")
        f.do(f"store {t} {number}, ptr {f.at(t, '%panel', f.mul(r, tile.columns), j)}")
    return f.text()


def _pack_transposed(f: _Function, tile: Tile, source: str, target: str, cols: str) -> None:
    """Square blocks, transposed in registers; the edges number by number."""
    t, side = tile.scalar, min(8, tile.lanes)
    kind = f"<{side} x {t}>"
    whole_rows, whole_cols = (f.let(f"and i64 {number}, {-side}") for number in ("%k", cols))
    with f.loop(0, whole_cols, side) as j, f.loop(0, whole_rows, side) as r:
        block = []
        for i in range(side):
            address = f.at(t, source, f.mul(f.add(j, i), "%b_col"), r)
            block.append(f.let(f"load {kind}, ptr {address}, align {tile.size}"))
        for i, row in enumerate(_transposed(f, kind, block)):
            address = f.at(t, target, f.mul(f.add(r, i), tile.columns), j)
            f.do(f"store {kind} {row}, ptr {address}, align {tile.size}")
    _call_pack_numbers(f, tile, source, target, whole_rows, whole_cols)
    right = f.at(t, source, f.mul(whole_cols, "%b_col"))
    _call_pack_numbers(f, tile, right, f.at(t, target, whole_cols), "0", f.sub(cols, whole_cols))


def _transposed(f: _Function, kind: str, block: list[str]) -> list[str]:
    """The columns of a square block of vectors: each round exchanges the off-diagonal quarters of smaller squares."""
    side = len(block)
    half = side // 2
    while half:
        exchanged = list(block)
        for i in range(side):
            if not i & half:
                low = [c if not c & half else side + c - half for c in range(side)]
                high = [c + half if not c & half else side + c for c in range(side)]
                for index, order in ((i, low), (i + half, high)):
                    indices = ", ".join(f"i32 {c}" for c in order)
                    exchanged[index] = f.let(
                        f"shufflevector {kind} {block[i]}, {kind} {block[i + half]}, <{side} x i32> <{indices}>"
                    )
        block = exchanged
        half //= 2
    return block


def _pack_narrow(tile: Tile) -> str:
    """``pack_narrow``: k x m numbers into panels as wide as a tile of C is high; nothing beyond m is written."""
    f = _Function(
        f"internal void @pack_narrow_{tile.suffix}(i64 %k, i64 %m, ptr noalias %a, i64 %a_row, ptr noalias %ap)"
    )
    t, rows = tile.scalar, tile.rows
    # Several panels at a time, so that a line is read once.
    together = 4
    whole = f.let(f"and i64 %m, {-together * rows}")
    with f.loop(0, whole, together * rows) as i, f.loop(0, "%k") as r:
        source, target = f.at(t, "%a", f.mul(r, "%a_row"), i), f.at(t, "%ap", f.mul(i, "%k"), f.mul(r, rows))
        for panel in range(together):
            row = _load(f, tile, f.at(t, source, panel * rows), lanes=rows)
            _store(f, tile, row, f.at(t, target, f.mul("%k", panel * rows)), lanes=rows)
    with f.loop(whole, f.add("%m", rows - 1), rows) as i:
        mask = _mask(f, rows, f.sub("%m", i))
        target = f.at(t, "%ap", f.mul(i, "%k"))
        with f.loop(0, "%k") as r:
            row = _load(f, tile, f.at(t, "%a", f.mul(r, "%a_row"), i), mask, rows)
            _store(f, tile, row, f.at(t, target, f.mul(r, rows)), lanes=rows)
    return f.text()


def _outer(tile: Tile) -> str:
    f = _Function(
        f"void @outer_{tile.suffix}(i64 %m, i64 %n, i64 %k, ptr noalias %a, i64 %a_row, ptr noalias %b, i64 %b_row, "
        "ptr noalias %c, i64 %c_row, i32 %accumulate, ptr noalias %work)"
    )
    t = tile.scalar
    given = f.let("icmp ne i32 %accumulate, 0")
    panel = "%work"
    tiles = f.at(t, "%work", DEPTH * tile.columns)
    tall = f.let(f"icmp sge i64 %m, {tile.rows}")
    # Without rows, one empty block still writes the zeros.
    stop = f.let("call i64 @llvm.smax.i64(i64 %k, i64 1)")
    with f.loop(0, f.add(stop, DEPTH - 1), DEPTH) as start:
        depth = f.minimum(f.sub("%k", start), DEPTH)
        more = f.let(f"or i1 {given}, {f.let(f'icmp sgt i64 {start}, 0')}")
        a, b = (f.at(t, f"%{name}", f.mul(start, f"%{name}_row")) for name in "ab")
        f.do(f"call void @pack_narrow_{tile.suffix}(i64 {depth}, i64 %m, ptr {a}, i64 %a_row, ptr {tiles})")
        with _panels(f, tile) as (j, cols):
            source, target = f.at(t, b, j), f.at(t, "%c", j)
            following = f.at(t, source, tile.columns)
            # With a full tile of rows, the panel is packed while its first tile is computed.
            by_the_way = f.let(f"and i1 {tall}, {f.let(f'icmp eq i64 {cols}, {tile.columns}')}")
            done = f.let(f"select i1 {by_the_way}, i64 {tile.rows}, i64 0")
            with f.when(by_the_way):
                f.do(
                    f"call void @{_kernel_name(tile, tile.rows, tile.vectors, packing=True)}(i64 {depth}, "
                    f"ptr {tiles}, i64 1, i64 {tile.rows}, ptr {panel}, ptr {target}, i64 %c_row, i64 {tile.lanes}, "
                    f"i1 {more}, ptr {following}, i64 %b_row, ptr {source}, i64 %b_row)"
                )
            with f.when(f.let(f"xor i1 {by_the_way}, true")):
                f.do(
                    f"call void @pack_{tile.suffix}(i64 {depth}, i64 {cols}, ptr {source}, i64 %b_row, i64 1, "
                    f"ptr {panel}, i64 {depth}, i64 0, i64 0)"
                )
            a_rest = f.at(t, tiles, f.mul(done, depth))
            f.do(
                f"call void @rows_{tile.suffix}(i64 {f.sub('%m', done)}, i64 {cols}, i64 {depth}, ptr {a_rest}, "
                f"i64 {f.mul(depth, tile.rows)}, i64 1, i64 {tile.rows}, ptr {panel}, "
                f"ptr {f.at(t, target, f.mul(done, '%c_row'))}, i64 %c_row, i1 {more}, ptr {following}, "
                f"i64 {LINE // tile.size}, i64 %b_row)"
            )
    return f.text()
