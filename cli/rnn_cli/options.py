"""The options of ``rnn train``, made from the settings, their names in other programs, and configuration files."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from typing import Any, get_args

import click

from rnn_cli import completion
from rnn_cli.console import Showing, remark, show_progress
from rnn_cli.tables import sentence
from rnn_lab.settings import (
    COMMON,
    EXPECTED,
    PRESETS,
    About,
    Backend,
    Group,
    Kind,
    Settings,
    about,
    apart,
    kinds,
    merge,
    option,
)
from rnn_plugins.errors import UserError, did_you_mean
from rnn_plugins.words import listing

BACKENDS = click.Choice(get_args(Backend))

BACKEND = click.option("--backend", type=BACKENDS, default="auto", show_default=True, help="How to run the time loop.")
"""For commands that do not train; a resumed run keeps its backend."""


def _as_pairs(ctx: click.Context, param: click.Parameter, value: tuple[str, ...]) -> dict[str, str]:
    return pairs("task_option", value, "beam=5")


TASK_OPTION = click.option(
    "--task-option",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_as_pairs,
    help="Change an option of the task that the weights do not depend on; may be repeated.",
)
"""For commands that use a run."""


UNKNOWN = click.option(
    "--unknown",
    type=click.Choice(["error", "skip", "replace"]),
    default="replace",
    show_default=True,
    help="What to do with characters of FILE that the model does not know.",
)
"""For commands that read a text with a run's model."""


def _trusting(ctx: click.Context, param: click.Parameter, value: bool | None) -> None:
    if value:
        from rnn_plugins.trust import trusting

        ctx.with_resource(trusting())


TRUST_HELP = "Execute the Python file that a run names, even if it has changed or you have not given it yourself."

TRUST = click.option("--trust", is_flag=True, expose_value=False, callback=_trusting, help=TRUST_HELP)
"""For commands that open a run."""


QUIET = click.option("--quiet", "-q", is_flag=True, help="Print nothing but errors and the result.")
"""For commands that report progress."""


def _as_told(ctx: click.Context, param: click.Parameter, value: Showing | None) -> Showing | None:
    if value:
        show_progress(value)
    return value


PROGRESS_HELP = "How to show the progress: redrawn in place, as lines, or not at all."
PROGRESS_DEFAULT = "live on a terminal, else plain; plain in notebooks"

_TOLD: dict[str, Any] = {"type": click.Choice(get_args(Showing)), "callback": _as_told}

PROGRESS = click.option(
    "--progress", expose_value=False, help=f"{PROGRESS_HELP}  [default: {PROGRESS_DEFAULT}]", **_TOLD
)
"""For commands that show their progress and have no sections in their help."""


class Setting(click.Option):
    """An option in a section of the help; its value is None if not given.

    Attributes:
        group: the section.
        words: what it does.
        default_text: the default in the help and the documentation; empty for none.
        kind: the type of its value in a configuration file: dict, bool, str, or object if ``Settings`` checks it.
        aliases: other programs' names for it.
    """

    def __init__(
        self,
        group: str,
        name: str,
        help: str,
        *,
        default: Any = "",
        short: str = "",
        kind: type = object,
        aliases: Sequence[str] = (),
        **attributes: Any,
    ) -> None:
        self.group, self.default_text, self.kind, self.aliases = group, str(default), kind, aliases
        self.words = help
        text = f"{help}  [default: {default}]" if self.default_text else help
        super().__init__([f"--{name}", *filter(None, [short])], default=None, help=text, **attributes)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option and its help, with N for whole numbers and X for numbers."""
        record = super().get_help_record(ctx)
        names = {"INTEGER": "N", "FLOAT": "X"}
        return record and (" ".join(names.get(word, word) for word in record[0].split(" ")), record[1])


COMPLETED = {
    "cell": completion.cells,
    "task": completion.tasks,
    "cell_option": completion.cell_options,
    "task_option": completion.task_options,
    "optimizer": completion.optimizers,
    "schedule": completion.schedules,
    "average": completion.averages,
    "level": completion.levels,
}
"""The shell completion of a setting's value."""


def of_settings(cls: type[Any] = Settings) -> dict[str, Setting]:
    """The options of the settings, by the settings' names; those of ``cls`` itself before inherited ones."""
    options, allowed = {}, kinds(cls)
    for f in sorted(fields(cls), key=lambda f: f.name not in cls.__annotations__):
        known, kind = about(f), allowed[f.name]
        if known.group:
            default = known.computed or ("" if f.default is None or f.default is False else f.default)
            options[f.name] = Setting(
                known.group,
                f.name.replace("_", "-"),
                known.help,
                default="" if kind.type is dict else default,
                kind=_kind(known, kind),
                aliases=known.aliases,
                **_attributes(f.name, known, kind),
            )
    return options


