"""Checks of a task: that its batches, loss and metrics meet the requirements of training, resuming and evaluation."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import fields, replace
from functools import cached_property, partial
from itertools import chain, count, islice
from pathlib import Path
from typing import Any

import numpy as np

from minigrad import Tensor, trees, value_and_grad
from minigrad.functions import Share
from minigrad.optimizers import adam
from minigrad.schedules import constant
from minigrad.training import start, train
from minigrad.trees import Tree
from rnn_cells import Cell
from rnn_cells.gru import GRU
from rnn_plugins.language.sampling import Choice
from rnn_plugins.reports.probe import Probe
from rnn_plugins.reports.report import Picture
from rnn_plugins.tasks.task import AT_ONCE, Batch, Data, Model, Network, Prediction, Task
from rnn_plugins.testing.checks import (
    DIFFERENCE,
    Array,
    CheckReport,
    Failed,
    attempt,
    compare,
    constants,
    gradient_error,
    normal,
    pairs,
    require_shape,
    same,
)

SIZE, HIDDEN, EMBEDDING = 6, 8, 5
"""Sequences in a batch, units of a cell, and the width of an embedding if one is set."""

DIFFERENCE_32 = 1e-4
"""Largest allowed relative difference of two ways to compute the same value, without float64."""

WEIGHED = 20
"""Batches over which the mean weight is taken."""

PROBED = 3
"""Steps of a probe's window."""

LEARNING_STEPS, LEARNING_RATE = 40, 0.01
"""Steps and learning rate for lowering the loss of one batch, with Adam."""

CANDIDATES, UNLIKE, EXAMPLES = 64, 4, 37
"""Examples from which those of different shapes are chosen, how many of those, and how many are evaluated."""

PREDICTED, AHEAD = 5, 4 * AT_ONCE
"""Inputs that are predicted, and how many may be taken before the first prediction."""


def check_task(
    task: Task,
    files: Sequence[str] = (),
    *,
    cell: Callable[[int], Cell] | None = None,
    rng: np.random.Generator | None = None,
) -> CheckReport:
    """Check all requirements of a task, on files and with a small network; small files are fastest.

    Losses and gradients are computed in two ways and compared in float64, at parameters near the initial ones; the
    gradient of the loss is compared with finite differences. A task that defines ``pack`` is also checked on examples
    of different lengths; otherwise the rows of a batch are taken one by one.

    Args:
        task: the task.
        files: the training data; by default ``task.default_files``.
        cell: makes a cell from the width of an input; by default a GRU of 8 units.
        rng: draws parameters and directions; by default seeded with 0.

    Raises:
        TypeError: ``task`` is not a task; pass ``MyTask()`` and not the class.
    """
    if not isinstance(task, Task):
        example = f"{task.__name__}()" if isinstance(task, type) else "LanguageModel()"
        raise TypeError(f"check_task: got {task!r}; expected a task, such as {example}")
    bench = _Bench(task, files or task.default_files, cell or (lambda width: GRU(width, HIDDEN)), rng)
    checks = []
    for name, check in _FIRST.items():
        checks.append(attempt(name, partial(check, bench)))
        if not checks[-1].passed:
            return CheckReport(task, tuple(checks))
    for name, check in _EVERY.items():
        checks.append(attempt(name, partial(check, bench)))
    if bench.dtype == "float64":
        checks.append(attempt("gradient", partial(_gradient, bench)))
    return CheckReport(task, tuple(checks))


