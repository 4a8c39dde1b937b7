"""The pairs of units, and the numbers that are converted between them."""

from __future__ import annotations

import random
from dataclasses import dataclass

from examples.smollm2.question import Part, part_of


@dataclass(frozen=True)
class Conversion:
    """One `source` is `factor` of `target`; or, if `divides`, one `target` is `factor` of `source`."""

    source: str
    target: str
    factor: int
    divides: bool = False
    # Steps of ten are easy for any number, other factors only for small ones.
    max_number: int = 999


@dataclass(frozen=True)
class Amount:
    """A number of units to convert, and the number that comes out."""

    conversion: Conversion
    number: str
    result: str

    def text(self, rng: random.Random) -> str:
        """The number with its unit in one of the unit's names."""
        names = names_of(self.conversion.source, singular=self.number == "1", plural=self.number != "1")
        return f"{self.number} {rng.choice(names)}"


def draw_amount(rng: random.Random, part: Part, conversion: Conversion | None) -> Amount:
    """A random number of the part to convert; `conversion`: between these units."""
    while True:
        drawn = conversion or _draw_conversion(rng)
        amount = _draw_number(drawn, rng)
        if part_of(f"{amount.number} {drawn.source} in {drawn.target}") == part:
            return amount


def names_of(unit: str, *, singular: bool = False, plural: bool = True) -> tuple[str, ...]:
    """The names of a unit: its symbol if it has one, and its names in full."""
    symbol, words = _NAMES[unit]
    singulars = tuple(word for word, _ in words) if singular else ()
    plurals = tuple(word for _, word in words) if plural else ()
    return (*((unit,) if symbol else ()), *singulars, *plurals)


def _draw_conversion(rng: random.Random) -> Conversion:
    if rng.random() < _SMALL_SHARE:
        return rng.choice(_SMALL)
    return rng.choice(_TENS)


def _draw_number(conversion: Conversion, rng: random.Random) -> Amount:
    """Numbers are kept as tenths, because floating point numbers would be written with errors."""
    if conversion.max_number < 999:
        tenths = 10 * rng.randint(1, conversion.max_number)
    elif rng.random() < _DECIMAL_SHARE:
        tenths = rng.randint(1, 999)
    else:
        tenths = 10 * rng.randint(1, rng.choice((99, 999)))
    small, large = _written(tenths), _written(tenths * conversion.factor)
    return Amount(conversion, large, small) if conversion.divides else Amount(conversion, small, large)


def _written(tenths: int) -> str:
    whole, tenth = divmod(tenths, 10)
    return f"{whole}.{tenth}" if tenth else str(whole)


def _words(*names: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, name + "s") for name in names)


_SMALL_SHARE = 0.25
_DECIMAL_SHARE = 0.3
# Every unit with whether its own name is a symbol, and its full names as (singular, plural).
_NAMES: dict[str, tuple[bool, tuple[tuple[str, str], ...]]] = {
    "km": (True, _words("kilometre", "kilometer")),
    "m": (True, _words("metre", "meter")),
    "dm": (True, _words("decimetre", "decimeter")),
    "cm": (True, _words("centimetre", "centimeter")),
    "mm": (True, _words("millimetre", "millimeter")),
    "t": (True, _words("tonne")),
    "kg": (True, _words("kilogram", "kilo")),
    "g": (True, _words("gram")),
    "mg": (True, _words("milligram")),
    "l": (True, _words("litre", "liter")),
    "dl": (True, _words("decilitre", "deciliter")),
    "cl": (True, _words("centilitre", "centiliter")),
    "ml": (True, _words("millilitre", "milliliter")),
    "kB": (True, _words("kilobyte")),
    "MB": (True, _words("megabyte")),
    "GB": (True, _words("gigabyte")),
    "kW": (True, _words("kilowatt")),
    "W": (True, _words("watt")),
    "bytes": (False, _words("byte")),
    "euros": (False, _words("euro")),
    "dollars": (False, _words("dollar")),
    "cents": (False, _words("cent")),
    "seconds": (False, _words("second")),
    "minutes": (False, _words("minute")),
    "hours": (False, _words("hour")),
    "days": (False, _words("day")),
    "weeks": (False, _words("week")),
    "months": (False, _words("month")),
    "years": (False, _words("year")),
    "dozens": (False, _words("dozen")),
    "pieces": (False, (("piece", "pieces"),)),
    "feet": (False, (("foot", "feet"),)),
    "inches": (False, (("inch", "inches"),)),
}
UNITS = tuple(_NAMES)
_TENS = (
    *(Conversion("km", "m", 1000), Conversion("m", "km", 1000, divides=True)),
    *(Conversion("m", "cm", 100), Conversion("cm", "m", 100, divides=True)),
    *(Conversion("cm", "mm", 10), Conversion("mm", "cm", 10, divides=True)),
    *(Conversion("m", "mm", 1000), Conversion("m", "dm", 10)),
    *(Conversion("t", "kg", 1000), Conversion("kg", "t", 1000, divides=True)),
    *(Conversion("kg", "g", 1000), Conversion("g", "kg", 1000, divides=True)),
    Conversion("g", "mg", 1000),
    *(Conversion("l", "ml", 1000), Conversion("ml", "l", 1000, divides=True)),
    *(Conversion("l", "dl", 10), Conversion("l", "cl", 100)),
    *(Conversion("kB", "bytes", 1000), Conversion("MB", "kB", 1000), Conversion("GB", "MB", 1000)),
    Conversion("kW", "W", 1000),
    *(Conversion("euros", "cents", 100), Conversion("dollars", "cents", 100)),
)
_SMALL = (
    Conversion("hours", "minutes", 60, max_number=30),
    Conversion("minutes", "seconds", 60, max_number=30),
    Conversion("days", "hours", 24, max_number=30),
    Conversion("weeks", "days", 7, max_number=30),
    Conversion("years", "months", 12, max_number=30),
    Conversion("dozens", "pieces", 12, max_number=30),
    Conversion("feet", "inches", 12, max_number=30),
)
