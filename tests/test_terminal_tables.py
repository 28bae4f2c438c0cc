"""Tables on a terminal: as wide as it is, with nothing cut off."""

import re
import sys
from types import SimpleNamespace

import pytest

from rnn_cli.tables import filled, prose, table

ROWS = [("the model", "1.647", "5.19", "2.376"), ("primed bz2", "1.655", "5.23", "2.387")]
HEADS = ("", "NATS/CHAR", "PERPLEXITY", "BITS/CHAR")


def on_terminal(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: True))


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[\d;]*m", "", text)


def test_a_table_that_does_not_fit_has_a_paragraph_per_row(monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch, 40)
    assert plain(table(ROWS, HEADS, "<>>>", bold=0)) == (
        "the model\n  NATS/CHAR 1.647  PERPLEXITY 5.19\n  BITS/CHAR 2.376\n"
        "primed bz2\n  NATS/CHAR 1.655  PERPLEXITY 5.23\n  BITS/CHAR 2.387\n"
    )
    on_terminal(monkeypatch, 44)
    assert plain(table(ROWS, HEADS, "<>>>", bold=0)).splitlines()[1] == "the model       1.647        5.19      2.376"
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: False))
    assert "the model       1.647        5.19      2.376" in plain(table(ROWS, HEADS, "<>>>"))


def test_a_last_column_of_words_is_wrapped_or_stands_below(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [("lstm", "rnn-lab", "a cell with a forget gate, an input gate and an output gate")]
    on_terminal(monkeypatch, 60)
    assert table(rows).splitlines() == [
        "lstm  rnn-lab  a cell with a forget gate, an input gate and",
        "               an output gate",
    ]
    on_terminal(monkeypatch, 30)
    assert table(rows).splitlines() == [
        "lstm",
        "  rnn-lab  a cell with a",
        "  forget gate, an input gate",
        "  and an output gate",
    ]


@pytest.mark.parametrize("width", range(24, 120, 5))
def test_no_word_is_lost_and_no_line_too_long(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    on_terminal(monkeypatch, width)
    for align in ("<>>>", "<<<<"):
        text = plain(table(ROWS, HEADS, align, indent=2))
        assert max(map(len, text.splitlines())) <= width
        assert {word for row in ROWS for cell in row for word in cell.split()} <= set(text.split())


def test_a_line_is_wrapped_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    line = "runs/gru-small: 2.672 nats (3.854 bits per character) held out, at step 146"
    on_terminal(monkeypatch, 40)
    assert filled(line).splitlines() == [
        "runs/gru-small: 2.672 nats (3.854 bits",
        "per character) held out, at step 146",
    ]
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: False))
    assert filled(line) == line


def test_a_long_equation_goes_on_below_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "A cell.\n\n    f_t = sigmoid(W_f [h_{t-1}, x_t] + b_f)\n    h_t = f_t"
    on_terminal(monkeypatch, 40)
    assert prose(text).splitlines()[2:] == ["    f_t = sigmoid(W_f [h_{t-1}, x_t] +", "      b_f)", "    h_t = f_t"]
    on_terminal(monkeypatch, 80)
    assert prose(text) == f"{text}\n"
    monkeypatch.setattr(sys, "stdout", SimpleNamespace(isatty=lambda: False))
    monkeypatch.setenv("COLUMNS", "40")
    assert prose(text) == f"{text}\n"