class _Bench:
    """A task with its data and a small network.

    Attributes:
        given: the task as given.
        files: what it reads.
        rng: draws parameters and directions.
    """

    def __init__(
        self, task: Task, files: Sequence[str], make_cell: Callable[[int], Cell], rng: np.random.Generator | None
    ) -> None:
        self.given, self.files, self._make_cell = task, files, make_cell
        self.rng = rng or np.random.default_rng(0)

    @cached_property
    def data(self) -> Data:
        return self.given.read(self.files)

    @cached_property
    def facts(self) -> Any:
        """The facts as read from a run's manifest."""
        return json.loads(json.dumps(self.data.facts, allow_nan=False))

    @cached_property
    def _fitted(self) -> tuple[Task, int, str]:
        return self.given.fit(self.data, SIZE)

    @property
    def task(self) -> Task:
        """The task with its options reduced for so small a batch."""
        return self._fitted[0]

    @property
    def size(self) -> int:
        """Sequences of a batch."""
        return self._fitted[1]

    @property
    def packs(self) -> bool:
        """Whether its examples are independent, so that any of them form a batch."""
        return type(self.task).pack is not Task.pack

    @cached_property
    def epoch(self) -> int:
        """Steps per epoch."""
        return self.task.steps_per_epoch(self.data, self.size)

    def model(self, dtype: str = "float32", dropout: float = 0.0, facts: Mapping[str, Any] | None = None) -> Model:
        facts = self.data.facts if facts is None else facts
        return self.task.model(facts, self.task.resolve(facts, self.network(dtype, dropout)))

    def network(self, dtype: str = "float32", dropout: float = 0.0, embedding_size: int | None = None) -> Network:
        return Network(self._make_cell, self._make_cell(1).hidden_size, embedding_size, dropout, False, dtype)

    @cached_property
    def dtype(self) -> str:
        """The dtype for comparisons: float64 if the model supports it."""
        try:
            model = self.model("float64")
            params = trees.cast(model.init_params(np.random.default_rng(0)), np.float64)
            loss, _ = model.loss(params, trees.cast(model.init_carry(self.size), np.float64), self.batch(0), None)
        except Exception:
            return "float32"
        return str(np.asarray(loss).dtype)

    @property
    def allowed(self) -> float:
        """The largest allowed relative difference of two ways to compute the same value."""
        return DIFFERENCE if self.dtype == "float64" else DIFFERENCE_32

    @cached_property
    def exact(self) -> Model:
        """The model in that dtype."""
        return self.model(self.dtype)

    @cached_property
    def params(self) -> Tree:
        """Initial parameters plus noise, because zero biases or tiny weights hide many errors."""
        return self.draw()

    def draw(self) -> Tree:
        params = trees.cast(self.exact.init_params(self.rng), np.float64)
        return trees.cast(trees.map(lambda x: x + 0.2 * normal(x, self.rng), params), self.dtype)

    def carry(self, size: int) -> Tree:
        return trees.cast(self.exact.init_carry(size), self.dtype)

    def batch(self, step: int, rows: slice = slice(None)) -> Batch:
        return self.task.batch(self.data, step, self.size, rows)

    def loss_and_gradient(self, carry: Tree, batch: Batch) -> tuple[float, Tree, Tree]:
        """The mean loss, the carry after the batch, and the gradient with respect to the parameters."""
        (loss, after), gradient = value_and_grad(self.exact.loss, has_aux=True)(self.params, carry, batch, None)
        return float(loss), trees.map(np.asarray, after), gradient

    @cached_property
    def examples(self) -> Any:
        """The examples for metrics: only a few, if they are independent."""
        data = self.data
        examples = data.train if isinstance(data.valid, Sized) and len(data.valid) < 2 else data.valid
        return [examples[i] for i in range(min(len(examples), EXAMPLES))] if self.packs else examples

    def evaluate(self, examples: Any) -> dict[str, float]:
        return self.task.evaluate(self.exact, self.params, examples)


# --- required by all other checks ------------------------------------------------------------------------------------


def _options(bench: _Bench) -> None:
    for field in fields(bench.given):
        if hasattr(Task, field.name):
            raise Failed(f"the option {field.name!r} hides an attribute of the base class; rename it")


def _read(bench: _Bench) -> None:
    if not bench.files:
        raise Failed("there is nothing to read: name files, or generated data in default_files")
    data = bench.data
    if not isinstance(data, Data):
        raise Failed(f"read returns a {type(data).__name__}; expected Data")
    if not data.digest:
        raise Failed("read returns no digest, by which a run detects that its data have changed")
    if bench.size < 2:
        raise Failed(f"the files are enough only for a batch of {bench.size}; use files with more training data")


