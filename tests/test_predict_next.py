"""``rnn predict`` with a language model: the next symbols with their probabilities, in lines, records, bars, pages."""

import io
import itertools
import json
import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from command_line import predict as call
from command_line import within
from tiny_runs import TEXT, train

import rnn_lab
from minigrad import log_softmax
from rnn_cli.main import rnn
from rnn_cli.printer import Printer
from rnn_lab import predicting
from rnn_lab.runs import Run
from rnn_plugins.language import predicting as predicting_next
from rnn_plugins.reports.report import Table
from rnn_plugins.tasks.task import Prediction
from rnn_plugins.words import legible


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    home = tmp_path_factory.mktemp("next")
    train(home, TEXT, "bytes", level="byte")
    train(home, TEXT, "words", level="word")
    train(home, TEXT, "hamlet", newest=True)
    return home


@pytest.fixture(autouse=True)
def home(folder, monkeypatch):
    within(folder, monkeypatch)


def by_model(name, ids):
    """The probability of each next symbol after some, read in one go from the model's initial carry, (V,)."""
    run = Run(Path("runs") / name)
    model = run.language.model
    _, logits = model.unroll(run.params(), model.init_carry(1), np.array(ids)[:, None])
    return np.exp(np.asarray(log_softmax(np.asarray(logits[-1, 0], np.float64))))


def _ids(text):
    return Run(Path("runs/hamlet")).language.vocabulary.encode(text)


@pytest.mark.parametrize("name", ["hamlet", "bytes", "words"])
@pytest.mark.parametrize("text", ["to be, or not", "to ", "q"])
def test_the_probabilities_are_the_model_s(name, text):
    language = Run(Path("runs") / name).language
    expected = by_model(name, language.vocabulary.encode(text, "replace"))
    (record,) = map(json.loads, call(name, "--prime", text, "--top", "4", "--json")[1].splitlines())
    likely = np.argsort(-expected)[:4]
    assert [share["next"] for share in record["top"]] == [language.vocabulary.symbols[i] for i in likely]
    assert [share["probability"] for share in record["top"]] == pytest.approx(expected[likely].tolist(), rel=1e-4)
    assert (record["input"], record["next"]) == (text, record["top"][0]["next"])
    assert record["probability"] == record["top"][0]["probability"]
    whole = next(rnn_lab.load(name).predict(text, top=len(language.vocabulary)))
    assert sum(share["probability"] for share in whole["top"]) == pytest.approx(1)


def test_a_text_may_be_an_argument_a_prime_a_line_or_an_argument_in_python():
    code, line, said = call("hamlet", "to be")
    assert (code, said) == (0, "")
    assert re.fullmatch(r"\S+|'.' 0\.\d{3}  to be\n", line)
    assert call("hamlet", "--prime", "to be") == (0, line, "")
    assert call("--prime", "to be") == (0, line, "From the run hamlet.\n")
    assert call("to be") == (0, line, "From the run hamlet.\n")
    assert call("hamlet", stdin="to be\n") == (0, line, "")
    assert call("hamlet", "-", stdin="to be")[1] == line
    Path("some.txt").write_text("to be\nor not\n")
    both = call("hamlet", "some.txt")[1]
    assert both == line + call("hamlet", "or not")[1]
    assert call("hamlet", "--prime", "to be", "--prime", "or not")[1] == both
    assert call("hamlet", "--prime", "to be", "or not")[1] == both
    records = [json.loads(row) for row in call("hamlet", "some.txt", "--json", "--top", "2")[1].splitlines()]
    run = rnn_lab.load("hamlet")
    assert list(run.predict(["to be", "or not"], top=2)) == records
    assert list(run.predict("some.txt", top=2)) == records
    assert [sorted(record) for record in records] == [["input", "next", "probability", "top"]] * 2
    assert "top" not in next(run.predict("to be"))


def test_a_prime_is_never_a_file_or_a_run():
    Path("some.txt").write_text("to be\nor not\n")
    assert call("hamlet", "--prime", "some.txt")[1].endswith("  some.txt ('x' read as ' ')\n")
    assert call("hamlet", "--prime", "to be.txt")[1].count("\n") == 1
    assert "  - (" in call("hamlet", "--prime", "-")[1]
    code, out, said = call("hamlte", "--prime", "to be")
    assert (code, out) == (2, "")
    assert "hamlte" in said
    assert "Did you mean 'hamlet'?" in said


def test_without_a_text_it_predicts_the_beginning_as_a_sample_without_prime_begins():
    language = Run(Path("runs/hamlet")).language
    expected = by_model("hamlet", language.opening)
    (record,) = rnn_lab.load("hamlet").predict([""])
    assert record["next"] == language.vocabulary.symbols[expected.argmax()]
    assert record["probability"] == pytest.approx(expected.max(), rel=1e-4)
    assert call("hamlet", "--prime", "")[1].endswith("  ''\n")
    greedy = CliRunner().invoke(rnn, ["sample", "hamlet", "--greedy", "--length", "1"]).stdout
    assert greedy.rstrip("\n") == record["next"].rstrip("\n")


