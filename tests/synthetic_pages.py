"""Synthetic pages of reports with everything that is hard to draw."""

import numpy as np

from rnn_plugins.reports.report import Chart, Colouring, Curve, Image, Page, Quantity, Table

AWKWARD = "a <b>&amp;\"'[bold]x[/bold] $x^2$ \x1b[31m\x00\r\u202e 漢字"
"""Markup of five languages, an escape sequence, a turned direction, and symbols that few fonts have."""

LAGS = np.arange(101)


def decay() -> Chart:
    """Four subjects, each with what was measured and a bound."""
    curves: list[Curve] = []
    for place, (subject, rate) in enumerate({"rnn": 0.6, "irnn": 1.02, "lstm": 0.97, "gru": 0.93}.items()):
        y = rate ** LAGS.astype(float)
        curves += [
            Curve(f"{subject}, mean", LAGS, y, y * 0.3, y * 2.5, style=place),
            Curve(f"{subject}, bound", LAGS, 2 * (rate * 1.05) ** LAGS, role="bound", style=place),
        ]
    return Chart(
        "decay",
        "Gradient by time lag",
        "lag k in steps",
        "mean |dL_t/dh_{t-k}|",
        tuple(curves),
        log_y=True,
        definition="For each lag k, the norm of the gradient of the loss at t with respect to the state at t - k.",
    )


def awkward_chart(log_x: bool = False, log_y: bool = True) -> Chart:
    """NaN, infinity, zero, nothing at all, a lone point, every role, and labels that are too long."""
    x = np.arange(8.0)
    y = np.array([1.0, np.nan, 1e-3, 0.0, np.inf, 2.0, -1.0, 5.0])
    return Chart(
        "awkward",
        f"Awkward {AWKWARD}",
        f"x {AWKWARD}",
        "y",
        (
            Curve(AWKWARD, x, y, np.zeros(8), y * 2),
            Curve("empty", np.empty(0), np.empty(0)),
            Curve("only NaN", x, np.full(8, np.nan)),
            Curve("one point", np.array([3.0]), np.array([0.5])),
            Curve(
                "a reference whose name goes on and on until it fills more than a line of any terminal or picture",
                x,
                np.full(8, 0.1),
                role="reference",
            ),
            Curve("points", x, 2.0**-x, role="points"),
            Curve("steps", x, x + 0.5, role="steps"),
        ),
        log_x=log_x,
        log_y=log_y,
        definition=f"All of it {AWKWARD}.",
    )


def histogram() -> Chart:
    """One curve without a name, in limits."""
    edges = np.linspace(-1, 1, 21)
    counts = np.append(np.exp(-4 * edges[:-1] ** 2), 0)
    return Chart(
        "histogram",
        "Singular values",
        "singular value",
        "share",
        (Curve("", edges, counts, role="steps"),),
        y_limits=(0.0, 1.2),
    )


def matrix(rows: int = 12, columns: int = 12, log: bool = True, words: bool = True) -> Image:
    """A triangle of values, with zeros and NaN above it."""
    i, j = np.mgrid[:rows, :columns]
    values = np.where(j <= i, 0.8 ** np.abs(i - j), np.where(j % 2, np.nan, 0.0))
    symbols = "the\n漢\t\x1b$a$ <b>&"
    return Image(
        f"matrix{rows}",
        "Gradient by source and loss",
        "source position",
        "loss position",
        values,
        "|dL_t/dh_k|",
        tuple(symbols[k % len(symbols)] for k in range(columns)) if words else (),
        tuple(symbols[k % len(symbols)] for k in range(rows)) if words else (),
        log,
        "Rows are positions of the loss, columns those of the state.",
    )


def coloured(low: float = -1.0) -> Colouring:
    """A text with line feeds, a tab, an escape, wide symbols and NaN."""
    text = "\\begin{align}\n\tx <b>&amp; 漢字 [bold]\x1b[2J e\u0301nd\n" * 4 + "x" * 100
    values = np.sin(np.arange(len(text)) / 5)
    values[::17] = np.nan
    return Colouring("colouring", "Unit h.3", tuple(text), values, low, 1.0, "activation of h.3", "One unit's value.")


def table() -> Table:
    """Numbers, words and None."""
    return Table(
        "layers",
        f"By layer {AWKWARD}",
        ("parameter", "gradient norm", "update / weight"),
        (("recurrent.W", 0.0123456, 1e-7), (AWKWARD, None, 12345.678), ("bias", 3, float("nan"))),
        "A row a parameter.",
    )


def flow() -> Page:
    """Four subjects and one that failed."""
    subjects = ("rnn", "irnn", "lstm", "gru")
    quantities = {
        subject: (
            Quantity("half_life", "half-life", value, "steps", "Steps in which the norm halves."),
            Quantity(
                "one_percent",
                "lag at 1 %",
                value and round(6.6 * value),
                "steps",
                "Where it has fallen to 1 %.",
                "not within 100",
            ),
            Quantity("growth", "growth per step", None if value is None else 0.5 ** (1 / value), "", "A factor."),
        )
        for subject, value in zip(subjects, (1.357, None, 22.8, 9.55), strict=True)
    }
    verdict = {
        subject: (
            f"The gradient of {subject} vanishes: half-life 6 steps, while half of this text's brackets close "
            "later than 40.",
            "Try --cell gru, or recurrent_scale 1.2.",
        )
        for subject in subjects
    }
    return Page(
        "flow",
        "Gradient flow",
        "How far back in time does the gradient reach?",
        (*subjects, "odd"),
        quantities,
        (decay(), histogram(), matrix()),
        verdict,
        ("lstm: only 800 positions, for the text ends there.",),
        {"odd": "its state is no number, so that no gradient reaches it; leave it out"},
    )


def awkward() -> Page:
    """One subject, with everything that must be escaped."""
    return Page(
        "awkward",
        AWKWARD,
        f"What of {AWKWARD}?",
        (AWKWARD,),
        {
            AWKWARD: (
                Quantity("odd", AWKWARD, AWKWARD, AWKWARD, AWKWARD, AWKWARD),
                Quantity("nan", "nan", float("nan")),
                Quantity("inf", "inf", float("inf")),
                Quantity("count", "count", 1234567, "symbols"),
            )
        },
        (
            awkward_chart(),
            awkward_chart(log_x=True, log_y=False),
            matrix(36, 90, log=False, words=False),
            coloured(),
            table(),
        ),
        {AWKWARD: (f"{AWKWARD} is odd.",)},
        (AWKWARD,),
        {},
    )