def _model(bench: _Bench) -> None:
    given = bench.network(embedding_size=EMBEDDING)
    if (now := bench.task.resolve(bench.data.facts, given)) != given:
        raise Failed(
            f"resolve changes a given embedding size of {EMBEDDING} to {now.embedding_size}; it may only replace None, "
            "and model refuses an unsuitable size"
        )
    model = bench.model()
    if not isinstance(model, Model):
        raise Failed(f"model returns a {type(model).__name__}; expected a Model")
    one, two = (model.init_params(np.random.default_rng(0)) for _ in range(2))
    for path, (leaf, again) in pairs(one, two):
        if not isinstance(leaf, np.ndarray) or leaf.dtype != np.float32:
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise Failed(
                f"parameter {path!r} is of type {kind}; each parameter must be an array of float32, the network's "
                "dtype; put a constant into the loss"
            )
        if not np.array_equal(leaf, again):
            raise Failed(f"parameter {path!r} has other initial values at a second call with an equal generator")
    carry = model.init_carry(bench.size)
    for path, leaf in zip(trees.paths(carry), trees.leaves(carry), strict=True):
        if np.shape(leaf)[:1] != (bench.size,):
            raise Failed(f"{_of_carry(path)} is of shape {np.shape(leaf)}; its first axis must be the batch")


def _batch(bench: _Bench) -> None:
    if not isinstance(bench.epoch, int) or bench.epoch < 1:
        raise Failed(f"steps_per_epoch returns {bench.epoch!r}; expected a whole number of at least 1")
    batch = bench.batch(0)
    if not isinstance(batch, Batch):
        raise Failed(f"batch returns a {type(batch).__name__}; expected a Batch")


def _weight(bench: _Bench) -> None:
    whole = bench.batch(0).weight
    if not (np.isfinite(whole) and whole > 0):
        raise Failed(f"the weight of a batch is {whole:g}; it must be above 0")
    shares = [bench.batch(0, rows).weight for rows in _halves(bench)]
    if not np.isclose(sum(shares), whole, rtol=1e-6):
        raise Failed(
            f"the halves of a batch weigh {shares[0]:g} and {shares[1]:g}, and the whole weighs {whole:g}; "
            "they must add up to it"
        )


def _loss(bench: _Bench) -> None:
    model = bench.model()
    params, carry = model.init_params(np.random.default_rng(0)), model.init_carry(bench.size)
    result = model.loss(params, carry, bench.batch(0), None)
    if not isinstance(result, tuple) or len(result) != 2:
        raise Failed(f"loss returns a {type(result).__name__}; expected the pair (mean loss, carry)")
    loss = np.asarray(result[0])
    if loss.shape != ():
        raise Failed(f"the loss is of shape {loss.shape}; it must be one number, a mean")
    if not np.isfinite(loss):
        raise Failed(f"the loss of new parameters is {loss:g}; it must be finite")


# --- data ------------------------------------------------------------------------------------------------------------


def _facts(bench: _Bench) -> None:
    try:
        facts = bench.facts
    except (TypeError, ValueError) as error:
        raise Failed(f"the facts cannot be saved as JSON: {error}") from None
    first = bench.model()
    params = first.init_params(np.random.default_rng(0))
    carry, batch = first.init_carry(bench.size), bench.batch(0)
    try:
        again = bench.model(facts=bench.task.check_facts(facts))
        other = again.init_params(np.random.default_rng(0))
        if wrong := _misfit(other, params):
            raise Failed(f"in the model made from saved facts, {wrong}")
        loss, expected = (float(model.loss(params, carry, deepcopy(batch), None)[0]) for model in (again, first))
    except Failed:
        raise
    except Exception as error:
        raise Failed(f"the model made from saved facts fails: {type(error).__name__}: {error}") from error
    if loss != expected:
        raise Failed(f"the model made from saved facts has the loss {loss:.6g}; expected {expected:.6g}, as before")


def _batches(bench: _Bench) -> None:
    steps = sorted({0, 1, bench.epoch - 1, bench.epoch, 2 * bench.epoch + 1})
    first = {step: deepcopy(bench.batch(step)) for step in steps}
    for step in reversed(steps):
        if not _same_batch(bench.batch(step), first[step]):
            raise Failed(f"the batch of step {step} differs at a second call; it must be the same")
    if bench.epoch > 1 and _same_batch(first[0], first[1]):
        raise Failed("the batches of the steps 0 and 1 are the same; they must contain different data")
    fresh = bench.given.read(bench.files)
    if fresh.digest != bench.data.digest:
        raise Failed(f"files read again have the digest {fresh.digest!r}; expected {bench.data.digest!r}, as before")
    for step in steps:
        if not _same_batch(bench.task.batch(fresh, step, bench.size), first[step]):
            raise Failed(f"the batch of step {step} differs after files are read again; it must be the same")


