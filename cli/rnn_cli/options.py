"""The options of ``rnn train``: one table for the command line, configuration files, presets and other programs' names.

What the values mean and whether they fit is decided in ``rnn_lab.settings``.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, get_args

import click

from rnn_cli import completion
from rnn_cli.console import remark
from rnn_cli.tables import sentence
from rnn_lab.settings import PRESETS, Backend, Settings, merge
from rnn_plugins.errors import UserError, did_you_mean

DEFAULTS = {
    f.name: f.default
    for f in dataclasses.fields(Settings)
    if isinstance(f.default, str | int | float) and f.default != ""
}


BACKENDS = click.Choice(get_args(Backend))

BACKEND = click.option(
    "--backend", type=BACKENDS, default="auto", show_default=True, help="What carries out the time loop."
)
"""For commands that only look at a run; training goes on with the one that it began on."""


UNKNOWN = click.option(
    "--unknown",
    type=click.Choice(["error", "skip", "replace"]),
    default="replace",
    show_default=True,
    help="What becomes of characters of FILE that the model has never seen.",
)
"""For commands that read a text with a run's model."""


def _trusting(ctx: click.Context, param: click.Parameter, value: bool | None) -> None:
    if value:
        from rnn_plugins.trust import trusting

        ctx.with_resource(trusting())


TRUST_HELP = "Execute the cell file that a run names, which otherwise only one that you gave with --cell is."

TRUST = click.option("--trust", is_flag=True, expose_value=False, callback=_trusting, help=TRUST_HELP)
"""For commands that open a run."""


QUIET = click.option("--quiet", "-q", is_flag=True, help="Say nothing but errors.")
"""For commands that tell what they are at; what they are asked for is printed all the same."""


