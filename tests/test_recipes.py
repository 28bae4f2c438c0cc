"""The recipes of docs/python.md: each is executed, and prints what the page shows."""

import math
import re
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "python.md"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")


def recipes() -> list[tuple[str, str | None]]:
    """The programs of the page, in order, and the text that stands below each, if any."""
    pairs = re.findall(r"^```python\n(.*?)^```\n(?:```text\n(.*?)^```)?", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return [(code, text or None) for code, text in pairs]


def require_alike(printed: str, shown: str) -> None:
    """The same words, and the same numbers up to what another processor makes of them."""
    assert NUMBER.sub("#", printed).split() == NUMBER.sub("#", shown).split()
    for here, there in zip(NUMBER.findall(printed), NUMBER.findall(shown), strict=True):
        digits = len(there.partition(".")[2])
        assert math.isclose(float(here), float(there), rel_tol=0.1, abs_tol=2 * 10.0**-digits), (printed, shown)


def test_there_are_ten_recipes():
    heads = re.findall(r"^## (\d+)\. (.*)$", PAGE.read_text(), re.MULTILINE)
    assert [int(number) for number, _ in heads] == list(range(1, 11))
    for number, head in heads:
        anchor = re.sub(r"[^\w-]", "", head.lower().replace(" ", "-"))
        assert f"| {number} | [{head}](#{number}-{anchor}) |" in PAGE.read_text()


def test_the_recipes_print_what_the_page_shows(tmp_path, monkeypatch, capsys):
    pytest.importorskip("torch")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RNN_RUNS", "runs")
    monkeypatch.setenv("RNN_LAB_CACHE", "cache")
    monkeypatch.setenv("MPLBACKEND", "agg")
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = 0
    for code, text in recipes():
        exec(code, names)
        printed = capsys.readouterr().out
        if text is None:
            assert printed == ""
        elif ".sample(" in code:  # each symbol follows from those before, so that one that differs changes the rest
            assert printed.startswith("\\begin{")
            assert len(printed) == len(text)
        else:
            require_alike(printed, text)
        shown += text is not None
    assert shown >= 12
    assert Path("loss.svg").read_text().startswith("<?xml")
    assert "<svg" in Path("flow.html").read_text()