def _units(bench: _Bench) -> None:
    weights = [bench.batch(step).weight for step in range(min(bench.epoch, WEIGHED))]
    told, mean = bench.task.units_per_step(bench.data, bench.size), sum(weights) / len(weights)
    if not mean / 2 < told < mean * 2:
        raise Failed(
            f"units_per_step returns {told:g} {bench.task.unit}, and batches weigh {mean:g} on average; count must "
            "count what the weight of a batch counts"
        )


def _with_facts(bench: _Bench) -> None:
    for purpose in ("again", "resume"):
        again = bench.given.read(bench.files, bench.facts, purpose=purpose)
        if again.digest != bench.data.digest:
            raise Failed(f"read for {purpose!r} gives the digest {again.digest!r}; expected {bench.data.digest!r}")
        for step in (0, 1):
            if not _same_batch(bench.task.batch(again, step, bench.size), bench.batch(step)):
                raise Failed(f"read for {purpose!r} gives another batch of step {step}; it must be the same")
    with _part_of(bench.files) as files:
        try:
            other = bench.given.read(files, bench.facts, purpose="evaluate")
        except Exception:  # the task needs all files complete
            other = bench.given.read(bench.files, bench.facts, purpose="evaluate")
        params = bench.model(facts=other.facts).init_params(np.random.default_rng(0))
        if wrong := _misfit(params, bench.model().init_params(np.random.default_rng(0))):
            raise Failed(f"in the model of data read with facts, {wrong}")
        if other.valid is not None and not bench.task.count(other.valid):
            raise Failed("read for 'evaluate' returns no examples in valid, which must contain all of them")
        bench.evaluate(other.valid)


# --- shares of a batch -----------------------------------------------------------------------------------------------


def _rows(bench: _Bench) -> float:
    carry = bench.carry(bench.size)
    worst = 0.0
    for step in (0, 1):
        whole = bench.batch(step)
        loss, after, gradient = bench.loss_and_gradient(carry, whole)
        parts = []
        for rows in _halves(bench):
            share = bench.batch(step, rows)
            part = bench.loss_and_gradient(trees.map(lambda x, rows=rows: x[rows], carry), share)
            what = f"the carry after the rows {rows.start} to {rows.stop - 1} of step {step} differs from the whole's"
            worst = max(worst, compare(what, part[1], trees.map(lambda x, rows=rows: x[rows], after), bench.allowed))
            parts.append((part[0], part[2], share.weight))
        worst = max(worst, _agree(bench, f"the halves of the batch of step {step}, weighed,", parts, loss, gradient))
        carry = after
    return worst


def _padding(bench: _Bench) -> float:
    if bench.packs:
        examples = _unlike(bench)
        what, together = "examples of unlike lengths, each alone and weighed,", bench.task.pack(examples)
        alone = [bench.task.pack([example]) for example in examples]
    else:
        what, together = "the rows of a batch, each alone and weighed,", bench.batch(0)
        alone = [bench.batch(0, slice(i, i + 1)) for i in range(bench.size)]
    loss, _, gradient = bench.loss_and_gradient(bench.carry(len(alone)), together)
    parts = []
    for batch in alone:
        found = bench.loss_and_gradient(bench.carry(1), batch)
        parts.append((found[0], found[2], batch.weight))
    return _agree(bench, what, parts, loss, gradient)


def _dropout(bench: _Bench) -> float:
    model, halves = bench.model(bench.dtype, dropout=0.3), _halves(bench)
    if bench.packs:  # one example many times: masks are rows of the whole batch's only where there are as many steps
        sizes = [bench.size, *(rows.stop - rows.start for rows in halves)]
        whole, *shares = (bench.task.pack([_candidates(bench)[0]] * size) for size in sizes)
    else:
        whole, *shares = bench.batch(0), *(bench.batch(0, rows) for rows in halves)
    carry = bench.carry(bench.size)
    expected = float(model.loss(bench.params, carry, whole, np.random.default_rng(1))[0])
    mean = 0.0
    for rows, share in zip(halves, shares, strict=True):
        generator = Share(np.random.PCG64(1), rows, bench.size)
        loss, _ = model.loss(bench.params, trees.map(lambda x, rows=rows: x[rows], carry), share, generator)
        mean += float(loss) * share.weight / whole.weight
    error = abs(mean - expected) / max(abs(expected), 1e-2)
    if not error <= bench.allowed:
        raise Failed(
            f"the halves of a batch, weighed, have the mean loss {mean:.6g} with dropout where the whole has "
            f"{expected:.6g}; dropout and dropout_mask take the axis of the batch",
            error,
        )
    return error


