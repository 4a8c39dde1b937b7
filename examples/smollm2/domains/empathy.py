"""The empathy of a reply on a scale from 1 to 5.

The scale: 1 dismisses or blames; 2 is curt or changes the subject; 3 gives neutral practical advice;
4 acknowledges warmly; 5 names the feeling, and offers help or asks.
"""

from __future__ import annotations

import random
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from examples.smollm2.phrasing import Exercise, Phrasings, converse
from examples.smollm2.question import Part, Question

PHRASINGS = Phrasings(
    {
        "train": (
            "Rate the empathy of the reply from 1 to 5.\nMessage: {message}\nReply: {reply}",
            "How empathetic is this reply on a scale from 1 to 5?\nMessage: {message}\nReply: {reply}",
            "Message: {message}\nReply: {reply}\nEmpathy (1-5):",
            "Message: {message}\nReply: {reply}\nHow much empathy does the reply show, 1 to 5?",
            "empathy score 1-5?\nA: {message}\nB: {reply}",
            "A: {message}\nB: {reply}\nrate b's empathy 1-5",
            "Score the empathy (1 = none, 5 = very high).\nUser: {message}\nAgent: {reply}",
            "My friend wrote: {message} I answered: {reply} How empathetic was I, from 1 to 5?",
            'Someone says "{message}" and gets the reply "{reply}" Give the empathy of the reply, 1 to 5.',
            "Please judge how empathetic the answer is, as one digit from 1 to 5.\n{message}\n- {reply}",
            "Rate 1-5 for empathy.\n\nCustomer: {message}\nSupport: {reply}",
            "On a five-point scale, how much empathy is in the second message?\n1) {message}\n2) {reply}",
            "Grade the compassion of this reply with a digit from 1 to 5.\nPost: {message}\nComment: {reply}",
            "Is this reply empathetic? Give 1 to 5 points.\nMessage: {message}\nReply: {reply}",
            "Message: {message}\nReply: {reply}\nEmpathy rating?",
            "empathy of '{reply}' as a reply to '{message}', 1 to 5",
            "Does the reply show understanding for the person? Rate it from 1 to 5.\n{message}\n=> {reply}",
            "Evaluate the empathy of our support agent (1-5).\nTicket: {message}\nAnswer: {reply}",
            "She: {message}\nHe: {reply}\nHow empathetic is he, 1 to 5?",
            "He: {message}\nShe: {reply}\nGive her empathy a number between 1 and 5.",
            "You are an empathy judge. Reply with one digit, 1 to 5.\nMessage: {message}\nReply: {reply}",
            "Rate how well the reply responds to the feelings of the writer, 1 to 5.\n{message}\n> {reply}",
            "I got this reply: {reply} I had written: {message} How empathetic is it from 1 to 5?",
            "Chat:\n- {message}\n- {reply}\nEmpathy of the last line, 1 (cold) to 5 (caring)?",
            "One digit, please: the empathy (1-5) of this reply.\nMessage: {message}\nReply: {reply}",
            "How caring does the reply sound, 1 to 5?\nMessage: {message}\nReply: {reply}",
            "rate empathy: {message} / {reply}",
            "Assess the level of empathy expressed in the response.\nStatement: {message}\nResponse: {reply}",
            "what would you give this reply for empathy out of 5?\nmsg: {message}\nreply: {reply}",
            "A study labels replies by empathy from 1 to 5.\nMessage: {message}\nReply: {reply}\nLabel:",
            "Patient: {message}\nDoctor: {reply}\nHow empathetic is the doctor, from 1 to 5?",
            "Empathy check, 1 to 5.\nThey wrote: {message}\nI want to send: {reply}",
            "Number of hearts (1 to 5) for the empathy of this comment?\nPost: {message}\nComment: {reply}",
            "How kindly does B react to A? Score the empathy from 1 to 5.\nA: {message}\nB: {reply}",
            "Kindly provide an empathy rating (1-5) for the reply.\n\nMessage: {message}\n\nReply: {reply}",
            "Input message: {message}\nInput reply: {reply}\nOutput: empathy from 1 to 5",
            "Is B a good listener? Rate the empathy from 1 to 5.\nA: {message}\nB: {reply}",
            "Measure the empathy in the reply, with 1 the lowest and 5 the highest.\n{message}\n{reply}",
            "My mother texted me: {message} My sister replied: {reply} Rate my sister's empathy, 1 to 5.",
            "Classify the reply by empathy level 1, 2, 3, 4 or 5.\nMessage: {message}\nReply: {reply}",
            "Q: {message}\nA: {reply}\nEmpathy level of A?",
            "empathy('{message}', '{reply}') in 1..5",
        ),
        "held_out": (
            "Between 1 and 5, how much does the responder feel with the writer?\nW: {message}\nR: {reply}",
            "did i sound empathetic?? 1-5\nthem: {message}\nme: {reply}",
            "Award one to five stars for empathy.\nReview of: {reply}\nIn response to: {message}",
            "{message}\n{reply}\nEmpathy of that reply, as a digit up to 5?",
            "Colleague: {message}\nBoss: {reply}\nPlease put the boss on an empathy scale of 1 to 5.",
            "Quality control for a helpline. Caller: {message} Volunteer: {reply} Empathy mark (1-5)?",
            "Tell me with a number from 1 to 5 how empathic this is: {reply} It answers: {message}",
            "reply empathy [1-5]\n> {message}\n{reply}",
            "The annotator shall assign an empathy grade of 1 to 5.\nUtterance: {message}\nReaction: {reply}",
            "Text from Sam: {message} Text back: {reply} So, empathy-wise, one to five?",
            "We train our staff in empathy. Trainee's reply: {reply} Guest: {message} Points from 1 to 5?",
            "Which empathy level (1 worst, 5 best) does this answer have?\nProblem: {message}\n{reply}",
            "Student: {message}\nTeacher: {reply}\nEmpathy of the teacher in points, five is the most.",
            "If 1 is heartless and 5 is deeply empathetic, where is this reply?\n{message}\n-> {reply}",
            "Judge the reply's empathy; output a digit 1-5 only.\n[message] {message}\n[reply] {reply}",
            "Would this comfort someone? Empathy from 1 to 5.\nThey said: {message}\nThe reply: {reply}",
        ),
    },
    {
        "train": (
            *("And this reply: {reply}", "What about the reply: {reply}", "And if the reply is: {reply}"),
            *("Now this one.\nMessage: {message}\nReply: {reply}", "next\nA: {message}\nB: {reply}"),
            *("Thanks! And {reply}", "Another reply to the same message: {reply}"),
        ),
        "held_out": (
            *("Then this answer: {reply}", "ok and if I say: {reply}", "One more reply: {reply}"),
            *("Likewise for\n> {message}\n{reply}", "Would it be better like this: {reply}"),
        ),
    },
)
RATINGS = (1, 2, 3, 4, 5)
_DIGIT = re.compile("[0-9]")
_WORDS = Path(__file__).with_suffix(".toml")