def _kind(known: About, kind: Kind) -> type:
    """The type of a setting in a configuration file, if it is checked before ``Settings`` does."""
    if kind.type in (dict, bool):
        return kind.type
    return str if kind.type is str and not (kind.choices or known.numeric) else object


def _attributes(name: str, known: About, kind: Kind) -> dict[str, Any]:
    """Click's attributes of a setting's option."""
    if kind.type is bool:
        return {"is_flag": True}
    attributes = {"metavar": known.metavar or None, "shell_complete": COMPLETED.get(name)}
    if kind.type is tuple:
        return {"metavar": known.metavar, "multiple": True, "type": click.Path(readable=False)}
    if kind.type is dict:
        return attributes | {"multiple": True}
    if kind.choices:
        return attributes | {"type": click.Choice([*filter(None, kind.choices)])}
    return attributes | {"type": str if known.read else kind.type}


def like(name: str, help: str, default: Any = None) -> Callable[[Any], Any]:
    """An option of another command with the values of a setting."""
    (f,) = (f for f in fields(Settings) if f.name == name)
    known, kind = about(f), kinds(Settings)[name]
    attributes = _attributes(name, known, kind)
    attributes["metavar"] = known.metavar or {int: "N", float: "X"}.get(kind.type)
    shown = default not in (None, 0)
    return click.option(f"--{name.replace('_', '-')}", default=default, show_default=shown, help=help, **attributes)


def by_section(settings: Mapping[str, Setting]) -> list[Setting]:
    """All options of ``rnn train`` by section: the settings and the command's own."""
    groups = [*get_args(Group)]
    return sorted([*OWN, *settings.values(), *PRINTED], key=lambda option: groups.index(option.group))


OWN = [
    Setting(
        "Run",
        "name",
        "Name of the run.",
        default="made from cell and data",
        kind=str,
        aliases=("savefile", "checkpoint-name", "save"),
    ),
    Setting(
        "Run",
        "resume",
        "Continue a run as if it had not stopped.",
        metavar="RUN",
        kind=str,
        shell_complete=completion.runs,
    ),
    Setting(
        "Run",
        "init-from",
        "Begin with the weights, vocabulary and sizes of a run.",
        metavar="RUN",
        kind=str,
        shell_complete=completion.runs,
    ),
    Setting("Run", "trust", TRUST_HELP, is_flag=True, expose_value=False, callback=_trusting),
    Setting(
        "Run",
        "preset",
        "Use settings that belong together: best, for a low loss on a text of a megabyte, or "
        "another program's defaults.",
        kind=str,
        type=click.Choice(sorted(PRESETS)),
    ),
    Setting(
        "Run",
        "config",
        "Read options by their long names; the command line wins.",
        metavar="FILE.toml",
        type=click.Path(readable=False),
    ),
]
"""Options of ``rnn train`` that are not settings."""

SHOWN = Setting("Output", "progress", PROGRESS_HELP, default=PROGRESS_DEFAULT, kind=str, **_TOLD)
"""``PROGRESS`` for commands whose help has sections."""

PRINTED = [
    SHOWN,
    Setting("Output", "quiet", "Print nothing but errors.", kind=bool, is_flag=True, short="-q"),
    Setting("Output", "json", "Print a record per line on standard output.", kind=bool, is_flag=True),
]
"""Options for the output."""

SETTINGS = of_settings()
"""The options of the settings, by the settings' names."""

OPTIONS = by_section(SETTINGS)
"""All options of ``rnn train``, in the order of its help."""

ON_THE_LINE = ("config", "trust")
"""Options that a configuration file cannot set."""

ALIASES = {alias: option.opts[0][2:] for option in OPTIONS for alias in option.aliases}
"""Other programs' names: char-rnn's, torch-rnn's, and those of PyTorch and its word_language_model."""

FOLDERS = {"data-dir": "input.txt", "data": "train.txt"}
"""Other programs' names for FILES, and the file in such a folder that they train on."""

SGD = ("emsize", "nhid", "nlayers", "bptt")
"""Options of PyTorch's word_language_model, whose ``lr`` is that of plain SGD."""

TORCH = {"grad-clip": "element:{}"}
"""Values of options with another meaning in char-rnn and torch-rnn, whose options have one dash."""