def test_a_long_text_is_read_to_its_end():
    text = TEXT * 3
    expected = by_model("hamlet", Run(Path("runs/hamlet")).language.vocabulary.encode(text))
    (record,) = rnn_lab.load("hamlet").predict([text])
    assert len(text) > 2000
    assert record["probability"] == pytest.approx(expected.max(), rel=1e-3)
    line = call("hamlet", "--prime", text)[1]
    assert line.endswith(f"  {f'...{text[-57:]}'!r}\n")


def test_unknown_symbols_are_named():
    line = call("hamlet", "to é")[1]
    assert line.endswith("  to é ('é' (U+00E9) read as ' ')\n")
    assert json.loads(call("hamlet", "to é", "--json")[1])["unknown"] == ["é"]
    assert call("hamlet", "to é")[1].split("  ")[0] == call("hamlet", "--prime", "to  ")[1].split("  ")[0]
    skipped = call("hamlet", "to é", "--task-option", "unknown=skip")[1]
    assert skipped.endswith("  to é ('é' (U+00E9) left out)\n")
    assert skipped.split("  ")[0] == call("hamlet", "--prime", "to ")[1].split("  ")[0]
    assert call("hamlet", "to é", "--task-option", "unknown=error") == (
        2,
        "",
        "Error: to é has 1 character that the model has never seen: 'é' (U+00E9); --task-option unknown=skip leaves "
        "them out\n",
    )


@pytest.mark.parametrize("name", ["hamlet", "bytes", "words"])
def test_what_a_prediction_depends_on_sums_to_its_log_odds(name):
    run = Run(Path("runs") / name)
    text = "or not to be"
    ids = run.language.vocabulary.encode(text)
    (record,) = rnn_lab.load(name).predict(text, explain=True)
    assert len(record["contributions"]) == len(ids)
    model, params = run.language.model, run.params()
    _, ys = model.cell.unroll(params["cell"], model.init_carry(1), np.zeros((len(ids), 1, model.cell.input_size), "f4"))
    logits = np.asarray(ys[-1, 0] @ params["head"]["W"] + params["head"]["b"], np.float64)
    symbol = run.language.vocabulary.symbols.index(record["next"])
    others = np.delete(logits, symbol)
    without = logits[symbol] - np.log(np.exp(others).sum())
    share = record["probability"]
    found = np.log(share / (1 - share)) - without
    assert sum(record["contributions"]) == pytest.approx(found, abs=0.011 * max(1.0, abs(found)))
    (figure,) = record["figures"]
    assert "".join(figure["symbols"]) == text
    assert figure["values"] == record["contributions"]


def test_of_a_long_text_the_last_symbols_are_explained():
    text = TEXT[:500]
    (record,) = rnn_lab.load("hamlet").predict([text], explain=True)
    assert len(record["contributions"]) == predicting_next.EXPLAINED == 200
    (figure,) = record["figures"]
    assert "".join(figure["symbols"]) == text[-200:]
    (alone,) = rnn_lab.load("hamlet").predict([text[-200:]], explain=True)
    assert record["probability"] == pytest.approx(by_model("hamlet", _ids(text)).max(), rel=1e-3)
    assert alone["contributions"] != record["contributions"]  # the state before them is another one


def test_an_explanation_stands_below_the_prediction():
    code, out, said = call("hamlet", "or not", "--explain")
    assert (code, said) == (0, "")
    lines = out.splitlines()
    assert lines[0] == call("hamlet", "or not")[1].rstrip("\n")
    assert lines[2].startswith("What speaks for ")
    assert lines[4] == "or not"
    assert re.fullmatch(r"[0-9]{6}", lines[5])
    assert "figures" not in json.loads(call("hamlet", "or not", "--json")[1])


# --- bars ------------------------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


def on_terminal(predictions, monkeypatch, columns="60", encoding="utf-8", **kinds):
    """What ``Printer`` prints of predictions on a terminal."""
    screen = Terminal()
    screen.encoding = encoding
    monkeypatch.setenv("COLUMNS", columns)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr("sys.stdout", screen)
    Printer(**kinds).all(iter(predictions))
    return re.sub(r"\x1b\[[0-9;]*m", "", screen.getvalue())


def shares(*pairs, key="next"):
    return [{key: word, "probability": share} for word, share in pairs]


def test_on_a_terminal_alternatives_are_bars(monkeypatch):
    record = {"input": "hell", **shares(("o", 0.8))[0], "top": shares(("o", 0.8), (" ", 0.1), ("\n", 0.0125))}
    shown = on_terminal([Prediction("o 0.8  hell", record)], monkeypatch)
    assert [line.rstrip() for line in shown.splitlines()] == [
        "hell",
        "",
        f"o     0.800  {'█' * 32}",
        f"' '   0.100  {'█' * 4}",
        r"'\n'  0.013  ▌",
        "",
    ]
    narrow = on_terminal([Prediction("o 0.8  hell", record)], monkeypatch, columns="40", encoding="ascii")
    assert max(map(len, narrow.splitlines())) <= 40
    assert re.search(r"^o +0\.800  #{16,27}\s*$", narrow, re.MULTILINE)


