"""Hundreds of damaged files of a run: every command says what is wrong in a sentence, and other runs do not suffer.

Damage here is not a flipped bit of weights that carry a digest, which is noticed at once, but what would pass that:
files of versions before there were digests, with whatever in them.
"""

import copy
import json
import shutil
import struct
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file, save_file
from tiny_runs import TEXT, train

from rnn_cli.main import rnn
from rnn_lab.paths import BEST, LAST, MANIFEST, METRICS

STRANGE = [None, -1, 10**400, 1e308, "x", [], {}, True, float("nan"), [[1]], {"a": [1]}, "\x00"]
"""Values of JSON that stand where others belong."""

COMMANDS = {
    "sample": ["sample", "base", "--length", "3", "--seed", "1"],
    "eval": ["eval", "base"],
    "score": ["score", "base", "few.txt"],
    "report": ["report", "base", "--kind", "parameters", "--kind", "flow", "--lags", "4", "--positions", "5"],
    "compare": ["compare", "base", "other"],
    "resume": ["train", "--resume", "base", "--steps", "13", "--quiet"],
    "rerun": ["rerun", "base", "--quiet", "--name", "again"],
    "init": ["train", "few.txt", "--unknown", "skip", "--init-from", "base", "--steps", "1", "--quiet"],
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("damaged")
    train(folder, TEXT[:600], "base", hidden_size=4, steps=12, valid_every=6, log_every=6)
    (folder / "few.txt").write_text("to be or not\n" * 3)
    return folder


@pytest.fixture
def run(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that a test may damage; beside it lies another."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNN_RUNS", "runs")
    monkeypatch.setenv("RNN_LAB_CACHE", "cache")
    monkeypatch.setenv("COLUMNS", "500")
    shutil.copy(whole / "few.txt", "few.txt")
    for name in ("base", "other"):
        shutil.copytree(whole / "runs" / "base", Path("runs", name))
    return Path("runs", "base")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of all that stands in a value of JSON, of lists only the first and the last."""
    yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from places(item, (*path, key))
    elif isinstance(value, list):
        for index in sorted({0, len(value) - 1} if value else ()):
            yield from places(value[index], (*path, index))


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    """A copy with something else at a path; "-" leaves it out."""
    if not path:
        return new
    value = inner = copy.deepcopy(value)
    for key in path[:-1]:
        inner = inner[key]
    if new == "-":
        del inner[path[-1]]
    else:
        inner[path[-1]] = new
    return value


def look(run: Path, name: str, content: bytes, command: str) -> None:
    """Damage a file, see what two commands say of it, and put it back."""
    before = (run / name).read_bytes()
    (run / name).write_bytes(content)
    for arguments in (["runs"], COMMANDS[command]):
        result = CliRunner().invoke(rnn, arguments)
        told = f"{name}, {content[:3000]!r}: {arguments}: {result.output}"
        assert result.exit_code in (0, 1, 2), told
        assert result.exception is None or isinstance(result.exception, SystemExit), told
        assert "Traceback" not in result.output, told
        assert "a bug in rnn-lab" not in result.output, told
        if arguments == ["runs"]:
            assert result.exit_code == 0, told
            assert "\nother " in result.output, told
        elif result.exit_code:
            assert result.stderr.count("Error: ") == 1, told
    if command in ("resume", "rerun", "init"):  # they wrote
        shutil.rmtree("runs/again", ignore_errors=True)
        for file in Path("runs/other").iterdir():
            shutil.copy(file, run / file.name)
    (run / name).write_bytes(before)


def test_manifests(run: Path) -> None:
    manifest = json.loads((run / MANIFEST).read_text())
    commands = cycle(COMMANDS)
    for number, path in enumerate(places(manifest)):
        for new in [*STRANGE, "-"][number % 5 :: 5] if path else STRANGE:
            look(run, MANIFEST, json.dumps(changed(manifest, path, new)).encode(), next(commands))


def test_texts_that_are_no_manifest(run: Path) -> None:
    whole = (run / MANIFEST).read_bytes()
    nested = [b"[" * 100_000, b'{"a":' * 100_000, b'{"task": ' + b"1" * 10_000 + b"}", b"", b"\xff\xfe", b"\x00" * 100]
    for content, command in zip([*nested, *(whole[:n] for n in range(0, len(whole), 311))], cycle(COMMANDS)):
        look(run, MANIFEST, content, command)


def test_records(run: Path) -> None:
    lines = [json.loads(line) for line in (run / METRICS).read_text().splitlines()]
    commands = cycle(["resume", "report", "compare"])
    for number, path in enumerate(places(lines[-1])):
        for new in [*STRANGE, "-"][number % 9 :: 9] if path else STRANGE:
            text = "".join(json.dumps(line) + "\n" for line in [*lines[:-1], changed(lines[-1], path, new)])
            look(run, METRICS, text.encode(), next(commands))
    look(run, METRICS, b"[" * 100_000, "resume")


def parts(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The arrays of a checkpoint, and what is said of them, without the digest."""
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    said = json.loads(json.loads(content[8 : 8 + size])["__metadata__"]["minigrad"])
    del said["digest"]
    return load_file(file), said


def written(arrays: dict[str, Any], said: Any) -> bytes:
    save_file(arrays, "damaged", {"minigrad": json.dumps(said)})
    return Path("damaged").read_bytes()


@pytest.mark.parametrize("name", [BEST, LAST])
def test_what_is_noted_beside_weights(run: Path, name: str) -> None:
    arrays, said = parts(run / name)
    commands = cycle(["resume", "rerun"] if name == LAST else ["sample", "eval", "report", "compare", "init"])
    for number, path in enumerate(places(said)):
        for new in [*STRANGE, "-"][number % 9 :: 9]:
            if path or new != "-":
                look(run, name, written(arrays, changed(said, path, new)), next(commands))


@pytest.mark.parametrize("name", [BEST, LAST])
def test_other_arrays(run: Path, name: str) -> None:
    arrays, said = parts(run / name)
    commands = cycle(["resume"] if name == LAST else ["sample", "eval", "score", "report", "compare", "init"])
    for path, array in arrays.items():
        others = [array.T, array[..., None], array.astype(np.float16), array.astype(np.int32), array.reshape(-1)[:1]]
        for other in others:
            content = written(arrays | {path: np.ascontiguousarray(other)}, said)
            look(run, name, content, next(commands))
    content = (run / name).read_bytes()
    for end in range(0, len(content), len(content) // 9):
        look(run, name, content[:end], next(commands))
    for place in range(0, len(content), len(content) // 9):
        look(run, name, content[:place] + bytes([content[place] ^ 8]) + content[place + 1 :], next(commands))


def test_weights_that_do_not_fit_the_model_are_told_by_name_and_shape(run: Path) -> None:
    arrays, said = parts(run / BEST)
    wrong = {"head.W": arrays["head.W"][:, :-1], "cell.reset.W": arrays["cell.reset.W"].astype("f2")}
    symbols = arrays["head.b"].size
    for path, array in wrong.items():
        (run / BEST).write_bytes(written(arrays | {path: np.ascontiguousarray(array)}, said))
        result = CliRunner().invoke(rnn, COMMANDS["sample"])
        problem = f"is {array.shape}, expected (4, {symbols})" if path == "head.W" else "is float16, expected float32"
        assert (result.exit_code, result.stderr) == (
            2,
            f"Error: the run 'base' cannot be read: in its model.safetensors {path} {problem}\n",
        )


def test_a_hidden_size_without_bounds_is_refused_before_anything_is_made(run: Path) -> None:
    manifest = json.loads((run / MANIFEST).read_text())
    manifest["settings"]["hidden_size"] = 1_000_000
    (run / MANIFEST).write_text(json.dumps(manifest))
    result = CliRunner().invoke(rnn, COMMANDS["sample"])
    assert result.exit_code == 2
    assert "in its model.safetensors head.W is (4, " in result.stderr
    assert "expected (1000000, " in result.stderr


def test_kept_states(run: Path) -> None:
    assert CliRunner().invoke(rnn, [*COMMANDS["sample"], "--save-state", "s"]).exit_code == 0
    arrays, said = parts(Path("s"))
    contents = [
        written(arrays, changed(said, path, new))
        for number, path in enumerate(places(said))
        for new in [*STRANGE, "-"][number % 3 :: 3]
        if path or new != "-"
    ]
    contents += [
        written(arrays | {path: np.ascontiguousarray(other)}, said)
        for path, array in arrays.items()
        for other in (array[..., None], array.astype(np.int32), array.reshape(-1)[:1])
    ]
    for content in contents:
        Path("s").write_bytes(content)
        result = CliRunner().invoke(rnn, [*COMMANDS["sample"], "--load-state", "s"])
        assert result.exit_code in (0, 2), (content, result.output)
        assert result.exit_code == 0 or result.stderr.startswith("Error: --load-state"), (content, result.output)


def test_a_run_of_a_version_that_noted_less_opens_everywhere(run: Path) -> None:
    manifest = json.loads((run / MANIFEST).read_text())
    for key in ("environment", "best", "step"):
        manifest.pop(key)
    for key in ("opening", "lent"):
        manifest["facts"].pop(key)
    (run / MANIFEST).write_text(json.dumps(manifest))
    for name in (BEST, LAST):
        (run / name).write_bytes(written(*parts(run / name)))
    for arguments in COMMANDS.values():
        result = CliRunner().invoke(rnn, arguments)
        assert result.exit_code == 0, (arguments, result.output)