TWO_MEANINGS = {
    "decay-rate": "of RMSprop in char-rnn (--optimizer rmsprop:decay={0}), and of the learning rate per epoch in "
    "char-rnn-tensorflow (--schedule exponential:decay={0})",
}
"""Names with two dashes that have different meanings in several programs."""

PARTS = {
    "learning-rate-decay": ("schedule", "exponential", "decay", {"after": "9"}),
    "learning-rate-decay-after": ("schedule", "exponential", "after", {}),
    "lr-decay-factor": ("schedule", "exponential", "decay", {"every": "5"}),
    "lr-decay-every": ("schedule", "exponential", "every", {"decay": "0.5"}),
    "decay-rate": ("optimizer", "rmsprop", "decay", {}),
}
"""Other programs' names for a part of an option: the option, a name and key in it, and other keys to add."""

MEANINGLESS = {
    "train-frac": "what --valid-fraction does not hold out is trained on: give that one",
    "input-h5": "a text needs no preparation: give it as FILE",
    "input-json": "a text needs no preparation: give it as FILE",
    "checkpoint-dir": "a run is a folder in runs/, or where the environment variable RNN_RUNS says",
    "batchnorm": "there is no batch normalisation: --dropout is the regularisation that there is",
    "reset-iterations": "use --resume to continue a run, or --init-from to start one with its weights",
    "bidirectional": "where a task has the option directions (rnn tasks show TASK), give --task-option directions=2",
    "nhead": "there are recurrent cells and no Transformer",
    "momentum": "it is the optimiser's: --optimizer sgd:momentum=0.9",
    "weight-decay": "it is the optimiser's: --optimizer adamw:weight_decay=0.01",
    **dict.fromkeys(
        ["gpuid", "gpu", "gpu-backend", "opencl", "cuda", "mps", "accel", "accurate-gpu-timing"],
        "everything is computed on the CPU: leave it out",
    ),
}
"""Options of other programs without a counterpart, and what to do instead."""

CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn", "RNN_TANH": "rnn"}
"""PyTorch's names of cells."""


def translate(
    arguments: Sequence[str], told: Callable[[str], None] = lambda note: None, own: Mapping[str, bool] = {}
) -> list[str]:
    """Translate other programs' names of options, ``_`` for ``-`` and single dashes.

    Args:
        arguments: as typed.
        told: called with a sentence that says how a name with other meanings was translated.
        own: whether the command's options are flags, by their names.

    Raises:
        UserError: an option has no counterpart or several, or contradicts another one.
    """
    flags = {**{option.opts[0][2:]: option.is_flag for option in OPTIONS}, **own}
    ours: list[str] = []
    parts: dict[str, str] = {}
    known: dict[str, str] = {}
    rest = iter(arguments)
    for argument in rest:
        if argument == "--":
            ours += [argument, *rest]
            break
        written, equals, value = argument.lstrip("-").partition("=")
        name = written.replace("_", "-")
        if argument[0:1] != "-" or argument == "-":
            ours.append(argument)
        elif name in MEANINGLESS:
            raise UserError(f"there is no --{name} here: {MEANINGLESS[name]}")
        elif name in PARTS:
            parts[name] = value if equals else next(rest, "")
            if name in TWO_MEANINGS and argument.startswith("--"):
                meanings = TWO_MEANINGS[name].format(parts[name])
                raise UserError(f"--{name} has two meanings, {meanings}: give one of these options")
        elif name in FOLDERS:
            ours.append(_file(name, value if equals else next(rest, ""), told))
        elif (target := ALIASES.get(name, name)) in flags:
            given = value if equals or flags[target] else next(rest, None)
            if name in TORCH and given and ":" not in given and not argument.startswith("--"):
                given = TORCH[name].format(given)
                told(f"-{written} is taken as in char-rnn and torch-rnn: --{target} {given}")
            known[name] = given or ""
            ours.append(f"--{target}{equals}{given if equals or flags[target] else ''}")
            ours += [given] if given is not None and not (equals or flags[target]) else []
        else:
            ours.append(argument)  # Click reports an error
    return [*_composed(parts, ours), *_added(known, ours, told), *ours]


def _file(name: str, path: str, told: Callable[[str], None]) -> str:
    """The file to train on, from a folder that another program's option names."""
    file = os.path.join(path, FOLDERS[name])
    if not os.path.isfile(file):
        return path
    told(
        f"of {path} only {FOLDERS[name]} is read, as --{name} has it elsewhere, and --valid-fraction of it is held out"
    )
    return file


