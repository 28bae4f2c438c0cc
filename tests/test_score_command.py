"""``rnn score``: each symbol's surprise is the model's, and their mean is that of ``rnn eval``."""

import json
import math
import re
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest
from click.testing import CliRunner
from tiny_runs import TEXT, train

from minigrad import checkpoint, log_softmax
from rnn_cli import score as command
from rnn_cli.main import rnn
from rnn_lab.paths import BEST
from rnn_lab.runs import Run
from rnn_plugins.language import surprise

OTHER = "not to be, or to bo?\nthat is\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("score")
    train(folder, TEXT, "words", level="word")
    train(folder, TEXT.replace("o", "ö"), "bytes", level="byte")
    train(folder, TEXT, "hamlet", newest=True)
    folder.joinpath("other.txt").write_text(OTHER)
    return folder


@pytest.fixture
def call(folder, monkeypatch):
    """Runs ``rnn score`` and gives exit code, standard output and standard error."""
    monkeypatch.setenv("RNN_RUNS", str(folder / "runs"))
    monkeypatch.setenv("RNN_LAB_CACHE", str(folder / "cache"))
    monkeypatch.chdir(folder)

    def call(*args, stdin=None, name="score"):
        result = CliRunner().invoke(rnn, [name, *args], input=stdin)
        return result.exit_code, result.stdout, result.stderr

    return call


def by_hand(run, tokens):
    """Bits of each symbol but the first, and the likeliest ones, one step after another."""
    carry, bits, likeliest = run.model.init_carry(1), [], []
    for token, following in pairwise(tokens):
        carry, logits = run.model.step(run.params(), carry, np.array([token]))
        scores = log_softmax(logits.astype(np.float64))[0]
        bits.append(-scores[following] / math.log(2))
        likeliest.append((run.language.vocabulary.symbols[scores.argmax()], math.exp(scores.max())))
    return bits, likeliest


@pytest.mark.parametrize("name", ["hamlet", "bytes", "words"])
def test_every_symbol_has_its_bits(call, folder, name, monkeypatch):
    monkeypatch.setattr(surprise, "READ_AT_ONCE", 7)
    code, output, _ = call(name, "other.txt", "--json")
    assert code == 0
    record = json.loads(output)
    run = Run(folder / "runs" / name)
    vocabulary = run.language.vocabulary
    tokens = vocabulary.encode(OTHER, "replace")
    assert [entry["symbol"] for entry in record["symbols"]] == [vocabulary.symbols[token] for token in tokens]
    bits, likeliest = by_hand(run, tokens)
    found = [entry["bits"] for entry in record["symbols"]]
    assert found[0] is None
    np.testing.assert_allclose(found[1:], bits, atol=1e-5)
    assert record["mean_bits"] == pytest.approx(np.mean(bits), abs=1e-6)
    first = record["surprising_symbols"][0]
    place = int(np.argmax(bits))
    assert first["bits"] == pytest.approx(bits[place], abs=1e-5)
    assert first["text"] == vocabulary.symbols[tokens[place + 1]]
    assert first["expected"] == likeliest[place][0]
    assert first["confidence"] == pytest.approx(likeliest[place][1], abs=1e-5)
    assert [row["bits"] for row in record["surprising_symbols"]] == sorted(
        (row["bits"] for row in record["surprising_symbols"]), reverse=True
    )


@pytest.mark.parametrize("name", ["hamlet", "bytes", "words"])
def test_what_was_expected_instead_at_each_surprise(call, folder, name, monkeypatch):
    monkeypatch.setattr(surprise, "READ_AT_ONCE", 7)
    record = json.loads(call(name, "other.txt", "--json", "--top", "3")[1])
    run = Run(folder / "runs" / name)
    tokens, symbols = run.language.vocabulary.encode(OTHER, "replace"), run.language.vocabulary.symbols
    carry = run.model.init_carry(1)
    assert "top" not in record["symbols"][0]  # it is not predicted
    for entry, token in zip(record["symbols"][1:], tokens, strict=False):
        carry, logits = run.model.step(run.params(), carry, np.array([token]))
        shares = np.exp(log_softmax(logits.astype(np.float64))[0])
        found = [share["probability"] for share in entry["top"]]
        assert found == pytest.approx(np.sort(shares)[::-1][:3].tolist(), abs=1e-5)
        assert found == pytest.approx([shares[symbols.index(share["symbol"])] for share in entry["top"]], abs=1e-5)
    for row in record["surprising_symbols"] + record["surprising_words"]:
        assert row["top"][0] == {"symbol": row["expected"], "probability": row["confidence"]}
        assert len(row["top"]) == 3
        assert row["top"] in [entry.get("top") for entry in record["symbols"]]
    one = json.loads(call(name, "other.txt", "--json")[1])
    assert [list(entry) for entry in one["symbols"]] == [["symbol", "bits"]] * len(one["symbols"])
    assert [entry["bits"] for entry in one["symbols"]] == [entry["bits"] for entry in record["symbols"]]
    assert not any("top" in row for row in one["surprising_symbols"] + one["surprising_words"])
    everything = json.loads(call(name, "other.txt", "--json", "--top", "1000")[1])
    assert sum(share["probability"] for share in everything["symbols"][1]["top"]) == pytest.approx(1)