class Setting(click.Option):
    """An option that stands in a group of the help, and whose value is None where it was not given."""

    def __init__(
        self, group: str, name: str, help: str, *, default: Any = None, short: str = "", **attributes: Any
    ) -> None:
        if default is None and not attributes.get("is_flag"):
            default = DEFAULTS.get(name.replace("-", "_"))
        self.group = group
        text = help if default is None else f"{help}  [default: {default}]"
        super().__init__([f"--{name}", *filter(None, [short])], default=None, help=text, **attributes)

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option and what it does; whole numbers and numbers are called by these words."""
        record = super().get_help_record(ctx)
        names = {"INTEGER": "N", "FLOAT": "X"}
        return record and (" ".join(names.get(word, word) for word in record[0].split(" ")), record[1])


TEXT, MODEL, LEARNING, RUN, OUTPUT = "Text", "Model", "Training", "Run", "Output"

OPTIONS: list[Setting] = [
    Setting(TEXT, "level", "What a symbol is.", type=click.Choice(["char", "byte", "word"])),
    Setting(TEXT, "valid-fraction", "The share at the end of the text that is held out.", type=float),
    Setting(
        TEXT,
        "unknown",
        "With --init-from: what becomes of symbols that the model has never seen.",
        type=click.Choice(["error", "skip", "replace"]),
    ),
    Setting(
        MODEL,
        "cell",
        "One of rnn cells, or one in a file of yours.",
        metavar="NAME|FILE.py:CLASS",
        shell_complete=completion.cells,
    ),
    Setting(
        MODEL,
        "cell-option",
        "An option of the cell, as rnn cells show NAME lists them; may be given several times.",
        metavar="NAME=VALUE",
        multiple=True,
    ),
    Setting(
        MODEL,
        "ablate",
        "Put a number, or identity, in place of a gate or activation of the cell, such as output=1; several times.",
        metavar="NAME=VALUE",
        multiple=True,
    ),
    Setting(MODEL, "hidden-size", "Units a layer.", type=int),
    Setting(MODEL, "num-layers", "Layers, one above the other.", type=int),
    Setting(
        MODEL,
        "embedding-size",
        "Width of an embedding of the symbols; 0 for one-hot.",
        type=int,
        default="0 up to 256 symbols, else the hidden size or 128, whichever is less",
    ),
    Setting(MODEL, "dropout", "Rate between layers and before the output.", type=float),
    Setting(MODEL, "variational-dropout", "One mask for all steps of a sequence.", is_flag=True),
    Setting(MODEL, "dtype", "Of weights and activations.", type=click.Choice(["float32", "float64"])),
    Setting(LEARNING, "task", "What is learnt of the text, by its name among those installed.", metavar="NAME"),
    Setting(LEARNING, "seq-length", "Steps that gradients are carried back; the state is passed on further.", type=int),
    Setting(LEARNING, "batch-size", "Places of the text that are read side by side.", type=int),
    Setting(
        LEARNING, "learning-rate", "The schedule's highest.", type=float, default="what the cell suggests, or 0.002"
    ),
    Setting(
        LEARNING,
        "schedule",
        "constant, exponential:decay=X,every=EPOCHS,after=EPOCHS, cosine:warmup=STEPS,final=SHARE or linear:... alike.",
        metavar="NAME[:KEY=X,...]",
    ),
    Setting(
        LEARNING,
        "optimizer",
        "sgd, rmsprop, adagrad, adam or adamw, with their parameters, as in sgd:momentum=0.9,nesterov=true.",
        metavar="NAME[:KEY=X,...]",
    ),
    Setting(
        LEARNING,
        "grad-clip",
        "The largest norm of a gradient, or with element: the largest element; 0 for none.",
        metavar="X|element:X",
    ),
    Setting(
        LEARNING,
        "epochs",
        "Passes over the text.",
        type=float,
        default="10, and on a short text as many as make 200 steps",
    ),
    Setting(LEARNING, "steps", "Training steps, instead of epochs.", type=int),
    Setting(
        LEARNING,
        "max-time",
        "Stop after this time, counted from this start; a falling schedule spans it.",
        metavar="20s|5m|2h",
        default="no limit",
    ),
    Setting(
        LEARNING,
        "patience",
        "Stop after so many validations without improvement; 0 for never.",
        type=int,
    ),
    Setting(LEARNING, "seed", "Of everything random.", type=int, default="drawn, and printed"),
    Setting(RUN, "name", "What the run is called.", default="made from cell and text"),
    Setting(RUN, "resume", "Go on with a run as if it had not stopped.", metavar="RUN", shell_complete=completion.runs),
    Setting(
        RUN,
        "init-from",
        "Begin with the weights, symbols and sizes of a run.",
        metavar="RUN",
        shell_complete=completion.runs,
    ),
    Setting(RUN, "trust", TRUST_HELP, is_flag=True, expose_value=False, callback=_trusting),
    Setting(RUN, "preset", "Settings that belong together.", type=click.Choice(sorted(PRESETS))),
    Setting(
        RUN,
        "config",
        "Options by their long names; the command line wins.",
        metavar="FILE.toml",
        type=click.Path(readable=False),
    ),
    Setting(
        RUN,
        "valid-every",
        "Steps between validations.",
        type=int,
        default="once an epoch, within 100 to 1000 steps",
    ),
    Setting(RUN, "log-every", "Steps between records in metrics.jsonl.", type=int),
    Setting(RUN, "backend", "What carries out the time loop.", type=BACKENDS),
    Setting(OUTPUT, "flow", "Show, and log, how far back the gradient reaches while training.", is_flag=True),
    Setting(OUTPUT, "flow-every", "Steps between such looks.", type=int),
    Setting(
        OUTPUT,
        "track",
        "Write files from which a program shows the run, into its folder.",
        type=click.Choice(["tensorboard"]),
    ),
    Setting(OUTPUT, "quiet", "Say nothing but errors.", is_flag=True, short="-q"),
    Setting(OUTPUT, "json", "A record a line on standard output.", is_flag=True),
]
"""All of them."""

ON_THE_LINE = ("config", "trust")
"""Those that a configuration file cannot give."""

ALIASES = {
    # karpathy/char-rnn
    "rnn-size": "hidden-size",
    "model": "cell",
    "max-epochs": "epochs",
    "val-frac": "valid-fraction",
    "eval-val-every": "valid-every",
    "print-every": "log-every",
    "savefile": "name",
    # jcjohnson/torch-rnn
    "model-type": "cell",
    "wordvec-size": "embedding-size",
    "checkpoint-every": "valid-every",
    "checkpoint-name": "name",
    # PyTorch and its word_language_model
    "emsize": "embedding-size",
    "embedding-dim": "embedding-size",
    "nhid": "hidden-size",
    "nlayers": "num-layers",
    "lr": "learning-rate",
    "clip": "grad-clip",
    "bptt": "seq-length",
    "log-interval": "log-every",
    "save": "name",
}
"""Other programs' names for the same thing."""

