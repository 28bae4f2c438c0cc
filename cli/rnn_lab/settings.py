"""All that decides how a run goes, as one value that can be written into its manifest. Nothing is trained here."""

from __future__ import annotations

import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

from rnn_plugins.errors import UserError, did_you_mean

if TYPE_CHECKING:  # the engine brings NumPy, and `rnn train --help` reads the defaults below without it
    from minigrad.optimizers import Optimizer
    from minigrad.schedules import Schedule

SCHEDULES: dict[str, dict[str, float]] = {
    "constant": {},
    "exponential": {"decay": 0.97, "every": 1.0, "after": 0.0},
    "cosine": {"warmup": 0.0, "final": 0.0},
    "linear": {"warmup": 0.0, "final": 0.0},
}
"""The schedules with their parameters: ``every`` and ``after`` in epochs, ``warmup`` in steps, ``final`` a fraction."""

PRESETS: dict[str, dict[str, Any]] = {
    # karpathy/char-rnn as it is when nothing is said. There the rate first falls when ten epochs are over, and here one
    # `every` after `after`.
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
"""What carries out the time loop: one of ``minigrad.scan.BACKENDS``, or ``auto``, which leaves it to each call."""

EPOCHS, MIN_STEPS = 10, 200
"""How long a run is where nobody says: so many epochs, and on a short text at least so many steps."""


@dataclass(frozen=True)
class Settings:
    """The settings of a run. Field names are the command line's option names, with ``_`` for ``-``.

    Attributes:
        files: what to train on; empty for the built-in corpus.
        task: the name of what is learnt of it.
        cell: a cell's name, or ``FILE.py:CLASS``.
        cell_option: the cell's own options.
        ablate: activations of the cell's step with what is put in their place, a number or ``identity``.
        hidden_size: units a layer.
        num_layers: layers.
        embedding_size: width of the symbols' embedding, 0 for one-hot; None chooses by the vocabulary.
        dropout: rate between layers and before the output, while training.
        variational_dropout: one mask for all steps of a sequence.
        seq_length: steps of truncated backpropagation through time.
        batch_size: sequences a batch.
        learning_rate: the schedule's peak; None takes the cell's suggestion.
        schedule: ``NAME[:KEY=VALUE,...]``, see ``SCHEDULES``.
        optimizer: ``NAME[:KEY=VALUE,...]``, see ``minigrad.optimizers``.
        grad_clip: ``NORM``, or ``element:VALUE``; 0 for none.
        epochs: passes over the training text; None is 10, or on a short text what makes 200 steps.
        steps: training steps; where given, it counts instead of ``epochs``.
        max_time: seconds after which a session of training ends; None for no limit. Text such as ``5m`` is understood.
        valid_fraction: the share at the end of the text that is held out.
        valid_every: steps between validations; 0 for once an epoch, but within 100 to 1000 steps.
        log_every: steps between records.
        patience: validations without improvement after which training ends; 0 for no such end.
        level: what a symbol is.
        unknown: what becomes of symbols that the model of ``--init-from`` does not know.
        dtype: of parameters and activations.
        seed: of everything random; None draws one.
        backend: what carries out the time loop; the last bits of the weights depend on it.
        flow: whether to look, while training, at how far back the gradient reaches.
        flow_every: steps between such looks.
        track: the program whose files are written for it to show; empty for none.
    """

    files: tuple[str, ...] = ()
    task: str = "language-model"
    cell: str = "gru"
    cell_option: Mapping[str, Any] = field(default_factory=dict)
    ablate: Mapping[str, Any] = field(default_factory=dict)
    hidden_size: int = 256
    num_layers: int = 1
    embedding_size: int | None = None
    dropout: float = 0.0
    variational_dropout: bool = False
    seq_length: int = 64
    batch_size: int = 32
    learning_rate: float | None = None
    schedule: str = "cosine"
    optimizer: str = "adam"
    grad_clip: str = "5"
    epochs: float | None = None
    steps: int | None = None
    max_time: float | None = None
    valid_fraction: float = 0.1
    valid_every: int = 0
    log_every: int = 10
    patience: int = 0
    level: Literal["char", "byte", "word"] = "char"
    unknown: Literal["error", "skip", "replace"] = "error"
    dtype: Literal["float32", "float64"] = "float32"
    seed: int | None = None
    backend: Backend = "auto"
    flow: bool = False
    flow_every: int = 100
    track: Literal["", "tensorboard"] = ""

    def __post_init__(self) -> None:
        """Hold every value against its type and range.

        Raises:
            UserError: one does not fit.
        """
        if isinstance(self.max_time, str):
            object.__setattr__(self, "max_time", parse_duration(self.max_time))
        hints = typing.get_type_hints(type(self))
        for f in fields(self):
            object.__setattr__(self, f.name, _fit(f.name, getattr(self, f.name), hints[f.name]))
        ranges: dict[str, tuple[float, float]] = {
            "hidden_size": (1, 1e6), "num_layers": (1, 1000), "embedding_size": (0, 1e6), "seq_length": (1, 1e6),
            "batch_size": (1, 1e6), "steps": (0, 1e12), "epochs": (0, 1e9), "max_time": (0, 1e9),
            "valid_every": (0, 1e12), "log_every": (1, 1e12), "flow_every": (1, 1e12), "patience": (0, 1e12),
            "seed": (0, 2**63),
        }  # fmt: skip
        for name, (low, high) in ranges.items():
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                bound = f"at most {high:,.0f}" if value > high else f"at least {low:g}"
                raise UserError(f"{option(name)} is {value}; it must be {bound}")
        for name in ("dropout", "valid_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise UserError(f"{option(name)} is {getattr(self, name):g}; it must be at least 0 and below 1")
        if self.learning_rate is not None and not 0 < self.learning_rate < math.inf:
            raise UserError(f"--learning-rate is {self.learning_rate:g}; it must be above 0")
        self.clipping()
        self.make_optimizer()
        self.make_schedule(1.0, 1, 1)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Settings:
        """The settings that ``to_json`` wrote.

        Raises:
            UserError: there is a name that is no setting.
        """
        names = [f.name for f in fields(cls)]
        for name in data:
            if name not in names:
                raise UserError(f"there is no setting called {name!r}.{did_you_mean(name, names)}")
        return cls(**data)

    def to_json(self) -> dict[str, Any]:
        """The settings as JSON takes them."""
        return asdict(self) | {
            "files": list(self.files),
            "cell_option": dict(self.cell_option),
            "ablate": dict(self.ablate),
        }

    def clipping(self) -> tuple[float, float]:
        """``(clip_norm, clip_value)`` as ``minigrad.training.train`` takes them."""
        kind, _, limit = ("norm:" + self.grad_clip if ":" not in self.grad_clip else self.grad_clip).partition(":")
        try:
            value = float(limit)
        except ValueError:
            value = -1.0
        if kind not in ("norm", "element") or not 0 <= value < math.inf:
            raise UserError(
                f"--grad-clip is {self.grad_clip!r}; it takes the largest norm of a gradient, such as 5, "
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

    @property
    def has_end(self) -> bool:
        """Whether the schedule falls to an end, so that it has to know how long the run is."""
        return "final" in SCHEDULES[self.schedule.partition(":")[0]]

    @property
    def warmup(self) -> int:
        """The steps in which the schedule first climbs."""
        name, given = parse_spec("schedule", self.schedule, SCHEDULES)
        return round(float((SCHEDULES[name] | given).get("warmup", 0)))

    def total_steps(self, steps_per_epoch: int) -> int:
        """How many steps the run takes when nothing ends it earlier."""
        if self.steps is not None:
            return self.steps
        if self.epochs is None:
            return max(EPOCHS * steps_per_epoch, MIN_STEPS)
        return math.ceil(self.epochs * steps_per_epoch)

    def steps_between_validations(self, steps_per_epoch: int) -> int:
        """How often the held-out text is looked at."""
        return self.valid_every or min(max(steps_per_epoch, 100), 1000)


def merge(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Settings from several places, of which later ones win.

    Options of a cell and its ablations are merged one by one, and dropped where a later layer names another cell;
    ``epochs`` puts an earlier layer's ``steps`` aside.
    """
    of_cell = ("cell_option", "ablate")
    merged: dict[str, Any] = {}
    for layer in layers:
        if layer.get("cell", merged.get("cell")) != merged.get("cell"):
            for name in of_cell:
                merged.pop(name, None)
        if "epochs" in layer:
            merged.pop("steps", None)
        tables = {name: {**merged.get(name, {}), **layer.get(name, {})} for name in of_cell}
        merged |= layer
        merged |= {name: table for name, table in tables.items() if table}
    return merged


def option(name: str) -> str:
    """A setting as the command line spells it."""
    return "FILES" if name == "files" else "--" + name.replace("_", "-")


def parse_duration(text: str) -> float:
    """``90``, ``20s``, ``5m``, ``2h`` or ``1h30m`` in seconds.

    Raises:
        UserError: it is none of these.
    """
    number = r"(\d+(?:\.\d+)?)"
    found = re.fullmatch(rf"(?:{number}h)?(?:{number}m)?(?:{number}s?)?", text.strip().lower())
    if not found or not any(found.groups()):
        raise UserError(f"--max-time is {text!r}; write it as 20s, 5m, 2h or 1h30m")
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return 3600 * hours + 60 * minutes + seconds


def warmed_up(schedule: str, steps: int) -> str:
    """A schedule that can have a warm-up and says none, with one of ``steps``; any other as it is."""
    name, _, rest = schedule.partition(":")
    if not steps or "warmup" not in SCHEDULES[name] or "warmup=" in rest:
        return schedule
    return f"{name}:{','.join(filter(None, [rest, f'warmup={steps}']))}"


def parse_spec(what: str, text: str, known: Mapping[str, Mapping[str, Any]]) -> tuple[str, dict[str, Any]]:
    """``"name:key=value,..."`` as the name and the values given, each of the type of its default.

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


def _fit(name: str, value: Any, hint: Any) -> Any:
    """The value as its field's type, where it is one that a configuration file may hold for it."""
    kinds = get_args(hint) if get_origin(hint) in (types.UnionType, typing.Union) else (hint,)
    if value is None and type(None) in kinds:
        return None
    kind = next(k for k in kinds if k is not type(None))
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise UserError(f"{option(name)} is {value!r}; it must be one of {', '.join(get_args(kind))}")
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value) if abs(value) < 2**63 else math.inf if value > 0 else -math.inf
    if get_origin(kind) is tuple:
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            return tuple(value)
    elif get_origin(kind) is not None:
        if isinstance(value, Mapping):
            return dict(value)
    elif kind is str and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)  # grad_clip = 5 in a configuration file
    elif isinstance(value, kind) and isinstance(value, bool) == (kind is bool):
        return value
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    expected = words.get(kind, "a list of texts" if get_origin(kind) is tuple else "a table")
    raise UserError(f"{option(name)} is {value!r}; it must be {expected}")
