"""The compiled matrix products and their packing, against NumPy in double precision; and the cache of compiled code."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("llvmlite")

from minigrad.compiled import gemm, jit

posix = pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")

SIZES = [1, 2, 3, 7, 8, 9, 31, 33, 47, 48, 49, 65]
GUARD = 77.0
LONG, POINTER, INT = ctypes.c_int64, ctypes.c_void_p, ctypes.c_int32
SIGNATURES = {
    "pack": [LONG, LONG, POINTER, LONG, LONG, POINTER, LONG, LONG, LONG],
    "gemm": [LONG, LONG, LONG, POINTER, LONG, POINTER, POINTER, LONG, INT],
    "outer": [LONG, LONG, LONG, POINTER, LONG, POINTER, LONG, POINTER, LONG, INT, POINTER],
}
NARROW = {"float32": gemm.Tile("float32", 4, 4, 3), "float64": gemm.Tile("float64", 2, 4, 3)}
"""What a host without wide registers gets; every host can compile it."""


class Kernels:
    """The compiled functions for one tile, taking NumPy arrays in the place of pointers."""

    def __init__(self, tile: gemm.Tile) -> None:
        self.tile = tile
        self.library = jit.compile_ir(gemm.ir(tile))
        self.functions = {
            name: ctypes.CFUNCTYPE(None, *kinds)(self.library.address(f"{name}_{tile.suffix}"))
            for name, kinds in SIGNATURES.items()
        }

    def call(self, name: str, *args: Any) -> None:
        self.functions[name](*(arg.ctypes.data if isinstance(arg, np.ndarray) else arg for arg in args))

    def packed(self, k: int, n: int) -> np.ndarray:
        return np.zeros(gemm.packed_size(self.tile, k, n), self.tile.dtype)

    def pack(self, b: np.ndarray, bp: np.ndarray, bp_k: int, k0: int = 0, n0: int = 0) -> None:
        self.call("pack", *b.shape, b, *strides(b), bp, bp_k, k0, n0)

    def product(self, a: np.ndarray, b: np.ndarray, c: np.ndarray, accumulate: bool = False) -> None:
        bp = self.packed(*b.shape)
        self.pack(b, bp, b.shape[0])
        self.call("gemm", len(a), b.shape[1], len(b), a, strides(a)[0], bp, c, strides(c)[0], accumulate)

    def outer(self, a: np.ndarray, b: np.ndarray, c: np.ndarray, accumulate: bool = False) -> None:
        work = np.full(gemm.outer_work(self.tile, len(c)), np.nan, self.tile.dtype)
        sizes = (*c.shape, len(a))
        self.call("outer", *sizes, a, strides(a)[0], b, strides(b)[0], c, strides(c)[0], accumulate, work)


def strides(array: np.ndarray) -> list[int]:
    return [stride // array.itemsize for stride in array.strides]


@pytest.fixture(scope="module", params=["host-float32", "host-float64", "narrow-float32", "narrow-float64"])
def kernels(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Kernels:
    registers, dtype = request.param.split("-")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINIGRAD_CACHE", str(tmp_path_factory.mktemp("kernels")))
        return Kernels(gemm.host_tile(dtype) if registers == "host" else NARROW[dtype])


def noise(*shape: int, dtype: str) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(dtype)


def wide(rows: int, columns: int, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """An array of guards, and a part of it with memory left and right of every row."""
    whole = np.full((rows + 2, columns + 7), GUARD, dtype)
    return whole, whole[1:-1, 3:-4]


def assert_product(found: np.ndarray, a: np.ndarray, b: np.ndarray, before: float | np.ndarray = 0.0) -> None:
    """``found`` is ``before`` + a @ b, but for roundings: as many as terms, which add up like a random walk."""
    a, b = a.astype(float), b.astype(float)
    terms = np.abs(a) @ np.abs(b) + np.abs(before)
    error = np.abs(found - (before + a @ b))
    assert (error <= 2 * np.sqrt(len(b) + 1) * np.finfo(found.dtype).eps * terms).all()


def assert_guarded(whole: np.ndarray) -> None:
    whole[1:-1, 3:-4] = GUARD
    assert (whole == GUARD).all()


@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("k", [1, 2, 5, 64, 131])
def test_the_product_is_numpys(kernels: Kernels, m: int, k: int) -> None:
    dtype = kernels.tile.dtype
    for n in SIZES:
        a, b = noise(m, k, dtype=dtype), noise(k, n, dtype=dtype)
        whole, c = wide(m, n, dtype)
        kernels.product(a, b, c)
        assert_product(c, a, b)
        before = c.astype(float)
        kernels.product(a, b, c, accumulate=True)
        assert_product(c, a, b, before)
        assert_guarded(whole)


def test_rows_of_a_may_lie_apart(kernels: Kernels) -> None:
    dtype = kernels.tile.dtype
    a, b, c = noise(20, 50, dtype=dtype)[::2, 5:35], noise(30, 70, dtype=dtype), np.empty((10, 70), dtype)
    kernels.product(a, b, c)
    assert_product(c, a, b)


def test_a_product_over_nothing_is_zero(kernels: Kernels) -> None:
    dtype = kernels.tile.dtype
    for product, a in ((kernels.product, np.empty((9, 0), dtype)), (kernels.outer, np.empty((0, 9), dtype))):
        c = np.full((9, 50), GUARD, dtype)
        product(a, np.empty((0, 50), dtype), c)
        assert (c == 0).all()


@pytest.mark.parametrize("k", [1, 8, 13, 40])
@pytest.mark.parametrize("n", [1, 5, 8, 47, 48, 49, 100])
def test_a_transposed_or_scattered_matrix_packs_like_a_copy_of_it(kernels: Kernels, k: int, n: int) -> None:
    dtype = kernels.tile.dtype
    b = noise(k, n, dtype=dtype)
    expected, spread = kernels.packed(k, n), np.zeros((k, 2 * n), dtype)
    kernels.pack(b, expected, k)
    spread[:, ::2] = b
    for same in (np.ascontiguousarray(b.T).T, spread[:, ::2], spread[:, ::2].copy(order="F")):
        found = kernels.packed(k, n)
        kernels.pack(same, found, k)
        np.testing.assert_array_equal(found, expected)


def test_a_packed_matrix_is_made_of_panels(kernels: Kernels) -> None:
    width, dtype = kernels.tile.columns, kernels.tile.dtype
    b, bp = noise(5, width + 2, dtype=dtype), kernels.packed(5, width + 2)
    kernels.pack(b, bp, 5)
    panels = bp.reshape(2, 5, width)
    np.testing.assert_array_equal(panels[0], b[:, :width])
    np.testing.assert_array_equal(panels[1, :, :2], b[:, width:])
    assert not panels[1, :, 2:].any()


@pytest.mark.parametrize("order", ["C", "F"])
def test_pieces_pack_into_one_matrix(kernels: Kernels, order: Any) -> None:
    dtype = kernels.tile.dtype
    rows, columns = [3, 16, 30], [5, 47, 1, 50, 96, 33]
    whole = noise(sum(rows), sum(columns), dtype=dtype)
    expected, found = kernels.packed(*whole.shape), kernels.packed(*whole.shape)
    kernels.pack(whole, expected, len(whole))
    for k0, k in zip(np.cumsum([0, *rows]), rows, strict=False):
        for n0, n in zip(np.cumsum([0, *columns]), columns, strict=False):
            piece = whole[k0 : k0 + k, n0 : n0 + n].copy(order=order)
            kernels.pack(piece, found, len(whole), int(k0), int(n0))
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("k", [1, 3, gemm.DEPTH, 2 * gemm.DEPTH + 9])
def test_the_outer_product_is_numpys(kernels: Kernels, m: int, k: int) -> None:
    dtype = kernels.tile.dtype
    for n in SIZES:
        a, b = noise(k, m + 3, dtype=dtype)[:, 1 : m + 1], noise(k, n + 5, dtype=dtype)[:, :n]
        whole, c = wide(m, n, dtype)
        kernels.outer(a, b, c)
        assert_product(c, a.T, b)
        before = c.astype(float)
        kernels.outer(a, b, c, accumulate=True)
        assert_product(c, a.T, b, before)
        assert_guarded(whole)


CONSTANT = "define i32 @answer() { ret i32 42 }\n"


def answer() -> int:
    library = jit.compile_ir(CONSTANT)
    return int(ctypes.CFUNCTYPE(ctypes.c_int32)(library.address("answer"))())


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def test_compiled_code_is_kept_and_not_compiled_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert answer() == 42
    assert len(list(folder.iterdir())) == 1
    monkeypatch.setattr(jit, "_compile", lambda text: pytest.fail("compiled again"))
    assert answer() == 42


@pytest.mark.parametrize(
    "damage", [lambda code: code[:-1], lambda code: b"", lambda code: code[:40] + b"?" + code[41:]]
)
def test_a_damaged_file_is_compiled_anew(folder: Path, damage: Any) -> None:
    answer()
    (path,) = folder.iterdir()
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    assert answer() == 42
    assert path.read_bytes() == whole


def _of_somebody_else(path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give files away")
    os.chown(path, 1234, 1234)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _link(path: Path) -> None:
    path.rename(path.with_suffix(".moved"))
    path.symlink_to(path.with_suffix(".moved"))


def _code_of_another_text(path: Path) -> None:
    jit.compile_ir(CONSTANT.replace("42", "43"))
    (other,) = set(path.parent.iterdir()) - {path}
    other.replace(path)


@posix
@pytest.mark.parametrize(
    "change", [lambda path: path.chmod(0o620), lambda path: path.chmod(0o602), _of_somebody_else, _fifo, _link]
)
def test_a_file_that_somebody_else_can_write_is_not_loaded(folder: Path, change: Callable[[Path], None]) -> None:
    answer()
    (path,) = folder.iterdir()
    change(path)
    assert jit._read(path) is None
    assert answer() == 42
    assert jit._read(path) is not None  # it stands there anew


def test_a_file_under_another_s_name_is_not_loaded(folder: Path) -> None:
    answer()
    (path,) = folder.iterdir()
    _code_of_another_text(path)
    assert answer() == 42


@posix
def test_the_folder_is_closed_to_others(folder: Path) -> None:
    umask = os.umask(0)
    try:
        answer()
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o700


@posix
def test_a_folder_that_others_can_write_to_is_not_used(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer()
    (path,) = folder.iterdir()
    folder.chmod(0o770)
    compiled: list[str] = []
    compile_it = jit._compile
    monkeypatch.setattr(jit, "_compile", lambda text: (compiled.append(text), compile_it(text))[1])
    assert [answer(), answer()] == [42, 42]
    assert compiled == [CONSTANT, CONSTANT]
    assert caplog.messages == [
        f"compiled code is not cached, so every start takes longer: another user owns or can write to {folder}; "
        "remove their write permission (chmod go-w), or set MINIGRAD_CACHE to another folder"
    ]
    assert list(folder.iterdir()) == [path]


@posix
@pytest.mark.skipif(not getattr(os, "geteuid", int)(), reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to_is_no_error(folder: Path) -> None:
    folder.mkdir(0o500)
    assert answer() == 42
    assert list(folder.iterdir()) == []


def test_an_interruption_leaves_no_half_of_a_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            answer()
    assert list(folder.iterdir()) == []
    assert answer() == 42


PROCESS = """
import ctypes
from minigrad.compiled import jit

