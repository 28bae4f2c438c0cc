"""Which modules may speak of language models: all others work for any task, and no command is built on another."""

import ast
import re
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

from rnn_cli.main import COMMANDS

ROOT = Path(__file__).parents[1]
PACKAGES = ("plugins/rnn_plugins", "cli/rnn_lab", "cli/rnn_cli")
OF_TEXT = ("tasks/", "language/", "data/", "reports/neurons.py", "reports/structure.py", "reports/text.py")
COMMANDS_OF_TEXT = ("sample.py", "score.py")

NAMED = re.compile(
    r"tokens?(?![a-z])|vocabular|language[-_ ]?model|word_language"
    r"|rnn_(lab|plugins)\.language\b|rnn_plugins\.data\.corpus",
    re.IGNORECASE,
)

ALLOWED = {
    ("rnn_cli/spelling.py", "max-new-tokens"): "what other programs call --length",
    ("rnn_lab/settings.py", "language-model"): "the default of --task",
    ("rnn_lab/settings.py", "rnn_plugins.data.vocabulary"): "how --level, which several tasks have, is read",
    ("rnn_lab/api.py", "rnn_plugins.data.vocabulary"): "the type of what Run.sample and Run.score take",
    ("rnn_lab/api.py", "rnn_lab.language"): "Run.sample and Run.score, as the commands of these names",
    ("rnn_lab/api.py", "rnn_plugins.language.sampling"): "likewise",
    ("rnn_lab/predicting.py", "rnn_plugins.language.sampling"): "how a symbol of an output is drawn",
    ("rnn_cli/outputs.py", "rnn_plugins.language.sampling"): "likewise",
    ("rnn_plugins/testing/tasks.py", "rnn_plugins.language.sampling"): "likewise",
    ("rnn_lab/runs.py", "rnn_lab.language"): "runs of versions that knew no tasks",
    ("rnn_lab/runs.py", "rnn_plugins.language"): "the type of what a task may offer",
    ("rnn_plugins/reports/subject.py", "rnn_plugins.language"): "likewise",
    ("rnn_lab/sessions.py", "rnn_plugins.data.corpus"): "the folder in which data of standard input are kept",
    ("rnn_plugins/options.py", "language-model:level=word"): "an example of a task with an option",
    ("rnn_plugins/testing/tasks.py", "LanguageModel()"): "an example of what check_task takes",
    ("rnn_plugins/reports/subject.py", " is for language models, and "): "why a report of texts refuses a subject",
    ("rnn_cli/options.py", "Begin with the weights, vocabulary and sizes of a run."): "what --init-from takes over",
    ("rnn_cli/options.py", " for Adam; word_language_model's is for SGD: --optimizer sgd"): "another program's name",
    ("rnn_cli/options.py", "--lr is taken as in word_language_model, for plain SGD: --learning-rate "): "likewise",
}
"""What is allowed elsewhere, by file and words, and why."""


def modules() -> Iterator[tuple[str, Path]]:
    """All modules that must be neutral, by package and path in it."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            inside = path.relative_to(ROOT / package).as_posix()
            of_text = inside.startswith(OF_TEXT) or (package == "cli/rnn_cli" and inside in COMMANDS_OF_TEXT)
            if not of_text:
                yield f"{Path(package).name}/{inside}", path


def words(source: str) -> Iterator[str]:
    """Names, imports and strings of a program, docstrings left out."""
    tree = ast.parse(source)
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if id(node) in docstrings:
            continue
        for _, value in ast.iter_fields(node):
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, str):
                    yield each


def named(source: str) -> list[str]:
    """What speaks of language models, tokens or vocabularies in a program."""
    return [word for word in words(source) if NAMED.search(word)]


def test_what_works_for_any_task_names_no_language_model_token_or_vocabulary():
    found = {(name, word) for name, path in modules() for word in named(path.read_text())}
    assert found - ALLOWED.keys() == set()
    assert ALLOWED.keys() - found == set(), "these are allowed and nowhere"


@pytest.mark.parametrize(
    "line",
    [
        "from rnn_plugins.tasks.language_model import Task",
        "from rnn_plugins.tasks import language_model as texts",
        "import rnn_plugins.data.vocabulary",
        "from rnn_lab.language import scoring",
        "from rnn_plugins.data.corpus import load_corpus",
        "isinstance(task, LanguageModel)",
        "run.facts['vocabulary']",
        "run.vocabulary",
        "model.step(tokens=x)",
        "def read(vocabulary): return 1",
        "tokens = 1",
        "say(f'{count} tokens per second')",
        "if task == 'language-model': pass",
    ],
)
def test_a_line_that_names_one_is_found(line):
    assert named(line)


def test_docstrings_may_speak_of_anything():
    assert not named('"""Tokens."""\nx = 1\n"""Of a vocabulary."""\ndef f():\n    """A language model."""\n')


def imports(source: str) -> set[str]:
    """The modules that a program imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_imports_another(command):
    own, _ = COMMANDS[command]
    spec = find_spec(own)
    assert spec is not None
    assert spec.origin is not None
    others = {module for module, _ in COMMANDS.values()} - {own}
    assert imports(Path(spec.origin).read_text()) & others == set()