def _agree(bench: _Bench, what: str, parts: Sequence[tuple[float, Tree, float]], loss: float, gradient: Tree) -> float:
    """Check that parts of a batch, each with loss, gradient and weight, have the same mean as the whole."""
    total = sum(weight for _, _, weight in parts)
    mean = sum(found * weight for found, _, weight in parts) / total
    error = abs(mean - loss) / max(abs(loss), 1e-2)
    if not error <= bench.allowed:
        raise Failed(f"{what} have the mean loss {mean:.6g}; all together have {loss:.6g}", error)
    gradients = trees.map(
        lambda *found: sum(g * weight for g, (_, _, weight) in zip(found, parts, strict=True)) / total,
        *(found for _, found, _ in parts),
    )
    for path, (found, expected) in pairs(gradients, gradient):
        what_of = f"{what} have another gradient with respect to {path!r} than all together"
        error = max(error, compare(what_of, found, expected, bench.allowed))
    return error


# --- the loss --------------------------------------------------------------------------------------------------------


def _purity(bench: _Bench) -> None:
    model = bench.model(dropout=0.3)
    given = model.init_params(np.random.default_rng(0)), model.init_carry(bench.size), bench.batch(0)
    for seed in (None, 1):
        before = deepcopy(given)
        first, second = (model.loss(*given, None if seed is None else np.random.default_rng(seed))[0] for _ in range(2))
        for what, old, new in zip(("a parameter", "the carry", "the batch"), before, given, strict=True):
            if not _same_batch(old, new):
                raise Failed(f"the loss changes {what} in place; it must compute a new array instead")
        if not np.array_equal(first, second):
            how = "without a generator" if seed is None else "with an equal generator"
            raise Failed(
                f"the loss of a batch is {float(first):.6g}, and {float(second):.6g} at a second call {how}; "
                "it must be a function of its arguments"
            )


def _carry(bench: _Bench) -> None:
    model = bench.model()
    first = model.init_carry(bench.size)
    _, after = model.loss(model.init_params(np.random.default_rng(0)), first, bench.batch(0), None)
    if trees.structure(after) != trees.structure(first):
        before, now = (json.dumps(trees.structure(tree)) for tree in (first, after))
        raise Failed(f"a batch turns the carry {before} into {now}; it must keep its structure")
    for path, (old, new) in pairs(first, after):
        if (np.shape(old), np.asarray(old).dtype) != (np.shape(new), np.asarray(new).dtype):
            raise Failed(
                f"{_of_carry(path)} is {_described(new)} after a batch and {_described(old)} before it; it must keep "
                "its shape and dtype"
            )


def _float32(bench: _Bench) -> None:
    model = bench.model()
    params = model.init_params(np.random.default_rng(0))
    gradient = value_and_grad(model.loss, has_aux=True)
    (loss, _), gradients = gradient(params, model.init_carry(bench.size), bench.batch(0), None)
    flat = trees.flatten(gradients)
    found = [("the loss", loss), *((f"the gradient with respect to {p!r}", g) for p, g in flat.items())]
    for what, array in found:
        if np.asarray(array).dtype != np.float32:
            raise Failed(f"{what} is {np.asarray(array).dtype}; expected float32, like the parameters")


def _gradient(bench: _Bench) -> float:
    """Without a generator, and with one if the gradient then is another, as that of a loss with samples is."""
    batch, carry = bench.batch(0), bench.carry(bench.size)

    def loss(params: Tree, seed: int | None) -> Any:
        return bench.exact.loss(params, carry, batch, None if seed is None else np.random.default_rng(seed))[0]

    plain, drawn = (value_and_grad(partial(loss, seed=seed))(bench.params)[1] for seed in (None, 1))
    noisy = any(not np.array_equal(one, other) for _, (one, other) in pairs(plain, drawn))
    return max(_gradient_of(bench, partial(loss, seed=seed)) for seed in (None, 1)[: 1 + noisy])