FOLDERS = {"data-dir": "input.txt", "data": "train.txt"}
"""Other programs' names for what is FILES here, and the one file of such a folder that they train on."""

SGD = ("emsize", "nhid", "nlayers", "bptt")
"""Options by which PyTorch's word_language_model is known, whose ``lr`` is that of plain SGD."""

TORCH = {"grad-clip": "element:{}"}
"""Values of options that char-rnn and torch-rnn mean otherwise; Torch's programs are known by their one dash."""

TWO_MEANINGS = {
    "decay-rate": "of RMSprop in char-rnn (--optimizer rmsprop:decay={0}), and of the learning rate per epoch in "
    "char-rnn-tensorflow (--schedule exponential:decay={0})",
}
"""What a name with two dashes means in several programs."""

PARTS = {
    "learning-rate-decay": ("schedule", "exponential", "decay", {"after": "9"}),
    "learning-rate-decay-after": ("schedule", "exponential", "after", {}),
    "lr-decay-factor": ("schedule", "exponential", "decay", {"every": "5"}),
    "lr-decay-every": ("schedule", "exponential", "every", {"decay": "0.5"}),
    "decay-rate": ("optimizer", "rmsprop", "decay", {}),
}
"""Other programs' names for a part of one of our options: the option, a name and key in it, what that program adds."""

MEANINGLESS = {
    "train-frac": "what --valid-fraction does not hold out is trained on: give that one",
    "input-h5": "a text is read as it is: give it as FILE",
    "input-json": "a text is read as it is: give it as FILE",
    "checkpoint-dir": "a run is a folder in runs/, or where the environment variable RNN_RUNS says",
    "tied": "the output's weights are never those of the embedding",
    "batchnorm": "there is no batch normalisation: --dropout is the regularisation that there is",
    "reset-iterations": "a run goes on with --resume, or starts anew from weights with --init-from",
    "nhead": "there are recurrent cells and no Transformer",
    "momentum": "it is the optimiser's: --optimizer sgd:momentum=0.9",
    "weight-decay": "it is the optimiser's: --optimizer adamw:weight_decay=0.01",
    **dict.fromkeys(
        ["gpuid", "gpu", "gpu-backend", "opencl", "cuda", "mps", "accel", "accurate-gpu-timing"],
        "everything is computed on the CPU: leave it out",
    ),
}
"""Options of those programs that have no counterpart, and what to do about it."""

CELLS = {"LSTM": "lstm", "GRU": "gru", "RNN": "rnn", "RNN_TANH": "rnn"}
"""PyTorch's names of cells."""


def translate(arguments: Sequence[str], told: Callable[[str], None] = lambda note: None) -> list[str]:
    """Arguments with other programs' names for options, ``_`` for ``-`` and single dashes put into ours.

    Args:
        arguments: as they were typed.
        told: called with a sentence where a name means something else elsewhere, on what it was taken for.

    Raises:
        UserError: an option has no counterpart, has several, or says what another one says too.
    """
    flags = {option.opts[0][2:]: option.is_flag for option in OPTIONS}
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
            ours.append(argument)  # Click knows what to say of it
    return [*_composed(parts, ours), *_added(known, ours, told), *ours]


def _file(name: str, path: str, told: Callable[[str], None]) -> str:
    """What is trained on of the folder that another program's option names."""
    file = os.path.join(path, FOLDERS[name])
    if not os.path.isfile(file):
        return path
    told(
        f"of {path} only {FOLDERS[name]} is read, as --{name} has it elsewhere, and --valid-fraction of it is held out"
    )
    return file


