"""Dates in many formats and languages with their ISO 8601 forms: a small task of translation, made without files."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date

import numpy as np

from rnn_plugins.errors import UserError
from rnn_plugins.words import is_whole

COUNT = 20_000
"""Pairs by default."""

FIRST, LAST = date(1950, 1, 1), date(2049, 12, 31)
"""Exactly a hundred years, so that two digits determine a year."""

MONTHS = {
    "en": "January February March April May June July August September October November December",
    "fr": "janvier février mars avril mai juin juillet août septembre octobre novembre décembre",
    "de": "Januar Februar März April Mai Juni Juli August September Oktober November Dezember",
    "ru": "января февраля марта апреля мая июня июля августа сентября октября ноября декабря",
    "en_short": "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec",
    "ru_short": "янв. фев. мар. апр. мая июн. июл. авг. сен. окт. ноя. дек.",
}

DAYS = {
    "en": "Monday Tuesday Wednesday Thursday Friday Saturday Sunday",
    "fr": "lundi mardi mercredi jeudi vendredi samedi dimanche",
    "ru": "понедельник вторник среда четверг пятница суббота воскресенье",
}

FORMATS = (
    "{en} {d}, {y}",
    "{en_short} {d}, {y}",
    "{en} {ordinal}, {y}",
    "{d} {en} {y}",
    "{d} {en_short} {y}",
    "{d} {en_short} '{yy:02}",
    "the {ordinal} of {en}, {y}",
    "{en_day}, {en} {d}, {y}",
    "{d}-{en_short}-{yy:02}",
    "{m:02}/{d:02}/{yy:02}",
    "{m}/{d}/{y}",
    "{d:02}.{m:02}.{y}",
    "{d}.{m}.{yy:02}",
    "{y}/{m:02}/{d:02}",
    "{y}{m:02}{d:02}",
    "{d}. {de} {y}",
    "{d} {fr} {y}",
    "{fr_day} {d} {fr} {y}",
    "{d} {ru} {y} г.",
    "{d} {ru_short} {y}",
    "{ru_day}, {d} {ru} {y} г.",
)
"""With slashes the month comes first, with points the day."""


def dates(name: str) -> Iterator[tuple[str, str]]:
    """Pairs such as ``("3 мар. 2021", "2021-03-03")``.

    Args:
        name: ``dates``, ``dates:COUNT`` or ``dates:COUNT:SEED``.

    Raises:
        UserError: the name is another one.
    """
    kind, *numbers = name.split(":")
    if kind != "dates" or len(numbers) > 2 or not all(map(is_whole, numbers)):
        raise UserError(
            f"'builtin:{name}' is not understood; it takes builtin:dates, builtin:dates:COUNT or "
            "builtin:dates:COUNT:SEED, such as builtin:dates:20000"
        )
    count, seed = [*map(int, numbers), *(COUNT, 0)[len(numbers) :]]
    if not count:
        raise UserError(f"'builtin:{name}' asks for 0 pairs; expected 1 at least")
    rng = np.random.default_rng(seed)
    days = rng.integers(FIRST.toordinal(), LAST.toordinal() + 1, count)
    for day, form in zip(days.tolist(), rng.integers(len(FORMATS), size=count).tolist(), strict=True):
        when = date.fromordinal(day)
        yield written(when, FORMATS[form]), when.isoformat()


def written(when: date, form: str) -> str:
    """A date in one of the formats."""
    months = {language: names.split()[when.month - 1] for language, names in MONTHS.items()}
    days = {f"{language}_day": names.split()[when.weekday()] for language, names in DAYS.items()}
    d = when.day
    ending = "th" if d in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(d % 10, "th")
    return form.format(y=when.year, yy=when.year % 100, m=when.month, d=d, ordinal=f"{d}{ending}", **months, **days)