def _gradient_of(bench: _Bench, loss: Callable[[Tree], Any]) -> float:
    frozen = bench.exact.frozen()
    gradients = value_and_grad(loss)(bench.params)[1]
    worst = 0.0
    for i, (path, gradient) in enumerate(trees.flatten(gradients).items()):
        if path in frozen:
            if np.any(gradient):
                raise Failed(f"{path!r} is frozen, and the loss has a gradient with respect to it")
            continue

        def draw(i: int = i) -> tuple[Callable[..., Tree], list[Array]]:
            params = bench.draw()
            leaves, known = trees.leaves(params), list[Array]()

            def f(leaf: Any) -> Any:
                with constants(known, new=isinstance(leaf, Tensor)):  # its gradient is taken first
                    return loss(trees.unflatten(params, [*leaves[:i], leaf, *leaves[i + 1 :]]))

            return f, [leaves[i]]

        try:
            worst = max(worst, gradient_error(draw, bench.rng))
        except Failed as failure:
            raise Failed(f"with respect to {path!r}, {failure}", failure.error) from None
    return worst


def _learning(bench: _Bench) -> None:
    model, optimizer = bench.model(), adam()
    params, carry = model.init_params(np.random.default_rng(0)), model.init_carry(bench.size)
    state = start(params, optimizer, carry, np.random.default_rng(0))
    losses = []
    batches = [bench.batch(0)] * LEARNING_STEPS
    for record in train(model.loss, state, batches, optimizer=optimizer, schedule=constant(LEARNING_RATE), clip_norm=5):
        losses.append(record.loss)
        state.carry = carry
    first, last = losses[0], losses[-1]
    if not last < first - 0.01 * abs(first):
        raise Failed(
            f"{LEARNING_STEPS} steps on one batch change its loss from {first:.6g} to {last:.6g}; it must decrease"
        )


# --- metrics ---------------------------------------------------------------------------------------------------------


def _metrics(bench: _Bench) -> None:
    task, found = bench.task, bench.evaluate(bench.examples)
    for part in ("train", "valid"):
        derived = task.derived(found, bench.facts, part)
        if given := found.keys() & derived.keys():
            raise Failed(f"evaluate and derived both return {_listed(given)}; only one of them may")
        names = found.keys() | derived.keys()
        if names != task.metrics.keys():
            raise Failed(f"evaluate and derived return {_listed(names)}; metrics declares {_listed(task.metrics)}")
        for name, value in (found | derived).items():
            if not isinstance(value, float):
                raise Failed(f"{name} is a {type(value).__name__}; metrics are written as JSON, so it must be a float")
            if not np.isfinite(value):
                raise Failed(f"{name} is {value:g}; it must be finite")
    if "loss" not in found:
        raise Failed(f"evaluate returns {_listed(found)}; the loss must be among them")
    best, direction = task.best
    if best not in found:
        raise Failed(f"best is {best!r}, which evaluate does not return; it returns {_listed(found)}")
    if direction != task.metrics[best].direction:
        raise Failed(
            f"best is {best!r} with the direction {direction!r}; metrics declares {task.metrics[best].direction!r}"
        )
    if task.compared and task.compared not in task.metrics:
        raise Failed(f"compared is {task.compared!r}; metrics declares {_listed(task.metrics)}")


def _evaluate(bench: _Bench) -> float:
    examples = bench.examples
    first = bench.evaluate(examples)
    ways = [("a second time", examples)]
    if bench.packs:
        times = 2 * AT_ONCE // len(examples) + 1
        ways += [("in reverse order", examples[::-1]), (f"{times} times over", list(examples) * times)]
    worst = 0.0
    for how, others in ways:
        found = bench.evaluate(others)
        for name, expected in first.items():
            error = abs(found[name] - expected) / max(abs(expected), 1e-2)
            if not error <= bench.allowed:
                raise Failed(
                    f"{name} is {found[name]:.6g} {how}; expected {expected:.6g}, as on the same examples before", error
                )
            worst = max(worst, error)
    return worst


def _offers(bench: _Bench) -> None:
    model, facts = bench.model(), bench.facts
    params = model.init_params(np.random.default_rng(0))
    text = bench.task.excerpt(model, params, bench.data, 20, np.random.default_rng(0))
    if text is not None and not isinstance(text, str):
        raise Failed(f"excerpt returns a {type(text).__name__}; expected a text or None")
    guessing = bench.task.guessing(facts)
    if guessing is not None and not np.isfinite(guessing):
        raise Failed(f"guessing returns {guessing:g}; expected a finite loss or None")
    if work := model.work():
        work.step(work.params, work.carry, work.x)