def _added(known: Mapping[str, str], ours: Sequence[str], told: Callable[[str], None]) -> list[str]:
    """The optimiser for another program's learning rate, if none is given.

    Args:
        known: the values of the typed options, by their names in the other program.
        ours: the translated arguments.
        told: as in ``translate``.
    """
    rate, given = known.get("lr"), {argument.partition("=")[0] for argument in ours}
    if not rate or "--optimizer" in given:
        return []
    if not known.keys() & set(SGD):
        # A usual rate for Adam needs no note, and a preset or a configuration may name another optimiser.
        if _is_large(rate) and not given & {"--preset", "--config"}:
            told(f"--lr is taken as --learning-rate {rate} for Adam; word_language_model's is for SGD: --optimizer sgd")
        return []
    told(f"--lr is taken as in word_language_model, for plain SGD: --learning-rate {rate} --optimizer sgd")
    return ["--optimizer", "sgd"]


def _is_large(rate: str) -> bool:
    """Whether a rate is one for plain SGD: Adam changes each weight by about the rate in every step."""
    try:
        return float(rate) >= 0.1
    except ValueError:  # reported when options are checked
        return False


def _composed(parts: Mapping[str, str], ours: Sequence[str]) -> list[str]:
    """Compose options from their parts, such as ``--schedule exponential:decay=0.97,after=9``."""
    values: dict[str, dict[str, str]] = {}
    for name, value in parts.items():
        option, kind, key, added = PARTS[name]
        if f"--{option}" in {argument.partition("=")[0] for argument in ours}:
            raise UserError(f"--{name} is a part of --{option}: use --{option} {kind}:{key}={value}")
        if name == "learning-rate-decay-after":  # there the rate falls at the end of that epoch, here one later
            try:
                value = f"{max(float(value) - 1, 0):g}"
            except ValueError:
                raise UserError(f"--{name} is {value!r}; it must be a number of epochs") from None
        values[option] = added | values.get(option, {}) | {key: value}
    kinds = {option: kind for option, kind, _, _ in PARTS.values()}
    return [
        word
        for option, keys in values.items()
        for word in (f"--{option}", f"{kinds[option]}:" + ",".join(f"{k}={v}" for k, v in keys.items()))
    ]


