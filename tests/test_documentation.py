"""The documentation's commands are parsed, and its tutorials are run."""

import json
import re
import runpy
import shlex
import string
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from options_table import PAGE, tables, written
from PIL import Image

from rnn_cli.main import COMMANDS, rnn

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("plugins/examples/*/README.md"))]
TUTORIALS = [ROOT / "README.md", ROOT / "docs" / "tour.md", ROOT / "docs" / "cells.md"]


def blocks(page: Path, language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block for name, block in found if name == language]


def commands(page: Path) -> list[list[str]]:
    """The `rnn` command lines of a page, in order: lines of shell blocks, and of transcripts behind a prompt."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines += [line[2:] for block in blocks(page, "") for line in block.splitlines() if line.startswith("$ ")]
    words = (shlex.split(re.split(r" [>|] ", line)[0], comments=True) for line in lines)
    return [line[1:] for line in words if line and line[0] == "rnn"]


def test_no_page_waits_for_its_figures():
    assert not [page for page in PAGES if re.search(r"@[A-Z_]+@|TODO|TBD", page.read_text(encoding="utf-8"))]


def test_the_documentation_shows_every_command():
    shown = {line[0] for page in PAGES for line in commands(page)}
    assert set(COMMANDS) <= shown


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_every_documented_command_is_understood(page):
    for words in commands(page):
        command, context = rnn, click.Context(rnn, info_name="rnn")
        while isinstance(command, click.Group) and words and words[0] in command.list_commands(context):
            command, words = command.get_command(context, words[0]), words[1:]
            assert command is not None
        command.make_context("rnn", list(words), parent=context, resilient_parsing=False).close()


SHORTER = {
    "train": ["--steps", "2", "--hidden-size", "8"],
    "report": ["--hidden-size", "8", "--lags", "8", "--positions", "9"],
    "compare": ["--hidden-size", "8", "--steps", "2", "--seeds", "2"],
}
"""What makes a command of a tutorial quick."""


@pytest.mark.parametrize("page", TUTORIALS, ids=lambda page: page.name)
def test_the_tutorials_run_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RNN_RUNS", raising=False)
    cells, programs = ([s for s in blocks(page, "python") if ("class " in s) is cell] for cell in (True, False))
    for source in cells:
        Path("my_cell.py").write_text(source, encoding="utf-8")
    # Stand in for the real texts and for long training, which the figures on the page are from.
    Path("tinyshakespeare.txt").write_text(f"{string.ascii_letters}\nROMEO:\nBut soft, what light\n\n" * 40)
    reviews = [
        f"{label}\ta {word} film , {i} times" for i in range(9) for label, word in (("neg", "dull"), ("pos", "fine"))
    ]
    for name in ("reviews-train.tsv", "reviews-valid.tsv"):
        Path(name).write_text("\n".join(["label\ttext", *reviews]))
    ran = commands(page)
    assert ran
    for words in ran:
        result = CliRunner().invoke(rnn, [*words, *SHORTER.get(words[0], [])])
        assert result.exit_code == 0, (words, result.output)
    for source in programs:
        exec(source, {})


def test_the_engine_page_computes(tmp_path):
    source, decoder = (block for block in blocks(ROOT / "docs" / "engine.md", "python") if "import" in block)
    names: dict[str, object] = {}
    exec(source, names)
    assert set(names["gradient"]) == {"W"}
    assert names["hessian_times_v"]["W"].shape == (3, 2)
    assert names["pullback"](names["output"])[0]["W"].shape == (3, 2)
    exec(decoder, names)
    assert names["weights"].shape == (names["T"], names["B"], names["S"])


def test_the_page_on_one_step_shows_what_the_engine_makes_of_it():
    pytest.importorskip("llvmlite")
    made = runpy.run_path(str(ROOT / "docs" / "one_step.py"))["blocks"]()
    _, *shown = (ROOT / "docs" / "one-step.md").read_text(encoding="utf-8").split("```")[1::2]
    assert [made[name].strip() for name in ("graph", "program", "numpy")] == [text.strip() for text in shown[:3]]
    assert len(shown) == 8
    for text in shown[3:]:
        assert text.strip("\n") in made["llvm"], text


def test_a_number_is_drawn_as_the_page_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (code,) = (code for code in blocks(ROOT / "docs" / "read-and-paint.md", "python") if "random_layout" in code)
    exec(code, {})
    with Image.open("number.png") as drawn:
        assert (drawn.size, drawn.mode) == ((54, 54), "RGB")


def test_no_picture_is_large():
    sizes = {path.name: path.stat().st_size for path in (ROOT / "docs" / "images").iterdir()}
    assert {name: size for name, size in sizes.items() if size > 300_000} == {}


@pytest.mark.parametrize("name", ["report", "score", "compare", "sample", "eval", "predict"])
def test_every_option_of_a_command_stands_in_the_documentation(name):
    text = "".join(
        (ROOT / "docs" / page).read_text(encoding="utf-8") for page in ("commands.md", "reports.md", "predict.md")
    )
    command = rnn.get_command(click.Context(rnn), name)
    for parameter in command.params:
        for option in parameter.opts if isinstance(parameter, click.Option) else []:
            assert re.search(rf"`[^`]*{option}\b", text), f"no page mentions {option} of rnn {name}"


def test_the_reports_page_measures(monkeypatch, tmp_path):
    """Its report is a plugin like any other: found by its entry point, and laid over for several subjects."""
    (source,) = blocks(ROOT / "docs" / "reports.md", "python")
    (declared,) = blocks(ROOT / "docs" / "reports.md", "toml")
    (tmp_path / "my_package.py").write_text(source)
    info = tmp_path / "rnn_report_norms-0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: rnn-report-norms\nVersion: 0.1\n")
    group, line = re.search(r'"(.*)"\]\n(.*)\n', declared).groups()
    (info / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("RNN_LAB_CACHE", str(tmp_path / "cache"))
    arguments = ["--cell", "rnn", "--cell", "lstm", "--hidden-size", "5", "--positions", "9", "--json", "-"]
    result = CliRunner().invoke(rnn, ["report", "--kind", "norms", *arguments])
    assert result.exit_code == 0, result.output
    page = json.loads(result.stdout)["reports"]["norms"]
    assert [curve["label"] for curve in page["figures"][0]["curves"]] == ["rnn", "lstm, h", "lstm, c"]
    assert page["quantities"]["lstm"][0]["value"] == page["figures"][0]["curves"][1]["y"][-1]
    assert "norms" in CliRunner().invoke(rnn, ["report", "--list"]).stdout


def test_the_tables_of_options_are_those_of_the_program():
    assert written(PAGE.read_text(encoding="utf-8")) == tables(), "write them with: python docs/options_table.py"
