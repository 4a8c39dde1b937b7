"""Conversions between units that need no multiplication of large numbers."""

from __future__ import annotations

import random
import re

from examples.smollm2.domains.conversions import UNITS, Amount, Conversion, draw_amount, names_of
from examples.smollm2.phrasing import SHORT_FOLLOW_UPS, Exercise, Phrasings, converse
from examples.smollm2.question import Part, Question

PHRASINGS = Phrasings(
    {
        "train": (
            "How many {target} are {amount}?",
            "How many {target} are in {amount}?",
            "Convert {amount} to {target}.",
            "Convert {amount} into {target}",
            "What is {amount} in {target}?",
            "{amount} in {target}",
            "{amount} to {target}",
            "{amount} = ? {target}",
            "{amount} -> {target}",
            "{target} in {amount}?",
            "Express {amount} in {target}.",
            "Turn {amount} into {target}, please.",
            "Can you convert {amount} to {target} for me?",
            "I have {amount}. How much is that in {target}?",
            "How much is {amount} if you measure it in {target}?",
            "Give {amount} in {target}.",
            "Please state {amount} in {target}.",
            "How do I write {amount} in {target}?",
            "What do {amount} come to in {target}?",
            "The label says {amount}, but I need {target}.",
            "Change the unit: {amount} to {target}.",
            "whats {amount} in {target} again",
            "{amount} makes how many {target}",
            "Unit conversion: {amount} to {target}",
            "unit: {target}, value: {amount}",
            "How many {target} make up {amount}?",
            "If something is {amount}, what is it in {target}?",
            "My form asks for {target}, and I only know that it is {amount}.",
            "Calculate the number of {target} in {amount}.",
            "Tell me {amount} in {target}, nothing else.",
            "Rewrite {amount} using {target}.",
            "Which value in {target} is the same as {amount}?",
            "Report {amount} as {target}.",
            "We planned for {amount}; what is this in {target}?",
            "{amount} equals how many {target}?",
            "hey how many {target} is {amount}",
            "{amount} would be what in {target}?",
            "The recipe card says {amount}. Give the same in {target}.",
            "Kindly convert the quantity {amount} to the unit {target}.",
            "I counted {amount}. In {target} that makes?",
            "Do the conversion of {amount} into {target}.",
            "convert({amount}, {target})",
        ),
        "held_out": (
            "Put {amount} into {target}.",
            "{amount} expressed as {target}, what is it?",
            "The sensor reports {amount}; the log expects {target}. Which value goes in?",
            "as {target}: {amount}",
            "ok so {amount} is how much in {target}",
            "Let me know how many {target} correspond to {amount}.",
            "You would call {amount} how many {target}?",
            "Were we to count in {target}, what would {amount} be?",
            "Translate {amount} into {target}.",
            "Swap the unit of {amount} for {target}.",
            "Someone ordered {amount}. The warehouse counts in {target}. What do they send?",
            "{amount}. Same thing in {target}?",
            "Please be so kind as to restate {amount} in terms of {target}.",
            "I keep forgetting: {amount}, how many {target}?",
            "Into {target} with it: {amount}",
            "A sign shows {amount}. Read it to me in {target}.",
            "Number of {target} for {amount}",
        ),
    },
    {
        "train": (
            *SHORT_FOLLOW_UPS["train"],
            *("And {number}?", "and {number}", "What about {number}?", "How about {number}?", "{number}?"),
        ),
        "held_out": (
            *SHORT_FOLLOW_UPS["held_out"],
            *("Then {number}?", "ok and {number} then", "One more: {number}", "And if it were {number}?"),
        ),
    },
)
_QUANTITY = re.compile(r"(\d+|\d{1,3}(?:,\d{3})+)(\.\d+)?\s*([A-Za-z]+)\.?", re.ASCII)


def sample(rng: random.Random, part: Part) -> Question:
    """A question of the part. No number is converted between the same units in both parts."""
    # A follow-up of one number, such as "and 15?", keeps the units of the question before.
    conversions: list[Conversion] = []

    def draw(rng: random.Random, part: Part, before: Exercise | None) -> Exercise:
        amount = draw_amount(rng, part, conversions[-1] if before else None)
        conversions.append(amount.conversion)
        return _exercise(amount, rng)

    return converse("units", PHRASINGS, draw, rng, part)


def is_right(question: Question, text: str) -> bool:
    """Whether the text is the right quantity alone; the unit may be spelled out."""
    given, right = _quantity(text), _quantity(question.answer)
    return given is not None and given == right


def _exercise(amount: Amount, rng: random.Random) -> Exercise:
    slots = {
        "": amount.text(rng),
        "amount": amount.text(rng),
        "number": amount.number,
        "target": rng.choice(names_of(amount.conversion.target)),
    }
    return Exercise(slots, f"{amount.result} {amount.conversion.target}")


def _quantity(text: str) -> tuple[str, str] | None:
    """The number in its shortest writing and the unit's usual name, if the text is one quantity."""
    match = _QUANTITY.fullmatch(text.strip())
    if match is None:
        return None
    whole, fraction, unit = match[1].replace(",", "").lstrip("0"), match[2] or "", match[3].casefold()
    fraction = fraction.rstrip("0").rstrip(".")
    return (whole or "0") + fraction, _USUAL_NAMES.get(unit, unit)


_ABBREVIATIONS = {
    "min": "minutes",
    "s": "seconds",
    "sec": "seconds",
    "h": "hours",
    "in": "inches",
    "ft": "feet",
}
_USUAL_NAMES = _ABBREVIATIONS | {
    name.casefold(): usual for usual in UNITS for name in names_of(usual, singular=True)
}