def collect(files: Sequence[str], given: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the preset, the configuration file and the command line; later ones win.

    Args:
        files: from the command line.
        given: the command line's options by their names with ``_``; None, False or () if not given.

    Returns:
        Settings, and ``name``, ``resume``, ``init_from``, ``progress``, ``quiet`` and ``json``, if given, and
        ``preset``: its name and what it sets, for ``naming_preset``.

    Raises:
        UserError: the configuration file cannot be read or has an unknown key, or an option of the cell is not a pair.
    """
    line = {key: value for key, value in given.items() if not (value is None or value is False or value == ())}
    if files:
        line["files"] = tuple(files)
    for f in fields(Settings):
        if f.name in line and about(f).example:
            line[f.name] = pairs(f.name, line[f.name], about(f).example)
    config = read_config(line.pop("config"), quiet=bool(line.get("quiet"))) if "config" in line else {}
    preset = line.get("preset", config.get("preset"))
    if preset not in (None, *PRESETS):
        raise UserError(f"there is no preset called {preset!r}; there is {', '.join(PRESETS)}")
    own = [*map(_renamed, (config, line))]
    wanted = merge(PRESETS[preset] if preset else {}, *own)
    wanted.pop("preset", None)
    return wanted | ({"preset": (preset, _of_preset(preset, wanted, merge(*own)))} if preset else {})


def _of_preset(preset: str, wanted: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, str]:
    """The options that have their values from a preset, as they are typed, with patterns that find them in an error.

    Args:
        preset: its name.
        wanted: the merged settings.
        own: those that the user gives.
    """
    found = {}
    for name, value in apart(PRESETS[preset]).items():
        if not isinstance(value, Mapping):
            if name not in own:
                found[f"{option(name)} {value}"] = rf"{option(name)}(?![\w-])"
            continue
        for key in value.keys() & wanted.get(name, {}).keys() - own.get(name, {}).keys():
            common = key in COMMON
            typed = f"{option(key)} {value[key]}" if common else f"{option(name)} {key}={value[key]}".lower()
            found[typed] = rf"{option(key if common else name)}(?![\w-])|\b{key}\b"
    return found


@contextmanager
def naming_preset(preset: str, sets: Mapping[str, str]) -> Iterator[None]:
    """Within this block, errors that name an option that a preset sets say so.

    Args:
        preset: its name.
        sets: what it sets, as ``collect`` returns it.
    """
    try:
        yield
    except UserError as error:
        if not (named := [typed for typed, pattern in sets.items() if re.search(pattern, str(error))]):
            raise
        advice = "give your own, or leave --preset out"
        raise UserError(f"{error} (--preset {preset} sets {listing(named)}: {advice})") from error


def _renamed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The same options with PyTorch's names of cells replaced."""
    values = apart(given)
    return values | {"cell": CELLS.get(values["cell"], values["cell"])} if "cell" in values else values


def read_config(path: str, *, quiet: bool = False, options: Sequence[Setting] = OPTIONS) -> dict[str, Any]:
    """Read a configuration file's options, by their names with ``_``.

    Args:
        path: the file's path.
        quiet: whether to leave out notes on its text.
        options: all options of the command.

    Raises:
        UserError: it cannot be read, or has an unknown key.
    """
    import tomllib

    from rnn_plugins.data.sources import read_text

    label = f"the configuration file {path!r}"
    if not os.path.exists(path):
        raise UserError(f"there is no configuration file {path!r}")
    text, notices = read_text(path, label)
    for notice in [] if quiet else notices:
        remark(f"Note: {sentence(notice)}")
    try:
        table = tomllib.loads(text)
    except ValueError as error:
        raise UserError(f"{label} is not valid TOML: {error}") from None
    expected = {"files": object} | {o.name: o.kind for o in options if o.name and o.name not in ON_THE_LINE}
    config: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in expected:
            known = [known.replace("_", "-") for known in expected]
            raise UserError(f"{path!r}: there is no option called {key!r}.{did_you_mean(key.replace('_', '-'), known)}")
        if name in config:
            raise UserError(f"{path!r}: {key!r} is given twice, once with - and once with _")
        if not isinstance(value, expected[name]):
            raise UserError(f"{path!r}: {key!r} is {value!r}; it must be {EXPECTED[expected[name]]}")
        config[name] = value
    return config


def pairs(name: str, texts: Iterable[str], example: str) -> dict[str, str]:
    """The values of an option that takes ``NAME=VALUE`` and may be repeated.

    Raises:
        UserError: one has no ``=``.
    """
    given = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--{name.replace('_', '-')} is {text!r}; write it as NAME=VALUE, such as {example}")
        given[key if name == "ablate" else key.replace("-", "_")] = value
    return given


def separated(owner: str, spec: str, options: Mapping[str, str]) -> tuple[str, dict[str, str]]:
    """A cell's or task's name without options, and all its options.

    Args:
        owner: "cell" or "task".
        spec: as typed, such as "lstm:forget_bias=2".
        options: given with ``--cell-option`` or ``--task-option``.

    Raises:
        UserError: an option is not a pair, or has two values.
    """
    values = apart({owner: spec, f"{owner}_option": options})
    return values[owner], values[f"{owner}_option"]


def of_list(ctx: click.Context, what: str) -> None:
    """Check that the options of a group, which are those of its list, are not given with one of its commands.

    Args:
        ctx: of the group.
        what: it lists.

    Raises:
        UserError: one is.
    """
    group, name = ctx.command, ctx.invoked_subcommand
    if not isinstance(group, click.Group) or name is None:
        return
    command = group.get_command(ctx, name)
    others = [option for param in command.params for option in param.opts] if command else []
    for param in group.params:
        option = param.opts[0]
        if ctx.params.get(param.name or ""):
            instead = "give it after that" if option in others else f"leave it out, or leave out {name}"
            raise UserError(f"{option} before a command is for the list of {what}: {instead}")


class TrainingCommand(click.Command):
    """A command that accepts other programs' names for its options, and shows its options in sections.

    Attributes:
        understood: those names, and those that it answers with advice.
    """

    understood = frozenset([*ALIASES, *FOLDERS, *PARTS, *MEANINGLESS])

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As in Click, after the translation."""
        if ctx.resilient_parsing:
            return super().parse_args(ctx, args)
        notes: list[str] = []
        own = {option.opts[0][2:]: option.is_flag for option in self.params if isinstance(option, click.Option)}
        rest = super().parse_args(ctx, translate(args, notes.append, own))
        if not ctx.params.get("quiet"):
            for note in notes:
                remark(f"Note: {note}.")
        return rest

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one section per group."""
        records: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record and isinstance(parameter, click.Option):
                group = getattr(parameter, "group", "Other")
                records.setdefault(group, []).append(record)
        for group, rows in records.items():
            with formatter.section(group):
                formatter.write_dl(rows)
