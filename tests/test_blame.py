"""Whether an exception is a plugin's mistake: failing cells, reports and files, and the toolkit itself."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import settle

from minigrad.scan import Lookup
from rnn_cli.main import rnn
from rnn_lab.reporting import load
from rnn_plugins import registry
from rnn_plugins.tasks import language_model

CELL = """
from dataclasses import dataclass
import numpy as np
from minigrad import affine, concat, tanh
from rnn_cells import Cell

@dataclass(frozen=True)
class Mine(Cell):
    def init_params(self, rng):
        return {"a": self.dense(rng)}

    def __call__(self, params, h, x):
        h = tanh(affine(params["a"], concat(h, x)))
        return h, h
"""
STEP, LAST = 'params["a"]', "        return h, h\n"
SHAPES = "shapes (3, 10) and (33, 5) do not fit: the last axis of the first must equal the last but one of the second"
TRAINED = "each parameter must be an array of floating-point numbers, since it is trained; put a constant into the step"
LOOKUP = "these inputs are a Lookup, a table with indices, not an array: compute with xs.array()"
UNROLL = """
    def unroll(self, params, carry, xs, **given):
        return super().unroll(params, carry, {}, **given)
"""

LINES = {
    "KeyError": (CELL.replace(STEP, 'params["b"]'), "line 13: Mine.__call__ fails with KeyError: 'b'"),
    "shapes": (
        CELL.replace("concat(h, x)", "concat(h, h)"),
        f"line 13: Mine.__call__ fails with ValueError: matmul: {SHAPES}",
    ),
    "two lines": (
        CELL.replace(LAST, '        raise RuntimeError("one\\ntwo")\n'),
        "line 14: Mine.__call__ fails with RuntimeError: one",
    ),
    "a library": (
        CELL.replace(LAST, "        np.linalg.inv(np.zeros((2, 2)))\n"),
        "line 14: Mine.__call__ fails with LinAlgError: Singular matrix",
    ),
    "the standard library": (
        CELL.replace(LAST, "        __import__('json').loads('')\n"),
        "line 14: Mine.__call__ fails with JSONDecodeError: Expecting value: line 1 column 1 (char 0)",
    ),
    "item assignment": (
        CELL.replace(LAST, "        h[0] = 0\n" + LAST),
        "line 14: Mine.__call__ fails with TypeError: a Tensor cannot be assigned to, because its gradient uses "
        "the old value: build the new one with where, concatenate or stack",
    ),
    "element by element": (
        CELL.replace(LAST, "        np.zeros(1)[0] = x[0, 0] * h[0, 0]\n" + LAST),
        "line 14: Mine.__call__ fails with TypeError: a Tensor that is being differentiated was given where Python "
        "needs a plain number, which would lose its gradient: use NumPy's function instead of math's (np.exp for "
        "math.exp), stack for elements assigned one by one, or .value where no gradient is wanted, as in a log",
    ),
    "a look-up times a number": (
        CELL + UNROLL.format("xs * 0.5"),
        f"line 17: Mine.unroll fails with TypeError: multiply: {LOOKUP}",
    ),
    "a number times a look-up": (
        CELL + UNROLL.format("0.5 * xs"),
        f"line 17: Mine.unroll fails with TypeError: multiply: {LOOKUP}",
    ),
    "the first carry": (
        CELL + "    def init_carry(self, batch_size):\n        return 1 / 0\n",
        "line 16: Mine.init_carry fails with ZeroDivisionError: division by zero",
    ),
    "the constructor": (
        CELL + "    def __post_init__(self):\n        {}['x']\n",
        "line 16: Mine.__post_init__ fails with KeyError: 'x'",
    ),
}
"""Exceptions that pass through a line of somebody's."""

PROMISES = {
    "an integer parameter": (
        CELL.replace("self.dense(rng)}", 'self.dense(rng), "n": np.arange(3)}'),
        f"parameter 'n' is of type int64; {TRAINED}",
    ),
    "a number as parameter": (
        CELL.replace("self.dense(rng)}", 'self.dense(rng), "n": 1.0}'),
        f"parameter 'n' is of type float; {TRAINED}",
    ),
    "no pair": (
        CELL.replace("return h, h", "return h"),
        "a step returns a ndarray; expected the pair (carry, y)",
    ),
    "another carry": (
        CELL.replace("return h, h", "return h[:, :2], h"),
        "the carry after a step is of shape (3, 2); expected (3, 5)",
    ),
    "another output": (
        CELL.replace("return h, h", "return h, concat(h, h)"),
        "the output is of shape (3, 10); expected (3, 5)",
    ),
}
"""What is found out only after somebody's code has returned."""


def said(*arguments: str) -> str:
    """What is said of a mistake that is the user's."""
    result = CliRunner().invoke(rnn, arguments)
    assert result.exit_code == 2, result.output
    return (
        f"\n{result.stderr}".rpartition("\nError: ")[2].strip().removesuffix(" (rnn --debug ... shows the traceback)")
    )


