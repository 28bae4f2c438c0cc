"""``rnn sample`` with a run of a task that draws outputs for inputs."""

import re
from pathlib import Path

import names_task
import pytest
from click.testing import CliRunner
from tiny_runs import TEXT, train

import rnn_lab
from rnn_cli.main import rnn
from rnn_plugins.errors import UserError

TASK = (
    Path(names_task.__file__).read_text()
    + """

class Guesser(Names):
    def generate(self, model, params, facts, inputs, choice, rng):
        for name in inputs:
            scores = np.asarray(model.scores(params, self.pack([(self._encoded(name, facts), 0)])))[0]
            label = facts["labels"][choice.pick(scores, rng)]
            yield Prediction(f"{name}: {label}", {"input": name, "output": label})
"""
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    (folder / "names.py").write_text(TASK)
    (folder / "Italian.txt").write_text("Rossi\nRusso\nFerrari\nEsposito\nBianchi\nRomano\nColombo\nRicci\nMarino\n")
    (folder / "Russian.txt").write_text("Ivanov\nSmirnov\nPopov\nPetrov\nSokolov\nLebedev\nKozlov\nNovikov\nMorozov\n")
    train(folder, TEXT, "hamlet", steps=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RNN_RUNS", "runs")
        small = {"hidden_size": 6, "steps": 30, "learning_rate": 0.03, "seed": 1}
        rnn_lab.train(["Italian.txt", "Russian.txt"], task="./names.py:Names", name="names", **small)
        rnn_lab.train(["Italian.txt", "Russian.txt"], task="./names.py:Guesser", name="guesser", **small)
    return folder


@pytest.fixture(autouse=True)
def home(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("RNN_RUNS", "runs")


def call(*args, stdin=None):
    result = CliRunner().invoke(rnn, ["sample", *args], input=stdin)
    return result.exit_code, result.stdout, result.stderr


def test_an_output_is_drawn_for_each_input_and_the_seed_repeats_them(folder):
    code, out, said = call("guesser", "Italian.txt", "Rossi", "--temperature", "100")
    assert code == 0
    names = [*Path("Italian.txt").read_text().split(), "Rossi"]
    assert [line.split(": ")[0] for line in out.splitlines()] == names
    seed = re.fullmatch(r"From the run guesser, with --seed (\d+)\.\n", said)[1]
    assert call("Italian.txt", "Rossi", "--temperature", "100", "--seed", seed) == (0, out, said)
    outs = {call("Italian.txt", "--temperature", "100", "--seed", str(seed))[1] for seed in range(4)}
    assert len(outs) > 1


def test_several_are_drawn_for_one_input():
    code, out, _ = call("guesser", "Rossi", "Popov", "--count", "20", "--temperature", "100", "--seed", "1")
    assert code == 0
    lines = out.splitlines()
    assert [line.split(": ")[0] for line in lines] == ["Rossi"] * 20 + ["Popov"] * 20
    assert set(lines[:20]) == {"Rossi: Italian", "Rossi: Russian"}


def test_the_likeliest_is_not_drawn_and_needs_no_seed():
    assert call("guesser", "-", "--greedy", stdin="Rossi\nPopov\n") == (
        0,
        "Rossi: Italian\nPopov: Russian\n",
        "From the run guesser.\n",
    )
    assert call("guesser", "Rossi", "--temperature", "0")[2] == "From the run guesser.\n"
    assert call("guesser", "Rossi", "--top-k", "1")[1] == "Rossi: Italian\n"


MISTAKES = {
    ("guesser",): "there is no input: rnn sample guesser takes a FILE, a text in quotes, or - for standard input",
    ("guesser", "Rossi", "--prime", "R"): (
        "--prime is for runs that continue a text, and guesser is a run of the task ./names.py:Guesser: leave it out"
    ),
    ("guesser", "Rossi", "--length", "5"): (
        "--length is for runs that continue a text, and guesser is a run of the task ./names.py:Guesser: leave it out"
    ),
    ("guesser", "Rossi", "--top-p", "2"): "--top-p is 2; it must be above 0 and at most 1",
    ("guesser", "Rossi", "--count", "0"): "--count is 0; it must be at least 1",
    ("guesser", "some.tsv"): (
        "there is no file 'some.tsv'; if that is a text, give it on standard input, with - as INPUT"
    ),
    ("gueser", "Rossi"): (
        "'gueser' is neither a file nor a run. Did you mean 'guesser'? If it is a text, name the run too: "
        "rnn sample guesser gueser Rossi"
    ),
    ("names", "Rossi"): "names is a run of the task ./names.py:Names, which writes no text: rnn predict names FILE",
    ("hamlet", "to be"): (
        "hamlet is a run of the task language-model, which takes no INPUT but the beginning of a text: "
        "rnn sample hamlet --prime 'to be'"
    ),
}


@pytest.mark.parametrize("arguments", MISTAKES, ids=" ".join)
def test_mistakes_are_sentences(arguments):
    code, out, said = call(*arguments)
    assert (code, out, said.splitlines()[-1]) == (2, "", f"Error: {MISTAKES[arguments]}")


def test_a_run_that_does_not_continue_texts_says_so():
    result = CliRunner().invoke(rnn, ["score", "guesser", "Italian.txt"])
    assert (result.exit_code, result.stderr) == (
        2,
        "Error: guesser is a run of the task ./names.py:Guesser, which continues no text: rnn predict guesser FILE\n",
    )


def test_from_python():
    run = rnn_lab.load("guesser")
    drawn = [record["output"] for record in run.generate(["Rossi", "Popov"], count=3, seed=1, temperature=100)]
    printed = call("guesser", "Rossi", "Popov", "--count", "3", "--seed", "1", "--temperature", "100")[1]
    assert drawn == [line.split(": ")[1] for line in printed.splitlines()]
    assert [record["output"] for record in run.generate("Rossi", greedy=True)] == ["Italian"]
    for refused, message in (
        (lambda: run.generate("Rossi", count=0), "count is 0; it must be at least 1"),
        (lambda: run.generate("Rossi", top_k=-1), "--top-k is -1; it must be at least 1, or 0 for no limit"),
        (
            lambda: rnn_lab.load("names").generate("Rossi"),
            "names is a run of the task ./names.py:Names, which draws no output for an input: rnn predict names FILE",
        ),
    ):
        with pytest.raises(UserError) as caught:
            refused()
        assert str(caught.value) == message
