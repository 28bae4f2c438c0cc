"""A run's metrics on examples."""

from __future__ import annotations

import dataclasses
import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rnn_lab.problem import read
from rnn_lab.runs import Run
from rnn_plugins.errors import UserError
from rnn_plugins.progress import begin
from rnn_plugins.reports.report import Page, Table, plain
from rnn_plugins.tasks.task import Assessment, Data, Score
from rnn_plugins.words import brief


@dataclass(frozen=True)
class Evaluation:
    """A run's score.

    Attributes:
        run: the run's name.
        source: the examples that it was evaluated on, in words.
        assessment: the scores.
        by: the metric by which scores are put in order.
        notices: sentences for the user.
    """

    run: str
    source: str
    assessment: Assessment
    by: str
    notices: tuple[str, ...]

    def ranked(self) -> list[Score]:
        """The scores, the best first; those without the metric come last."""
        better = 1 if self.assessment.metrics[self.by].direction == "min" else -1

        def place(score: Score) -> float:
            value = score.metrics.get(self.by)
            return math.inf if value is None else better * value

        return sorted(self.assessment.scores, key=place)

    def heads(self) -> list[str]:
        """The heads of the columns of metrics."""
        return [metric.head or name.upper() for name, metric in self.assessment.metrics.items()]

    def page(self) -> Page:
        """The evaluation as a page: the scores, the task's tables and pictures, and the verdict."""
        found = self.assessment
        rows = [
            ("the model" if score.kind == "model" else score.name, *map(score.metrics.get, found.metrics))
            for score in self.ranked()
        ]
        digits = (None, *(metric.digits for metric in found.metrics.values()))
        scores = Table("scores", "Scores", ("", *self.heads()), tuple(rows), digits=digits)
        return Page(
            "eval",
            "Evaluation",
            f"How well does {self.run} predict {self.source}?",
            (self.run,),
            figures=(scores, *found.figures),
            verdict={self.run: found.verdict},
            notices=tuple(f"{notice[:1].upper()}{notice[1:].rstrip('.')}." for notice in self.notices),
        )

    def to_json(self) -> dict[str, Any]:
        """The evaluation as JSON; an infinite number is null."""
        scores = [
            {"name": score.name, "kind": score.kind}
            | {key: None if value == math.inf else value for key, value in score.metrics.items()}
            for score in self.assessment.scores
        ]
        return {
            "run": self.run,
            "text": self.source,
            **self.assessment.details,
            "scores": scores,
            "verdict": list(self.assessment.verdict),
            "notices": list(self.notices),
            **({"figures": plain(self.assessment.figures)} if self.assessment.figures else {}),
        }


def evaluate(run: Run, files: Sequence[str] = (), **options: Any) -> Evaluation:
    """Score a run's best weights on examples; without files, on its held-out ones.

    Baselines that need the run's training data are left out if these are gone or have changed, and a notice says why.

    Args:
        run: the run.
        files: the examples, as the run's task reads them.
        options: of the task; they replace the run's.

    Raises:
        UserError: the task has no such option, or there is nothing to score.
    """
    reader = run.reader(**options)
    own, why = run.data()
    notices = [f"{why}; so there are no baselines of it to compare with"] if why else []
    if files:
        data = read(reader, files, run.facts, purpose="evaluate")
        source = brief(files)
        notices = [*data.notices, *notices, *remembered(run, data, own)]
    elif own is None:
        raise UserError(f"{why}; give a FILE to evaluate on")
    else:
        data = dataclasses.replace(own, facts=run.facts)
        source = run.measured_on
        if not run.held_out:
            raise UserError(f"the run {run.name!r} has no held-out data; name a FILE to evaluate on")
    training = None if own is None else own.train
    task = reader if options else run.task
    model, params = run.model_of(task), run.params()
    begin(f"evaluating {run.name} on {source}")
    assessment = task.assess(model, params, data, name=run.name, training=training)
    notices += [*assessment.notices, *run.code_changed()]
    known = [name for name in (task.best[0], *assessment.metrics) if all(name in s.metrics for s in assessment.scores)]
    by = next((name for name in known if name in assessment.metrics), next(iter(assessment.metrics)))
    return Evaluation(run.name, source, assessment, by, tuple(notices))


def remembered(run: Run, data: Data, own: Data | None) -> list[str]:
    """A sentence that says so, if examples are among those that a run was trained on."""
    if data.digest and data.digest == run.manifest["data"]["digest"]:
        seen = "these are all the data that the run was trained on"
    elif own is not None and run.task.contains(own.train, data.valid):
        seen = "these examples are among those that the run was trained on"
    else:
        return []
    told = f"{seen}, so the numbers say how well they are remembered"
    return [f"{told}; rnn eval {shlex.quote(run.name)} scores the held-out ones alone" if run.held_out else told]
