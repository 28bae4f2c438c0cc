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


@pytest.mark.parametrize("words", sorted(set(INSTEAD.values())))
def test_the_way_to_it_is_a_command_that_there_is(words):
    for command in re.findall(r"rnn ((?:--)?\w+)", words):
        assert command == "--help" or command in COMMANDS
    assert not INSTEAD.keys() & COMMANDS.keys()
