"""Dates in any writing to ISO 8601."""

from __future__ import annotations

import datetime
import random
import re

from examples.smollm2.domains.written_dates import written
from examples.smollm2.phrasing import Exercise, Phrasings, converse
from examples.smollm2.question import Part, Question, part_of

PHRASINGS = Phrasings(
    {
        "train": (
            "What is {} in ISO 8601?",
            "Convert {} to ISO format.",
            "Write {} as YYYY-MM-DD.",
            "ISO date for {}",
            "{} in ISO 8601",
            "{} as an ISO date?",
            "date to iso: {}",
            "normalize this date: {}",
            "Give me {} in the form year-month-day.",
            "Please reformat {} as an ISO 8601 date.",
            "How do I write {} in ISO notation?",
            "Turn {} into a machine readable date.",
            "Which ISO date is {}?",
            "My database wants dates like 1999-12-31. What is {}?",
            "I was born on {}. How is that written in ISO 8601?",
            "The invoice is dated {}. Give the date in ISO format.",
            "Standardize the date {}.",
            "Parse the date {} and print it as YYYY-MM-DD.",
            "yyyy-mm-dd of {}",
            "Express {} according to ISO 8601.",
            "hey can u make {} an iso date",
            "Rewrite {} with the year first, then month and day, joined by hyphens.",
            "I need the ISO form of {} for a file name.",
            "Our meeting is on {}. What goes into the ISO date field?",
            "Translate the date {} to the international standard format.",
            "The contract was signed on {}; state this date in ISO 8601 notation.",
            "Change the date {} to ISO style.",
            "What does {} look like in YYYY-MM-DD?",
            "Put {} into international date format.",
            "Input: {}\nOutput (ISO 8601):",
            "Convert the following date to ISO 8601.\n\n{}",
            "Could you tell me the ISO 8601 representation of {}?",
            "A letter says {}. Enter that as an ISO date.",
            "to_iso({})",
            "sort key (YYYY-MM-DD) for {}",
            "Make this date sortable: {}",
            "Format {} like a computer would, year-month-day.",
            "Numeric ISO date of {}, nothing else.",
            "someone wrote {}, whats that as yyyy-mm-dd",
            "For the spreadsheet: {} in ISO 8601, only the date.",
            "Fix the format of this date so that it is ISO: {}",
            "Kindly supply {} in ISO 8601 format.",
            "The train leaves on {}. Write the date for a JSON field.",
        ),
        "held_out": (
            "Rephrase {} as a standard ISO calendar date.",
            "isoformat {}",
            "Four-digit year, two-digit month, two-digit day: how is {} written?",
            "Store {} in a column of type DATE. What is the value?",
            "ugh, form only takes YYYY-MM-DD and I have {}",
            "The applicant's date of birth is {}. Record it in conformity with ISO 8601.",
            "{}, ISO spelling only",
            "Which string does ISO 8601 prescribe for {}?",
            "Let me have the date {} in ISO.",
            "An email mentions {}. Extract the day as an ISO date.",
            "We expire on {}, so the expiry field (ISO) must say?",
            "Can you standardise how this date is written? {}",
            "what's {} when you write it the iso way",
            "Print the ISO 8601 equivalent: {}",
            "I name my photos by date, like 2001-01-31. This one is from {}.",
            "Bring {} into year-month-day order with dashes.",
            "Digitise the date on this postcard as YYYY-MM-DD: {}",
        ),
    }
)
_FIRST_DAY = datetime.date(1950, 1, 1)
_LAST_DAY = datetime.date(2039, 12, 31)
_ISO = re.compile(r"(?<!\d)\d{4}-\d{2}-\d{2}(?!\d)", re.ASCII)


def sample(rng: random.Random, part: Part) -> Question:
    """A question of the part. No day is asked in both parts, however it is written."""
    return converse("dates", PHRASINGS, _draw, rng, part)


def is_right(question: Question, text: str) -> bool:
    """Whether the right date is the only ISO date in the text."""
    return _ISO.findall(text) == [question.answer]


def _draw(rng: random.Random, part: Part, _before: Exercise | None) -> Exercise:
    while True:
        day = _FIRST_DAY + datetime.timedelta(rng.randrange((_LAST_DAY - _FIRST_DAY).days + 1))
        if part_of(f"date {day}") == part:
            return Exercise({"": written(day, rng)}, day.isoformat())