def test_the_tables_have_what_was_expected(call):
    record = json.loads(call("other.txt", "--json", "--top", "2")[1])
    output = call("other.txt", "--top", "2")[1]
    assert output.count("AFTER         EXPECTED INSTEAD") + output.count("AFTER        EXPECTED INSTEAD") == 2
    for row in record["surprising_symbols"]:
        pairs = [(share["symbol"], f"{100 * share['probability']:.0f} %") for share in row["top"]]
        told = "   ".join(
            f"{repr(symbol) if symbol == ' ' else symbol} {share}".replace("\n", "↵") for symbol, share in pairs
        )
        assert told in output
    assert "EXPECTED INSTEAD" not in call("other.txt")[1]


def test_a_narrow_terminal_has_tables_of_few_columns(call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    record = json.loads(call("other.txt", "--json")[1])
    for args, heads in (
        ([], "EXPECTED +P"),
        (["--top", "3"], "EXPECTED INSTEAD"),
    ):
        output = call("other.txt", *args)[1]
        assert max(map(len, output.splitlines())) <= 40
        assert re.search(f"^ *BITS +CHARACTER +AT +{heads} *$", output, re.MULTILINE)
        for row in record["surprising_words"]:
            assert re.search(rf"^ *[\d.]+  {row['text']} +{row['line']}:{row['column']} ", output, re.MULTILINE)


@pytest.mark.parametrize("name", ["hamlet", "bytes", "words"])
def test_together_they_are_what_eval_says(call, name):
    record = json.loads(call(name, "other.txt", "--json")[1])
    evaluated = json.loads(call(name, "other.txt", "--json", name="eval")[1])
    (model,) = (row for row in evaluated["scores"] if row["kind"] == "model")
    assert len(record["symbols"]) - 1 == evaluated["symbols"]
    assert record["mean_bits"] * math.log(2) == pytest.approx(model["loss"], rel=1e-5)
    assert record["bits_per_character"] == pytest.approx(model["bits_per_character"], rel=1e-5)


def test_the_training_text_is_noted(call, folder):
    remembered = "trained on, so the numbers say how well they are remembered; rnn eval hamlet scores the held-out ones"
    assert remembered in " ".join(call("hamlet", "hamlet.txt")[1].split())


def test_places_are_lines_and_columns(call, folder):
    record = json.loads(call("other.txt", "--json")[1])
    lines = OTHER.replace("?", " ").split("\n")
    for row in record["surprising_symbols"]:
        line = lines[row["line"] - 1] + "\n"
        assert line[row["column"] - 1] == row["text"]
        assert OTHER.replace("?", " ").find(row["before"] + row["text"]) >= 0
    for row in record["surprising_words"]:
        assert lines[row["line"] - 1][row["column"] - 1 :].startswith(row["text"])


@pytest.mark.parametrize("name", ["hamlet", "bytes", "words"])
def test_a_word_surprises_by_all_its_symbols(call, name):
    record = json.loads(call(name, "other.txt", "--json")[1])
    symbols = [entry["symbol"] for entry in record["symbols"]]
    bits = [entry["bits"] or 0 for entry in record["symbols"]]
    text = "".join(symbols)
    starts = np.cumsum([0] + [len(symbol) for symbol in symbols])
    expected: dict[str, float] = {}
    for match in re.finditer(r"\w+|<unk>", text):
        parts = [i for i in range(len(symbols)) if match.start() <= starts[i] < match.end()]
        if parts == [0]:
            continue  # read, and not predicted
        total = sum(bits[i] for i in parts)
        expected[match[0]] = max(total, expected.get(match[0], 0))
    ranked = sorted(expected.items(), key=lambda item: -item[1])[:10]
    assert [row["text"] for row in record["surprising_words"]] == [word for word, _ in ranked]
    np.testing.assert_allclose([row["bits"] for row in record["surprising_words"]], [b for _, b in ranked])


def test_the_text_is_shown_with_a_digit_below_each_symbol(call, folder):
    code, output, said = call("other.txt", "-q")
    assert (code, said) == (0, "")
    record = json.loads(call("other.txt", "--json")[1])
    lines = output.splitlines()
    assert lines[0] == "Surprise"
    assert lines[1] == "Which characters of other.txt does hamlet not expect?"
    at = lines.index("other.txt")
    symbols = len(Run(folder / "runs" / "hamlet").language.vocabulary)
    assert lines[at + 1] == f"bits per character: 0 is 0, 9 is {math.log2(symbols):.4g}"
    assert lines[at + 2] == "not to be, or to bo ↵"
    digits = [
        " " if entry["bits"] is None else str(min(9, int(10 * entry["bits"] / math.log2(symbols))))
        for entry in record["symbols"]
    ]
    assert lines[at + 3] == "".join(digits[:21]).rstrip()
    assert lines[at + 4] == "that is↵"
    assert lines[at + 5] == "".join(digits[21:]).rstrip()
    assert "The most surprising characters" in lines
    assert "The most surprising words" in lines
    assert "1 character that the model has never seen" in " ".join(output.split())
    assert "\x1b" not in output


def test_a_long_text_is_shown_in_part_and_measured_whole(call, monkeypatch):
    whole = json.loads(call("other.txt", "--json")[1])
    monkeypatch.setattr(command, "DRAWN", 10)
    _, output, _ = call("other.txt")
    words = " ".join(output.split())
    assert "not to be,\n" in output
    assert "that is↵" not in output
    assert (
        "Note: The first 10 of 29 characters are shown; --html FILE shows more of it, --json all. All are measured."
        in words
    )
    assert re.search(r"characters predicted +28\n", output)
    assert f"{whole['mean_bits']:.4g} bits per character" in words


def test_a_page_can_be_written(call, folder):
    code, _, said = call("other.txt", "--html", "page.html")
    assert (code, said) == (0, "scoring other.txt ...\nWritten: page.html\n")
    page = folder.joinpath("page.html").read_text()
    assert "other.txt as hamlet reads it" in page
    assert page.count("<html") == 1
    assert "http:" not in re.sub(r'xmlns[^=]*="[^"]*"', "", page)


def test_a_page_that_cannot_be_written_is_refused_at_once(call):
    for name, reason in (
        ("no/where.html", "--html is 'no/where.html', and there is no folder 'no': make it first"),
        ("-", "--html is '-'; name a file"),
    ):
        assert call("other.txt", "--html", name) == (2, "", f"Error: {reason}\n")


@pytest.mark.parametrize("name", ["hamlet", "words"])
def test_a_first_word_that_is_not_predicted_is_in_no_table(call, folder, name):
    folder.joinpath("tiny.txt").write_text("b or")
    code, output, _ = call(name, "tiny.txt")
    assert code == 0
    assert "nan" not in output
    assert [row["text"] for row in json.loads(call(name, "tiny.txt", "--json")[1])["surprising_words"]] == ["or"]
    folder.joinpath("tiny.txt").write_text("b ")
    assert "The most surprising words" not in call(name, "tiny.txt")[1]


def test_standard_input_and_the_newest_run(call):
    piped = json.loads(call("-", "--json", stdin=OTHER)[1])
    assert (piped["run"], piped["text"]) == ("hamlet", "-")
    assert piped["symbols"] == json.loads(call("runs/hamlet", "other.txt", "--json")[1])["symbols"]


def test_unseen_characters(call):
    assert call("other.txt", "--json", "--progress", "none")[2] == (
        "Note: 'other.txt' has 1 character that the model has never seen, read as ' ' at 1 position: '?'.\n"
    )
    skipped = json.loads(call("other.txt", "--json", "--unknown", "skip")[1])
    assert len(skipped["symbols"]) == len(OTHER) - 1
    assert call("other.txt", "--unknown", "error") == (
        2,
        "",
        "Error: 'other.txt' has 1 character that the model has never seen: '?'; --unknown skip leaves them out, "
        "--unknown replace puts ' ' in their place\n",
    )


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "there is no text to score: name a FILE, or - for standard input"),
        (["hamlet"], "there is no text to score: name a FILE, or - for standard input"),
        (["one.txt"], "one.txt has only one character; expected at least two, since the first is not predicted"),
        (["hamlett", "other.txt"], "there is no run called 'hamlett' in {runs}. Did you mean 'hamlet'?"),
        (["hamlet", "gone.txt"], "there is no file or folder 'gone.txt'; "),
        (["hamlet", "hamlet.txt", "--top", "0"], "--top is 0; it must be at least 1"),
    ],
)
def test_mistakes_are_sentences(call, folder, args, message):
    folder.joinpath("one.txt").write_text("t")
    code, output, said = call(*args)
    assert (code, output) == (2, "")
    assert said.startswith("Error: " + message.format(runs=folder / "runs"))
    assert said.count("\n") == 1


def test_weights_that_are_no_numbers(call, folder):
    run = train(folder, TEXT, "broken", steps=1)
    params, notes = checkpoint.load(run.path / BEST)
    params["head"]["b"] = np.full_like(params["head"]["b"], np.nan)
    checkpoint.save(run.path / BEST, params, notes)
    assert call("broken", "other.txt", "-q") == (
        2,
        "",
        "Error: the scores of the run 'broken' on other.txt are not finite: its training went wrong\n",
    )


def test_as_a_process(folder, call):
    done = subprocess.run(
        [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()", "score", "other.txt"],
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "Which characters of other.txt does hamlet not expect?" in done.stdout
