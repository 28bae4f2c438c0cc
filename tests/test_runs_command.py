"""``rnn runs``: choosing and ordering, showing, removing and renaming."""

import json
import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from command_line import SMALL, settle, train, trained

from rnn_cli.main import rnn
from rnn_lab import keeping, sessions
from rnn_lab.runs import Run, find_run

LABELLED = ["--hidden-size", "5", "--batch-size", "3", "--seed", "1", "--learning-rate", "0.05"]


def call(*arguments: str, input: str | None = None) -> Result:
    return CliRunner().invoke(rnn, ["runs", *arguments], input=input)


def refused(*arguments: str) -> str:
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.output
    return result.stderr.removeprefix("Error: ").removesuffix("\n")


def listed(*arguments: str) -> list[str]:
    result = call("--json", *arguments)
    assert result.exit_code == 0, result.output
    return [row["name"] for row in json.loads(result.stdout)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, beside each other and the text that they learn."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        settle(folder, patch)
        for name, more in {
            "one": ["--cell", "rnn", "--learning-rate", "0.0123456789"],
            "two": ["--cell", "lstm:forget_bias=3", "--level", "word", "--steps", "20"],
            "three": ["--hidden-size", "9", "--steps", "4"],
        }.items():
            trained("fox.txt", *SMALL, *more, "--name", name)
    return folder


@pytest.fixture(autouse=True)
def home(tmp_path: Path, made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    for age, name in enumerate(("one", "two", "three")):
        for file in (tmp_path / "runs" / name).iterdir():
            os.utime(file, (1e9 + age, 1e9 + age))
    settle(tmp_path, monkeypatch)
    return tmp_path


@pytest.mark.parametrize(
    ("conditions", "names"),
    [
        (["cell=gru"], ["three"]), (["cell!=gru"], ["two", "one"]), (["name=t*"], ["three", "two"]),
        (["hidden_size>5"], ["three"]), (["hidden-size<=5", "cell=lstm"], ["two"]), (["forget_bias=3.0"], ["two"]),
        (["level=word"], ["two"]), (["outcome=finished"], ["three", "two", "one"]), (["steps>=12"], ["two", "one"]),
        (["NATS<100", "task=language-model", "cell=RNN"], ["one"]), (["loss>100"], []),
    ],
)  # fmt: skip
def test_runs_are_chosen_by_what_they_are(conditions: list[str], names: list[str]) -> None:
    assert listed(*(word for condition in conditions for word in ("--filter", condition))) == names


def test_runs_are_ordered_by_what_they_are() -> None:
    assert listed() == ["three", "two", "one"]
    assert listed("--sort", "name") == ["one", "three", "two"]
    assert listed("--sort", "steps") == ["two", "one", "three"]
    assert listed("--sort", "parameters") == sorted(
        ("one", "two", "three"), key=lambda name: -find_run(name).manifest["parameters"]
    )
    losses = {name: find_run(name).manifest["best"]["metrics"]["loss"] for name in ("one", "two", "three")}
    assert listed("--sort", "loss") == listed("--sort", "NATS") == sorted(losses, key=losses.__getitem__)
    assert listed("--sort", "forget-bias") == ["two", "three", "one"]  # those without it are last
    assert listed("--sort", "age") == sorted(
        ("three", "two", "one"), key=lambda name: find_run(name).summary().age or 0
    )


def test_an_accuracy_is_best_where_it_is_high() -> None:
    Path("labels.tsv").write_text("label\ttext\n" + "".join(f"{x}\t{x} {x}\n" for x in ("ab", "cd") * 30))
    for name, steps in (("bad", "0"), ("good", "60")):
        trained("labels.tsv", "--task", "classify", "--name", name, *LABELLED, "--steps", steps)
    accuracies = {name: find_run(name).metrics().get("accuracy", 0.0) for name in ("bad", "good")}
    assert accuracies["good"] > accuracies["bad"]
    assert listed("--sort", "accuracy", "--filter", "task=classify") == ["good", "bad"]


def test_a_run_that_cannot_be_read_is_last_and_never_chosen() -> None:
    Path("runs", "one", "run.json").write_text("{")
    assert listed("--sort", "loss")[-1] == "one"
    assert "one" not in listed("--filter", "name=*")


def test_the_tables_of_several_tasks_have_their_names() -> None:
    assert "language-model" not in call().stdout
    Path("labels.tsv").write_text("label\ttext\n" + "".join(f"{x}\t{x} {x}\n" for x in ("ab", "cd") * 30))
    trained("labels.tsv", "--task", "classify", *LABELLED, "--steps", "2")
    first, _, *rest = call().stdout.splitlines()
    assert first == "classify"
    assert "language-model" in rest


def test_what_is_no_condition_and_no_key_is_told() -> None:
    assert refused("--filter", "gru") == "--filter is 'gru'; write it as KEY=VALUE, such as cell=gru or loss<1.5"
    there = (
        "There are age, name, task, cell, parameters, steps, outcome, metrics such as loss, and settings such as "
        "hidden_size"
    )
    assert refused("--filter", "loss<gru") == "--filter is 'loss<gru', and 'gru' is no number: < compares numbers"
    assert refused("--filter", "name >= a") == "--filter is 'name >= a', and 'a' is no number: >= compares numbers"
    assert refused("--filter", "cel=gru") == f"--filter is by 'cel', which no run has. Did you mean 'cell'? {there}"
    assert refused("--sort", "wisdom") == f"--sort is by 'wisdom', which no run has. {there}"
    assert refused("--sort", "loss", "rm", "one") == (
        "--sort before a command is for the list of runs: leave it out, or leave out rm"
    )
    assert call("--filter", "cell=mgu").stderr == "No run in runs meets that, of 3.\n"


@pytest.mark.parametrize("name", ["one", "two", "three"])
def test_the_command_that_is_shown_makes_the_same_run(name: str) -> None:
    shown = call("show", name).stdout
    command = shown.splitlines()[-1].strip()
    assert command.startswith("rnn train ")
    words = [str(Path(word)) if word.startswith("/") else word for word in command.split()[2:]]
    again, _ = trained("fox.txt", *words[1:], "--name", "again")
    assert sessions.same_weights(find_run(name), again)


def test_what_is_shown_of_a_run() -> None:
    lines = call("show").stdout.splitlines()
    assert lines[0] == "three"
    rows = dict(line.strip().split("  ", 1) for line in lines[1:] if line.startswith("  ") and "  " in line.strip())
    run = find_run("three")
    assert rows["network"].strip() == f"gru, 1 x 9, {run.manifest['parameters']:,} parameters"
    assert rows["data"].strip() == "fox.txt: 486 to train on, 54 held out"
    assert rows["steps"].strip() == "4, finished"
    assert rows["metrics"].strip().endswith(f"on held-out data, at step {run.manifest['best']['step']}")
    record = json.loads(call("show", "two", "--json").stdout)
    assert record["settings"] == find_run("two").manifest["settings"]
    assert "facts" not in record


def test_runs_are_removed_after_asking() -> None:
    assert refused("rm", "one") == "there is nobody to ask whether to remove one: add --yes"
    assert call("rm", "one", "three", "--yes").stderr == "Removed: one\nRemoved: three\n"
    assert os.listdir("runs") == ["two"]


def test_asking_takes_no_for_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rnn_cli.runs._may_ask", lambda: True)
    for answer, left in (("n\n", 3), ("\n", 3), ("y\n", 2)):
        result = call("rm", "one", input=answer)
        assert "one: rnn 1x5, 12 steps, finished; " in result.stdout
        assert len(os.listdir("runs")) == left


@pytest.mark.parametrize("name", ["../runs/one", "runs/one", ".", "..", "/", "../elsewhere", "./one"])
def test_nothing_outside_the_folder_is_removed_or_renamed(name: str, home: Path) -> None:
    shutil.copytree("runs/one", "elsewhere")
    before = sorted(str(path) for path in home.rglob("*"))
    for arguments in (["rm", name, "--yes"], ["mv", name, "new"]):
        assert refused(*arguments).startswith(f"{name!r} is a path; expected the name of a run in runs")
    for new in ("../new", "..", "/tmp/new", "a/b", ""):
        assert refused("mv", "one", new).startswith(f"the new name is {new!r}; it must begin with a letter or digit")
    assert sorted(str(path) for path in home.rglob("*")) == before


def test_a_folder_that_is_no_run_is_not_removed() -> None:
    Path("runs", "notes").mkdir()
    Path("runs", "notes", "mine.txt").write_text("mine")
    assert refused("rm", "notes", "--yes").startswith("there is no run called 'notes' in runs.")
    assert Path("runs", "notes", "mine.txt").exists()


def test_of_a_link_only_the_link_is_removed(home: Path) -> None:
    shutil.move("runs/one", "disk")
    Path("runs", "one").symlink_to(home / "disk")
    Path("runs", "two", "linked").symlink_to(home / "disk")
    assert call("rm", "one", "two", "--yes").exit_code == 0
    assert os.listdir("runs") == ["three"]
    assert Path("disk", "run.json").exists()


def test_a_run_that_is_trained_is_neither_removed_nor_renamed() -> None:
    run = find_run("one")
    run.lock()
    try:
        told = "the run 'one' is being trained by another process: stop that one first"
        assert refused("rm", "one", "--yes") == told
        assert refused("rm", "two", "one", "--yes") == told  # and the other one stays
        assert "two" in listed()
        assert refused("mv", "one", "other") == told
    finally:
        run.release()
    assert call("mv", "one", "other").exit_code == 0


def test_an_interrupted_removal_leaves_no_run_and_the_next_one_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(folder: Path, ignore_errors: bool = False) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("shutil.rmtree", interrupted)
        assert call("rm", "one", "--yes").exit_code == 130
    assert sorted(os.listdir("runs"))[0].startswith(keeping.LEAVING)
    assert listed() == ["three", "two"]
    assert find_run().name == "three"
    assert call("rm", "two", "--yes").exit_code == 0
    assert os.listdir("runs") == ["three"]


def test_a_damaged_run_can_be_removed() -> None:
    Path("runs", "one", "run.json").write_text("{")
    Path("runs", "two", "metrics.jsonl").unlink()
    Path("runs", "two", "metrics.jsonl").symlink_to("/dev/null")
    assert call("rm", "one", "two", "--yes").exit_code == 0
    assert os.listdir("runs") == ["three"]


def test_a_renamed_run_is_resumed_and_its_successors_find_it() -> None:
    trained("fox.txt", *SMALL, "--init-from", "one", "--name", "after")
    written = os.stat("runs/after/run.json").st_mtime_ns
    weights = Run(Path("runs", "one")).params()
    assert call("mv", "one", "first try").stderr == "one is now first try, in runs/first try\n"
    assert not Path("runs", "one").exists()
    assert weights.keys() == find_run("first try").params().keys()
    assert find_run("after").manifest["init_from"]["path"] == os.path.abspath("runs/first try")
    assert os.stat("runs/after/run.json").st_mtime_ns == written
    result = CliRunner().invoke(rnn, ["rerun", "after"])
    assert result.stdout.endswith("The weights are identical to those of after.\n")
    assert train("--resume", "first try", "--steps", "15").exit_code == 0


def test_a_name_that_is_taken_is_told() -> None:
    assert refused("mv", "one", "two") == (
        "'runs/two' exists already: choose another name, or remove that first: rnn runs rm two"
    )
    assert keeping.find("one").path == Path("runs", "one")
