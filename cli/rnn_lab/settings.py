"""The settings of a run, each described once.

The command line, configuration files, the checks and the documentation's table are made from the fields below.
"""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args, get_origin

from rnn_plugins.errors import UserError, did_you_mean

if TYPE_CHECKING:  # the engine brings NumPy, and `rnn train --help` reads the defaults below without it
    from minigrad.optimizers import Optimizer
    from minigrad.schedules import Schedule

EXPECTED = {
    bool: "true or false", int: "a whole number", float: "a number", str: "text", tuple: "a list of texts",
    dict: "a table",
}  # fmt: skip
"""What a value of a type must be, in words."""

SCHEDULES: dict[str, dict[str, float]] = {
    "constant": {},
    "exponential": {"decay": 0.97, "every": 1.0, "after": 0.0},
    "cosine": {"warmup": 0.0, "final": 0.0},
    "linear": {"warmup": 0.0, "final": 0.0},
}
"""The schedules with their parameters: ``every`` and ``after`` in epochs, ``warmup`` in steps, ``final`` a fraction."""

AVERAGES: dict[str, dict[str, float]] = {"ema": {"decay": 0.999}, "swa": {"start": 0.75}, "asgd": {"after": 5.0}}
"""The averages of weights with their parameters: ``start`` a share of the run, ``after`` in validations."""

PRESETS: dict[str, dict[str, Any]] = {
    # The lowest held-out loss on a text of a megabyte in twenty minutes on two cores: docs/recipes.md.
    "best": {
        "cell": "lstm",
        "hidden_size": 768,
        "dropout": 0.5,
        "optimizer": "adamw:weight_decay=0.02,vectors=false",
        "epochs": 8,
    },
    # The defaults of karpathy/char-rnn. Its rate first falls after ten epochs; here one `every` after `after`.
    "char-rnn": {
        "cell": "lstm",
        "cell_option": {"second_bias": True},
        "hidden_size": 128,
        "num_layers": 2,
        "embedding_size": 0,
        "dropout": 0.0,
        "seq_length": 50,
        "batch_size": 50,
        "learning_rate": 2e-3,
        "schedule": "exponential:decay=0.97,every=1,after=9",
        "optimizer": "rmsprop:decay=0.95",
        "grad_clip": "element:5",
        "epochs": 50,
        "valid_fraction": 0.05,
    },
}
"""Settings that belong together, by the name that ``--preset`` takes."""

Backend = Literal["auto", "reference", "numpy", "compiled"]
"""How to run the time loop: one of ``minigrad.scan.BACKENDS``, or ``auto``, which chooses one per call."""

EPOCHS, MIN_STEPS = 10, 200
"""The default length of a run: so many epochs, but at least so many steps."""

Group = Literal["Task", "Network", "Training", "Run", "Output"]
"""The sections of the help of ``rnn train``."""


class About(NamedTuple):
    """The description of a setting for the command line, configuration files, the documentation and the checks.

    Attributes:
        help: what it does, as a sentence.
        group: its section in the help; None if the command line has no option for it.
        range: the interval of a number, such as "[0, 1)"; a bracket includes its end, a parenthesis does not.
        computed: the default in words, if it is computed.
        metavar: a value in the help; empty for the name of its type.
        read: parses a value from text.
        numeric: whether a number may be given instead of text.
        example: an example of an option that takes NAME=VALUE.
        of: the setting that such options belong to; if that changes, they are dropped.
        changeable: whether it may change when a run is resumed.
        inherited: whether ``--init-from`` takes it over from the other run.
        shared: whether ``rnn compare`` accepts it, for all cells.
        aliases: other programs' names for it, with - for _.
    """

    help: str
    group: Group | None
    range: str = ""
    computed: str = ""
    metavar: str = ""
    read: Callable[[str], Any] | None = None
    numeric: bool = False
    example: str = ""
    of: str = ""
    changeable: bool = False
    inherited: bool = False
    shared: bool = False
    aliases: tuple[str, ...] = ()


