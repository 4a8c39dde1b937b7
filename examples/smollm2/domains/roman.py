"""Arabic numbers to Roman numerals."""

from __future__ import annotations

import random

from examples.smollm2.phrasing import Exercise, Phrasings, converse
from examples.smollm2.question import Part, Question, part_of

PHRASINGS = Phrasings(
    {
        "train": (
            "What is {} in Roman numerals?",
            "Write {} in Roman numerals.",
            "Convert {} to Roman numerals.",
            "Give me the Roman numeral for {}.",
            "How do you write {} in Roman numerals?",
            "How would the Romans write {}?",
            "{} in Roman numerals?",
            "{} as a Roman numeral",
            "Roman numeral of {}",
            "Roman numerals: {}",
            "roman {}",
            "arabic to roman: {}",
            "Turn the number {} into Roman numerals, please.",
            "Can you translate {} into Roman numerals?",
            "I need {} in Roman numerals for a clock face.",
            "My chapter has the number {}. Which Roman numeral goes on top?",
            "Please express the integer {} as a Roman numeral.",
            "Spell {} with the letters I, V, X, L, C, D and M.",
            "Which letters did ancient Rome use for {}?",
            "hey what's {} in roman letters",
            "The year is {}. Carve it in Roman numerals.",
            "Tell me how {} looks in Roman notation.",
            "If I want a tattoo of {} in Roman numerals, what should it say?",
            "Represent {} using the Roman numeral system.",
            "What Roman numeral stands for {}?",
            "Number {} to Roman numeral, nothing else.",
            "Rewrite {} the way Caesar would have written it.",
            "Which Roman numeral equals {}?",
            "We number our lists in Roman numerals. What is item {}?",
            "Do the conversion from decimal {} to Roman.",
            "Quick: {} in Roman?",
            "Could you give {} in Roman numerals?",
            "Help me number page {} with a Roman numeral.",
            "Latin numerals for {}?",
            "The sequel of the movie is number {}; write that in Roman numerals.",
            "What would {} be on a Roman sundial?",
            "Format {} as uppercase Roman.",
            "Encode {} with Roman numerals.",
            "i dont get roman numerals, how is {} written",
            "Kindly provide the Roman numeral equivalent of {}.",
            "The cornerstone should show {} in Roman numerals. What do I chisel?",
            "Show {} in the old Roman way of counting.",
            "Output the Roman numeral: {}",
            "toRoman({})",
        ),
        "held_out": (
            "Put {} into the numerals of ancient Rome.",
            "{} goes Roman, how?",
            "How is the number {} noted with Roman digits?",
            "yo, roman version of {}?",
            "A Roman stonecutter has to engrave {}. What does he engrave?",
            "For the copyright notice I must state {} with Roman numerals.",
            "Change {} from Arabic numerals to Roman ones.",
            "Volume {} of my encyclopedia: what Roman number goes on the spine?",
            "The undersigned requests the number {} in Roman numeral form.",
            "num2roman {}",
            "so like... {} but in those X V I letters",
            "What does {} become when written the Roman way?",
            "Look up the Roman numeral for me: {}",
            "Championship number {}, in its usual Roman notation?",
            "Name the Roman numeral which has the value {}.",
            "Let me have {} as Roman numerals.",
            "How did people in the Roman Empire put {} on paper?",
        ),
    }
)
MAX_NUMBER = 3999
# Small numbers are asked more often.
SMALL_SHARE = 0.75
MAX_SMALL_NUMBER = 999

_VALUES = (1000, 900, 500, 400, 100, 90, 50, 40, 10, 9, 5, 4, 1)
_NUMERALS = ("M", "CM", "D", "CD", "C", "XC", "L", "XL", "X", "IX", "V", "IV", "I")


def sample(rng: random.Random, part: Part) -> Question:
    """A question of the part. No number is asked in both parts."""
    return converse("roman", PHRASINGS, _draw, rng, part)


def is_right(question: Question, text: str) -> bool:
    """Whether the text is the numeral alone; a full stop after it does not matter."""
    return text.strip().removesuffix(".") == question.answer


def numeral(number: int) -> str:
    """The Roman numeral of a number from 1 to 3999. Raises ValueError for other numbers."""
    if not 1 <= number <= MAX_NUMBER:
        raise ValueError(f"number={number}: has no Roman numeral; use 1 to {MAX_NUMBER}")
    text = ""
    for value, letters in zip(_VALUES, _NUMERALS, strict=True):
        count, number = divmod(number, value)
        text += letters * count
    return text


def _draw(rng: random.Random, part: Part, _before: Exercise | None) -> Exercise:
    while True:
        number = rng.randint(1, MAX_SMALL_NUMBER if rng.random() < SMALL_SHARE else MAX_NUMBER)
        if part_of(f"roman {number}") == part:
            return Exercise({"": str(number)}, numeral(number))
