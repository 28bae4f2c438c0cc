"""Convert files of runs from versions without tasks, which are all language models."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

from rnn_lab import schema
from rnn_plugins.tasks.language_model import LanguageModel

OPTIONS = ("seq_length", "level", "valid_fraction", "unknown")
"""Former settings that are now options of the task."""

MANIFEST = {
    "task": schema.TEXT,
    "settings": schema.TABLE,
    "vocabulary": schema.TABLE,
    "data": {
        "sources": [schema.TEXT],
        "digest": schema.TEXT,
        "bytes": schema.COUNT,
        "characters": schema.COUNT,
        "symbols": schema.COUNT,
        "held_out": schema.COUNT,
        "characters_per_symbol?": {"training": schema.POSITIVE, "held_out": schema.POSITIVE},
        "unknown?": schema.NUMBER,
    },
    "best?": {"loss": schema.optional(schema.NUMBER), "step": schema.COUNT},
    "opening?": [schema.COUNT],
}
"""The entries of ``run.json`` that are now elsewhere."""


def is_older(manifest: Any) -> bool:
    """Whether a manifest is from such a version."""
    return isinstance(manifest, dict) and "vocabulary" in manifest and "facts" not in manifest


def manifest(old: Mapping[str, Any]) -> dict[str, Any]:
    """``run.json`` in the current format.

    Raises:
        ValueError: it is damaged.
    """
    if wrong := schema.misfit(old, MANIFEST):
        raise ValueError(wrong)
    data, settings = old["data"], dict(old["settings"])
    training = data["symbols"] - data["held_out"]
    if training < 2:
        raise ValueError("says that there were no two symbols to train on")
    options = {name: settings.pop(name) for name in OPTIONS if name in settings}
    ratios = data.get("characters_per_symbol")
    whole = max(data["characters"], 1) / max(data["symbols"], 1)  # the oldest know this of the whole text alone
    new = {key: value for key, value in old.items() if key not in ("task", "vocabulary", "opening", "data", "best")} | {
        "task": {"task": old["task"], "distribution": "rnn-lab", "version": _version(old)},
        "settings": settings | {"task": old["task"], "task_option": options},
        "facts": {
            "vocabulary": old["vocabulary"],
            "opening": old.get("opening", []),
            "characters_per_symbol": {
                "train": ratios["training"] if ratios else whole,
                "valid": ratios["held_out"] if ratios else whole,
            },
            "unknown": data.get("unknown", 0.0),
            "text": {key: data[key] for key in ("digest", "bytes", "characters")},
            "lent": "init_from" in old,
        },
        "data": {
            "sources": data["sources"],
            "digest": data["digest"],
            "train": training,
            "valid": data["held_out"] if data["held_out"] > 1 else 0,
            "units_per_step": _units_per_step(options, settings, training),
        },
    }
    task = LanguageModel(level=options.get("level", "char"))
    new["metrics"] = {name: metric._asdict() for name, metric in task.metrics.items()}
    if "best" in old:
        new["best"] = notes(old["best"])
    return new


def _version(old: Mapping[str, Any]) -> str:
    """The version that trained the run, if recorded."""
    environment = old.get("environment")
    noted = environment.get("rnn-lab") if isinstance(environment, dict) else None
    return noted if isinstance(noted, str) else version("rnn-lab")


def _units_per_step(options: Mapping[str, Any], settings: Mapping[str, Any], training: int) -> int:
    """Symbols per training step: reduced if the text was short."""
    length, size = options.get("seq_length", 64), settings.get("batch_size", 32)
    if not (type(length) is int and type(size) is int and min(length, size) > 0):
        return 1  # the settings are checked elsewhere
    length = min(length, training - 1)
    return length * max(1, min(size, (training - 1) // length))


def notes(old: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata of weights in the current format; unchanged if they are current."""
    new = dict(old)
    if "loss" in new:
        loss = new.pop("loss")
        new["metrics"] = None if loss is None else {"loss": loss}
    if isinstance(tally := new.get("tally"), dict) and "best_loss" in tally:
        loss = tally["best_loss"]
        kept = {key: value for key, value in tally.items() if key != "best_loss"}
        new["tally"] = kept | {"best": None if loss is None else {"loss": loss}}
    return new


def record(old: dict[str, Any]) -> dict[str, Any]:
    """A line of ``metrics.jsonl`` in the current format; unchanged if it is current."""
    if "tokens_per_second" in old:
        old = {("units_per_second" if key == "tokens_per_second" else key): value for key, value in old.items()}
    return old