class Kind(NamedTuple):
    """What a setting's annotation allows.

    Attributes:
        type: bool, int, float, str, tuple (of texts) or dict.
        choices: the allowed values; empty if any value of the type is allowed.
        optional: whether it may be None.
    """

    type: type
    choices: tuple[Any, ...]
    optional: bool


def setting(default: Any, help: str, group: Group | None, **more: Any) -> Any:
    """A field of ``Settings`` or of one of its groups; ``more`` are attributes of ``About``."""
    metadata = {"about": About(help=help, group=group, **more)}
    if isinstance(default, dict):
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


# The groups below are never instantiated, so generated methods would only cost time at each start.
@dataclass(frozen=True, init=False, repr=False, eq=False)
class CommonTaskOptions:
    """Options of many tasks that have their own names on the command line; None for the task's default.

    ``Settings`` moves them to the options of the task. The defaults in words are those of a language model.
    """

    level: str | None = setting(
        None,
        "What counts as one symbol of the text; bpe:N is byte-pair encoding with N symbols.",
        "Task",
        computed="char, or the task's own",
        metavar="char|byte|word|bpe:N",
        read=lambda text: _level(text),
        inherited=True,
        shared=True,
    )
    valid_fraction: float | None = setting(
        None,
        "Share of the data to hold out for validation; of a text, its end.",
        "Task",
        range="[0, 1)",
        computed="0.1, or the task's own",
        shared=True,
        aliases=("val-frac",),
    )
    unknown: Literal["error", "skip", "replace"] | None = setting(
        None, "With --init-from: what to do with symbols that the model does not know.", "Task", computed="error"
    )
    seq_length: int | None = setting(
        None,
        "Time steps per sequence (truncated BPTT); the state is passed on to the next sequence.",
        "Training",
        range="[1, 1e6]",
        computed="64, or the task's own",
        shared=True,
        aliases=("bptt",),
    )

    tie: bool | None = setting(
        None,
        "Share the embedding and the output matrix; the embedding is by default as wide as the hidden size.",
        "Network",
        inherited=True,
        shared=True,
        aliases=("tied",),
    )
    embedding_dropout: float | None = setting(
        None,
        "Dropout rate of whole symbols on the input, one mask per batch.",
        "Network",
        range="[0, 1)",
        computed="0.0",
        shared=True,
        aliases=("dropoute",),
    )
    weighted: bool | None = setting(
        None, "Weigh each class by the inverse of its frequency, for unbalanced classes.", "Task", shared=True
    )


COMMON = tuple(f.name for f in fields(CommonTaskOptions))
"""Options of tasks that have names of their own on the command line."""


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Network:
    """What is trained, whatever the task. Each field's ``About`` says what it is."""

    cell: str = setting(
        "gru",
        "A cell: one of rnn cells, or a class in a Python file.",
        "Network",
        metavar="NAME|FILE.py:CLASS[:KEY=VALUE,...]",
        inherited=True,
        aliases=("model", "model-type"),
    )
    cell_option: Mapping[str, Any] = setting(
        {},
        "Option of the cell, as rnn cells show NAME lists them; may be repeated.",
        "Network",
        metavar="NAME=VALUE",
        example="forget_bias=2",
        of="cell",
        inherited=True,
    )
    ablate: Mapping[str, Any] = setting(
        {},
        "Replace a gate or another activation of the cell with a number or with identity; may be repeated.",
        "Network",
        metavar="NAME=VALUE",
        example="output=1",
        of="cell",
        inherited=True,
    )
    hidden_size: int = setting(
        256,
        "Units per layer.",
        "Network",
        range="[1, 1e6]",
        inherited=True,
        shared=True,
        aliases=("rnn-size", "nhid"),
    )
    num_layers: int = setting(
        1, "Number of layers.", "Network", range="[1, 1000]", inherited=True, shared=True, aliases=("nlayers",)
    )
    embedding_size: int | None = setting(
        None,
        "Width of the embedding of symbols; 0 for one-hot.",
        "Network",
        range="[0, 1e6]",
        computed="the hidden size or 128, whichever is less, or the task's own",
        inherited=True,
        shared=True,
        aliases=("wordvec-size", "emsize", "embedding-dim"),
    )
    dropout: float = setting(
        0.0, "Dropout rate between layers and before the output.", "Network", range="[0, 1)", shared=True
    )
    variational_dropout: bool = setting(False, "Use one dropout mask for all time steps of a sequence.", "Network")
    weight_dropout: float = setting(
        0.0,
        "Dropout rate of the weights of the recurrent matrices, one mask per batch.",
        "Network",
        range="[0, 1)",
        shared=True,
        aliases=("wdrop",),
    )
    zoneout: float = setting(
        0.0,
        "Probability that a number of a state keeps its value at a step.",
        "Network",
        range="[0, 1)",
        shared=True,
    )
    dtype: Literal["float32", "float64"] = setting(
        "float32", "Floating-point type of weights and activations.", "Network", shared=True
    )


