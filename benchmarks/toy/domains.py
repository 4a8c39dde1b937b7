"""Six domains of questions with one right answer each, split into training and held-out questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.toy.facts import CAPITALS, ELEMENTS, MONTH_LENGTHS, MONTHS, MORSE, WEEKDAYS
from benchmarks.toy.question import HELD_OUT_SHARE, VALIDATION_SHARE, Part, Question, Split, fraction


def domain_split(domain: str) -> Split:
    """All questions of one domain, without greetings. Raises KeyError for an unknown domain."""
    parts: dict[str, list[Question]] = {part: [] for part in ("train", "validation", "held_out")}
    for item in DOMAINS[domain]():
        parts[item.part].append(Question(domain, item.text, item.answer))
    return Split(**{part: tuple(questions) for part, questions in parts.items()})


def roman_numeral(number: int) -> str:
    numerals = ["M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I"]
    values = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
    text = ""
    for value, numeral in zip(values, numerals, strict=True):
        count, number = divmod(number, value)
        text += numeral * count
    return text


@dataclass(frozen=True)
class _Item:
    text: str
    answer: str
    part: Part


def _roman() -> Iterator[_Item]:
    phrasings = (
        "What is {} in Roman numerals?",
        "Write {} in Roman numerals.",
        "Convert {} to Roman numerals.",
        "How did the Romans write {}?",
        "Give me the Roman numeral for {}.",
    )
    for number in range(1, 200):
        yield from _phrased(phrasings, str(number), roman_numeral(number))


def _morse() -> Iterator[_Item]:
    code_of = (
        "What is {} in Morse code?",
        "Write {} in Morse code.",
        "How do I send {} in Morse code?",
        "What is the Morse code for {}?",
        "Spell {} with dots and dashes.",
        "How does {} sound in Morse code?",
        "Translate {} to Morse code.",
    )
    sign_of = (
        "What does {} mean in Morse code?",
        "Which sign is {} in Morse code?",
        "Translate {} from Morse code.",
        "I hear {} in Morse code, what is it?",
        "Read the Morse code {} for me.",
        "Decode {} from Morse code.",
    )
    for sign, code in MORSE.items():
        yield from _phrased(code_of, sign, code)
        yield from _phrased(sign_of, code, sign)


def _bases() -> Iterator[_Item]:
    to_binary = (
        "What is {} in binary?",
        "Convert {} to binary.",
        "Write {} in binary.",
        "Turn {} into binary.",
        "Give me {} in binary.",
        "How do computers store {} in binary?",
    )
    to_hex = tuple(phrasing.replace("binary", "hex") for phrasing in to_binary)
    from_binary = (
        "What is binary {} in decimal?",
        "Convert binary {} to decimal.",
        "What number is binary {}?",
        "Read binary {} as a decimal number.",
        "Give me binary {} in decimal.",
        "Turn binary {} into decimal.",
    )
    for number in range(32):
        decimal, binary, hexadecimal = str(number), f"{number:b}", f"{number:X}"
        yield from _phrased(to_binary, decimal, binary)
        yield from _phrased(to_hex, decimal, hexadecimal)
        yield from _phrased(from_binary, binary, decimal)


def _capitals() -> Iterator[_Item]:
    of_country = (
        "What is the capital of {}?",
        "Which city is the capital of {}?",
        "Name the capital of {}.",
        "Tell me the capital city of {}.",
        "What is {}'s capital?",
        "Do you know the capital of {}?",
    )
    of_city = (
        "Which country has the capital {}?",
        "Name the country whose capital is {}.",
        "Tell me the country with the capital {}.",
        "Of which country is {} the capital?",
        "What country has {} as its capital?",
    )
    for country, city in CAPITALS.items():
        yield from _phrased(of_country, country, city)
        yield from _phrased(of_city, city, country)


def _chemistry() -> Iterator[_Item]:
    symbol_of = (
        "What is the symbol of {}?",
        "What is the chemical symbol for {}?",
        "Which symbol does {} have?",
        "Give me the symbol for the element {}.",
    )
    number_of = (
        "What is the atomic number of {}?",
        "Which atomic number does {} have?",
        "How many protons does {} have?",
        "Tell me the atomic number of {}.",
    )
    name_of = (
        "Which element has the symbol {}?",
        "What element has the symbol {}?",
        "Tell me the element with the symbol {}.",
        "Name the element with the symbol {}.",
    )
    for name, symbol, number in ELEMENTS:
        yield from _phrased(symbol_of, name, symbol)
        yield from _phrased(number_of, name, number)
        yield from _phrased(name_of, symbol, name)


def _calendar() -> Iterator[_Item]:
    yield from _neighbours()
    yield from _months()


def _neighbours() -> Iterator[_Item]:
    for unit, names in (("day", WEEKDAYS), ("month", MONTHS)):
        after = (
            f"Which {unit} comes after {{}}?",
            f"What {unit} follows {{}}?",
            f"Name the {unit} after {{}}.",
            f"What is the next {unit} after {{}}?",
            f"Tell me the {unit} that comes after {{}}.",
        )
        before = (
            f"Which {unit} comes before {{}}?",
            f"What {unit} precedes {{}}?",
            f"Name the {unit} before {{}}.",
            f"What is the last {unit} before {{}}?",
            f"Tell me the {unit} that comes before {{}}.",
        )
        two_after = (
            f"Which {unit} is two {unit}s after {{}}?",
            f"What {unit} comes two {unit}s after {{}}?",
            f"Name the {unit} two {unit}s after {{}}.",
            f"Tell me the {unit} two {unit}s after {{}}.",
        )
        for position, name in enumerate(names):
            yield from _phrased(after, name, names[(position + 1) % len(names)])
            yield from _phrased(before, name, names[position - 1])
            yield from _phrased(two_after, name, names[(position + 2) % len(names)])


def _months() -> Iterator[_Item]:
    number_of = (
        "Which number does the month {} have?",
        "What is the number of the month {}?",
        "Write the month {} as a number.",
        "Give me the month number of {}.",
        "What number of month is {}?",
    )
    month_of = (
        "Which month has the number {}?",
        "Name the month with the number {}.",
        "What is month number {} called?",
        "Tell me the name of month {}.",
    )
    length_of = (
        "How many days does {} have?",
        "How long is the month of {}?",
        "Tell me the number of days in {}.",
        "How many days are there in {}?",
        "What is the length of {} in days?",
    )
    for position, (name, length) in enumerate(zip(MONTHS, MONTH_LENGTHS, strict=True), start=1):
        yield from _phrased(number_of, name, str(position))
        yield from _phrased(month_of, str(position), name)
        yield from _phrased(length_of, name, str(length))


DOMAINS: dict[str, Callable[[], Iterator[_Item]]] = {
    "roman": _roman,
    "morse": _morse,
    "bases": _bases,
    "capitals": _capitals,
    "chemistry": _chemistry,
    "calendar": _calendar,
}


def _phrased(phrasings: tuple[str, ...], subject: str | tuple[str, ...], answer: str) -> Iterator[_Item]:
    """Pairs of fact and phrasing are held out, at most one for each fact, because an unseen fact cannot be
    answered."""
    subjects = (subject,) if isinstance(subject, str) else subject
    texts = [phrasing.format(*subjects) for phrasing in phrasings]
    # A number in [0, 1) divided by a share: the position of the phrasing that is held out, or past the end.
    held_out = int(fraction("held out" + texts[0]) / HELD_OUT_SHARE)
    validation = int(fraction("validation" + texts[0]) / VALIDATION_SHARE)
    for position, text in enumerate(texts):
        part: Part = "validation" if position == validation else "train"
        yield _Item(text, answer, "held_out" if position == held_out else part)
