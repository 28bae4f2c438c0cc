"""Shared by all tests: Hypothesis profiles, processors, folders, and the path of the optional real data."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, settings

# Deadlines and slowness measure the machine, not the code; a busy one must not fail a test.
settings.register_profile("base", deadline=None, suppress_health_check=[HealthCheck.too_slow])
base = settings.get_profile("base")
settings.register_profile("dev", base, max_examples=30)
settings.register_profile("ci", base, max_examples=60, derandomize=True, print_blob=True)
settings.register_profile("thorough", base, max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get("CI") else "dev"))


# Several processes that run the tests share the processors: threads that wait for their turn take many times as long.
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 0)):
    from minigrad.compiled.parallel import threads

    os.environ.setdefault("MINIGRAD_THREADS", str(max(1, threads() // workers)))


@pytest.fixture(scope="session", autouse=True)
def state(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep what the program remembers of its user out of the folder of whoever runs the tests."""
    os.environ["RNN_LAB_STATE"] = str(tmp_path_factory.mktemp("state"))


# A shell that runs the tests in the background has them ignore Ctrl-C, and all that they start, which some interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# So does nohup with a terminal that is hung up.
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def unsynced() -> Iterator[None]:
    """Do not wait for the disk: no test cuts the power, and thousands of files are written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


DATA = Path(os.environ.get("RNN_LAB_DATA", Path(__file__).parents[2] / "shared" / "data"))


@pytest.fixture
def data() -> Path:
    """The folder of real data, which the repository does not carry."""
    if not DATA.is_dir():
        pytest.skip(f"no real data at {DATA}; set RNN_LAB_DATA to try on it")
    return DATA


@pytest.fixture
def no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Code is written, and not compiled; nor are products, which would be kept for other tests."""
    from minigrad.scan import compiled_backend

    monkeypatch.setattr(compiled_backend, "_products", compiled_backend.Products)
    monkeypatch.setattr(compiled_backend.jit, "compile_ir", lambda text: SimpleNamespace(address=lambda name: 1))


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Installs a distribution with one module: a dist-info folder and the module on a folder of the path."""
    folder = tmp_path / "site-packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))

    def install(distribution: str, version: str, entry_points: str, group: str = "cells", **modules: str) -> None:
        info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        info.joinpath("METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        info.joinpath("entry_points.txt").write_text(f"[rnn.{group}]\n{entry_points}\n")
        for name, source in modules.items():
            monkeypatch.delitem(sys.modules, name, raising=False)
            folder.joinpath(f"{name}.py").write_text(source)

    return install