@dataclass(frozen=True, init=False, repr=False, eq=False)
class Training:
    """How it is trained. Each field's ``About`` says what it is."""

    batch_size: int = setting(32, "Sequences per batch.", "Training", range="[1, 1e6]", shared=True)
    learning_rate: float | None = setting(
        None,
        "Highest learning rate of the schedule.",
        "Training",
        range="(0, inf)",
        computed="what the cell suggests, or 0.002",
        shared=True,
        aliases=("lr",),
    )
    schedule: str = setting(
        "cosine",
        "Learning rate over time: constant, exponential:decay=X,every=EPOCHS,after=EPOCHS, "
        "cosine:warmup=STEPS,final=SHARE, or linear with the same parameters as cosine.",
        "Training",
        metavar="NAME[:KEY=X,...]",
        shared=True,
    )
    optimizer: str = setting(
        "adam",
        "sgd, rmsprop, adagrad, adam or adamw, with its parameters, as in sgd:momentum=0.9,nesterov=true.",
        "Training",
        metavar="NAME[:KEY=X,...]",
        shared=True,
    )
    average: str = setting(
        "",
        "Validate and keep an average of the weights over steps: ema:decay=X, swa:start=SHARE of the run, or "
        "asgd:after=VALIDATIONS without improvement.",
        "Training",
        computed="none",
        metavar="NAME[:KEY=X]",
        shared=True,
    )
    grad_clip: str = setting(
        "5",
        "Largest norm of the gradient, or element:X for its largest element; 0 for no clipping.",
        "Training",
        metavar="X|element:X",
        numeric=True,
        shared=True,
        aliases=("clip",),
    )
    epochs: float | None = setting(
        None,
        "Passes over the training data.",
        "Training",
        range="[0, 1e9]",
        computed="10, and on few data as many as make 200 steps",
        changeable=True,
        shared=True,
        aliases=("max-epochs",),
    )
    steps: int | None = setting(
        None, "Training steps, instead of --epochs.", "Training", range="[0, 1e12]", changeable=True, shared=True
    )
    max_time: float | None = setting(
        None,
        "Stop after this time, counted from this start; a falling schedule ends with it.",
        "Training",
        range="[0, 1e9]",
        computed="no limit",
        metavar="20s|5m|2h",
        read=lambda text: parse_duration(text),
        changeable=True,
        shared=True,
    )
    patience: int = setting(
        0,
        "Stop after this many validations without improvement; 0 for never.",
        "Training",
        range="[0, 1e12]",
        changeable=True,
    )
    seed: int | None = setting(
        None,
        "Random seed for initial weights, batches and dropout.",
        "Training",
        range="[0, 9223372036854775808]",
        computed="drawn, and printed",
        shared=True,
    )
    valid_every: int = setting(
        0,
        "Steps between validations.",
        "Run",
        range="[0, 1e12]",
        computed="once per epoch, within 100 (or a tenth of the run) to 1000 steps",
        changeable=True,
        aliases=("eval-val-every", "checkpoint-every"),
    )
    log_every: int = setting(
        10,
        "Steps between records in metrics.jsonl.",
        "Run",
        range="[1, 1e12]",
        changeable=True,
        shared=True,
        aliases=("print-every", "log-interval"),
    )
    backend: Backend = setting("auto", "How to run the time loop.", "Run", changeable=True, shared=True)
    flow: bool = setting(
        False,
        "Measure, show and record during training how far back the gradient reaches.",
        "Output",
        changeable=True,
    )
    flow_every: int = setting(
        100, "With --flow: steps between measurements.", "Output", range="[1, 1e12]", changeable=True
    )
    track: Literal["", "tensorboard"] = setting(
        "", "Write event files for this program into the run's folder.", "Output", changeable=True
    )


