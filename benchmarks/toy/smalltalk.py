"""Small talk: general queries, which no expert should answer, with short answers."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.toy.facts import CAPITALS, ELEMENTS, MONTHS, WEEKDAYS
from benchmarks.toy.question import GENERAL, Question, Split, part_of

MAX_PROMPTS_PER_TOPIC = 160


@dataclass(frozen=True)
class Topic:
    """Prompts with slots, and one answer to all of them."""

    answer: str
    prompts: tuple[str, ...]
    slots: dict[str, tuple[str, ...]]
    greeted: bool = False


def smalltalk_split() -> Split:
    """All small talk, without greetings in front. No text is both trained on and held out."""
    questions = [question for topic in TOPICS for question in _some(topic)]
    parts: dict[str, list[Question]] = {part: [] for part in ("train", "validation", "held_out")}
    for question in questions:
        parts[part_of(question.question)].append(question)
    return Split(**{part: tuple(members) for part, members in parts.items()})


def _some(topic: Topic) -> list[Question]:
    prompts = sorted(set(_prompts(topic)))
    random.Random(topic.answer).shuffle(prompts)
    return [
        Question(GENERAL, prompt, topic.answer, topic.greeted) for prompt in prompts[:MAX_PROMPTS_PER_TOPIC]
    ]


def _prompts(topic: Topic) -> Iterator[str]:
    for prompt in topic.prompts:
        names = [name for name in topic.slots if f"{{{name}}}" in prompt]
        for values in itertools.product(*(topic.slots[name] for name in names)):
            yield prompt.format(**dict(zip(names, values, strict=True)))


_WHEN = ("today", "this morning", "this evening", "right now", "this week")
_FAMILY = ("brother", "sister", "mother", "father", "uncle", "aunt", "friend", "neighbour", "teacher")
_CITIES = tuple(CAPITALS.values())[:30]
_COUNTRIES = tuple(CAPITALS)[:30]
_HOBBIES = ("chess", "football", "tennis", "the piano", "the guitar", "cards", "golf", "hockey")
_CRAFTS = (
    "painting",
    "cooking",
    "swimming",
    "reading",
    "singing",
    "dancing",
    "hiking",
    "gardening",
    "fishing",
)
_SUBJECTS = ("chemistry", "Latin", "geography", "maths", "history", "music", "physics", "computer science")
_ELEMENT_NAMES = tuple(
    name for name, _, _ in ELEMENTS if name in {"gold", "silver", "copper", "iron", "lead", "tin"}
)
_NUMBERS = ("2", "3", "5", "12", "17", "40", "99", "365")

TOPICS = (
    Topic(
        "How can I help you?",
        ("{hello}!", "{hello}.", "{hello}, {you}!", "{hello}, {you}."),
        {
            "hello": ("Hi", "Hello", "Hey", "Good morning", "Good evening", "Hi there", "Hello there"),
            "you": (
                "my friend",
                "assistant",
                "everyone",
                "dear robot",
                "how nice to see you",
                "nice to meet you",
            ),
        },
        greeted=True,
    ),
    Topic(
        "I am fine, thank you.",
        ("How are you {when}?", "How do you feel {when}?", "Are you well {when}?", "How is it going {when}?"),
        {"when": (*_WHEN, "on this fine day", "now", "after lunch", "tonight")},
    ),
    Topic(
        "I am glad to hear that.",
        ("I feel {mood} {when}.", "I am {mood} {when}.", "My {who} is {mood} {when}."),
        {"mood": ("happy", "great", "wonderful", "cheerful", "very well"), "when": _WHEN, "who": _FAMILY},
    ),
    Topic(
        "I am sorry to hear that.",
        ("I feel {mood} {when}.", "I am {mood} {when}.", "My {who} is {mood} {when}."),
        {"mood": ("sad", "tired", "terrible", "lonely", "ill"), "when": _WHEN, "who": _FAMILY},
    ),
    Topic(
        "You are welcome.",
        ("Thank you {much} for {what}.", "Thanks {much} for {what}!", "Many thanks for {what}."),
        {
            "much": ("so much", "very much", "a lot", "again"),
            "what": ("your help", "the answer", "your time", "everything", "the advice", "listening"),
        },
    ),
    Topic(
        "Goodbye and see you soon.",
        ("Goodbye, see you {when}!", "Bye, talk to you {when}.", "I have to go, see you {when}."),
        {"when": ("soon", "later", "tomorrow", "next week", *(f"on {day}" for day in WEEKDAYS))},
    ),
    Topic(
        "Do not forget your umbrella.",
        ("It is {weather} {when}.", "It is {weather} in {city}.", "The weather in {city} is {weather}."),
        {"weather": ("rainy", "wet", "stormy"), "when": _WHEN, "city": _CITIES},
    ),
    Topic(
        "Enjoy the sunshine.",
        ("It is {weather} {when}.", "It is {weather} in {city}.", "The weather in {city} is {weather}."),
        {"weather": ("sunny", "warm", "hot"), "when": _WHEN, "city": _CITIES},
    ),
    Topic(
        "That sounds like a nice trip.",
        ("I was in {place} on {day}.", "I am going to {place} in {month}.", "We spent {month} in {place}."),
        {"place": (*_CITIES[:12], *_COUNTRIES[:12]), "day": WEEKDAYS, "month": MONTHS},
    ),
    Topic(
        "That is a fun game to play.",
        ("I like to play {hobby} {when}.", "My {who} loves to play {hobby}.", "We play {hobby} every {day}."),
        {"hobby": _HOBBIES, "when": _WHEN, "who": _FAMILY, "day": WEEKDAYS},
    ),
    Topic(
        "What a lovely hobby.",
        ("I enjoy {craft} {when}.", "My {who} loves {craft}.", "We go {craft} every {day}."),
        {"craft": _CRAFTS, "when": _WHEN, "who": _FAMILY, "day": WEEKDAYS},
    ),
    Topic(
        "A good teacher makes a big difference.",
        ("My {subject} teacher is {trait}.", "Our {subject} teacher was {trait} on {day}."),
        {"subject": _SUBJECTS, "trait": ("funny", "strict", "kind", "young", "patient"), "day": WEEKDAYS},
    ),
    Topic(
        "Keep going, learning takes time.",
        ("I am learning {skill} {when}.", "My {who} is learning {skill}.", "I find {skill} difficult."),
        {
            "skill": (*_SUBJECTS, "Morse code", "Roman numerals", "binary numbers", "to code"),
            "when": _WHEN,
            "who": _FAMILY,
        },
    ),
    Topic(
        "That must look beautiful.",
        (
            "I have a {thing} of {metal}.",
            "My {who} bought a {thing} of {metal}.",
            "She has a {metal} {thing}.",
        ),
        {"metal": _ELEMENT_NAMES, "thing": ("ring", "watch", "bracelet", "coin", "crown"), "who": _FAMILY},
    ),
    Topic(
        "Happy birthday in advance.",
        ("My birthday is in {month}.", "I was born on a {day} in {month}.", "My {who} was born in {month}."),
        {"month": MONTHS, "day": WEEKDAYS, "who": _FAMILY},
    ),
    Topic(
        "That is quite a number.",
        ("I have {number} {pet}.", "My {who} has {number} {pet}.", "There are {number} {pet} in the garden."),
        {"number": _NUMBERS, "pet": ("cats", "dogs", "birds", "fish", "horses"), "who": _FAMILY},
    ),
    Topic(
        "Have a good time there.",
        ("I have a meeting on {day} {time}.", "We meet in {city} on {day}.", "The party is on {day} {time}."),
        {"day": WEEKDAYS, "time": ("morning", "evening", "night", "at noon"), "city": _CITIES},
    ),
    Topic(
        "I am a helpful assistant.",
        ("Who are you{end}", "What is your name{end}", "What are you{end}", "Are you a robot{end}"),
        {
            "end": (
                "?",
                ", please?",
                " then?",
                ", my friend?",
                " really?",
                ", if I may ask?",
                " today?",
                ", dear?",
            )
        },
    ),
    Topic(
        "Of course, what do you need?",
        (
            "Can you {help} {when}?",
            "Could you {help} {when}?",
            "Will you {help} {when}?",
            "Please {help} {when}.",
        ),
        {"help": ("help me", "give me a hand", "support me", "assist my friend"), "when": _WHEN},
    ),
    Topic(
        "How about some soup and bread?",
        ("What should I {eat} {when}?", "I am hungry {when}.", "What can we {eat} on {day}?"),
        {"eat": ("eat", "cook", "have for dinner", "make for lunch"), "when": _WHEN, "day": WEEKDAYS},
    ),
    Topic(
        "I like talking with you.",
        ("Do you like {thing}?", "Do you love {thing}?", "What do you think of {thing}?"),
        {
            "thing": (
                *_CITIES[:10],
                *_CRAFTS,
                *_HOBBIES,
                "cats",
                "dogs",
                "music",
                "me",
                "Mondays",
                "gold",
                "the Romans",
            )
        },
    ),
)
