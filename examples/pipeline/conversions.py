"""The tool of the pipeline, which converts between units, and questions for which it is needed."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

TOOL: Mapping[str, Any] = {
    "type": "function",
    "function": {
        "name": "convert",
        "description": "Converts an amount from one unit to another.",
        "parameters": {
            "type": "object",
            "properties": {
                "amount": {"type": "number"},
                "source": {"type": "string"},
                "target": {"type": "string"},
            },
            "required": ["amount", "source", "target"],
        },
    },
}
# By pair of units: what one of the first is in the second.
FACTORS: Mapping[tuple[str, str], float] = {
    ("miles", "kilometers"): 1.609344,
    ("yards", "meters"): 0.9144,
    ("feet", "meters"): 0.3048,
    ("inches", "centimeters"): 2.54,
    ("ounces", "grams"): 28.349523,
    ("pounds", "kilograms"): 0.45359237,
    ("gallons", "liters"): 3.785412,
}
PHRASINGS = (
    "How many {target} are {amount} {source}?",
    "What are {amount} {source} in {target}?",
    "I have {amount} {source}. How many {target} is that?",
    "Convert {amount} {source} to {target}.",
)
HELD_OUT_PHRASINGS = (
    "It needs {amount} {source}. How many {target} is that?",
    "Please tell me what {amount} {source} are in {target}.",
    "My friend has {amount} {source}. What is that in {target}?",
)
NUM_AMOUNTS = 5  # for each pair of units


@dataclass(frozen=True)
class Conversion:
    """A question, and what the pipeline should make of it."""

    question: str
    amount: int
    source: str
    target: str

    @property
    def plan(self) -> str:
        return f"Convert {self.amount} {self.source} to {self.target}."

    @property
    def arguments(self) -> dict[str, Any]:
        return {"amount": self.amount, "source": self.source, "target": self.target}

    @property
    def result(self) -> str:
        return convert(json.dumps(self.arguments))

    @property
    def summary(self) -> str:
        return f"{self.result.replace('=', 'are')}."

    def is_in(self, answer: str) -> bool:
        """Whether the answer says what comes out."""
        return self.result.partition(" = ")[2] in answer


def convert(arguments: str) -> str:
    """What the tool returns for these arguments, which are JSON: an equation, or what is wrong with them."""
    given = json.loads(arguments)
    amount, source, target = (given[name] for name in ("amount", "source", "target"))
    factor = FACTORS.get((source, target)) or 1 / FACTORS.get((target, source), math.inf)
    if factor:
        return f"{amount} {source} = {amount * factor:.2f} {target}"
    return f"cannot convert {source} to {target}"


def conversions(*, held_out: bool = False) -> Iterator[Conversion]:
    """For each pair of units, with the phrasings by turns. The amounts are different in both parts."""
    pairs = [pair for units in FACTORS for pair in (units, units[::-1])]
    phrasings = HELD_OUT_PHRASINGS if held_out else PHRASINGS
    for number, (source, target) in enumerate(pairs * NUM_AMOUNTS):
        amount = 2 * (7 * number % 97) + 2 + held_out  # odd ones are held out
        phrasing = phrasings[number % len(phrasings)]
        question = phrasing.format(amount=amount, source=source, target=target)
        yield Conversion(question, amount, source, target)
