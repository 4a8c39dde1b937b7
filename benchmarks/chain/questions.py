"""Questions of three steps, each for another expert of the demo, and what the next expert is asked.

The first step rates a reply, the second converts so many units, the third writes that number in Roman
numerals. `#` stands for the result of the step before; `PROMPT`, the `chain.prompt` of the benchmark, puts it
in its place. So every expert but the first gets a question as it knows them. If no step is left, the meta
gets what it answers itself.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from examples.smollm2.domains import DOMAINS, roman
from examples.smollm2.domains.conversions import Conversion
from examples.smollm2.query_set import held_out_queries

EXPERTS = ("empathy", "units", "roman")  # in the order of the steps
PROMPT = """\
{% set later = question.split("\n\nNow: ")[0].split("Then: ") %}
{% if later | length == 1 %}
Thank you, goodbye!
{% elif " " in answer | trim %}
{{ later[1] | replace("#", answer.split()[0]) }}
{% else %}
{{ later[0] | replace("Later: ", "") | replace("#", answer | trim) }}
{% endif %}"""
# Numbers from 1 to 5 are converted; nothing is above 3,999, which has no Roman numeral.
_CONVERSIONS = (
    *(Conversion("weeks", "days", 7), Conversion("years", "months", 12), Conversion("feet", "inches", 12)),
    *(Conversion("dozens", "pieces", 12), Conversion("cm", "mm", 10), Conversion("m", "cm", 100)),
    *(Conversion("l", "dl", 10), Conversion("l", "cl", 100), Conversion("euros", "cents", 100)),
)


@dataclass(frozen=True)
class ChainQuestion:
    """`results`: of the three steps; the last one is the answer. Of an ordinary question, `expert` has the
    only step."""

    text: str
    results: tuple[str, ...]
    expert: str | None = None

    def is_right(self, text: str) -> bool:
        return text.strip().removesuffix(".") == self.results[-1]


def chain_questions(num: int, seed: int) -> list[ChainQuestion]:
    """Of three steps each. No rating of a reply was trained with."""
    rng = random.Random(f"chain {seed}")
    return [_question(rng) for _ in range(num)]


def ordinary_questions(num_each: int, seed: int) -> list[ChainQuestion]:
    """Of one step, for the same experts: their answers should stand."""
    drawn = [each for each in held_out_queries(num_each, 0, seed) if each.domain in EXPERTS]
    return [
        ChainQuestion(each.text, (each.answer,), each.domain) for each in drawn if len(each.messages) == 1
    ]


def _question(rng: random.Random) -> ChainQuestion:
    while len((rating := DOMAINS["empathy"].sample(rng, "held_out")).messages) > 1:
        continue
    conversion = rng.choice(_CONVERSIONS)
    number = int(rating.answer) * conversion.factor
    second = f"How many {conversion.target} are # {conversion.source}?"
    # What comes first stands last: an expert that has never read anything behind its question rates worse.
    text = f"Later: {second} Then: What is # in Roman numerals?\n\nNow: {rating.text}"
    results = (rating.answer, f"{number} {conversion.target}", roman.numeral(number))
    return ChainQuestion(text, results)