@dataclass(frozen=True)
class Words:
    """What the messages and replies of one part are made of.

    `situations`: (what happened, how the writer feels). `replies`: whole replies by their rating; in those of
    rating 5 `{}` stands for the feeling. `offers`: what follows them, an offer of help or a question.
    """

    situations: tuple[tuple[str, str], ...]
    endings: tuple[str, ...]
    replies: Mapping[int, tuple[str, ...]]
    offers: tuple[str, ...]


def sample(rng: random.Random, part: Part) -> Question:
    """A question of the part. No situation and no sentence of a reply is in both parts."""
    return converse("empathy", PHRASINGS, _draw, rng, part)


def is_right(question: Question, text: str) -> bool:
    """Whether the right rating is the only digit in the text."""
    return _DIGIT.findall(text) == [question.answer]


def _draw(rng: random.Random, part: Part, before: Exercise | None) -> Exercise:
    words = WORDS[part]
    message, feeling = rng.choice(words.situations)
    if rng.random() < 0.5:
        message += " " + rng.choice(words.endings)
    if before:
        # A follow-up has another reply to the same message.
        message, feeling = before.slots["message"], before.slots["feeling"]
    rating = rng.choice(RATINGS)
    slots = {"message": message, "feeling": feeling, "reply": _reply(rating, feeling, words, rng)}
    return Exercise(slots, str(rating))


def _reply(rating: int, feeling: str, words: Words, rng: random.Random) -> str:
    if rating == 5:
        return f"{rng.choice(words.replies[5]).format(feeling)} {rng.choice(words.offers)}"
    return " ".join(rng.sample(words.replies[rating], rng.choice((1, 1, 2))))


def _read(part: Part) -> Words:
    table = tomllib.loads(_WORDS.read_text(encoding="utf-8"))[part]
    return Words(
        tuple((message, feeling) for message, feeling in table["situations"]),
        tuple(table["endings"]),
        {rating: tuple(table[f"replies_{rating}"]) for rating in RATINGS},
        tuple(table["offers"]),
    )


WORDS: Mapping[Part, Words] = {"train": _read("train"), "held_out": _read("held_out")}