def _added(known: Mapping[str, str], ours: Sequence[str], told: Callable[[str], None]) -> list[str]:
    """The optimiser that another program's learning rate is for, where none is given.

    Args:
        known: the values of the options that were typed, by their names there.
        ours: what was made of all.
        told: as in ``translate``.
    """
    rate, given = known.get("lr"), {argument.partition("=")[0] for argument in ours}
    if not rate or "--optimizer" in given:
        return []
    if not known.keys() & set(SGD):
        # A usual rate of Adam is no news, and a preset or a configuration may name another optimiser.
        if _is_large(rate) and not given & {"--preset", "--config"}:
            told(f"--lr is taken as --learning-rate {rate} for Adam; word_language_model's is for SGD: --optimizer sgd")
        return []
    told(f"--lr is taken as in word_language_model, for plain SGD: --learning-rate {rate} --optimizer sgd")
    return ["--optimizer", "sgd"]


def _is_large(rate: str) -> bool:
    """Whether it is a rate of plain SGD: Adam moves each weight by about the rate in every step."""
    try:
        return float(rate) >= 0.1
    except ValueError:  # which is told where options are checked
        return False


def _composed(parts: Mapping[str, str], ours: Sequence[str]) -> list[str]:
    """The options that parts make together, such as ``--schedule exponential:decay=0.97,after=9``."""
    values: dict[str, dict[str, str]] = {}
    for name, value in parts.items():
        option, kind, key, added = PARTS[name]
        if f"--{option}" in {argument.partition("=")[0] for argument in ours}:
            raise UserError(f"--{name} is a part of --{option}: say it there, as in --{option} {kind}:{key}={value}")
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
    """All that was asked for: the preset, over it the configuration file, over that the command line.

    Args:
        files: from the command line.
        given: the command line's options by their names with ``_``; None, False or () where they were not given.

    Returns:
        Settings, and ``name``, ``resume``, ``init_from``, ``quiet`` and ``json``, where they were given.

    Raises:
        UserError: the configuration file cannot be read or has an unknown key, or an option of the cell is no pair.
    """
    line = {key: value for key, value in given.items() if not (value is None or value is False or value == ())}
    if files:
        line["files"] = tuple(files)
    for name, example in (("cell_option", "forget_bias=2"), ("ablate", "output=1")):
        if name in line:
            line[name] = pairs(name, line[name], example)
    config = read_config(line.pop("config"), quiet=bool(line.get("quiet"))) if "config" in line else {}
    preset = line.get("preset", config.get("preset"))
    if preset not in (None, *PRESETS):
        raise UserError(f"there is no preset called {preset!r}; there is {', '.join(PRESETS)}")
    wanted = merge(PRESETS[preset] if preset else {}, config, line)
    wanted.pop("preset", None)
    if "cell" in wanted:
        wanted["cell"] = CELLS.get(wanted["cell"], wanted["cell"])
    return wanted


def read_config(path: str, *, quiet: bool = False) -> dict[str, Any]:
    """A configuration file's options, by their names with ``_``; ``quiet`` keeps back what is to be said of its text.

    Raises:
        UserError: it cannot be read, or has a key that is no option.
    """
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
        raise UserError(f"{label} is no TOML: {error}") from None
    names = {option.name: option for option in OPTIONS if option.name not in ON_THE_LINE}
    config: dict[str, Any] = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name != "files" and name not in names:
            known = ["files", *(known.replace("_", "-") for known in names)]
            raise UserError(f"{path!r}: there is no option called {key!r}.{did_you_mean(key.replace('_', '-'), known)}")
        if name in config:
            raise UserError(f"{path!r}: {key!r} stands there twice, once with - and once with _")
        tables, flags = ("cell_option", "ablate"), ("quiet", "json", "flow")
        expected = dict.fromkeys(tables, (dict, "a table")) | dict.fromkeys(flags, (bool, "true or false"))
        texts = ("name", "resume", "init_from", "preset", "cell", "task")
        kind, words = (str, "text") if name in texts else expected.get(name, (object, ""))
        if not isinstance(value, kind):
            raise UserError(f"{path!r}: {key!r} is {value!r}; it must be {words}")
        config[name] = value
    return config


def pairs(name: str, texts: Iterable[str], example: str) -> dict[str, str]:
    """What an option that takes ``NAME=VALUE``, given several times, says.

    Raises:
        UserError: one has no ``=``.
    """
    given = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--{name.replace('_', '-')} is {text!r}; write it as NAME=VALUE, such as {example}")
        given[key.replace("-", "_") if name == "cell_option" else key] = value
    return given
