"""Random command lines on tiny texts end with a run or a message, and never with a traceback."""

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import event, example, given
from hypothesis import strategies as st

from rnn_cli.main import rnn
from rnn_cli.options import OPTIONS, translate
from rnn_lab.paths import METRICS
from rnn_lab.runs import find_run
from rnn_plugins.errors import UserError

TEXTS: dict[str, bytes] = {
    "hello": b"hello",
    "two": b"ab",
    "one": b"aaaa",
    "empty": b"",
    "words": b"the cat sat on the mat, and the dog lay on the log.\n" * 3,
    "crlf": "\ufeffЁлка\r\nна горе\r\n".encode() * 4,
    "emoji": "👩‍👩‍👧 e\u0301 ".encode() * 9,
    "bytes": bytes(range(256)),
}


def words(text: str) -> st.SearchStrategy[str]:
    return st.sampled_from(text.split())


SMALL, NOTHING = st.integers(1, 6), st.nothing()
ODD = st.one_of(st.integers(-1, 0), st.floats(), st.sampled_from([10**30, "", "x", "1e-400"]))
FLAG = (st.none(), NOTHING)

# What fits, and what may not.
VALUES: dict[str, tuple[st.SearchStrategy[Any], st.SearchStrategy[Any]]] = {
    "level": (words("char byte word bpe:40"), words("bit bpe bpe:1")),
    "valid-fraction": (st.floats(0, 0.5), ODD),
    "valid": (words("words hello crlf"), words("nosuch empty one")),
    "test": (words("words hello crlf"), words("nosuch empty one")),
    "unknown": (words("error skip replace"), words("x")),
    "task": (words("language-model"), words("language-modle")),
    "task-option": (words("seq_length=3"), words("= =x x x=1")),
    "cell": (words("rnn irnn lstm lstm-peephole lstm-coupled gru GRU"), words("gur x.py:X x.py :")),
    "cell-option": (words("forget_bias=2 reset=after recurrent_scale=1e9"), words("reset = =x reset=x")),
    "ablate": (words("update=0 output=1 candidate=identity forget=0.5 layer1.tanh=0"), words("x = update=x =1 x=1")),
    "hidden-size": (SMALL, ODD),
    "num-layers": (st.integers(1, 3), ODD),
    "embedding-size": (st.integers(0, 5), ODD),
    "dropout": (st.floats(0, 0.99), ODD),
    "variational-dropout": FLAG,
    "tie": FLAG,
    "embedding-dropout": (st.floats(0, 0.99), ODD),
    "zoneout": (st.floats(0, 0.99), ODD),
    "weight-dropout": (st.floats(0, 0.99), ODD),
    "dtype": (words("float32 float64"), words("float16")),
    "seq-length": (SMALL | st.just(1000), ODD),
    "batch-size": (SMALL | st.just(1000), ODD),
    "learning-rate": (st.floats(1e-6, 1e6) | st.sampled_from([1e30, 1e300]), ODD),
    "schedule": (
        words("constant cosine:warmup=3 linear:final=0.5 exponential:every=0.1,after=1"),
        words("cosine:warmup=-3 linear: : x:y exponential:every=-1"),
    ),
    "optimizer": (
        words("sgd sgd:momentum=0.9,nesterov=true rmsprop adagrad adam adamw:weight_decay=1e9 adamw:vectors=false"),
        words("adam:beta1=1 rmsprop:decay=-1 sgd:nesterov=true sgd:momentum=inf"),
    ),
    "average": (words("ema swa:start=0.1 asgd:after=1"), words("x ema:start=1 ema:decay=1 asgd:after=0.5")),
    "grad-clip": (words("0 5 element:0.1 1e-300"), words("element: x -1 inf")),
    "epochs": (st.floats(0, 3), ODD),
    "max-time": (words("0 1s 1h"), words("1x -1")),
    "patience": (st.integers(0, 3), ODD),
    "seed": (st.integers(0, 5), st.just(2**70)),
    "name": (words("x ё"), words("x/y ..")),
    "preset": (st.just("char-rnn"), st.just("x")),
    "valid-every": (st.integers(0, 5), ODD),
    "log-every": (SMALL, ODD),
    "backend": (words("auto reference numpy"), words("torch")),
    "flow": FLAG,
    "flow-every": (SMALL, ODD),
    "track": (st.just("tensorboard"), st.just("x")),
    "quiet": FLAG,
    "progress": (words("live plain none"), words("loud")),
    "json": FLAG,
    "trust": FLAG,
}
# Given by the tests themselves, made of the others, or an option of other tasks.
ELSEWHERE = {"steps", "resume", "init-from", "config", "weighted"}


