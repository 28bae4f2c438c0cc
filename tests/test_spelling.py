"""Options by a part of their names and by synonyms, what is suggested, ``rnn help``, and completion of values."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import get_args

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from command_line import SMALL, refused, settle, trained
from hypothesis import given
from hypothesis import strategies as st

from rnn_cli.main import COMMANDS, rnn
from rnn_cli.spelling import SYNONYMS, spelled
from rnn_plugins.data.vocabulary import TextLevel
from rnn_plugins.errors import UserError


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    settle(tmp_path, monkeypatch)


def command_of(name):
    return rnn.get_command(click.Context(rnn), name)


@pytest.mark.parametrize(
    ("name", "typed", "full"),
    [
        ("sample", "--temp 0.5 --len=20", "--temperature 0.5 --length=20"),
        ("sample", "--prime --temp --len 3", "--prime --temp --length 3"),
        ("sample", "run -- --temp", "run -- --temp"),
        ("report", "--lr 0.1 --bs 3 --layers 2", "--learning-rate 0.1 --bs 3 --num-layers 2"),
        ("train", "--bs 4 --layers 2 --hidden 3 --embed-dim 5", "--batch-size 4 --num-layers 2 --hidden-size 3 "
         "--embedding-size 5"),
        ("train", "--lr 0.1 --nhid 4 --gpu 0", "--lr 0.1 --nhid 4 --gpu 0"),  # which it translates or refuses itself
        ("train", "--HIDDEN_SI 4", "--hidden-size 4"),
        ("compare", "--sequence-length 9 --max-steps 4", "--seq-length 9 --steps 4"),
        ("runs", "--js", "--json"),
        ("runs", "rm one --y", "rm one --yes"),
        ("cells", "show lstm --js", "show lstm --json"),
        ("eval", "--hel", "--help"),
        ("explain", "lstm --hid 2 --ste 1", "lstm --hidden-size 2 --steps 1"),
        ("explain", "my.py:Cell --hidden-units 2", "my.py:Cell --hidden-size 2"),
        ("explain", "bptt --hidden 2", "bptt --hidden-size 2"),
    ],
)  # fmt: skip
def test_names_are_completed(name, typed, full):
    command = command_of(name)
    assert spelled(command, typed.split(), getattr(command, "understood", ())) == full.split()


def test_a_network_is_trained_as_users_of_other_programs_type_it():
    run, _ = trained("fox.txt", "--bs", "3", "--hidden", "5", "--layers", "1", "--sequence_length", "7", "--step", "2")
    settings = run.settings
    assert (settings.batch_size, settings.hidden_size, settings.num_layers, settings.steps) == (3, 5, 1, 2)
    assert settings.task_option["seq_length"] == 7


def test_what_may_be_several_options_is_told():
    assert refused("fox.txt", "--se", "1") == "--se may be --seq-length or --seed: give more of it"


def test_suggestions_begin_alike():
    for typed, meant in (("--tempreture", "--temperature"), ("--lenght", "--length")):
        result = CliRunner().invoke(rnn, ["sample", "run", typed, "3"])
        assert result.exit_code == 2
        assert f"No such option '{typed}'. Did you mean '{meant}'?" in result.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_full_names_and_all_values_stay_as_they_are(name):
    command = command_of(name)
    options = [p for p in command.params if isinstance(p, click.Option)]
    for option in options:
        for opt in (*option.opts, *option.secondary_opts):
            words = [opt] if option.is_flag else [opt, "--se"]
            assert spelled(command, words) == words


@given(st.lists(st.text("abc-= "), max_size=6))
def test_words_that_are_no_options_are_not_touched(words):
    words = [word for word in words if not word.startswith("--")]
    assert spelled(command_of("train"), words) == words


def test_synonyms_are_of_options_that_there_are():
    every = {opt[2:] for name in COMMANDS for p in command_of(name).params for opt in p.opts}
    assert set(SYNONYMS.values()) <= every
    assert not set(SYNONYMS) & every


@given(st.text("abcdeghilnoprstz-", min_size=1, max_size=8))
def test_a_name_becomes_an_option_or_stays_or_is_told(name):
    command = command_of("sample")
    try:
        (word,) = spelled(command, [f"--{name}"])
    except (UserError, click.NoSuchOption):
        return
    known = {opt for p in command.params for opt in p.opts} | {"--help"}
    assert word in known or word == f"--{name}"


@pytest.mark.parametrize("words", [["train"], ["runs"], ["runs", "rm"], ["cells", "show"], ["explain", "lstm"], []])
def test_help_is_a_command_too(words):
    told = CliRunner().invoke(rnn, ["help", *words])
    assert told.exit_code == 0
    assert told.stdout == CliRunner().invoke(rnn, [*words, "--help"]).stdout


def test_help_of_help_is_that_of_all():
    assert CliRunner().invoke(rnn, ["help", "help"]).stdout == CliRunner().invoke(rnn, ["--help"]).stdout


def completed(*words):
    *before, incomplete = words
    return [item.value for item in ShellComplete(rnn, {}, "rnn", "_RNN_COMPLETE").get_completions(before, incomplete)]


def test_values_are_completed():
    assert completed("train", "builtin:") == ["builtin:latex", "builtin:hello"]
    assert completed("train", "--level", "") == [*get_args(TextLevel)] == ["char", "byte", "word", "bpe"]
    assert completed("train", "--level", "by") == ["byte"]
    assert completed("train", "--optimizer", "ad") == ["adagrad", "adam", "adamw"]
    assert "sgd:momentum=" in completed("train", "--optimizer", "sgd:")
    assert completed("train", "--optimizer", "sgd:momentum=0.9,nes") == ["sgd:momentum=0.9,nesterov="]
    assert completed("train", "--schedule", "cosine:warmup=9,f") == ["cosine:warmup=9,final="]
    assert "forget_bias=" in completed("train", "--cell", "lstm", "--cell-option", "")
    assert completed("train", "--cell", "lstm", "--cell-option", "forget") == ["forget_bias="]
    assert "forget_bias=" not in completed("train", "--cell-option", "")  # of a GRU
    assert completed("train", "--cell", "./evil.py:Cell", "--cell-option", "") == []
    assert completed("train", "--task", "classify", "--task-option", "poo") == ["pool="]
    assert "dynamic=" not in completed("train", "--task-option", "")  # only rnn eval has a use for it
    assert {"flow", "memory"} <= set(completed("report", "--kind", ""))
    assert completed("runs", "--filter", "cell=ls")[0] == "cell=lstm"
    assert "task=" in completed("runs", "--filter", "ta")
    trained("fox.txt", *SMALL)
    assert "loss" in completed("runs", "--sort", "l")
    assert completed("runs", "rm", "") == os.listdir("runs")


def test_units_and_gates_are_completed():
    trained("fox.txt", *SMALL, "--cell", "lstm", "--name", "fox")
    typed = ["report", "fox", "--kind", "neurons"]
    assert completed(*typed, "--unit", "") == ["h.", "c.", "forget.", "input.", "output.", "candidate.", "c.tanh."]
    assert completed(*typed, "--unit", "forget.") == [f"forget.{unit}" for unit in range(5)]
    assert completed(*typed, "--unit", "c.t") == ["c.tanh."]
    assert completed(*typed, "--gate", "o") == completed("report", "--gate", "o") == ["output"]
    trained("fox.txt", *SMALL, "--num-layers", "2", "--name", "deep")
    assert completed("report", "deep", "--unit", "layer2.h.") == [f"layer2.h.{unit}" for unit in range(5)]
    assert completed("report", "--cell", "gru:a=1", "--hidden-size", "3", "--unit", "h.") == ["h.0", "h.1", "h.2"]
    assert completed("report", "fox", "--unit", "layer2.h.") == []
    Path("evil.py").write_text("raise SystemExit")
    for other in (["--cell", "evil.py:Cell"], ["--cell", "none"], ["none"]):
        assert completed("report", *other, "--unit", "") == completed("report", *other, "--gate", "") == []


BREAKS = "\"'><=;|&(: \n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("rnn train builtin:l", ["latex"]),
        ("rnn train buil", ["builtin:latex", "builtin:hello"]),
        ("rnn train --optimizer sgd:mom", ["momentum="]),
        ("rnn train --optimizer=sgd:mom", ["momentum="]),
        ("rnn train --optimizer sgd:momentum=0.9,nes", ["0.9,nesterov="]),
        ("rnn runs --filter cell=ls", ["lstm", "lstm-coupled", "lstm-peephole"]),
        ("rnn cells sh", ["show"]),
        ("rnn runs rm ", ["gru-fox"]),
        ("rnn explain 'ls", ["lstm", "lstm-coupled", "lstm-peephole"]),
    ],
)
def test_bash_gets_what_it_has_to_put_behind_a_colon(line, expected):
    trained("fox.txt", *SMALL)
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("bash is not installed")
    program = f"""
        rnn() {{ {shlex.quote(sys.executable)} -c "from rnn_cli.main import rnn; rnn(prog_name='rnn')"; }}
        export -f rnn
        env() {{ ( export "${{@:1:3}}"; rnn ) }}
        compopt() {{ echo "option $2"; }}
        eval "$(_RNN_COMPLETE=bash_source rnn)"
        COMP_LINE={shlex.quote(line + " and more")} COMP_POINT={len(line)} COMP_WORDBREAKS={shlex.quote(BREAKS)}
        _rnn_completion rnn
        for word in "${{COMPREPLY[@]}}"; do echo "word $word"; done
    """
    done = subprocess.run([bash, "--norc", "-c", program], capture_output=True, text=True, check=True)
    words = done.stdout.splitlines()
    assert (done.stderr, [word[5:] for word in words if word.startswith("word ")]) == ("", expected)
    assert ("option nospace" in words) == any(word.endswith("=") for word in expected)


def test_bash_without_its_breaks_gets_whole_words(monkeypatch):
    from rnn_cli.bash import Bash

    monkeypatch.setenv("COMP_LINE", "rnn train builtin:l")
    monkeypatch.setenv("COMP_WORDBREAKS", " ")
    assert Bash(rnn, {}, "rnn", "_RNN_COMPLETE").complete() == "plain,builtin:latex"