def train(source: str) -> list[str]:
    Path("mine.py").write_text(source)
    sizes = ["--hidden-size", "5", "--seq-length", "7", "--batch-size", "3", "--seed", "1", "--steps", "2"]
    inputs = ["--embedding-size", "0"]  # as wide as the text has characters, so that they do not fit a state by chance
    return ["train", "fox.txt", "--cell", "mine.py:Mine", *sizes, *inputs, "--quiet"]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)
    monkeypatch.setattr(registry, "plugin_cells", {})


@pytest.mark.parametrize("what", LINES)
def test_the_line_of_somebody_elses_code_is_named(what: str) -> None:
    source, sentence = LINES[what]
    assert said(*train(source)) == f"mine.py, {sentence}"
    assert not list(Path().glob("runs/*"))  # the same command can be given again when the line is mended


@pytest.mark.parametrize("what", PROMISES)
def test_a_cell_whose_results_do_not_fit_is_named_with_what_it_does_not_keep(what: str) -> None:
    source, sentence = PROMISES[what]
    assert said(*train(source)) == f"the cell 'mine.py:Mine' does not keep what a cell promises: {sentence}"


@pytest.mark.parametrize("source", ["", CELL], ids=["with a built-in cell", "with a cell that is right"])
def test_what_goes_back_to_nobody_elses_code_is_the_toolkits_fault(
    source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A line of the toolkit's own fails, as far as can be told from outside.
    ours = eval("lambda *_: {}['ours']", {"__name__": "rnn_plugins.language.sampling"})
    monkeypatch.setattr(language_model, "opening", ours)
    arguments = train(source) if source else ["train", "fox.txt"]
    result = CliRunner().invoke(rnn, arguments)
    assert result.exit_code == 1
    assert result.stderr == (
        "Error: this is a bug in rnn-lab: KeyError: 'ours'. Run it again as rnn --debug ... for the "
        "traceback that a bug report needs.\n"
    )


def test_debug_shows_the_traceback_of_somebody_elses_mistake() -> None:
    result = CliRunner().invoke(rnn, ["--debug", *train(LINES["KeyError"][0])])
    assert isinstance(result.exception, KeyError)


def test_inputs_that_are_looked_up_refuse_arithmetic() -> None:
    xs = Lookup(np.eye(3), np.zeros((2, 1), int))
    for compute in (lambda: xs + 1, lambda: 1 - xs, lambda: -xs, lambda: np.tanh(xs), lambda: xs @ np.eye(3)):
        with pytest.raises(TypeError, match=r"not an array: compute with xs\.array\(\)"):
            compute()
    assert (xs.array() * 2).shape == (2, 1, 3)


REPORT = """
from rnn_plugins.reports.report import Findings, Quantity, Report

class Ratio(Report):
    '''A ratio.'''
    title, question = "Ratio", "Which?"
    def measure(self, subject, look):
        return {}
"""


@pytest.mark.parametrize(
    ("result", "sentence"),
    [
        ("1 / 0", "{path}, line 8: Ratio.measure fails with ZeroDivisionError: division by zero"),
        ("None", "the report 'ratio' gives a NoneType; it must give Findings"),
    ],
)
def test_a_report_that_fails_leaves_the_others_on_the_page(
    install: Callable[..., None],
    tmp_path: Path,
    result: str,
    sentence: str,
) -> None:
    install("rnn-report-ratio", "1", "ratio = ratio_report:Ratio", "reports", ratio_report=REPORT.format(result))
    sentence = sentence.format(path=tmp_path / "site-packages" / "ratio_report.py")
    small = ["fox.txt", "--cell", "rnn", "--hidden-size", "5", "--lags", "3"]
    shown = CliRunner().invoke(
        rnn, ["report", *small, "--kind", "ratio", "--kind", "saturation", "--html", "page.html"]
    )
    assert shown.exit_code == 0, shown.output
    assert "".join(sentence.split()) in "".join(shown.stdout.split())  # lines are broken anywhere
    assert "Saturated and dead units" in shown.stdout
    page = Path("page.html").read_text()
    assert sentence.replace("'", "&#x27;") in page
    assert "Saturated and dead units" in page
    assert said("report", *small, "--kind", "ratio") == sentence


def test_a_report_that_cannot_be_loaded_stands_among_all(install: Callable[..., None]) -> None:
    install("rnn-report-ratio", "1", "ratio = ratio_report:Ratio", "reports", ratio_report="1 / 0")
    reason = (
        "the report 'ratio' of the distribution rnn-report-ratio 1 cannot be loaded: ratio_report:Ratio raised "
        "ZeroDivisionError: division by zero"
    )
    assert said("report", "fox.txt", "--cell", "rnn", "--kind", "ratio") == reason
    assert list(load(["flow", "ratio"], all_of_them=True)) == ["flow", "ratio"]
    shown = CliRunner().invoke(rnn, ["report", "fox.txt", "--cell", "rnn", "--hidden-size", "3", "--all"])
    assert shown.exit_code == 0, shown.output
    assert reason in " ".join(shown.stdout.split())
    assert "Saturated and dead units" in shown.stdout
