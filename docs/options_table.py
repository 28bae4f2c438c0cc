"""The tables of options in docs/command-line.md; ``python docs/options_table.py`` writes them into it."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import click

from rnn_cli.options import Setting, by_section, of_settings
from rnn_lab.settings import Group, Settings, named, option

PAGE = Path(__file__).parent / "command-line.md"
"""The page that has the tables."""

BEGIN, END = "<!-- made by docs/options_table.py -->\n", "<!-- end -->\n"
"""The lines before and after them."""


def tables(cls: type[Any] = Settings) -> str:
    """A table per section of the help, and which settings a run that goes on or begins with weights may change."""
    options = by_section(of_settings(cls))
    parts = []
    for group in get_args(Group):
        rows = [f"| {group} | value | default | what it does |", "|---|---|---|---|"]
        rows += [_row(option) for option in options if option.group == group]
        parts.append("\n".join(rows))
    changed = _listed(option(name) for name in named("changeable", cls))
    taken = _listed(option(name) for name in named("inherited", cls))
    parts.append(f"`--resume` takes other values of {changed}.\n`--init-from` takes {taken} from the other run.")
    return "\n\n".join(parts) + "\n"


def _row(option: Setting) -> str:
    names = ", ".join(f"`{name}`" for name in option.opts)
    if isinstance(option.type, click.Choice):
        value = ", ".join(f"`{choice}`" for choice in option.type.choices)
    else:
        kind = {"INTEGER": "N", "FLOAT": "X"}.get(option.type.name.upper(), option.type.name.upper())
        value = "" if option.is_flag else f"`{option.metavar or kind}`".replace("|", "\\|")
    return " | ".join([f"| {names}", value, option.default_text, f"{option.words} |"]).replace("  ", " ")


def _listed(names: Iterable[str]) -> str:
    *first, last = (f"`{name}`" for name in names)
    return f"{', '.join(first)} and {last}"


def written(page: str) -> str:
    """The tables that a page has."""
    return page.partition(BEGIN)[2].partition(END)[0].strip("\n") + "\n"


if __name__ == "__main__":
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{tables()}\n{END}{rest.partition(END)[2]}", encoding="utf-8")
