"""Where pages go: the terminal, and the files that a command's options ask for. What is on them others say."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from rnn_cli.console import remark
from rnn_plugins.errors import UserError

if TYPE_CHECKING:
    from rnn_plugins.reports.report import Page

Command = TypeVar("Command", bound=Callable[..., Any])


class Output(NamedTuple):
    """The files that were asked for.

    Attributes:
        html: a page.
        png: a picture.
        svg: a drawing.
        json: numbers; ``-`` is standard output, in place of the terminal's picture.
    """

    html: str | None = None
    png: str | None = None
    svg: str | None = None
    json: str | None = None


_OPTIONS = {
    "html": "Write a page that stands by itself.",
    "png": "Write a picture of all plots.",
    "svg": "Write the same picture as a drawing.",
    "json": "Write every number, with its definition; - is standard output.",
}


def output_options(command: Command) -> Command:
    """Give a command ``--html``, ``--png``, ``--svg`` and ``--json``, which ``chosen`` takes out of its arguments."""
    for name, text in reversed(_OPTIONS.items()):
        path = click.Path(dir_okay=False, allow_dash=name == "json")
        command = click.option(f"--{name}", metavar="FILE", type=path, help=text)(command)
    return command


def chosen(given: dict[str, Any]) -> Output:
    """Take the files out of a command's arguments, and see at once whether they can be written.

    Raises:
        UserError: one needs a library that is not installed, or its folder is not there.
    """
    output = Output(**{name: given.pop(name) for name in _OPTIONS})
    for name, path in output._asdict().items():
        if path is None or path == "-":
            continue
        if name != "json":
            from rnn_cli.drawing import pictures

            pictures.require(f"--{name}")
        if not Path(path).absolute().parent.is_dir():
            raise UserError(f"--{name} is {path!r}, and there is no folder {str(Path(path).parent)!r}: make it first")
    return output


def put(pages: Sequence[Page], heading: str, about: Sequence[str], output: Output) -> None:
    """Show pages on the terminal, and write the files."""
    from rnn_plugins.reports.report import to_json

    if output.json != "-":
        from rnn_cli.drawing import terminal

        terminal.draw(pages)
    if output.json is not None:
        text = json.dumps({"heading": heading, "about": list(about), "reports": to_json(pages)}, indent=1) + "\n"
        if output.json == "-":
            click.echo(text, nl=False)
        else:
            _write(output.json, text)
    if output.html is not None:
        from rnn_cli.drawing import page

        _write(output.html, page.html(pages, heading, about))
    for path, form in ((output.png, "png"), (output.svg, "svg")):
        if path is not None:
            from rnn_cli.drawing import pictures

            left_out = pictures.save(pages, Path(path), "png" if form == "png" else "svg")
            if left_out:
                remark(f"Not in {path}, because they are no plots: {', '.join(left_out)}. --html shows them.")
            remark(f"Written: {path}")


def _write(path: str, text: str) -> None:
    Path(path).write_text(text, encoding="utf-8", errors="replace")
    remark(f"Written: {path}")
