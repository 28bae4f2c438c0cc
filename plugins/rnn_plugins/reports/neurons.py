"""Which single units of a network follow something that a reader sees in the text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_cells.anatomy import Anatomy
from rnn_plugins.data.features import features
from rnn_plugins.data.vocabulary import NOUNS, Vocabulary
from rnn_plugins.errors import UserError, did_you_mean
from rnn_plugins.reports.probing import observe
from rnn_plugins.reports.report import Colouring, Findings, Look, Quantity, Report, Table
from rnn_plugins.reports.subject import Subject, language_of
from rnn_plugins.words import amount, listing

Array: TypeAlias = NDArray[Any]

MORE = 8
"""Symbols that are measured for each of ``Look.positions``: this report reads them one after another."""

STRETCH = 1000
"""Symbols of each of the windows of text that are read side by side."""

WARM_UP = 500
"""Symbols that are read before each of them, and not measured."""

MOST = 1_000_000
"""Symbols of a longer text that the stretches are taken from."""

SHIFTS = 20
"""How many times the search is repeated with the text moved along, to see what chance finds."""

LEAST, CLEARLY = 0.3, 0.1
"""A finding is a correlation of at least the one, and above what chance finds, and the symbol tells, by the other."""

RARE = 0.01
"""The share of a text in which a feature must be other than it is most of the time, to be looked for."""

MEAN = ", mean over units"
"""The end of the name of a gate's mean."""

SHOWN, COLOURED = 600, 4
"""Characters of a coloured text, and how many texts are coloured where nobody asks for units."""


@dataclass(frozen=True)
class Reading:
    """A text, what can be seen in it and what a network computed along it.

    Attributes:
        tokens: (N,), windows of ``length`` symbols one after another.
        length: of a stretch.
        names: of the units.
        units: (N, U), after each symbol.
        features: of each (N,), after each symbol; those that vary.
        chosen: what was asked for, units of states and activations and means of activations, (N,) each, by name.
    """

    tokens: Array
    length: int
    names: tuple[str, ...]
    units: Array
    features: Mapping[str, Array]
    chosen: Mapping[str, Array] = field(default_factory=dict)


@dataclass(frozen=True)
class Search:
    """What a search over units has found.

    Attributes:
        correlation: (F, U), Pearson's, of each feature with each unit.
        chance: (F,), the largest absolute one that any unit has when the feature is moved along the text.
        symbol: (F,), how well the symbol that was just read tells the feature: a correlation too.
    """

    correlation: Array
    chance: Array
    symbol: Array

    @cached_property
    def best(self) -> Array:
        """(F, U), the units in the order of the absolute value of their correlation."""
        order: Array = np.argsort(-np.abs(self.correlation), axis=1, kind="stable")
        return order

    @cached_property
    def found(self) -> Array:
        """(F,), whether the best unit is clearly above both."""
        largest = np.abs(self.correlation).max(axis=1)
        above: Array = (largest >= LEAST) & (largest >= np.maximum(self.chance, self.symbol) + CLEARLY)
        return above