@st.composite
def command_lines(draw: st.DrawFn) -> list[str]:
    """Options with values that mostly fit, in any order, for a run of a few steps."""
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), unique=True, max_size=8))
    line = [draw(st.sampled_from([*TEXTS, "nosuch"])), "--steps", str(draw(st.integers(0, 4))), "--hidden-size", "3"]
    for name in names:
        fitting, odd = VALUES[name]
        value = draw(odd if odd is not NOTHING and draw(st.integers(0, 15)) == 15 else fitting)
        line += [f"--{name}"] if value is None else [f"--{name}", str(value)]
    if "preset" in names and "num-layers" not in names:
        line += ["--num-layers", "1"]
    return line


@pytest.fixture(scope="module", autouse=True)
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("random")
    for name, content in TEXTS.items():
        (folder / name).write_bytes(content)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RNN_LAB_CACHE", "cache")
        yield


def run(*arguments: str) -> int:
    """The exit code; whatever went wrong has been said in a sentence."""
    result = CliRunner().invoke(rnn, [*arguments])
    assert result.exit_code in (0, 2, 3), (arguments, result.output)
    assert "Traceback" not in result.output
    if result.exit_code:
        assert "Error: " in result.stderr
    return result.exit_code


@given(command_lines())
@example(["words", "--steps", "1", "--preset", "char-rnn", "--hidden-size", "3", "--cell", "gru"])
@example(["hello", "--steps", "2", "--learning-rate", "1e300", "--optimizer", "sgd", "--dtype", "float64"])
@example(["bytes", "--level", "byte", "--steps", "1", "--json", "--embedding-size", "2"])
def test_any_command_line_ends_in_a_run_or_in_a_sentence(line: list[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RNN_RUNS", tempfile.mkdtemp(dir="."))
        code = run("train", *line)
        event(f"exit code {code}")
        run("runs")
        if code == 0:
            trained = find_run()
            assert trained.manifest["outcome"] in ("finished", "time", "patience")
            trained.params()
            run("train", "--resume", trained.name, "--steps", "5")
            assert [r["step"] for r in trained.records()] == sorted({r["step"] for r in trained.records()})
            if (trained.path / METRICS).stat().st_size:
                run("rerun", trained.name, "--quiet")


def test_every_option_is_tried() -> None:
    assert {option.opts[0][2:] for option in OPTIONS} == VALUES.keys() | ELSEWHERE


KNOWN = words("-- - -h --model -rnn_size -gpuid -learning_rate_decay -lr_decay_every --lr=3")


@given(st.lists(KNOWN | st.text(max_size=6)))
def test_any_words_are_translated_or_refused(line: list[str]) -> None:
    try:
        ours = translate(line)
    except UserError:
        return
    assert translate(ours) == ours


KEYS = st.sampled_from([*sorted(VALUES), "files", "steps", "no such"])
TABLES = st.sampled_from([["hello"], [], {}, {"reset": "after"}])
ANYTHING = st.booleans() | st.integers(-3, 3) | st.text("abc:=,'\\\n", max_size=3) | TABLES


@given(st.dictionaries(KEYS, ANYTHING), st.sampled_from(["", "[", "x = 1", "'' = 2", "files = 'hello'"]))
def test_any_configuration_file_is_taken_or_refused(table: dict[str, Any], more: str) -> None:
    lines = [f"{_toml(key)} = {_toml(value)}" for key, value in table.items()]
    Path("c.toml").write_text("\n".join([*lines, more]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RNN_RUNS", tempfile.mkdtemp(dir="."))
        run("train", "hello", "--steps", "1", "--hidden-size", "2", "--config", "c.toml")


def _toml(value: Any) -> str:
    """TOML of a value; JSON's spelling will do but for tables."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_toml(k)} = {_toml(v)}" for k, v in value.items()) + "}"
    return json.dumps(value)
