"""``rnn predict``: arguments, files and standard input become predictions as they come."""

import fcntl
import io
import itertools
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import tracemalloc
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import names_task
import numpy as np
import pytest
from click.testing import CliRunner
from command_line import predict as call
from command_line import within
from tiny_runs import TEXT, train

import rnn_lab
from rnn_cli.main import rnn
from rnn_cli.prompt import before_reading
from rnn_lab import predicting
from rnn_lab.runs import Run
from rnn_plugins.errors import UserError
from rnn_plugins.language.sampling import Choice
from rnn_plugins.tasks.blocks import with_places
from rnn_plugins.tasks.task import Prediction

ITALIAN = "Rossi\nRusso\nFerrari\nEsposito\nBianchi\nRomano\nColombo\nRicci\nMarino\nGreco\nBruno\nGallo\nConti\n"
RUSSIAN = "Ivanov\nSmirnov\nKuznetsov\nPopov\nVasiliev\nPetrov\nSokolov\nLebedev\nKozlov\nNovikov\nMorozov\nVolkov\n"

TASK = (
    Path(names_task.__file__).read_text()
    + '''

from rnn_plugins.reports.report import Table


@dataclass(frozen=True)
class Loud(Names):
    """Names with an option of predictions, and with explanations."""

    loud: bool = False

    of_weights = ("lower",)

    def predict(self, model, params, facts, inputs, *, top=1, explain=False):
        for name, (text, record, _) in zip(inputs, super().predict(model, params, facts, inputs), strict=True):
            table = Table("letters", f"Letters of {name}", ("LETTER",), tuple((letter,) for letter in name))
            record = record | {"top": top, "share": np.float32(0.5)}
            yield Prediction(text.upper() if self.loud else text, record, (table,) if explain else ())


class Files(Names):
    """Names that are read from files alone."""

    takes_text = False


class Mute(Names):
    """Names without predictions."""

    predict = Task.predict


class Silent(Names):
    """Names that predicts for texts alone."""

    def inputs(self, file, facts):
        raise NotImplementedError

    inputs = Task.inputs
'''
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    (folder / "names.py").write_text(TASK)
    (folder / "Italian.txt").write_text(ITALIAN)
    (folder / "Russian.txt").write_text(RUSSIAN)
    train(folder, TEXT, "hamlet", steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RNN_RUNS", "runs")
        for name in ("Mute", "Files", "Silent", "Names", "Loud"):
            small = {"hidden_size": 12, "steps": 80, "learning_rate": 0.03, "seed": 1}
            rnn_lab.train(["Italian.txt", "Russian.txt"], task=f"./names.py:{name}", name=name.lower(), **small)
    for number, name in enumerate(["mute", "files", "silent", "names", "loud"]):
        os.utime(folder / "runs" / name / "run.json", (2**32 + number,) * 2)
    return folder


@pytest.fixture(autouse=True)
def home(folder, monkeypatch):
    within(folder, monkeypatch)


def labels(output):
    return [line.split()[0] for line in output.splitlines()]


def test_texts_become_a_line_each_with_the_newest_run(folder):
    code, out, said = call("Rossi", "Popov")
    assert (code, labels(out), said) == (0, ["Italian", "Russian"], "From the run loud.\n")
    assert call("names", "Rossi", "Popov") == (0, out, "")
    assert call(str(folder / "runs" / "names"), "Rossi", "Popov") == (0, out, "")


def test_files_and_standard_input_are_read(folder):
    (folder / "some.txt").write_text("Rossi\n\nPopov\n")
    code, out, _ = call("names", "some.txt", "Rossi")
    assert (code, labels(out)) == (0, ["Italian", "Russian", "Italian"])
    for arguments in (["names", "-"], ["names"], [], ["-"]):
        assert labels(call(*arguments, stdin="Rossi\nPopov")[1]) == ["Italian", "Russian"]


def test_records_are_a_line_of_json_each():
    code, out, _ = call("loud", "Rossi", "Popov", "--json", "--top", "2")
    first, second = map(json.loads, out.splitlines())
    assert code == 0
    assert first == {
        "input": "Rossi",
        "language": "Italian",
        "probability": first["probability"],
        "top": 2,
        "share": 0.5,
    }
    assert (second["input"], second["language"]) == ("Popov", "Russian")
    assert 0.5 < first["probability"] <= 1


def test_an_option_of_the_task_may_change_if_the_weights_do_not_depend_on_it():
    assert call("loud", "Rossi", "--task-option", "loud=true")[1].startswith("ITALIAN ")
    assert call("loud", "Rossi", "--task-option", "lower=true") == (
        2,
        "",
        "Error: --task-option lower is true, and the weights of the run 'loud' are for false: leave it out\n",
    )


def test_explanations_are_drawn_recorded_and_written(folder):
    code, out, _ = call("loud", "Rossi", "--explain")
    assert code == 0
    assert [line.rstrip() for line in out.splitlines()[1:]] == [
        "", "Letters of Rossi", "LETTER", "──────", "R", "o", "s", "s", "i", "",
    ]  # fmt: skip
    record = json.loads(call("loud", "Rossi", "--explain", "--json")[1])
    assert record["figures"][0]["rows"] == [["R"], ["o"], ["s"], ["s"], ["i"]]
    assert call("loud", "Rossi", "Popov", "--explain", "--html", "page.html")[2] == "Written: page.html\n"
    page = (folder / "page.html").read_text()
    assert "<h1>Predictions of loud</h1>" in page
    assert "<h2>Explanations</h2>" in page
    assert "<h3>2. Letters of Popov</h3>" in page
    assert re.search(r">#</th>.*>INPUT</th>.*>LANGUAGE</th>.*>PROBABILITY</th>.*>TOP</th>.*>SHARE</th>", page)
    assert call("names", "Rossi", "--explain")[2] == (
        "Note: The task ./names.py:Names explains none of these predictions.\n"
    )


def test_a_page_has_the_first_predictions_and_says_so(folder, monkeypatch):
    monkeypatch.setattr(predicting, "IN_PAGE", 2)
    monkeypatch.setattr(predicting, "EXPLAINED", 1)
    assert call("loud", "Rossi", "Popov", "Greco", "--explain", "--html", "page.html")[0] == 0
    page = (folder / "page.html").read_text()
    assert "What does loud make of &#x27;Rossi&#x27;, &#x27;Popov&#x27;, &#x27;Greco&#x27;?" in page
    assert "The first 2 are shown; " in page
    assert "The first 1 are explained; " in page
    assert "1. Letters of Rossi" in page
    assert "2. Letters of Popov" not in page
    assert "Popov" in page
    assert "<td>Greco" not in page
    assert "<li>3 inputs</li>" in page


def test_a_page_has_the_lines_where_records_have_no_words_or_numbers(folder):
    found = [Prediction("1 2 3", {"input": "a.csv", "next": {"x": [1, 2, 3]}})]
    (page,) = predicting.pages_of(Run(folder / "runs" / "names"), "a.csv", found)
    (table,) = page.figures
    assert (table.heads, table.rows) == (("#", "INPUT", "PREDICTION"), ((1, "a.csv", "1 2 3"),))


MISTAKES = {
    ("names", "some.tsv"): (
        "there is no file 'some.tsv'; if that is a text, give it on standard input, with - as INPUT"
    ),
    ("names", "runs/Rossi"): (
        "there is no file 'runs/Rossi'; if that is a text, give it on standard input, with - as INPUT"
    ),
    ("names", "nowhere/"): (
        "there is no file 'nowhere/'; if that is a text, give it on standard input, with - as INPUT"
    ),
    ("names", "/nowhere"): (
        "there is no file '/nowhere'; if that is a text, give it on standard input, with - as INPUT"
    ),
    ("files", "Rossi"): "there is no file 'Rossi'; the task ./names.py:Files takes files as inputs, not texts",
    ("silent", "Italian.txt"): (
        "silent is a run of the task ./names.py:Silent, which reads no inputs from files: rnn predict silent TEXT"
    ),
    ("mute", "Rossi"): "mute is a run of the task ./names.py:Mute, which predicts nothing of an input: rnn eval mute",
    ("files", "--prime", "Rossi"): "the task ./names.py:Files takes files as inputs, not texts such as 'Rossi'",
    ("namse", "Rossi", "St. Rossi"): (
        "'namse' is neither a file nor a run. Did you mean 'names'? If it is a text, name the run too: "
        "rnn predict loud namse Rossi 'St. Rossi'"
    ),
    ("nothing", "Italian.txt"): (
        "'nothing' is neither a file nor a run. If it is a text, name the run too: rnn predict loud nothing Italian.txt"
    ),
    ("names", "Rossi", "--top", "0"): "--top is 0; it must be at least 1",
    ("names", "Rossi", "--task-option", "lower"): "--task-option is 'lower'; write it as NAME=VALUE, such as beam=5",
    ("names", "Rossi", "--task-option", "beam=2"): (
        "the task './names.py:Names' has no option called 'beam'. Its options: valid_fraction, lower"
    ),
    ("names", "Rossi", "--html", "-"): "--html is '-'; name a file",
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_mistakes_are_sentences(arguments):
    assert call(*arguments) == (2, "", f"Error: {MISTAKES[arguments]}\n")


def test_a_text_may_have_a_slash_or_a_dot_in_it():
    for text in ("either/or", "27/03/1999", "Rossi.", "St. Rossi"):
        assert call("names", text)[0] == 0


def test_a_first_argument_that_is_nothing_is_told_both(folder):
    newest = folder / "runs" / "files" / "run.json"
    os.utime(newest, (2**33,) * 2)
    try:
        code, out, said = call("nmaes")
    finally:
        os.utime(newest, (2**32,) * 2)
    assert (code, out) == (2, "")
    assert said.startswith(
        "Error: 'nmaes' is neither a file nor a run: there is no run called 'nmaes' in runs. Did you "
    )


def test_a_word_like_the_name_of_a_run_is_a_text_alone_and_behind_a_run():
    code, out, said = call("namse")
    assert (code, len(out.splitlines())) == (0, 1)
    assert said == (
        "Note: 'namse' is neither a file nor a run, so it is a text. Did you mean 'names'?\nFrom the run loud.\n"
    )
    assert call("loud", "namse") == (0, out, "")


@pytest.mark.parametrize("texts", [("Rossi", "namse"), ("the names", "Rossi"), ("Rossi", "Italian.txt", "Popov")])
def test_texts_for_the_newest_run_need_no_name(texts):
    code, out, said = call(*texts)
    assert (code, said) == (0, "From the run loud.\n")
    assert out


@pytest.mark.parametrize("item", [iter(["Rossi"]), None, 5, {"text": "Rossi"}], ids=lambda item: type(item).__name__)
def test_what_can_be_no_input_is_told_from_python(item):
    run = rnn_lab.load("names")
    with pytest.raises(UserError) as error:
        list(run.predict(["Rossi", item]))
    kind = type(item).__name__
    assert str(error.value) == f"an input is of the type {kind}; expected a text, a file or an array"
    assert [record["input"] for record in run.predict(name for name in ["Rossi", "Popov"])] == ["Rossi", "Popov"]


def test_inputs_are_several():
    with pytest.raises(UserError, match=r"^inputs is of the type int; expected a text, a file, or several inputs$"):
        rnn_lab.load("names").predict(5)


def test_a_source_without_inputs_is_refused(folder):
    """Whatever the task makes of it: this one yields nothing."""
    (folder / "empty.txt").write_text("")
    assert call("names", "empty.txt") == (2, "", "Error: empty.txt has no inputs; expected one at least\n")
    assert call("names", stdin="") == (2, "", "Error: standard input has no inputs; expected one at least\n")
    code, out, said = call("names", "Rossi", "empty.txt")
    assert (code, out.count("\n"), said) == (2, 1, "Error: empty.txt has no inputs; expected one at least\n")


def test_what_came_before_a_mistake_is_answered(folder):
    (folder / "wrong.txt").write_bytes(b"Rossi\nPopov\n\xff\n")
    code, out, said = call("names", "Rossi", "wrong.txt", "Rossi")
    assert (code, labels(out)) == (2, ["Italian", "Italian", "Russian"])
    assert "UnicodeDecodeError" in said
    code, out, said = call("names", "Rossi", "some.tsv")
    assert (code, labels(out)) == (2, ["Italian"])


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("looks_first", [False, True])
def test_an_input_that_a_task_refuses_among_others_leaves_the_answers_to_those_before_it(count, looks_first):
    def picky(some):
        asked.append(len(some))
        if looks_first and 7 in some:
            raise UserError("7 is not an input")
        for one in some:
            if one == 7:
                raise UserError("7 is not an input")
            for _ in range(count):
                yield Prediction(str(one), {"input": one})

    asked, given = [], []
    answers = predicting.Answers(range(12), picky, count=count)
    with pytest.raises(UserError, match="7 is not an input"):
        given.extend(prediction.record["input"] for prediction in answers)
    assert given == [one for one in range(7) for _ in range(count)]
    assert asked[0] == 12


@pytest.mark.parametrize("refused", [None, 7])
def test_a_task_is_told_the_places_of_inputs(refused):
    def places(some):
        if refused in some and len(some) > 1:
            raise UserError("7 is not an input")
        for one, place in zip(some, some.places, strict=True):
            yield Prediction(str(one), {"place": place})

    found = []
    with nullcontext() if refused is None else pytest.raises(UserError):
        found.extend(one.record["place"] for one in predicting.Answers(range(12), places, 5))
    assert found == list(range(12 if refused is None else 10))


def test_arrays_have_names_by_their_places():
    class Many:
        """Draws what it is given."""

        generates, quoted, facts = True, "r", None

        def reader(self):
            return self

        def model_of(self, task):
            return None

        def params(self):
            return None

        def generate(self, model, params, facts, inputs, choice, rng):
            for place, one in with_places(inputs):
                yield Prediction(one, {"place": place})

    answer = predicting.generator(Many(), Choice(), np.random.default_rng(0), 2)
    answers = predicting.Answers("abcd", answer, 3, count=2)
    assert [one.record["place"] for one in answers] == [0, 0, 1, 1, 2, 2, 3, 3]


def answer(some):
    for one in some:
        yield Prediction(str(one), {"input": one})


def test_inputs_are_taken_as_they_are_needed_and_not_kept():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield bytes(10_000)

    tracemalloc.start()
    try:
        for given, _ in enumerate(itertools.islice(predicting.Answers(endless(), answer), 5_000), start=1):
            assert taken - given < predicting.AT_ONCE
        assert tracemalloc.get_traced_memory()[1] < 3 * predicting.AT_ONCE * 10_000
    finally:
        tracemalloc.stop()
    assert taken >= 5_000


@dataclass
class Recording:
    frames: np.ndarray


@pytest.mark.parametrize("wrapped", [lambda x: x, Recording, lambda x: ("name", x)])
def test_long_inputs_are_not_gathered(wrapped):
    def recordings():
        for i in range(4):
            assert len(found) == i // 2 * 2  # two are gathered
            yield wrapped(np.empty(predicting.HELD // 16))  # half of what is gathered

    found = []
    found.extend(predicting.Answers(recordings(), answer))
    assert len(found) == 4


def test_the_answers_to_what_was_taken_are_to_be_had_before_the_next():
    def slow():
        yield 1
        yield 2
        early.extend(answers.pending())
        yield 3

    early = []
    answers = predicting.Answers(slow(), answer)
    assert [prediction.text for prediction in answers] == ["3"]
    assert [prediction.text for prediction in early] == ["1", "2"]


def _parse(read):
    """Read standard input as a task does that wants some."""
    read.append(sys.stdin.buffer.read())
    raise UserError("standard input is empty")


def test_a_failure_before_a_read_is_not_taken_for_one_of_the_stream(monkeypatch):
    def fail():
        raise BrokenPipeError("the reader is gone")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\nb\n")))
    own = sys.stdin
    read = []
    with pytest.raises(BrokenPipeError, match="the reader is gone"), before_reading(fail):
        _parse(read)
    assert read == [b""]
    assert sys.stdin is own
    calls = []
    with before_reading(lambda: calls.append(1)):
        assert [*sys.stdin] == ["a\n", "b\n"]
    assert len(calls) == 2  # before the text, and before its end


def process(*arguments, **options):
    command = [sys.executable, "-c", "from rnn_cli.main import rnn; rnn()", "predict", *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, **{"stdin": pipe, "stdout": pipe, "stderr": pipe, "text": True} | options)


def test_lines_are_answered_before_more_of_them_come():
    with process("names") as running:
        for names in (["Rossi"], ["Popov", "Rossi", "Popov"], ["Rossi"]):
            running.stdin.write("".join(f"{name}\n" for name in names))
            running.stdin.flush()
            assert [running.stdout.readline().split()[0] for _ in names] == [
                {"Rossi": "Italian", "Popov": "Russian"}[name] for name in names
            ]
        assert running.communicate() == ("", "")
    assert running.returncode == 0


def test_a_reader_may_leave_early(folder):
    (folder / "many.txt").write_text("Rossi\nPopov\n" * 20_000)
    with process("names", "many.txt") as running:
        assert running.stdout.readline().startswith("Italian")
        running.stdout.close()
        assert running.stderr.read() == ""
    assert running.returncode == 1
    with process("names") as running:
        running.stdout.close()
        running.stdin.write("Rossi\n")
        running.stdin.close()
        assert running.stderr.read() == ""
    assert running.returncode == 1


def test_ctrl_c_ends_it_while_it_waits():
    with process("names") as running:
        running.stdin.write("Rossi\n")
        running.stdin.flush()
        assert running.stdout.readline().startswith("Italian")
        running.send_signal(signal.SIGINT)
        assert (running.wait(), running.stderr.read()) == (130, "\n")


def test_on_a_terminal_it_says_what_it_takes(folder):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    for name, what in (("names", "a FILE, a text in quotes, or - for standard input"), ("files", "a FILE")):
        with process(name, stdin=follower) as running:
            said = running.communicate()
        assert said == ("", f"Error: there is no input: rnn predict {name} takes {what}\n")
        assert running.returncode == 2
    os.close(leader)
    os.close(follower)


def test_the_advice_after_training_is_a_command_that_works(tmp_path, monkeypatch):
    monkeypatch.setenv("RNN_RUNS", str(tmp_path))
    for name, given in (("Names", "Italian.txt"), ("Silent", "TEXT")):
        train = ["train", "--task", f"./names.py:{name}", "Italian.txt", "Russian.txt", "--steps", "2", "--name", name]
        said = CliRunner().invoke(rnn, train).stderr
        assert said.endswith(f"Evaluate it: rnn eval {name}\nPredict with it: rnn predict {name} {given}\n")
        assert call(name, given)[0] == 0


def test_from_python(folder):
    run = rnn_lab.load("loud")
    (folder / "some.txt").write_text("Rossi\nPopov\n")
    both = [record["language"] for record in run.predict(["Rossi", "Popov"])]
    assert both == ["Italian", "Russian"]
    assert [record["language"] for record in run.predict("some.txt")] == both
    assert [record["language"] for record in run.predict([Path("some.txt"), "Rossi"])] == [*both, "Italian"]
    assert [record["language"] for record in run.predict(np.array(["Rossi", "Popov"], object))] == both
    printed = [
        json.loads(line) for line in call("loud", "some.txt", "--json", "--explain", "--top", "3")[1].splitlines()
    ]
    assert list(run.predict("some.txt", top=3, explain=True)) == printed
    assert next(run.predict(name for name in itertools.repeat("Rossi")))["language"] == "Italian"
    with pytest.raises(UserError, match="--top is 0"):
        run.predict("Rossi", top=0)
    assert Run(run.path).predicts
    assert not Run(Path("runs/mute")).predicts