print(jit.processor(), flush=True)
input()
for i in range(50):
    library = jit.compile_ir(f"define i32 @answer() {{ ret i32 {i} }}")
    assert ctypes.CFUNCTYPE(ctypes.c_int32)(library.address("answer"))() == i
"""
"""A program that keeps and loads compiled code as soon as it may."""


def test_processes_may_share_a_folder(folder: Path) -> None:
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    processes = [subprocess.Popen([sys.executable, "-c", PROCESS], text=True, **pipes) for _ in range(2)]
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 2
    files = list(folder.iterdir())
    assert len(files) == 50
    assert all(jit._read(path) for path in files)


def test_no_place_for_a_cache_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MINIGRAD_CACHE", str(tmp_path / "file" / "kernels"))
    assert answer() == 42


def test_another_text_or_processor_has_a_file_of_its_own(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer()
    jit.compile_ir(CONSTANT.replace("42", "43"))
    assert len(list(folder.iterdir())) == 2
    name, features = jit._host()
    monkeypatch.setattr(jit, "_host", lambda: (name, features + ",+sse2"))
    answer()
    assert len(list(folder.iterdir())) == 3


def test_an_unknown_function_is_told_with_those_there_are(folder: Path) -> None:
    library = jit.compile_ir(CONSTANT + "define internal i32 @hidden() { ret i32 1 }\n")
    with pytest.raises(KeyError, match=r"no compiled function 'question'\. Available names: answer"):
        library.address("question")


def test_a_text_that_is_none_is_refused(folder: Path) -> None:
    with pytest.raises(RuntimeError, match="expected"):
        jit.compile_ir("define nothing")
    assert not folder.exists()


def test_functions_of_the_mathematics_library_can_be_called(folder: Path) -> None:
    text = """
declare float @expf(float)
define float @f(float %x) {
  %y = call float @expf(float %x)
  ret float %y
}
"""
    function = ctypes.CFUNCTYPE(ctypes.c_float, ctypes.c_float)
    library = jit.compile_ir(text)
    assert function(library.address("f"))(1.0) == pytest.approx(np.e, rel=1e-6)


@pytest.mark.parametrize(
    ("features", "lanes", "registers"),
    [("+avx2,+avx512f", (16, 8), 32), ("+avx2,-avx512f", (8, 4), 16), ("+sse2", (4, 2), 16), ("+neon", (4, 2), 32)],
)
def test_the_registers_follow_from_the_features(
    monkeypatch: pytest.MonkeyPatch, features: str, lanes: tuple[int, int], registers: int
) -> None:
    monkeypatch.setattr(jit, "_host", lambda: ("some", features))
    assert (jit.vector_width("float32"), jit.vector_width("float64")) == lanes
    assert jit.vector_registers() == registers


def test_the_cache_has_a_place_by_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINIGRAD_CACHE", raising=False)
    assert jit.cache_folder().name == "kernels"
    assert jit.available()