def _held_out(bench: _Bench) -> None:
    if any(field.name == "valid_fraction" for field in fields(bench.given)):
        data = replace(bench.given, valid_fraction=0.0).read(bench.files)  # type: ignore[call-arg]
        if held_out := bench.given.count(data.valid):
            raise Failed(f"with valid_fraction=0, {held_out:,} {bench.given.unit} are held out; expected none")


def _predictions(bench: _Bench) -> None:
    task, facts = bench.task, bench.facts
    predict = partial(task.predict, bench.exact, bench.params, facts)
    if predict([]) is None:
        return
    inputs = list(islice(chain.from_iterable(task.inputs(file, facts) for file in bench.files), PREDICTED))
    if not inputs:
        raise Failed("inputs yields nothing of the files that were read")
    found = list(predict(inputs, top=2) or ())
    if len(found) != len(inputs):
        raise Failed(f"predict yields {len(found)} predictions for {len(inputs)} inputs; expected one for each")
    _require_predictions("predict", found)
    alone = [prediction.text for single in inputs for prediction in predict(iter([single]), top=2) or ()]
    if alone != (together := [prediction.text for prediction in found]):
        raise Failed(f"the predictions for some inputs are {together}, and {alone} one by one")
    pulled: list[int] = []
    endless = (pulled.append(i) or inputs[i % len(inputs)] for i in count())  # type: ignore[func-returns-value]
    next(iter(predict(endless) or ()))
    if len(pulled) > AHEAD:
        raise Failed(f"predict takes {len(pulled):,} inputs before its first prediction; expected at most {AHEAD:,}")
    figured = list(predict(inputs, top=2, explain=True) or ())
    if (explained := [prediction.text for prediction in figured]) != together:
        raise Failed(f"the predictions for some inputs are {together}, and {explained} with explain=True")
    _require_pictures(task, "predict with explain=True", figured)


def _outputs(bench: _Bench) -> None:
    task, facts = bench.task, bench.facts
    if type(task).generate is Task.generate:
        return
    inputs: list[Any] = [None] * PREDICTED
    if task.needs_input:
        inputs = list(islice(chain.from_iterable(task.inputs(file, facts) for file in bench.files), PREDICTED))
    first, again, other = (
        list(task.generate(bench.exact, bench.params, facts, inputs, Choice(), np.random.default_rng(seed)) or ())
        for seed in (0, 0, 1)
    )
    for found in (first, other):
        if len(found) != len(inputs):
            raise Failed(f"generate yields {len(found)} outputs for {len(inputs)} inputs; expected one for each")
        _require_predictions("generate", found)
    _require_pictures(task, "generate", first)
    if json.dumps([found.record for found in first], default=_as_list) != json.dumps(
        [found.record for found in again], default=_as_list
    ):
        raise Failed("generate yields other outputs at a second call with the same random numbers")


def _require_predictions(what: str, found: Sequence[Any]) -> None:
    for prediction in found:
        if not isinstance(prediction, Prediction):
            raise Failed(f"{what} yields a {type(prediction).__name__}; expected a Prediction")
        if "\n" in prediction.text:
            raise Failed(f"the text of a prediction is {prediction.text!r}; expected one line")
        json.dumps(prediction.record, allow_nan=False, default=_as_list)


def _require_pictures(task: Task, what: str, found: Sequence[Prediction]) -> None:
    shown = [any(isinstance(figure, Picture) for figure in prediction.figures) for prediction in found]
    if any(shown) and not task.shows_pictures:
        raise Failed(f"{what} gives pictures; shows_pictures is False and must be True")
    if task.shows_pictures and not all(shown):
        raise Failed(f"shows_pictures is True, and {what} gives an output without a Picture among its figures")


