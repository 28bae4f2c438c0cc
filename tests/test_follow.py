"""Pages of the documentation are followed from top to bottom, and what follows them notices a command that fails."""

from pathlib import Path

import follow
import pytest

ROOT = Path(__file__).parents[1]

PAGE = """
# A page

Save this as `my_cell.py`, which is a cell:

```python
x = 'a'
```

```sh
# a comment
rnn train --name a \\
    book.txt   # and another
printf 'a # b\\n' > a.txt
rnn watch a --port 8000
```

```
$ rnn sample a
$    1 0
$ rnn sample b
Error: there is no run 'b'
```

```toml
a = 1
```
"""


def test_the_commands_of_a_page():
    assert follow.commands(PAGE) == [
        ("cat > my_cell.py << 'END'\nx = 'a'\nEND", False),
        ("rnn train --name a     book.txt", False),
        ("printf 'a # b\\n' > a.txt", False),
        ("rnn sample a", False),
        ("rnn sample b", True),
    ]


@pytest.mark.parametrize(
    ("line", "small"),
    [
        ("rnn train a.txt --epochs 6", "rnn train a.txt --epochs 6 --steps 20 --batch-size 8"),
        ("rnn train builtin:latex:3000000", "rnn train builtin:latex:20000 --steps 20 --batch-size 8"),
        ("rnn train https://example.org/a/b.txt", "rnn train b.txt --steps 20 --batch-size 8"),
        ("curl -o c.txt https://example.org/a/b.txt", "true"),
        ("python benchmarks/lags.py --json a.json", "true"),
        ("rnn predict a b.tsv", "rnn predict a b.tsv"),
        ("rnn report --all", "rnn report --all --positions 20 --lags 20 --characters 500"),
        ("rnn report a > b.txt", "rnn report a --positions 20 --lags 20 > b.txt"),
        ("rnn report --cell rnn", "rnn report --cell rnn --hidden-size 16 --positions 20 --lags 20"),
        ("rnn compare a b", "rnn compare a b"),
        ("rnn compare --cell a --cell b", "rnn compare --cell a --cell b --steps 10 --seeds 2"),
        ("rnn sample a --length 9", "rnn sample a --length 9"),
    ],
)
def test_a_command_on_a_small_scale(line, small, tmp_path):
    assert follow.quick(line, tmp_path) == small
    if ".tsv" in line:
        assert (tmp_path / "b.tsv").read_text(encoding="utf-8").startswith("text\tlabel\n")
    if "https" in line:
        (written,) = tmp_path.iterdir()
        assert written.name == ("c.txt" if "curl" in line else "b.txt")
        assert "\nROMEO:\n" in written.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("page", "message"),
    [
        ("```sh\ntrue\nrnn no-such\n```\n", "exit code 2 of\n$ rnn no-such\nUsage: "),
        ("```\n$ true\nError: it fails\n```\n", "exit code 0 of\n$ true\n"),
        ("```sh\nfalse | true\n```\n", "exit code 1 of"),
        ("```sh\necho Traceback\n```\n", "exit code 0 of\n$ echo Traceback\nTraceback"),
    ],
)
def test_a_command_that_does_not_end_as_the_page_shows_is_told(page, message, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(page, encoding="utf-8")
    with pytest.raises(SystemExit) as stopped:
        list(follow.follow(path, tmp_path, small=True))
    assert message in str(stopped.value)


@pytest.mark.parametrize(
    "name", ["index", "lecture", "recipes", "command-line", "commands", "cells", "predict", "reports", "memory"]
)
def test_a_page_is_followed_from_top_to_bottom(name, tmp_path, monkeypatch):
    monkeypatch.setenv("RNN_LAB_CACHE", str(tmp_path / "cache"))
    page = ROOT / "docs" / f"{name}.md"
    ran = [line for line, _ in follow.follow(page, tmp_path, small=True)]
    assert ran == [command.line for command in follow.commands(page.read_text(encoding="utf-8"))]
    assert any(line.startswith("rnn train") for line in ran)
