"""The ways in which people write a date. None of them can be read as another day."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable

# strftime would use the language of the machine.
_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July", "August"),
    *("September", "October", "November", "December"),
)
_WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_FIRST_ORDINALS = (
    *("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"),
    *("eleventh", "twelfth", "thirteenth", "fourteenth", "fifteenth", "sixteenth", "seventeenth"),
    *("eighteenth", "nineteenth"),
)
_SUFFIXES = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
# Two digits of a year are clear only for years near today.
_SHORT_YEARS = range(2000, 2030)


def written(day: datetime.date, rng: random.Random) -> str:
    """The day in a random writing. Where day and month could be confused, the text names the order."""
    writings = _WRITINGS
    if day.year in _SHORT_YEARS and rng.random() < _SHORT_YEAR_SHARE:
        writings = _SHORT_YEAR_WRITINGS
    return rng.choice(writings)(day)


def ordinal(number: int) -> str:
    """The number of a day as "3rd"."""
    return f"{number}{_SUFFIXES.get(number, 'th')}"


def ordinal_word(number: int) -> str:
    """The number of a day, 1 to 31, as "third"."""
    if number < 20:
        return _FIRST_ORDINALS[number - 1]
    tens, ones = divmod(number, 10)
    if not ones:
        return {2: "twentieth", 3: "thirtieth"}[tens]
    return f"{ {2: 'twenty', 3: 'thirty'}[tens] }-{_FIRST_ORDINALS[ones - 1]}"


def _month(day: datetime.date) -> str:
    return _MONTHS[day.month - 1]


def _short_month(day: datetime.date) -> str:
    return _month(day)[:3]


def _weekday(day: datetime.date) -> str:
    return _WEEKDAYS[day.weekday()]


_Writing = Callable[[datetime.date], str]

_WRITINGS: tuple[_Writing, ...] = (
    lambda d: f"the {ordinal(d.day)} of {_month(d)} {d.year}",
    lambda d: f"{_month(d)} {d.day}, {d.year}",
    lambda d: f"{_month(d)} {ordinal(d.day)}, {d.year}",
    lambda d: f"{d.day} {_month(d)} {d.year}",
    lambda d: f"{ordinal(d.day)} {_month(d)} {d.year}",
    lambda d: f"{_short_month(d)} {d.day}, {d.year}",
    lambda d: f"{d.day} {_short_month(d)} {d.year}",
    lambda d: f"{d.day:02}-{_short_month(d)}-{d.year}",
    lambda d: f"{d.day:02}{_short_month(d).upper()}{d.year}",
    lambda d: f"{_weekday(d)}, {d.day} {_month(d)} {d.year}",
    lambda d: f"{_weekday(d)}, {_month(d)} {d.day}, {d.year}",
    lambda d: f"{_weekday(d)[:3]} {d.day} {_short_month(d)} {d.year}",
    lambda d: f"{_month(d)} the {ordinal_word(d.day)} {d.year}",
    lambda d: f"the {ordinal_word(d.day)} of {_month(d)}, {d.year}",
    lambda d: f"the {ordinal(d.day)} day of {_month(d)} in the year {d.year}",
    lambda d: f"{d.year} {_month(d)} {d.day}",
    lambda d: f"{d.year}/{d.month:02}/{d.day:02}",
    lambda d: f"{d.day}.{d.month}.{d.year} (German style)",
    lambda d: f"{d.day:02}.{d.month:02}.{d.year} (German style)",
    lambda d: f"{d.month:02}/{d.day:02}/{d.year} (US format)",
    lambda d: f"{d.month}/{d.day}/{d.year} (US format)",
    lambda d: f"{d.day:02}/{d.month:02}/{d.year} (British format)",
    lambda d: f"{d.day}/{d.month}/{d.year} (day first)",
    lambda d: f"{d.month}-{d.day}-{d.year} (month first)",
    lambda d: f"{_month(d).lower()} {d.day} {d.year}",
)
_SHORT_YEAR_WRITINGS: tuple[_Writing, ...] = (
    lambda d: f"{_short_month(d)} {d.day}, '{d.year % 100:02}",
    lambda d: f"{d.day} {_month(d)} '{d.year % 100:02}",
    lambda d: f"{d.month}/{d.day}/{d.year % 100:02} (US format)",
    lambda d: f"{d.day}.{d.month}.{d.year % 100:02} (German style)",
)
_SHORT_YEAR_SHARE = 0.2
