"""``rnn train``: its output, word for word, with and without errors."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from command_line import SMALL, refused, settle, train, trained

from rnn_cli import training
from rnn_cli.main import rnn
from rnn_lab import sessions
from rnn_lab.paths import BEST, LAST, LOCK, METRICS


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settle(tmp_path, monkeypatch)


def test_a_run_from_beginning_to_end() -> None:
    run, result = trained("fox.txt", *SMALL)
    assert run.name == "gru-fox"
    best = run.manifest["best"]
    bits = best["metrics"]["loss"] / 0.6931471805599453
    assert result.stdout == (
        f"runs/gru-fox: {best['metrics']['loss']:.3f} nats ({bits:.3f} bits per character) held out, at step 12\n"
    )
    said = result.stderr.splitlines()
    assert said[0] == "fox.txt: 540 characters, a vocabulary of 28; 486 characters to train on, 54 held out"
    assert re.fullmatch(r"gru, 1 x 5: 473 parameters, about \d+(\.\d)? MB of memory", said[1])
    assert re.fullmatch(
        r"12 steps \(0\.522 epochs of 23\), about \S+ s per epoch, \S+ s in all \(measured on the first steps\)",
        said[2],
    )
    assert said[3:5] == ["seed 1, learning rate 0.004, adam, cosine", "in runs/gru-fox"]
    assert re.fullmatch(
        r"step 10  epoch 0\.43  training \d\.\d{3} nats  [\d,]+ characters/s  gradient \S+  rate \S+  \S+ s left",
        said[5],
    )
    assert re.fullmatch(
        r"It has learnt nothing yet: the held-out loss is 3\.\d+ nats, and guessing costs 3\.332\. Train longer, "
        r"or with a higher --learning-rate\.",
        said[6],
    )
    assert said[7:] == ["To go on: rnn train --resume gru-fox --steps 24", "Sample from it: rnn sample gru-fox"]
    assert sorted(name for name in os.listdir("runs/gru-fox") if name != LOCK) == [LAST, METRICS, BEST, "run.json"]
    assert not os.path.exists("cache")  # so short a text leaves nothing behind


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a process had")
def test_the_memory_that_is_told_is_that_of_the_whole_process() -> None:
    program = (
        "import re; from rnn_cli.main import rnn; rnn(standalone_mode=False); "
        "print(re.search(r'VmHWM:\\s+(\\d+) kB', open('/proc/self/status').read())[1])"
    )
    given = ["train", "fox.txt", *SMALL, "--hidden-size", "128", "--batch-size", "64"]
    ended = subprocess.run([sys.executable, "-c", program, *given], capture_output=True, text=True, check=True)
    told = re.search(r"about (\d+(?:\.\d)?) MB of memory", ended.stderr)
    assert told is not None
    assert 0.6 < float(told[1]) / (int(ended.stdout.split()[-1]) / 1000) < 1.4


def test_quiet_says_nothing() -> None:
    assert trained("fox.txt", *SMALL, "--quiet")[1].output == ""
    assert refused("nosuch.txt", "--quiet").startswith("there is no file")


def test_json_has_the_run_its_records_and_the_outcome() -> None:
    run, result = trained("fox.txt", *SMALL, "--json", "--quiet", "--log-every", "5")
    first, *records, last = [json.loads(line) for line in result.stdout.splitlines()]
    assert first["run"]["name"] == "gru-fox"
    assert first["run"]["settings"]["hidden_size"] == 5
    assert first["run"]["parameters"] == 473
    assert "facts" not in first["run"]
    assert records == list(run.records())
    assert [record["step"] for record in records] == [5, 10, 12]
    best = run.manifest["best"]["metrics"]["loss"]
    assert last == {
        "outcome": {
            "outcome": "finished", "step": 12, "loss": best, "nats_per_character": best,
            "bits_per_character": best / math.log(2), "best_step": 12, "diagnosis": [],
        }
    }  # fmt: skip


def test_json_leaves_remarks_on_standard_error() -> None:
    result = train("fox.txt", *SMALL, "--json")
    assert "fox.txt: 540 characters" in result.stderr
    assert all(line.startswith("{") for line in result.stdout.splitlines())


def test_a_seed_that_was_drawn_is_said_and_kept() -> None:
    run, result = trained("fox.txt", "--hidden-size", "3", "--steps", "2")
    assert f"seed {run.settings.seed}, " in result.stderr
    assert run.settings.seed != trained("fox.txt", "--hidden-size", "3", "--steps", "2")[0].settings.seed


def test_the_same_seed_makes_the_same_run() -> None:
    one, other = (trained("fox.txt", *SMALL, "--quiet")[0] for _ in range(2))
    assert (one.path / LAST).read_bytes() == (other.path / LAST).read_bytes()
    assert (one.path / BEST).read_bytes() == (other.path / BEST).read_bytes()


def test_what_is_left_open_is_decided_and_kept() -> None:
    run = trained("fox.txt", "--hidden-size", "3", "--steps", "1", "--cell", "lstm")[0]
    assert (run.settings.learning_rate, run.settings.embedding_size) == (1e-2, 3)
    assert run.settings.files == (os.path.abspath("fox.txt"),)
    Path("many.txt").write_text("".join(map(chr, range(0x400, 0x600))) * 2)
    run = trained("many.txt", "--hidden-size", "3", "--steps", "1")[0]
    assert run.settings.embedding_size == 3
    assert (
        trained("many.txt", "--hidden-size", "3", "--steps", "1", "--embedding-size", "0")[0].settings.embedding_size
        == 0
    )


def test_a_short_text_is_trained_on_all_the_same() -> None:
    Path("hello.txt").write_text("hello")
    run, result = trained("hello.txt", "--hidden-size", "16", "--seed", "1")
    assert result.stderr.splitlines()[:4] == [
        "Note: the text is too short to hold some of it out.",
        "Note: the text is short (5 symbols to train on), which reduces the sequence length from 64 to 4 and the batch "
        "size from 32 to 1.",
        "Note: nothing is held out, so the training loss chooses the best weights; --valid FILE names held-out data.",
        "hello.txt: 5 characters, a vocabulary of 4; 5 characters to train on, none held out",
    ]
    assert "200 steps (200 epochs of 1), about " in result.stderr
    assert result.stdout.endswith(" on the training data, at step 200\n")
    assert run.manifest["best"]["metrics"]["loss"] < 0.1


def test_hello_is_learnt_and_sampled() -> None:
    run, _ = trained("builtin:hello", "--seed", "1", "--hidden-size", "32")
    assert run.name == "gru-hello"
    assert run.manifest["best"]["metrics"]["loss"] < 0.05
    sampled = CliRunner().invoke(rnn, ["sample", "--prime", "h", "--length", "4", "--greedy"])
    assert sampled.stdout.strip() == "hello"


@pytest.mark.parametrize("cell", ["gru", "irnn", "lstm", "lstm-coupled", "lstm-peephole", "rnn"])
@pytest.mark.parametrize("seed", range(1, 11 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 2))
def test_every_cell_says_hello(cell: str, seed: int) -> None:
    trained("builtin:hello", "--cell", cell, "--seed", str(seed), "--name", "polite")
    sampled = CliRunner().invoke(rnn, ["sample", "polite", "--length", "24", "--greedy"])
    assert sampled.stdout.split() == ["hello"] * 4


def test_the_identity_learns_a_text(data: Path) -> None:
    run, _ = trained(str(data / "tinyshakespeare.txt"), "--cell", "irnn", "--steps", "300", "--seed", "1")
    assert run.settings.schedule == "cosine:warmup=30"
    assert run.manifest["best"]["metrics"]["loss"] < 2.0  # where all units are dead it is that of a 1-gram, 3.3


def test_a_warm_up_that_is_given_is_taken() -> None:
    irnn = ("builtin:hello", "--cell", "irnn", "--hidden-size", "2", "--steps", "20", "--schedule")
    assert trained(*irnn, "linear:final=0.1")[0].settings.schedule == "linear:final=0.1,warmup=2"
    for schedule in ("cosine:warmup=0", "constant", "exponential:decay=0.5"):
        assert trained(*irnn, schedule)[0].settings.schedule == schedule


def test_the_built_in_corpus_is_what_is_trained_on_by_default() -> None:
    run, _ = trained("--hidden-size", "2", "--steps", "1")
    assert (run.name, run.settings.files) == ("gru-latex", ("builtin:latex",))


def test_a_preset() -> None:
    Path("65.txt").write_text("".join(map(chr, range(65, 130))) * 20)
    run, _ = trained("65.txt", "--preset", "char-rnn", "--steps", "0", "--quiet")
    assert (run.manifest["parameters"], run.settings.optimizer) == (240_321, "rmsprop:decay=0.95")
    run, _ = trained("65.txt", "--preset", "char-rnn", "--steps", "0", "--quiet", "--cell", "gru")
    assert run.settings.cell_option == {}  # another cell leaves the options of the preset's


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("--tie", "--embedding-size 0"),
        ("--valid fox.txt", "--valid-fraction 0.05"),
        ("--init-from lstm", "--cell-option second_bias=true"),
        ("--tie --embedding-size 0", ""),
        ("--init-from lstm --cell-option second_bias=true", ""),
        ("--hidden-size 0", ""),
    ],
)
def test_an_error_says_which_of_the_options_that_it_names_are_of_the_preset(options: str, told: str) -> None:
    trained("fox.txt", "--cell", "lstm", "--hidden-size", "2", "--steps", "1", "--name", "lstm", "--quiet")
    error = refused("fox.txt", "--preset", "char-rnn", *options.split())
    if told:
        assert error.endswith(f" (--preset char-rnn sets {told}: give your own, or leave --preset out)")
        Path("c.toml").write_text('preset = "char-rnn"')
        assert refused("fox.txt", "--config", "c.toml", *options.split()) == error
    else:
        assert "preset" not in error


def test_time_limits_are_announced_and_kept() -> None:
    run, result = trained("fox.txt", *SMALL, "--steps", "100000", "--max-time", "0.2s")
    assert "(measured on the first steps); --max-time ends it after 0.2 s\n" in result.stderr
    step = run.manifest["step"]
    assert f"The time is up after step {step:,}; resume with: rnn train --resume gru-fox\n" in result.stderr


def test_patience_is_told() -> None:
    _, result = trained(
        "fox.txt", *SMALL, "--steps", "999", "--learning-rate", "2", "--valid-every", "1", "--patience", "2"
    )
    assert "Stopped after 2 validations without improvement.\n" in result.stderr


def test_a_run_that_diverges() -> None:
    wild = ["--cell", "irnn", "--optimizer", "sgd", "--learning-rate", "1e30", "--grad-clip", "0", "--valid-every", "1"]
    result = train("fox.txt", *SMALL, *wild, "--schedule", "constant", "--quiet")
    assert result.exit_code == training.DIVERGED == 3
    assert result.stdout == ""
    said = result.stderr.splitlines()
    assert said[0] == "Error: Diverged: after step 1 the held-out loss is nan."
    assert said[1].startswith("The first value that was not finite is a result of ")
    assert re.fullmatch(r"The norms of the gradients before it: \S+\.", said[2])
    assert said[3:] == ["What to try, in a new run: --learning-rate 1e+29 (it was 1e+30), or --grad-clip 5."]
    assert json.loads(Path("runs/irnn-fox/run.json").read_text())["outcome"] == "diverged"


def test_a_run_that_diverges_later_keeps_its_best_weights() -> None:
    wild = ["--cell", "irnn", "--optimizer", "sgd", "--learning-rate", "1e8", "--grad-clip", "0", "--valid-every", "1"]
    result = train("fox.txt", *SMALL, *wild, "--schedule", "constant", "--json", "--quiet", "--valid-fraction", "0")
    assert result.exit_code == 3
    outcome = json.loads(result.stdout.splitlines()[-1])["outcome"]
    assert outcome["outcome"] == "diverged"
    assert outcome["best_step"] > 0
    assert re.fullmatch(
        r"Diverged at step \d+: the loss is \S+, the norm of its gradient \S+\.", outcome["diagnosis"][0]
    )
    assert outcome["diagnosis"][-1] == (
        f"The best weights, of step {outcome['best_step']}, are kept: rnn sample irnn-fox"
    )


# Mistakes ---------------------------------------------------------------------------------------------------


def test_texts_that_cannot_be_trained_on() -> None:
    Path("empty.txt").write_text("")
    Path("one.txt").write_text("aaaa")
    Path("two.txt").write_text("ab")
    Path("latin.txt").write_bytes(b"ab\xff")
    Path("folder").mkdir()
    assert refused("nosuch.txt") == (
        "there is no file or folder 'nosuch.txt'; give a text file, a folder, a glob such as 'books/*.txt', - for "
        "standard input, or builtin:latex"
    )
    assert refused("empty.txt") == "'empty.txt' is empty; give a text of at least two different characters"
    assert refused("one.txt") == ("'one.txt' has only one character, 'a'; give a text of at least two different ones")
    assert refused("latin.txt") == (
        "'latin.txt' is not UTF-8 (0xFF at byte offset 2); convert it from its encoding, for example: iconv -f "
        "CP1252 -t UTF-8 latin.txt > latin.utf-8.txt; or train with --level byte, which accepts any file"
    )
    assert refused("folder") == (
        "there is no text in the folder 'folder'; give a folder with UTF-8 text in it, or take any file with "
        "--level byte"
    )
    assert refused("two.txt", "--valid-fraction", "0.9") == (
        "of 2 symbols, --valid-fraction 0.9 leaves 1 to train on; expected at least 2: lower it, or use a longer text"
    )
    assert refused("-", input="") == "standard input is empty; give a text of at least two different characters"
    assert not os.path.exists("runs")  # no folder is left behind by any of these
    run, _ = trained("latin.txt", "--level", "byte", "--steps", "1", "--hidden-size", "2")
    assert run.settings.task_option["level"] == "byte"
    assert trained("two.txt", "--steps", "1", "--hidden-size", "2")[0].manifest["step"] == 1
    assert trained("fox.txt", "--valid-fraction", "0", "--steps", "1", "--hidden-size", "2")[0].manifest["step"] == 1


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_text_that_may_not_be_read() -> None:
    os.chmod("fox.txt", 0)
    assert refused("fox.txt") == (
        "'fox.txt' cannot be read (permission denied); make it readable, or give another file"
    )


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--cell", "gur"], "no cell called 'gur'. Did you mean 'gru'? Installed: "),
        (["--task", "language-modle"], "no task called 'language-modle'. Did you mean 'language-model'? Installed: "),
        (["--cell-option", "a"], "--cell-option is 'a'; write it as NAME=VALUE, such as forget_bias=2"),
        (["--cell-option", "a=1"], "the cell 'gru' has no option called 'a'. Its options: reset"),
        (["--max-time", "soon"], "--max-time is 'soon'; write it as 20s, 5m, 2h or 1h30m"),
        (["--seed", "-1"], "--seed is -1; it must be at least 0"),
        (["--name", "a/b"], "--name is 'a/b'; it must begin with a letter or digit and contain only letters, "),
        (
            ["--bidirectional"],
            "there is no --bidirectional here: where a task has the option directions (rnn tasks show TASK), give "
            "--task-option directions=2",
        ),
        (["--gpuid", "0"], "there is no --gpuid here: everything is computed on the CPU: leave it out"),
        (
            ["-train_frac", "0.9"],
            "there is no --train-frac here: what --valid-fraction does not hold out is trained on: ",
        ),
        (
            ["-learning_rate_decay_after", "ten"],
            "--learning-rate-decay-after is 'ten'; it must be a number of epochs",
        ),
        (
            ["--schedule", "cosine", "-learning_rate_decay", "0.9"],
            "--learning-rate-decay is a part of --schedule: use --schedule exponential:decay=0.9",
        ),
        (["--resume", "x", "--name", "y"], "--resume keeps the run's name and weights: leave out --name"),
        (["--resume", "x", "--init-from", "y"], "--resume keeps the run's name and weights: leave out --init-from"),
        (["--resume", "x"], "there are no runs in runs: train one first, with rnn train"),
        (["--init-from", "x"], "there is no run called 'x' in runs."),
        (["--config", "nosuch.toml"], "there is no configuration file 'nosuch.toml'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_options_that_will_not_do(arguments: list[str], sentence: str) -> None:
    if "no runs" in sentence:
        sentence = "there is no run called 'x' in runs."
    assert refused("fox.txt", *arguments).startswith(sentence)


def test_an_option_that_there_is_not() -> None:
    result = train("fox.txt", "--hiden-size", "4")
    assert result.exit_code == 2
    assert "No such option '--hiden-size'." in result.stderr
    assert "--hidden-size" in result.stderr


def test_memory_that_there_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(sessions, "start", start)
    result = train("fox.txt")
    assert (result.exit_code, result.stderr) == (
        1, "Error: there is not enough memory: a smaller --hidden-size, --batch-size or --seq-length needs less\n"
    )  # fmt: skip


def test_a_disk_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device", "runs/x/last.safetensors")

    monkeypatch.setattr(sessions, "start", start)
    result = train("fox.txt")
    assert (result.exit_code, result.stderr) == (
        1,
        "Error: 'runs/x/last.safetensors': no space left on device; make room on it, and run the same command again\n",
    )


def test_how_often_to_look_at_the_flow_is_said_only_where_it_is_looked_at() -> None:
    reason = "--flow-every applies only with --flow: add --flow, or leave it out"
    assert refused("fox.txt", *SMALL, "--flow-every", "5") == reason
    assert not os.path.exists("runs")
    Path("flow.toml").write_text("flow = true\n")
    run, _ = trained("fox.txt", *SMALL, "--config", "flow.toml", "--flow-every", "5")
    assert run.settings.flow_every == 5
    resumed, _ = trained("--resume", run.name, "--steps", "13", "--flow-every", "6")
    assert (resumed.settings.flow, resumed.settings.flow_every) == (True, 6)
    plain, _ = trained("fox.txt", *SMALL, "--name", "plain")
    assert refused("--resume", plain.name, "--flow-every", "5") == reason
    trained("--resume", plain.name, "--steps", "13", "--flow", "--flow-every", "5")
