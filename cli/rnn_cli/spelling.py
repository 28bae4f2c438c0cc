"""Options by the beginning of their names, and by the names that users of other programs type."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import click

from rnn_plugins.errors import UserError

SYNONYMS = {
    "lr": "learning-rate",
    "bs": "batch-size",
    "hidden": "hidden-size",
    "hidden-units": "hidden-size",
    "hidden-dim": "hidden-size",
    "n-hidden": "hidden-size",
    "layers": "num-layers",
    "n-layer": "num-layers",
    "n-layers": "num-layers",
    "embed-dim": "embedding-size",
    "sequence-length": "seq-length",
    "block-size": "seq-length",
    "context-length": "seq-length",
    "num-epochs": "epochs",
    "n-epochs": "epochs",
    "max-steps": "steps",
    "max-iters": "steps",
    "iterations": "steps",
    "validation-split": "valid-fraction",
    "clipnorm": "grad-clip",
    "max-grad-norm": "grad-clip",
    "early-stopping": "patience",
    "dropout-rate": "dropout",
    "random-seed": "seed",
    "random-state": "seed",
    "scheduler": "schedule",
    "num-samples": "count",
    "max-new-tokens": "length",
    "prompt": "prime",
}
"""Names in PyTorch, Keras, nanoGPT and elsewhere, and ours; a command that has no such option has no such synonym."""

ALIKE = 4
"""Letters at the beginning of a misspelt name that make an option the likely one."""


def spelled(command: click.Command, words: Sequence[str], known: Collection[str] = ()) -> list[str]:
    """A command's arguments with the full names of its options.

    Args:
        command: the command; of a group, its subcommands' options too.
        words: the arguments.
        known: other names that the command understands itself, without dashes.

    Raises:
        UserError: a name is the beginning of several options.
        click.NoSuchOption: a name is that of none, but begins like one.
    """
    options = {name: p for p in command.params if isinstance(p, click.Option) for name in (*p.opts, *p.secondary_opts)}
    full: list[str] = []
    rest = iter(words)
    for word in rest:
        name, equals, value = word.partition("=")
        if word == "--":
            return [*full, word, *rest]
        if isinstance(command, click.Group) and not word.startswith("-"):
            inner = command.get_command(click.Context(command), word)
            return [*full, word, *(spelled(inner, list(rest)) if inner else rest)]
        if name.startswith("--") and name not in options and name[2:].replace("_", "-") not in known:
            name = _option(name, [*options, "--help"])
        full.append(f"{name}{equals}{value}")
        option = options.get(name)
        if option is not None and not (equals or option.is_flag or option.count):
            full += [value for value in (next(rest, None),) if value is not None]
    return full


def _option(name: str, options: Sequence[str]) -> str:
    """The option that a name is short for, or a synonym of; the name itself if there is none."""
    wish = name.replace("_", "-").lower()
    begin = [option for option in options if option.startswith(wish)]
    if wish in begin or len(begin) == 1:
        return wish if wish in begin else begin[0]
    synonym = f"--{SYNONYMS.get(wish[2:], '')}"
    if synonym in options:
        return synonym
    if begin:
        raise UserError(f"{name} may be {', '.join(begin[:-1])} or {begin[-1]}: give more of it")
    alike = [option for option in options if option[: 2 + ALIKE] == wish[: 2 + ALIKE] and len(wish) >= 2 + ALIKE]
    if alike:
        raise click.NoSuchOption(name, possibilities=alike)
    return name
