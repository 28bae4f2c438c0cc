"""The command ``rnn`` itself: what it says of commands that it does not have."""

import re

import pytest
from click.testing import CliRunner

from rnn_cli.main import COMMANDS, DRAWS, INSTEAD, rnn


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("plot", f"'plot': {DRAWS}."),
        ("Generate", "'Generate': rnn sample generates text."),
        ("continue", "'continue': rnn train --resume RUN resumes a run."),
    ],
)
def test_a_command_known_from_elsewhere_is_answered_with_the_way_to_it(typed, words):
    result = CliRunner().invoke(rnn, [typed, "gru"])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.endswith(f"\nError: There is no command called {words}\n")


def told_of(typed):
    result = CliRunner().invoke(rnn, [typed, "gru"])
    assert (result.exit_code, result.stdout) == (2, "")
    return result.stderr.splitlines()[-1]


@pytest.mark.parametrize("name", [name for name in (*COMMANDS, *INSTEAD) if len(name) >= 4])
def test_a_name_with_two_letters_swapped_or_one_missing_is_answered_like_the_name(name):
    swapped = {name[:i] + name[i + 1] + name[i] + name[i + 2 :] for i in range(len(name) - 1)}
    missing = {name[:i] + name[i + 1 :] for i in range(len(name))}
    alike = {other for other in INSTEAD if INSTEAD[other] == INSTEAD.get(name)}  # such as curve and curves
    near = {name, name.removesuffix("s"), f"{name}s"} | alike
    ways = [f", nor {each!r}: {INSTEAD[each]}. Commands: " for each in near & INSTEAD.keys()]
    ways += [f". Did you mean {each!r}? Commands: " for each in near & COMMANDS.keys()]
    for typed in (swapped | missing) - INSTEAD.keys() - COMMANDS.keys():
        told = told_of(typed)
        assert any(told.startswith(f"Error: There is no command called {typed!r}{way}") for way in ways), told


def test_a_misspelt_command_from_elsewhere_is_answered_word_for_word():
    listed = ", ".join(COMMANDS)
    assert told_of("plto") == f"Error: There is no command called 'plto', nor 'plot': {DRAWS}. Commands: {listed}."
    assert told_of("Trian") == f"Error: There is no command called 'Trian'. Did you mean 'train'? Commands: {listed}."
    assert told_of("xyz") == f"Error: There is no command called 'xyz'. Commands: {listed}."


@pytest.mark.parametrize("words", sorted(set(INSTEAD.values())))
def test_the_way_to_it_is_a_command_that_there_is(words):
    for command in re.findall(r"rnn ((?:--)?\w+)", words):
        assert command == "--help" or command in COMMANDS
    assert not INSTEAD.keys() & COMMANDS.keys()