@dataclass(frozen=True)
class Settings(Network, Training, CommonTaskOptions):
    """All settings of a run. Field names are the command line's option names, with ``_`` for ``-``.

    A cell or task with options after its name (``lstm:forget_bias=2``) is split into name and ``cell_option``.
    """

    files: tuple[str, ...] = setting((), "What to train on; nothing for the built-in corpus.", None, changeable=True)
    task: str = setting(
        "language-model",
        "What the network learns: one of rnn tasks, or a class in a Python file.",
        "Task",
        metavar="NAME|FILE.py:CLASS[:KEY=VALUE,...]",
        inherited=True,
        shared=True,
    )
    valid: tuple[str, ...] = setting(
        (),
        "Validate on this file; may be repeated.",
        "Task",
        computed="a share of FILES",
        metavar="FILE",
        changeable=True,
        shared=True,
    )
    test: tuple[str, ...] = setting(
        (),
        "At the end, evaluate the best weights on this file, once; may be repeated.",
        "Task",
        computed="none",
        metavar="FILE",
        changeable=True,
        shared=True,
    )
    task_option: Mapping[str, Any] = setting(
        {},
        "Option of the task, as rnn tasks show NAME lists them; may be repeated.",
        "Task",
        metavar="NAME=VALUE",
        example="pool=mean",
        of="task",
        inherited=True,
        shared=True,
    )

    def __post_init__(self) -> None:
        """Check every value against its type and range.

        Raises:
            UserError: one is invalid.
        """
        given = apart({f.name: getattr(self, f.name) for f in fields(self)})
        allowed = kinds(type(self))
        for f in fields(self):
            value = _fit(f.name, given.get(f.name), allowed[f.name], about(f))
            object.__setattr__(self, f.name, value)
        self.clipping()
        self.make_optimizer()
        self.make_schedule(1.0, 1, 1)
        self.averaging()

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """Settings from the result of ``to_json``.

        Raises:
            UserError: a name is unknown.
        """
        cls.require_names(data)
        return cls(**data)

    @classmethod
    def require_names(cls, given: Iterable[str]) -> None:
        """Check that all names are names of settings.

        Raises:
            UserError: one is not.
        """
        names = [f.name for f in fields(cls)]
        for name in given:
            if name not in names:
                raise UserError(f"there is no setting called {name!r}.{did_you_mean(name, names)}")

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON."""
        plain: dict[type, Callable[[Any], Any]] = {tuple: list, dict: dict}
        return {
            name: plain.get(kind.type, lambda value: value)(getattr(self, name))
            for name, kind in kinds(type(self)).items()
            if name not in COMMON
        }

    def clipping(self) -> tuple[float, float]:
        """``(clip_norm, clip_value)`` for ``minigrad.training.train``."""
        kind, _, limit = ("norm:" + self.grad_clip if ":" not in self.grad_clip else self.grad_clip).partition(":")
        try:
            value = float(limit)
        except ValueError:
            value = -1.0
        if kind not in ("norm", "element") or not 0 <= value < math.inf:
            raise UserError(
                f"--grad-clip is {self.grad_clip!r}; it must be the largest norm of a gradient, such as 5, "
                "or element:5 for the largest element, or 0 for no clipping"
            )
        return (value, 0.0) if kind == "norm" else (0.0, value)

    def make_optimizer(self) -> Optimizer:
        """The optimiser that ``optimizer`` names."""
        from minigrad.optimizers import OPTIMIZERS

        defaults = {name: _keyword_defaults(make) for name, make in OPTIMIZERS.items()}
        name, given = parse_spec("optimizer", self.optimizer, defaults)
        try:
            return OPTIMIZERS[name](**given)
        except ValueError as error:
            raise UserError(f"--optimizer is {self.optimizer!r}: {error}") from None

    def make_schedule(self, learning_rate: float, total_steps: float, steps_per_epoch: int) -> Schedule:
        """The schedule that ``schedule`` names, for a run of ``total_steps``."""
        from minigrad import schedules

        name, given = parse_spec("schedule", self.schedule, SCHEDULES)
        values = SCHEDULES[name] | given
        try:
            if name == "constant":
                return schedules.constant(learning_rate)
            if name == "exponential":
                if values["every"] <= 0:
                    raise ValueError(f"every is {values['every']:g}; it must be above 0")
                every = max(1, round(values["every"] * steps_per_epoch))
                after = round(values["after"] * steps_per_epoch)
                return schedules.exponential_decay(learning_rate, values["decay"], every, after)
            if values["warmup"] < 0:
                raise ValueError(f"warmup is {values['warmup']:g}; it must be at least 0")
            make = schedules.cosine if name == "cosine" else schedules.linear
            warmup = min(round(values["warmup"]), int(max(total_steps, 1)))
            return make(learning_rate, max(total_steps, 1), warmup_steps=warmup, final=values["final"])
        except ValueError as error:
            raise UserError(f"--schedule is {self.schedule!r}: {error}") from None

    def averaging(self) -> tuple[str, float]:
        """The kind of the average of weights, empty for none, and its parameter."""
        if not self.average:
            return "", 0.0
        name, given = parse_spec("average", self.average, AVERAGES)
        ((key, value),) = (AVERAGES[name] | given).items()
        wrong = {
            "decay": not 0 < value < 1 and "above 0 and below 1",
            "start": not 0 <= value < 1 and "at least 0 and below 1",
            "after": (value < 1 or value % 1 != 0) and "a whole number of at least 1",
        }
        if bound := wrong[key]:
            raise UserError(f"--average is {self.average!r}: {key} is {value:g}; it must be {bound}")
        return name, value

    @property
    def has_end(self) -> bool:
        """Whether the schedule depends on the length of the run."""
        return "final" in SCHEDULES[self.schedule.partition(":")[0]]

    @property
    def follows_time(self) -> bool:
        """Whether the length of a run with a time limit matters before its end."""
        return self.has_end or self.averaging()[0] == "swa"

    @property
    def warmup(self) -> int:
        """The number of warm-up steps of the schedule."""
        name, given = parse_spec("schedule", self.schedule, SCHEDULES)
        return round(float((SCHEDULES[name] | given).get("warmup", 0)))

    def total_steps(self, steps_per_epoch: int) -> int:
        """The number of steps of a run that is not ended earlier."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None:
            return max(EPOCHS * steps_per_epoch, MIN_STEPS)
        return math.ceil(self.epochs * steps_per_epoch)

    def steps_between_validations(self, steps_per_epoch: int) -> int:
        """Steps between validations: an epoch, but at most 1000, and at least 100, or in a short run a tenth of it."""
        least = min(100, self.total_steps(steps_per_epoch) // 10)
        return self.valid_every or min(max(steps_per_epoch, least), 1000)


def about(f: Field[Any]) -> About:
    """The description of a setting."""
    known: About = f.metadata["about"]
    return known


def named(mark: Literal["changeable", "inherited", "shared"], cls: type[Any] = Settings) -> tuple[str, ...]:
    """The names of the settings that have a flag."""
    return tuple(f.name for f in fields(cls) if getattr(about(f), mark))


def kinds(cls: type[Any]) -> dict[str, Kind]:
    """The values that the settings' annotations allow, by name."""
    if cls not in _KINDS:  # reading annotations takes a millisecond
        hints = typing.get_type_hints(cls)
        _KINDS[cls] = {f.name: _kind(hints[f.name]) for f in fields(cls)}
    return _KINDS[cls]


_KINDS: dict[type[Any], dict[str, Kind]] = {}


def _kind(hint: Any) -> Kind:
    parts = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    (part,) = (part for part in parts if part is not type(None))
    optional = len(parts) > 1
    if get_origin(part) is Literal:
        return Kind(str, get_args(part), optional)
    return Kind({tuple: tuple, Mapping: dict, dict: dict}.get(get_origin(part), part), (), optional)


def merge(*layers: Mapping[str, Any], cls: type[Any] = Settings) -> dict[str, Any]:
    """Merge settings from several sources; later ones win.

    Options of a cell or task and ablations are merged one by one, and dropped if a later layer names another cell or
    task; ``epochs`` removes an earlier layer's ``steps``.
    """
    owners = {f.name: about(f).of for f in fields(cls) if about(f).of}
    merged: dict[str, Any] = {}
    for layer in map(apart, layers):
        for name, owner in owners.items():
            before = merged.get(owner, getattr(cls, owner))
            if layer.get(owner, before) != before:
                merged.pop(name, None)
        if "epochs" in layer:
            merged.pop("steps", None)
        tables = {name: {**merged.get(name, {}), **layer.get(name, {})} for name in owners}
        merged |= layer
        merged |= {name: table for name, table in tables.items() if table}
    return merged


def apart(given: Mapping[str, Any]) -> dict[str, Any]:
    """Move all options of the cell and of the task into their tables.

    They may follow a name (``lstm:forget_bias=2``) or, if many tasks have them, be settings of their own (``level``).

    Raises:
        UserError: an option is not a pair, is invalid, or has two values.
    """
    from rnn_plugins.options import split_spec
    from rnn_plugins.registry import full_name

    values = dict(given)
    for owner in ("cell", "task"):
        if isinstance(spec := values.get(owner), str):
            values[owner], options = split_spec(spec, owner)
            _add(values, f"{owner}_option", options, f"the {owner} {spec}")
            values[owner] = full_name(f"{owner}s", values[owner])
    for f in fields(CommonTaskOptions):
        value = values.pop(f.name, None)
        if value is not None:
            value = _fit(f.name, value, kinds(CommonTaskOptions)[f.name], about(f))
            _add(values, "task_option", {f.name: value}, f"{option(f.name)} {value}")
    return values


def _add(values: dict[str, Any], name: str, options: Mapping[str, Any], source: str) -> None:
    """Add options to a table of them.

    Args:
        values: settings, changed in place.
        name: the table.
        options: the options to add.
        source: where they were given, for the message.

    Raises:
        UserError: the table has another value for one.
    """
    table = values.get(name, {})
    if not options or not isinstance(table, Mapping):  # ``Settings`` reports a wrong type
        return
    for key in options.keys() & table.keys():
        if str(options[key]).lower() != str(table[key]).lower():
            raise UserError(f"{source} and {option(name)} {key}={table[key]} contradict each other: leave one out")
    values[name] = {**options, **table}


def option(name: str) -> str:
    """A setting's name on the command line."""
    return "FILES" if name == "files" else "--" + name.replace("_", "-")


def parse_duration(text: str) -> float:
    """``90``, ``20s``, ``5m``, ``2h`` or ``1h30m`` in seconds.

    Raises:
        UserError: it has another form.
    """
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip().lower())
    if not found or not any(found.groups()):
        raise UserError(f"--max-time is {text!r}; write it as 20s, 5m, 2h or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def _level(text: str) -> str:
    from rnn_plugins.data.vocabulary import level_of

    try:
        level_of(text)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    return text


def warmed_up(schedule: str, steps: int) -> str:
    """The schedule with a warm-up of ``steps``, if it supports one and does not set it."""
    name, _, rest = schedule.partition(":")
    if not steps or "warmup" not in SCHEDULES[name] or "warmup=" in rest:
        return schedule
    return f"{name}:{','.join(filter(None, [rest, f'warmup={steps}']))}"


def parse_spec(what: str, text: str, known: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """Parse ``"name:key=value,..."`` into the name and the values, each of the type of its default.

    Raises:
        UserError: the name or a key is unknown, or a value does not parse.
    """
    name, _, rest = text.partition(":")
    if name not in known:
        raise UserError(f"there is no {what} called {name!r}.{did_you_mean(name, known)} It takes {', '.join(known)}")
    defaults = known[name]
    values: dict[str, Any] = {}
    for part in filter(None, rest.split(",")):
        key, equals, value = part.partition("=")
        if not equals or key not in defaults:
            takes = f"takes {', '.join(f'{k}={v}' for k, v in defaults.items())}" if defaults else "takes no parameters"
            raise UserError(f"--{what} is {text!r}: {part!r} is not understood; {name} {takes}")
        try:
            number = {"true": 1.0, "false": 0.0}.get(value.lower()) if isinstance(defaults[key], bool) else float(value)
            if number is None or not math.isfinite(number):
                raise ValueError
        except ValueError:
            kind = "true or false" if isinstance(defaults[key], bool) else "a number"
            raise UserError(f"--{what} is {text!r}: {key} is {value!r}; it must be {kind}") from None
        values[key] = bool(number) if isinstance(defaults[key], bool) else number
    return name, values


def _keyword_defaults(make: Callable[..., Any]) -> dict[str, Any]:
    import inspect

    return {p.name: p.default for p in inspect.signature(make).parameters.values()}


def _fit(name: str, value: Any, kind: Kind, about: About) -> Any:
    """Convert a value from a configuration file or a caller to its setting's type, and check its range."""
    if isinstance(value, str) and about.read:
        value = about.read(value)
    if value is None and kind.optional:
        return None
    if kind.choices:
        if value not in kind.choices:
            raise UserError(f"{option(name)} is {value!r}; it must be one of {', '.join(filter(None, kind.choices))}")
        return value
    if kind.type is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value) if abs(value) < 2**63 else math.inf if value > 0 else -math.inf
    elif kind.type is str and about.numeric and isinstance(value, int | float) and not isinstance(value, bool):
        value = str(value)
    elif kind.type is tuple and isinstance(value, str):
        value = (value,)
    elif kind.type is tuple and isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
        value = tuple(value)
    elif kind.type is dict and isinstance(value, Mapping):
        value = dict(value)
    elif kind.type is tuple or not isinstance(value, kind.type) or isinstance(value, bool) != (kind.type is bool):
        raise UserError(f"{option(name)} is {value!r}; it must be {EXPECTED[kind.type]}")
    if about.range and (bound := _beyond(value, about.range)):
        raise UserError(f"{option(name)} is {f'{value:g}' if isinstance(value, float) else value}; it must be {bound}")
    return value


def _beyond(value: float, interval: str) -> str:
    """What a number outside an interval must be, in words; empty if it is inside."""
    low, high = map(float, interval[1:-1].split(","))
    least = f"at least {low:g}" if interval[0] == "[" else f"above {low:g}"
    if value > low or (value == low and interval[0] == "["):
        if value < high or (value == high and interval[-1] == "]"):
            return ""
        if interval[-1] == "]":
            return f"at most {high:,.0f}"
    return least if interval[-1] == "]" or high == math.inf else f"{least} and below {high:g}"
