"""Write pages to the terminal and to the files that a command's options name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import click

from rnn_cli.console import as_json, remark
from rnn_plugins.errors import UserError

if TYPE_CHECKING:
    from rnn_lab.runs import Run
    from rnn_plugins.reports.report import Page

Command = TypeVar("Command", bound=Callable[..., Any])


class Output(NamedTuple):
    """The files requested.

    Attributes:
        html: an HTML page.
        png: a bitmap of all charts.
        svg: the same as SVG.
        json: all numbers; ``-`` is standard output, instead of the terminal's charts.
    """

    html: str | None = None
    png: str | None = None
    svg: str | None = None
    json: str | None = None


_OPTIONS = {
    "html": "Write a self-contained HTML page.",
    "png": "Write all charts as a PNG image.",
    "svg": "Write all charts as SVG.",
    "json": "Write all numbers with their definitions; - is standard output.",
}


class _OutputOption(click.Option):
    """An option in the section Output of a help page that has sections."""

    group = "Output"


def output_options(command: Command) -> Command:
    """Add ``--html``, ``--png``, ``--svg`` and ``--json`` to a command; ``chosen`` reads them."""
    path = click.Path(readable=False)
    for name, text in reversed(_OPTIONS.items()):
        command = click.option(f"--{name}", cls=_OutputOption, metavar="FILE", type=path, help=text)(command)
    return command


def chosen(given: dict[str, Any]) -> Output:
    """Remove the files from a command's arguments, and check at once that they can be written.

    Raises:
        UserError: a file cannot be written; see ``check_page``.
    """
    output = Output(**{name: given.pop(name) for name in _OPTIONS})
    for name, path in output._asdict().items():
        if path is not None and (name, path) != ("json", "-"):
            check_page(name, path)
    return output


def check_page(name: str, path: str, *, charts: bool = True) -> None:
    """Check that the file of an option for pages, such as ``html``, can be written.

    Args:
        name: of the option.
        path: of the file.
        charts: whether it may have charts, which need a library.

    Raises:
        UserError: it is not a file, its name has another ending, it needs a library that is not installed, or
            ``try_file`` refuses it.
    """
    _check_name(name, path)
    if charts and name != "json":
        from rnn_lab.drawing import pictures

        pictures.require(f"--{name}")
    try_file(name, path)


def check_sheet(name: str, path: str) -> None:
    """Check that the file of an option for pictures, ``png`` or ``gif``, can be written.

    Raises:
        UserError: as ``check_page``.
    """
    from rnn_lab.drawing import sheets

    _check_name(name, path)
    sheets.require(f"--{name}")
    try_file(name, path)


def _check_name(name: str, path: str) -> None:
    if path == "-":
        raise UserError(f"--{name} is '-'; name a file")
    if path.startswith("--"):
        raise UserError(f"--{name} is {path!r}, which is an option; name a file after --{name}")
    if name in ("png", "svg", "gif") and Path(path).suffix.lower() != f".{name}":
        raise UserError(f"--{name} is {path!r}; its name must end in .{name}")


def require_pictures(run: Run, files: Mapping[str, str | None]) -> None:
    """Check that a run's task draws pictures, if there are files for them.

    Args:
        run: the run.
        files: the paths by the options' names.

    Raises:
        UserError: it draws none.
    """
    for name in (name for name, path in files.items() if path is not None and not run.task.shows_pictures):
        raise UserError(
            f"--{name} is for runs that draw pictures, and {run.name} is a run of the task {run.settings.task}, which "
            "draws none: leave it out"
        )


def try_file(name: str, path: str) -> None:
    """Check before the work that the file an option names can be written after it. The check leaves nothing behind.

    Raises:
        UserError: its folder does not exist or is not writable, or the file is a folder or not writable.
    """
    folder = Path(os.path.realpath(path)).parent  # of a link, the target's folder
    if os.path.isdir(path):
        raise UserError(f"--{name} is {path!r}, which is a folder: name a file in it")
    if not folder.is_dir():
        raise UserError(f"--{name} is {path!r}, and there is no folder {str(Path(path).parent)!r}: make it first")
    try:
        os.lstat(path)
    except FileNotFoundError:
        pass
    except OSError as error:  # the name is too long
        raise _closed(name, path, error) from None
    try:
        if os.path.isfile(path):
            with open(path, "ab"):
                pass
        if not is_special(path):
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise _closed(name, path, error) from None


def is_special(path: str) -> bool:
    """Whether the path is something other than a replaceable file, such as /dev/stdout or a pipe."""
    return os.path.exists(path) and not os.path.isfile(path)


def _closed(name: str, path: str, error: OSError) -> UserError:
    reason = (error.strerror or str(error)).lower()
    return UserError(f"--{name} is {path!r}, which cannot be written: {reason}; name another file")


def put(pages: Sequence[Page], heading: str, about: Sequence[str], output: Output) -> None:
    """Write the files, and print the pages, even when a file cannot be written.

    The files come first, since the reader of standard output may close it early, as ``head`` does.
    """
    from rnn_plugins.reports.report import to_json

    text = ""
    if output.json is not None:
        text = as_json({"heading": heading, "about": list(about), "reports": to_json(pages)}, indent=1) + "\n"
    try:
        if output.json not in (None, "-"):
            write(output.json, text)
        if output.html is not None:
            from rnn_lab.drawing import page

            write(output.html, page.html(pages, heading, about))
        _put_pictures(pages, output)
    finally:
        if output.json == "-":
            click.echo(text, nl=False)
        else:
            from rnn_cli.drawing import terminal

            terminal.draw(pages)


def _put_pictures(pages: Sequence[Page], output: Output) -> None:
    from rnn_plugins.reports.report import Colouring, Table
    from rnn_plugins.words import amount

    forms: dict[Literal["png", "svg"], str | None] = {"png": output.png, "svg": output.svg}
    written = []
    for form, path in forms.items():
        if path is not None:
            from rnn_lab.drawing import pictures

            write(path, pictures.picture(pages, form))
            written.append(path)
    counts = [
        (sum(isinstance(figure, kind) for page in pages for figure in page.figures), noun)
        for kind, noun in ((Table, "table"), (Colouring, "text"))
    ]
    left_out = [amount(count, noun) for count, noun in counts if count]
    if written and left_out:
        contain = "contains" if len(written) == 1 else "contain"
        shows = f"{output.html or '--html'} shows {' and '.join(left_out)} too"
        remark(f"{' and '.join(written)} {contain} only the charts; {shows}")


def write(path: str, content: str | bytes) -> None:
    """Write a file atomically, and print its name."""
    from minigrad.checkpoint import write_atomically

    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    if is_special(path):
        Path(path).write_bytes(data)
    else:
        write_atomically(path, data)
    remark(f"Written: {path}")