def _as_list(value: object) -> object:
    """Arrays of a record as JSON."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is no value of a record; expected JSON or arrays")


def _probe(bench: _Bench) -> float:
    probe = bench.task.probe(bench.exact, bench.params, bench.examples, bench.facts)
    if probe is None:
        return 0.0
    if not isinstance(probe, Probe):
        raise Failed(f"probe returns a {type(probe).__name__}; expected a Probe or None")
    length = min(PROBED, probe.longest())
    ends = np.array(probe.ends(length, 1)[:SIZE])
    if length < 1 or not len(ends):
        raise Failed(f"longest returns {probe.longest()} and ends({length}, 1) no positions; expected at least one")
    window = probe.window(ends, length, 1)
    _, ys = probe.cell.unroll(probe.params, window.carry, window.xs)
    shape = (length, len(ends), probe.cell.output_size)
    require_shape("the cell's output along a window", ys, shape)
    targets = probe.targets(ends, length)
    require_shape("the result of targets", targets, shape[:2] if probe.every_step else shape[1:2])
    losses = np.asarray(probe.loss(ys, targets))
    require_shape("the result of loss", losses, np.shape(targets))
    if not np.isfinite(losses).all():
        raise Failed("a loss along a window is not finite")
    worst = 0.0
    for i in range(len(ends)):
        alone = probe.window(ends[i : i + 1], length, 1)
        _, again = probe.cell.unroll(probe.params, alone.carry, alone.xs)
        what = "the window of a position has other outputs than in the window of several"
        worst = max(worst, compare(what, again, ys[:, i : i + 1], bench.allowed))
    if length == 1:  # there is no shorter window
        return worst
    later = probe.window(ends, length - 1, 2)
    _, again = probe.cell.unroll(probe.params, later.carry, later.xs)
    what = "a window that begins a step later ends in other outputs"
    return max(worst, compare(what, again[-1], ys[-1], bench.allowed))


_Checker = Callable[[_Bench], float | None]

_FIRST: dict[str, _Checker] = {
    "options": _options,
    "read": _read,
    "model": _model,
    "batch": _batch,
    "weight": _weight,
    "loss": _loss,
    "facts": _facts,
}

_EVERY: dict[str, _Checker] = {
    "batches": _batches,
    "units": _units,
    "read with facts": _with_facts,
    "rows": _rows,
    "padding": _padding,
    "dropout": _dropout,
    "purity": _purity,
    "carry": _carry,
    "float32": _float32,
    "learning": _learning,
    "metrics": _metrics,
    "evaluate": _evaluate,
    "held out": _held_out,
    "offers": _offers,
    "predictions": _predictions,
    "outputs": _outputs,
    "probe": _probe,
}

# --- shared by the checks --------------------------------------------------------------------------------------------


def _halves(bench: _Bench) -> tuple[slice, slice]:
    return slice(0, bench.size // 2), slice(bench.size // 2, bench.size)


@contextmanager
def _part_of(files: Sequence[str]) -> Iterator[list[str]]:
    """The first of several files, or a file with the first half of a single one."""
    with tempfile.TemporaryDirectory() as folder:
        if len(files) == 1 and Path(files[0]).is_file():
            content = Path(files[0]).read_bytes()
            middle = len(content) // 2
            half = Path(folder, Path(files[0]).name)
            half.write_bytes(content[: content.rfind(b"\n", 0, middle) + 1 or middle])
            yield [str(half)]
        else:
            yield list(files[:1])


def _candidates(bench: _Bench) -> list[Any]:
    """The first examples of a task that packs them."""
    some = bench.data.valid if bench.data.train is None else bench.data.train
    return [some[i] for i in range(min(len(some), CANDIDATES))]


def _unlike(bench: _Bench) -> list[Any]:
    """Some examples whose packed shapes differ, if there are such."""
    examples = _candidates(bench)
    shapes: dict[Any, Any] = {}
    for example in examples:
        shape = tuple(np.shape(leaf) for leaf in trees.leaves(bench.task.pack([example])[:2]))
        shapes.setdefault(shape, example)
    ordered = [shapes[shape] for shape in sorted(shapes)]
    if len(ordered) < 2:
        return examples[:UNLIKE]
    return [ordered[round(i * (len(ordered) - 1) / (UNLIKE - 1))] for i in range(UNLIKE)]


def _same_batch(one: Tree, other: Tree) -> bool:
    return trees.structure(one) == trees.structure(other) and same(one, other)


def _misfit(found: Tree, expected: Tree) -> str:
    """The first parameter with an unexpected shape, in words; empty if there is none."""
    here, there = ({path: np.shape(leaf) for path, leaf in trees.flatten(tree).items()} for tree in (found, expected))
    for path in sorted(here.keys() | there.keys()):
        if here.get(path) != there.get(path):
            now, before = (shapes.get(path, "missing") for shapes in (here, there))
            return f"parameter {path!r} is {now}; expected {before}"
    return ""


def _of_carry(path: str) -> str:
    return f"carry {path!r}" if path else "the carry"


def _described(leaf: Any) -> str:
    return f"{np.shape(leaf)} of {np.asarray(leaf).dtype}"


def _listed(names: Any) -> str:
    return ", ".join(sorted(names)) or "nothing"
