"""Event files for TensorBoard in a run's folder, written with tensorboardX.

Apart from histograms and samples, they contain what the records of ``metrics.jsonl`` contain. The library's own
``SummaryWriter`` writes in a thread, and waits for it for ever if a full disk has ended it; here the events are
written synchronously, so that an error can be reported.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from minigrad import trees
from rnn_lab.paths import EVENTS
from rnn_lab.session import Session
from rnn_lab.trainer import Progress
from rnn_plugins.errors import UserError, why

EXCERPT_SIZE = 400
"""Characters of the sample written at each validation."""

_POSITIVE = np.append(1e-12 * 1.1 ** np.arange(774), np.finfo(np.float64).max)

BINS = np.concatenate([-_POSITIVE[::-1], [0.0], _POSITIVE])
"""The limits of a histogram's bins, as in TensorFlow: up to 1e20 in absolute value, each 10 % above the one before.

The last bins contain all larger values, such as those of an exploding gradient.
"""


def require_writer() -> None:
    """Check that event files can be written.

    Raises:
        UserError: they cannot.
    """
    if find_spec("tensorboardX") is None:
        raise UserError("--track tensorboard needs the library tensorboardX: pip install 'rnn-lab[tensorboard]'")


class TensorBoard:
    """Writes the events of a run; a context manager with an open file.

    If the file cannot be written, this is reported once, and nothing more is written.
    """

    def __init__(self, session: Session, told: Callable[[str], None] = lambda sentence: None) -> None:
        self.session, self._told = session, told
        self._writer: Any = None

    def __enter__(self) -> TensorBoard:
        """Open a file; events after the last record, of a lost session or a stop, are purged."""
        with self._or_give_up():
            self._open()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Write the remaining events, and close the file."""
        with self._or_give_up():
            if self._writer:
                self._writer.close()

    def show(self, progress: Progress) -> None:
        """Write the record of a step, if there is one."""
        if self._writer and progress.record is not None:
            with self._or_give_up():
                self._write(progress, progress.record)

    @contextmanager
    def _or_give_up(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            folder = self.session.run.path / EVENTS
            self._told(f"no more event files are written, because {str(folder)!r} cannot be written to ({why(error)})")
            writer, self._writer = self._writer, None
            with suppress(OSError):
                if writer:
                    writer.close()

    def _open(self) -> None:
        from tensorboardX.event_file_writer import EventsWriter  # type: ignore[import-untyped]
        from tensorboardX.proto.event_pb2 import Event, SessionLog  # type: ignore[import-untyped]

        folder: Path = self.session.run.path / EVENTS
        folder.mkdir(exist_ok=True)
        # File names contain the time in seconds, and files are read in the order of their names.
        number = sum(1 for _ in folder.iterdir())
        self._writer = EventsWriter(str(folder / "events"), f".{number:04}")
        if number:
            last = max((record["step"] for record in self.session.run.records()), default=0)
            self._add(Event(step=last + 1, session_log=SessionLog(status=SessionLog.START)))

    def _add(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.write_event(event)

    def _write(self, progress: Progress, record: dict[str, Any]) -> None:
        from tensorboardX import summary  # type: ignore[import-untyped]
        from tensorboardX.proto.event_pb2 import Event

        details, step = progress.step.details, progress.step.step

        def add(found: Any) -> None:
            self._add(Event(step=step, summary=found))

        for tag, value in scalars(record).items():
            add(summary.scalar(tag, value))
        if not self.session.trainer.validates(step):
            return
        weights = trees.flatten(self.session.trainer.state.params)
        gradients = trees.flatten(details.gradients) if details else {}
        for group, arrays in (("weights", weights), ("gradients", gradients)):
            for path, array in arrays.items():
                if np.isfinite(array).all():
                    add(summary.histogram(f"{group}/{path}", array, BINS))
        with suppress(UserError):  # a diverging model may have no finite scores
            if excerpt := self.session.excerpt(EXCERPT_SIZE):
                # As a Markdown code block, so that characters and line breaks are shown unchanged.
                add(summary.text("sample", "\n".join(f"    {line}" for line in excerpt.split("\n"))))
        self._writer.flush()


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record by TensorBoard's tags; the part before the slash is the group they are shown in."""
    tags = {
        "loss/train": record["train_loss"],
        **{
            f"{name.removeprefix('valid_')}/valid": value for name, value in record.items() if name.startswith("valid_")
        },
        "learning_rate": record["learning_rate"],
        "gradient_norm": record["gradient_norm"],
        "speed/units_per_second": record["units_per_second"],
    }
    for key in ("gradient_norms", "weight_norms", "update_norms"):
        tags |= {f"{key}/{path}": norm for path, norm in record.get(key, {}).items()}
    for activation, shares in record.get("units", {}).items():
        tags |= {f"{kind}_units/{activation}": share for kind, share in shares.items()}
    if flow := record.get("flow"):
        tags |= {f"flow/{key}": flow[key] for key in ("half_life", "one_percent_lag")}
        for state, norms in flow["norms"].items():
            tags |= {f"flow/{state}/lag_{lag}": norms[lag] for lag in (1, 10, len(norms) - 1) if lag < len(norms)}
    return {tag: value for tag, value in tags.items() if value is not None}
