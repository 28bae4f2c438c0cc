"""A run as TensorBoard shows it: event files in its folder, written by tensorboardX. It measures nothing itself.

What is written stands in the records of ``metrics.jsonl`` too, but for histograms and samples.
"""

from __future__ import annotations

from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from minigrad import trees
from rnn_plugins.errors import UserError
from rnn_plugins.places import EVENTS
from rnn_plugins.sessions import Session
from rnn_plugins.trainer import Progress

EXCERPT_SYMBOLS = 400
"""How much the model writes at each validation."""


def require_writer() -> None:
    """See to it that event files can be written.

    Raises:
        UserError: they cannot.
    """
    if find_spec("tensorboardX") is None:
        raise UserError("--track tensorboard needs the library tensorboardX: pip install 'rnn-lab[tensorboard]'")


class TensorBoard:
    """Writes what happens in a run; a context, in which files are open."""

    def __init__(self, session: Session) -> None:
        self.session = session

    def __enter__(self) -> TensorBoard:
        """Open a file. Steps after that at which the run goes on, of a session that was lost, are taken back."""
        from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

        folder: Path = self.session.run.path / EVENTS
        folder.mkdir(exist_ok=True)
        step = self.session.trainer.state.step
        # Names have the time in seconds, and are read in their order.
        number = sum(1 for _ in folder.iterdir())
        self.writer = SummaryWriter(
            str(folder), purge_step=step + 1 if number else None, filename_suffix=f".{number:04}"
        )
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Write what is left, and close the file."""
        self.writer.close()

    def show(self, progress: Progress) -> None:
        """Write what was logged in a step, if anything was."""
        record, details, step = progress.record, progress.step.details, progress.step.step
        if record is None:
            return
        for tag, value in scalars(record).items():
            self.writer.add_scalar(tag, value, step)
        if not self.session.trainer.validates(step):
            return
        weights = trees.flatten(self.session.trainer.state.params)
        gradients = trees.flatten(details.gradients) if details else {}
        for group, arrays in (("weights", weights), ("gradients", gradients)):
            for path, array in arrays.items():
                if np.isfinite(array).all():
                    self.writer.add_histogram(f"{group}/{path}", array, step)
        with suppress(UserError):  # a model on its way to diverge has no scores to write by
            written = self.session.excerpt(EXCERPT_SYMBOLS)
            # As a block of code, in which signs mean themselves and lines stay lines.
            self.writer.add_text("sample", "\n".join(f"    {line}" for line in written.split("\n")), step)
        self.writer.flush()


def scalars(record: dict[str, Any]) -> dict[str, float]:
    """The numbers of a record by TensorBoard's tags; the part before the slash is the group that they are shown in."""
    tags = {
        "loss/train": record["train_loss"],
        "loss/valid": record.get("valid_loss"),
        "learning_rate": record["learning_rate"],
        "gradient_norm": record["gradient_norm"],
        "speed/tokens_per_second": record["tokens_per_second"],
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
