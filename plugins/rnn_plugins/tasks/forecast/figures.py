"""Tables and charts of forecasts of series."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rnn_plugins.data.series import Series
from rnn_plugins.reports.report import Chart, Curve, Table
from rnn_plugins.words import amount

Array: TypeAlias = NDArray[Any]


def by_column(errors: Mapping[str, Array], columns: Sequence[str], units: Sequence[float]) -> Table:
    """The mean absolute error of each column, in its own units.

    Args:
        errors: (H, M, F), in multiples of the units, by whose they are.
        columns: F names.
        units: F numbers.
    """
    horizon, count, _ = next(iter(errors.values())).shape
    means = [np.abs(some).mean(axis=(0, 1)) * units for some in errors.values()]
    return Table(
        "columns",
        "Mean absolute error by column",
        ("COLUMN", *(name.upper() for name in errors)),
        tuple((name, *(float(mean[i]) for mean in means)) for i, name in enumerate(columns)),
        f"Means over {amount(count, 'forecast')} of {amount(horizon, 'step')}, in the units of each column.",
    )


def by_step(errors: Mapping[str, Array]) -> Chart:
    """The mean absolute error against the steps ahead; the first of ``errors``, (H, M, F) each, is the network's."""
    horizon, count, _ = next(iter(errors.values())).shape
    curves = [
        Curve(
            name, np.arange(1, horizon + 1), np.abs(some).mean(axis=(1, 2)), role="reference" if place else "measured"
        )
        for place, (name, some) in enumerate(errors.items())
    ]
    return Chart(
        "ahead",
        "The error by steps ahead",
        "steps ahead",
        "mean absolute error, standard deviations",
        tuple(curves),
        definition=f"The mean over {amount(count, 'forecast')}, for each number of steps ahead.",
    )


def ahead(one: Series, forecast: Array, before: Array | None, place: int, column: str) -> Chart:
    """The end of a series, and what is forecast.

    Args:
        one: the series, (N, F).
        forecast: the next values, (H, F).
        before: what is forecast of the last H known values; None if there are too few before them.
        place: the column.
        column: its name.
    """
    values, horizon = one.values[:, place], len(forecast)
    curves = [
        Curve("series", np.arange(1 - len(values), 1), values),
        Curve("forecast", np.arange(1, horizon + 1), forecast[:, place]),
    ]
    words = ""
    if before is not None:
        curves.append(Curve("forecast of what is known", np.arange(1 - horizon, 1), before[:, place], role="reference"))
        words = f", and the forecast of the last {amount(horizon, 'step')} from those before them"
    return Chart(
        f"forecast.{column}",
        f"{one.name}: {column}",
        "steps after the end",
        column,
        tuple(curves),
        definition=f"The end of the series and the forecast of the next {amount(horizon, 'step')}{words}.",
    )