def read_text(subject: Subject, positions: int, units: Sequence[str] = (), gates: Sequence[str] = ()) -> Reading:
    """Read windows of a text, spread evenly over it, and keep all states.

    Args:
        subject: the language model, with its text.
        positions: as in ``Look``.
        units: as in ``Look``.
        gates: likewise.

    Raises:
        UserError: there is no text or it is too short, the cell carries nothing, or there is no such unit or gate.
    """
    vocabulary, probe = language_of(subject, "neurons").vocabulary, subject.probe
    states = probe.anatomy.states
    if not states:
        raise UserError("the cell carries no state from step to step, so there are no units to search")
    _require(probe.anatomy, units, gates)
    shown = [part for part in probe.anatomy.activations if part.label in {*gates, *(_split(unit)[0] for unit in units)}]
    tokens = subject.examples[:MOST]
    if len(tokens) < 100:
        raise UserError(f"the text has {len(tokens)} symbols, too few to search for units: give one of 100 or more")
    warm_up = min(WARM_UP, len(tokens) // 5)
    length = min(STRETCH, positions * MORE, len(tokens) - warm_up)
    count = max(1, min(positions * MORE, len(tokens)) // (warm_up + length))
    starts = np.linspace(0, len(tokens) - warm_up - length, count).astype(np.intp)
    read = starts + np.arange(warm_up + length)[:, None]  # (T, B)
    seen = observe(probe, probe.window(read[-1] + 1, length, warm_up), [part.op for part in shown])
    measured = read[warm_up:].T.reshape(-1)

    def flat(arrays: Sequence[Array]) -> list[Array]:
        return [np.asarray(array).swapaxes(0, 1).reshape(len(measured), -1) for array in arrays]

    carried = flat(seen.states)
    names = [f"{state.label}.{i}" for state, array in zip(states, carried, strict=True) for i in range(array.shape[1])]
    parts = {part.label: array for part, array in zip(shown, flat(seen.activations), strict=True)}
    parts |= {state.label: array for state, array in zip(states, carried, strict=True)}
    chosen = {unit: parts[label][:, index] for unit in units for label, index in [_split(unit)]}
    chosen |= {f"{gate}{MEAN}": parts[gate].mean(axis=1) for gate in gates}
    text, last = _characters(vocabulary, tokens)
    seen_of = {name: values[last[measured]] for name, values in features(text).items()}
    varying = {name: values for name, values in seen_of.items() if _varies(values)}
    return Reading(tokens[measured], length, tuple(names), np.concatenate(carried, axis=1), varying, chosen)


def _varies(values: Array) -> bool:
    _, counts = np.unique(values, return_counts=True)
    return bool(counts.max() <= (1 - RARE) * len(values))


def _characters(vocabulary: Vocabulary, tokens: Array) -> tuple[str, Array]:
    """A text, and for each of its symbols the place of its last character.

    At level ``byte`` a byte is a character: all signs that features are read off are ASCII, but a few quotation marks.
    """
    if vocabulary.level == "byte":
        return tokens.astype(np.uint8).tobytes().decode("latin-1"), np.arange(len(tokens))
    sizes = np.array([len(symbol) for symbol in vocabulary.symbols])
    return vocabulary.decode(tokens), np.cumsum(sizes[tokens]) - 1


def correlations(features: Array, units: Array) -> Array:
    """Pearson's correlation of features (N, F) with units (N, U), (F, U); 0 with what does not vary."""
    left, right = _standardised(features), _standardised(units)
    product: Array = left.T @ right
    return product


def _standardised(values: Array) -> Array:
    """Columns with mean 0 and norm 1; 0 where there is nothing but rounding."""
    values = np.array(values, np.float64)  # a copy, the only one: there may be many units
    before = _norms(values)
    values -= values.mean(axis=0)
    norms = _norms(values)
    values /= np.where(norms > 1e-6 * before, norms, np.inf)
    return values


def _norms(columns: Array) -> Array:
    """Euclidean norms of columns, without a copy of them."""
    norms: Array = np.sqrt(np.einsum("nf,nf->f", columns, columns))
    return norms


def ranks(values: Array) -> Array:
    """The rank of each of N numbers, equal ones sharing the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    mean: Array = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    return mean


def search(reading: Reading, seed: int = 0) -> Search:
    """Correlate every unit with every feature, and say what chance and the symbol alone would give.

    Chance: the largest absolute correlation of any unit over some random offsets, at which the features are held
    against the units of another part of the text. The symbol: the square root of the share of the feature's variance
    that the symbol explains, less what as many groups explain by chance (adjusted for its degrees of freedom).
    """
    values = np.stack(list(reading.features.values()), axis=1)  # (N, F)
    count = len(values)
    offsets = np.random.default_rng(seed).integers(count // 4, count - count // 4, SHIFTS)
    units, here = _standardised(reading.units), _standardised(values)
    chance = np.stack([np.abs(np.roll(here, offset, axis=0).T @ units).max(axis=1) for offset in offsets])
    _, groups = np.unique(reading.tokens, return_inverse=True)
    sizes = np.bincount(groups)
    sums = np.stack([np.bincount(groups, column) for column in here.T], axis=1)
    explained = (sums**2 / sizes[:, None]).sum(axis=0)  # of a variance of 1
    adjusted = 1 - (1 - explained) * (count - 1) / max(count - len(sizes), 1)
    return Search(here.T @ units, chance.max(axis=0), np.sqrt(np.clip(adjusted, 0, 1)))


class Neurons(Report):
    """Single units that follow something readable, such as the position in the line.

    A search over the units of all states for those that correlate with what a reader sees in the text, and the text
    coloured by them (Karpathy, Johnson and Fei-Fei 2015, arXiv:1506.02078).
    """

    title: ClassVar[str] = "Neurons"
    question: ClassVar[str] = "Is there a unit that follows something readable: line, quotes, brackets, environments?"

    def memory(self, subject: Subject, look: Look) -> int:
        """For the states after each symbol, as they are computed and as they are kept, and then in float64.

        Raises:
            UserError: it is no language model.
        """
        language_of(subject, "neurons")
        units = sum(state.size for state in subject.probe.anatomy.states)
        read = min(look.positions * MORE, MOST, len(subject.examples))
        return read * units * (2 * np.dtype(subject.probe.dtype).itemsize + np.dtype(np.float64).itemsize)

    def measure(self, subject: Subject, look: Look) -> Findings:
        """Measure one language model.

        Raises:
            UserError: it is none, the text is too short or has nothing to follow, or there are no units, or no unit or
                gate of that name.
        """
        vocabulary = language_of(subject, "neurons").vocabulary
        reading = read_text(subject, look.positions, look.units, look.gates)
        if not reading.features:
            raise UserError(
                "the text has nothing that a unit could follow: no lines, words, quotes, brackets or environments"
            )
        result = search(reading, look.seed)
        what = f"over {len(reading.tokens):,} {NOUNS[vocabulary.level]}s of the text"
        figures = [_table(reading, result, what)]
        if reading.chosen:
            figures.append(_chosen(reading, result))
        strong = np.abs(result.correlation).max(axis=1)
        quantities = [
            Quantity("followed", "features that a unit follows", int(result.found.sum()), "", _definition(what)),
            Quantity(
                "looked_for",
                "features that were searched for",
                len(reading.features),
                "",
                "Those that vary in the text.",
            ),
            *(
                Quantity(
                    f"best_{name.replace(' ', '_')}",
                    name,
                    float(value),
                    "",
                    f"The largest absolute correlation that any unit has with it, {what}.",
                )
                for name, value in zip(reading.features, strong, strict=True)
            ),
        ]
        colourings = _colourings(reading, result, vocabulary)
        return Findings(tuple(quantities), (*figures, *colourings), _verdict(reading, result))


def _split(unit: str) -> tuple[str, int]:
    """The state or activation of a unit's name, and its index; -1 where the name has none."""
    label, _, index = unit.rpartition(".")
    return label, int(index) if index.isascii() and index.isdecimal() else -1


def _require(parts: Anatomy, units: Sequence[str], gates: Sequence[str]) -> None:
    """Check the names of units and gates.

    Raises:
        UserError: there is none of that name.
    """
    activations = {part.label: part.size for part in parts.activations}
    sizes = {state.label: state.size for state in parts.states} | activations
    for unit in units:
        label, index = _split(unit)
        if unit in sizes:
            mean = f"; --gate {unit} shows the mean over all" if unit in activations else ""
            raise UserError(f"{unit!r} has {amount(sizes[unit], 'unit')}: name one, such as {unit}.0{mean}")
        if not 0 <= index < sizes.get(label, 0):
            there = listing([f"{name}.0 to {name}.{size - 1}" for name, size in sizes.items()])
            known = [f"{name}.{place}" for name, size in sizes.items() for place in range(size)]
            raise UserError(f"there is no unit {unit!r}.{did_you_mean(unit, known)} There are {there}")
    for gate in gates:
        if gate not in activations:
            reason = parts.reason and f", because its step cannot be traced: {parts.reason}"
            there = f" There are {listing(activations)}" if activations else f" The cell has none{reason}"
            raise UserError(f"there is no gate {gate!r}.{did_you_mean(gate, activations)}{there}")


def _definition(what: str) -> str:
    return (
        f"Features of the text with a unit whose correlation (Pearson's, {what}) is at least {LEAST:g} in size, and by "
        f"{CLEARLY:g} above both what chance finds and what the symbol that was just read predicts."
    )


def _table(reading: Reading, result: Search, what: str) -> Table:
    rows = []
    for f, (name, values) in enumerate(reading.features.items()):
        first, *others = result.best[f][:2].tolist()
        rows.append(
            (
                name,
                reading.names[first],
                float(result.correlation[f, first]),
                _rank_correlation(values, reading.units[:, first]),
                ", ".join(f"{reading.names[u]} {result.correlation[f, u]:.2f}" for u in others) or None,
                float(result.chance[f]),
                float(result.symbol[f]),
                "yes" if result.found[f] else "no",
            )
        )
    return Table(
        "features",
        "The best unit for each feature of the text",
        ("FEATURE", "UNIT", "r", "RANK r", "NEXT", "CHANCE", "SYMBOL", "FOLLOWS"),
        tuple(rows),
        f"r is Pearson's correlation {what}, RANK r Spearman's. CHANCE is the largest that any unit has when the "
        f"feature is moved along the text, {SHIFTS} times by random offsets; SYMBOL is how well the symbol that was "
        f"just read predicts the feature (adjusted multiple correlation). A unit follows a feature if r is at least "
        f"{LEAST:g} in size and {CLEARLY:g} above both.",
    )


def _rank_correlation(feature: Array, unit: Array) -> float:
    return float(correlations(ranks(feature)[:, None], ranks(unit)[:, None])[0, 0])


def _chosen(reading: Reading, result: Search) -> Table:
    rows = []
    for name, values in reading.chosen.items():
        feature, r, f = _best_feature(reading, values)
        rank = 1 + int((np.abs(result.correlation[f]) > abs(r) + 1e-12).sum())
        rows.append(
            (
                name,
                feature,
                r,
                _rank_correlation(reading.features[feature], values),
                f"{rank:,} of {len(reading.names):,}" if name in reading.names else "-",
            )
        )
    return Table(
        "units",
        "The best feature for each chosen unit",
        ("UNIT", "FEATURE", "r", "RANK r", "POSITION"),
        tuple(rows),
        "POSITION is the unit's among all units of states, ordered by the size of their correlation with that feature.",
    )


def _best_feature(reading: Reading, values: Array) -> tuple[str, float, int]:
    """The feature that has the largest correlation with some values (N,), that, and the feature's place."""
    found = correlations(np.stack(list(reading.features.values()), axis=1), values[:, None])[:, 0]
    place = int(np.abs(found).argmax())
    return list(reading.features)[place], float(found[place]), place


def _colourings(reading: Reading, result: Search, vocabulary: Vocabulary) -> list[Colouring]:
    """Texts coloured by what was chosen, or by the best unit of each feature that one follows, the clearest first."""
    pairs: dict[str, tuple[Array, str, float]] = {}
    for name, values in reading.chosen.items():
        feature, r, _ = _best_feature(reading, values)
        pairs[name] = values, feature, r
    strong, names = np.abs(result.correlation).max(axis=1), list(reading.features)
    for f in [] if reading.chosen else np.argsort(-strong, kind="stable").tolist():
        if result.found[f] and len(pairs) < COLOURED:
            unit = int(result.best[f, 0])
            pairs.setdefault(
                reading.names[unit], (reading.units[:, unit], names[f], float(result.correlation[f, unit]))
            )
    figures = []
    for name, (values, feature, r) in pairs.items():
        values = values.astype(np.float64)
        some = _stretch(reading, reading.features[feature], vocabulary)
        low, high = np.quantile(values, [0.01, 0.99]).tolist()
        if high <= low:
            low, high = low - 1, high + 1
        carried = name in reading.names
        when = "after each symbol" if carried else "at each symbol"
        what = "after each symbol was read" if carried else "in the step that reads each symbol"
        figures.append(
            Colouring(
                f"unit_{name.removesuffix(MEAN)}",
                f"{name}, which has a correlation of {r:.2f} with: {feature}",
                tuple(vocabulary.symbols[token] for token in reading.tokens[some].tolist()),
                values[some],
                low,
                high,
                f"{name} {when}",
                f"The value {what}; the colours are full at its 1 % and 99 % quantiles.",
            )
        )
    return figures


def _stretch(reading: Reading, feature: Array, vocabulary: Vocabulary) -> slice:
    """A piece of the text in which a feature varies much, from the beginning of a line where there are lines."""
    mean = vocabulary.measure(reading.tokens)[0] / len(reading.tokens)
    length = min(max(1, round(SHOWN / max(mean, 1e-9))), reading.length)
    ends_line = np.array([symbol.endswith("\n") for symbol in vocabulary.symbols])[reading.tokens]
    starts = np.flatnonzero(np.append(True, ends_line[:-1]))
    starts = starts[starts % reading.length <= reading.length - length]  # within one stretch that was read
    # Of pieces that start in the same stretch many overlap; a few of them are enough to choose from.
    candidates = starts[:: max(1, len(starts) // 200)].tolist()
    best = max(candidates, key=lambda start: float(np.std(feature[start : start + length])))
    return slice(best, best + length)


def _verdict(reading: Reading, result: Search) -> tuple[str, ...]:
    names, strong = list(reading.features), np.abs(result.correlation).max(axis=1)
    sentences = []
    for f in np.argsort(-strong, kind="stable").tolist():
        if result.found[f]:
            unit = int(result.best[f, 0])
            sentences.append(
                f"{reading.names[unit]} follows {_article(names[f])}: a correlation of "
                f"{result.correlation[f, unit]:.2f}, where chance finds {result.chance[f]:.2f} and the symbol alone "
                f"predicts {result.symbol[f]:.2f}."
            )
    if not sentences:
        return (
            f"No single unit follows any of {len(names)} features clearly better than chance, or than the symbol "
            "just read; what the network knows of them is spread over many units.",
        )
    return tuple(sentences)


def _article(name: str) -> str:
    if name.startswith(("position", "nesting", "indentation")):
        return f"the {name}"
    return name if name.startswith("an ") else f"whether it is {name}"
