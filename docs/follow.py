"""Run the commands of a page from top to bottom: ``python docs/follow.py docs/lecture.md [--quick]``.

The commands are the lines of its ``sh`` blocks and those behind a prompt in its transcripts, without ``rnn
watch``, which runs until Ctrl-C; a program that the page says to save is saved. What they print is not compared
with the page: it depends on the processor, and with --quick on the scale.
"""

import argparse
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
SAVED = re.compile(r"Save this as `([\w.]+)`[^`]*\Z")
ADDRESS = re.compile(r"https?://\S+")

ADDED = {
    "train": "--steps 20 --batch-size 8",
    "compare --cell": "--steps 10 --seeds 2",
    "report --cell": "--hidden-size 16 --positions 20 --lags 20",
    "report --all": "--positions 20 --lags 20 --characters 500",
    "report": "--positions 20 --lags 20",
}
"""What is added to the first of these commands that a line is, to make it quick."""

REPLACED = {
    r"\bbuiltin:latex:\d+": "builtin:latex:20000",
    r"--characters \d+": "--characters 500",
    r"--max-time \w+": "--max-time 2s",
}
"""Large numbers in a command, and what stands for them on a small scale."""

TABLE = re.compile(r"\S+\.tsv")

WORDS = "the of thou art my lord king and what shall love night speak hand hell in sweet to be or not"


class Command(NamedTuple):
    """A command line of a page.

    Attributes:
        line: as a shell reads it.
        fails: whether the page shows that it ends with an error.
    """

    line: str
    fails: bool = False


def commands(page: str) -> list[Command]:
    """The commands of a page in Markdown, in order."""
    found = []
    for block in BLOCK.finditer(page):
        language, content = block.groups()
        if language == "sh":
            lines = [re.sub(r"(^|\s+)# [^'\"]*$", "", line) for line in content.replace("\\\n", "").splitlines()]
            found += [Command(line) for line in lines if line]
        elif not language:
            for part in re.split(r"^\$ (?=\S)", content, flags=re.MULTILINE)[1:]:
                line, *shown = part.splitlines()
                found.append(Command(line, bool(shown) and shown[0].startswith("Error: ")))
        elif saved := SAVED.search(page[: block.start()]):
            found.append(Command(f"cat > {saved[1]} << 'END'\n{content}END"))
    return [command for command in found if not command.line.startswith("rnn watch ")]


def stand_in() -> str:
    """A small text in the form of a play, in place of one that would be downloaded."""
    rng = random.Random(1)
    words = WORDS.split()
    lines = ["The quick brown fox jumps over the lazy dog; HOW VEXINGLY QUICK DAFT ZEBRAS JUMP! Is 3 & $, 'so-so'?"]
    while len(lines) < 1500:
        lines += ["", rng.choice(["ROMEO:", "JULIET:", "First Citizen:"])]
        lines += [" ".join(rng.choices(words, k=rng.randint(4, 9))).capitalize() + "." for _ in range(3)]
    return "\n".join(lines) + "\n"


def table() -> str:
    """A small table of labelled texts, in place of one that the reader has."""
    rng = random.Random(1)
    rows = [
        (" ".join([*rng.choices(WORDS.split(), k=5), word]), label)
        for word, label in 20 * [("dull", "neg"), ("fine", "pos")]
    ]
    return "".join(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows])


def quick(line: str, folder: Path) -> str:
    """A command on a small scale: few steps, short reports, and small data in place of downloads and long ones.

    Args:
        line: the command.
        folder: where it is run; texts and tables are written there.

    Returns:
        The command to run instead.
    """
    for address in ADDRESS.findall(line):
        name = re.search(r" -o (\S+)", line)
        path = folder / (name[1] if name else address.rpartition("/")[2])
        path.write_text(stand_in(), encoding="utf-8")
        line = line.replace(address, path.name)
    for name in TABLE.findall(line):
        (folder / name).write_text(table(), encoding="utf-8")
    for large, small in REPLACED.items():
        line = re.sub(large, small, line)
    program, *rest = re.split(r"( [<>|] )", line, maxsplit=1)
    if program.startswith(("curl ", "pip ", "python benchmarks/")):
        return "true"
    for name, options in ADDED.items():
        if program.startswith("rnn ") and set(name.split()) <= set(program.split()):
            return "".join([program, " ", options, *rest])
    return line


def follow(page: Path, folder: Path, small: bool = False) -> Iterator[tuple[str, float]]:
    """Run the commands of a page, one after the other.

    Args:
        page: in Markdown.
        folder: where to run them; runs go to ``runs`` in it.
        small: whether to run them on a small scale, as :func:`quick` makes them.

    Yields:
        Each command, and how many seconds it took. What it prints is shown, or on a small scale not.

    Raises:
        SystemExit: a command did not end as the page shows.
    """
    scripts = str(Path(sys.executable).parent)
    environment = os.environ | {"PATH": os.pathsep.join([scripts, os.environ["PATH"]])}
    environment.pop("RNN_RUNS", None)
    for command in commands(page.read_text(encoding="utf-8")):
        line = quick(command.line, folder) if small else command.line
        begun = time.perf_counter()
        shell = ["bash", "-o", "pipefail", "-c", line]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT} if small else {}
        done = subprocess.run(shell, cwd=folder, env=environment, stdin=subprocess.DEVNULL, check=False, **streams)
        said = (done.stdout or b"").decode(errors="replace")
        if done.returncode != (2 if command.fails else 0) or "Traceback" in said:
            raise SystemExit(f"{page}: exit code {done.returncode} of\n$ {line}\n{said}")
        yield command.line, time.perf_counter() - begun


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument(
        "--quick", action="store_true", help="train for 20 steps, on a small text, in a temporary folder"
    )
    arguments = parser.parse_args()
    for page in arguments.pages:
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) if arguments.quick else Path.cwd()
            for line, seconds in follow(page, folder, arguments.quick):
                print(f"{seconds:6.1f} s  {line.partition(chr(10))[0]}", flush=True)


if __name__ == "__main__":
    main()