def test_alternatives_of_any_task_are_bars_and_other_records_are_lines(monkeypatch):
    bars = Prediction("pos 0.9", {"top": shares(("pos", 0.9), ("neg", 0.1), key="label")})
    others = [
        Prediction("one", {"probability": 0.5}),
        Prediction("rows", {"top": [shares(("a", 1.0)), shares(("b", 1.0))]}),
        Prediction("count", {"top": 3}),
        Prediction("longer", {"top": [{"text": "x", "score": 1.0}]}),
        Prediction("none", {"top": []}),
    ]
    shown = on_terminal([bars, *others], monkeypatch)
    assert shown.startswith("pos 0.9\n\npos  0.900  ███")
    assert shown.endswith("one\nrows\ncount\nlonger\nnone\n")
    assert [predicting.alternatives_of(other) for other in others] == [None] * 5
    table = predicting.alternatives_of(bars)
    assert table == Table(
        "alternatives", "", ("LABEL", "PROBABILITY"), (("pos", 0.9), ("neg", 0.1)), digits=(None, 3), bars=1
    )


def test_piped_they_are_one_line(monkeypatch):
    line = call("hamlet", "to be", "--top", "3")[1]
    assert line.count("\n") == 1
    record = next(rnn_lab.load("hamlet").predict("to be", top=3))
    shown = ["','" if share["next"] == "," else legible(share["next"]) for share in record["top"]]
    told = ", ".join(f"{next} {share['probability']:.3f}" for next, share in zip(shown, record["top"], strict=True))
    assert line == f"{told}  to be\n"
    written = on_terminal([Prediction("x", record)], monkeypatch, as_json=True)
    assert json.loads(written) == record


def test_a_comma_between_commas_is_in_quotes():
    line = call("hamlet", "to be", "--top", "100")[1]
    assert len(re.findall(r"(^|, )',' 0\.\d{3}(?=, |  )", line)) == 1
    assert ", , " not in line


def test_the_page_has_them_with_bars(folder):
    code, _, said = call("hamlet", "--prime", "to be", "--prime", "or <b>\n", "--top", "3", "--html", "page.html")
    assert (code, said) == (0, "Written: page.html\n")
    page = Path("page.html").read_text()
    assert "<h2>Alternatives</h2>" in page
    assert "<h3>1. to be</h3>" in page
    assert r"<h3>2. &#x27;or &lt;b&gt;\n&#x27;</h3>" in page
    record = next(rnn_lab.load("hamlet").predict("to be", top=3))
    widths = re.findall(r'<td class="bar"><span style="width:([\d.]+)%"></span></td>', page)
    assert len(widths) == 6
    assert [float(width) for width in widths[:3]] == [
        pytest.approx(100 * share["probability"], abs=0.06) for share in record["top"]
    ]
    call("hamlet", "to be", "--html", "page.html")
    assert "Alternatives" not in Path("page.html").read_text()


def test_legible_texts():
    texts = ["hell", "", " ", "a b", "a ", "a\nb", "\t", "é", "\x1b[2J", "\u0301", "e\u0301"]
    assert list(map(legible, texts)) == [
        "hell", "''", "' '", "a b", "'a '", r"'a\nb'", r"'\t'", "é", r"'\x1b[2J'", "U+0301", "e\u0301",
    ]  # fmt: skip


def test_advice_after_training_and_refusals_still_name_sample(tmp_path, monkeypatch):
    monkeypatch.setenv("RNN_RUNS", str(tmp_path))
    result = CliRunner().invoke(rnn, ["train", "hamlet.txt", "--hidden-size", "4", "--steps", "2", "--name", "new"])
    advice = [line for line in result.stderr.splitlines() if "rnn predict" in line or "rnn sample" in line]
    assert advice == ["Sample from it: rnn sample new"]
    with pytest.raises(rnn_lab.UserError, match="draws no output for an input: rnn sample new"):
        rnn_lab.load("new").generate(["to be"])


def test_the_prediction_of_a_stream_comes_line_by_line():
    run, taken = rnn_lab.load("hamlet"), []

    def texts():
        for text in itertools.cycle(["to be", "or not"]):
            taken.append(text)
            yield text

    task, model = run.folder.task, run.folder.model
    found = task.predict(model, run.params, run.folder.facts, texts())
    assert next(found).record["input"] == "to be"
    assert next(found).record["input"] == "or not"
    assert len(taken) == 2


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (
            ["hamlet", "to be.txt"],
            "there is no file 'to be.txt'; if that is a text, give it on standard input, with - as INPUT",
        ),
        (["hamlet", "--prime", "to be", "--top", "0"], "--top is 0; it must be at least 1"),
        (["nothing", "--prime", "to be"], "nothing"),
    ],
)
def test_mistakes_are_sentences(args, message):
    code, out, said = call(*args)
    assert (code, out) == (2, "")
    assert said.startswith("Error: ")
    assert message in said
