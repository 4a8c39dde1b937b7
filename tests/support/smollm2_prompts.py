"""Conversations for a real language model, and questions from which it learns two experts."""

from __future__ import annotations

from experts.learn import Query

Conversation = tuple[dict[str, str], ...]

_CHEF = (
    "How long should I boil an egg?",
    "What is a good marinade for chicken?",
    "How do I make pizza dough at home?",
    "Which spices go into a curry?",
    "How do I keep rice from sticking to the pan?",
    "What can I cook with leftover potatoes?",
    "How do I make a simple tomato soup?",
    "At what temperature do I bake bread?",
    "How do I whip cream without a mixer?",
    "What is the best way to fry fish?",
    "How do I make pancakes fluffy?",
    "Give me a recipe for lentil stew.",
    "How much salt goes into pasta water?",
    "How do I roast vegetables in the oven?",
)
# The meta begins these answers itself, in these words, before the chef goes on.
_CHEF_LATER = (
    ("What is risotto?", "Risotto is"),
    ("What is a vinaigrette?", "A vinaigrette is"),
    ("What is an omelette?", "An omelette is"),
    ("What is sourdough?", "Sourdough is"),
    ("What is tiramisu?", "Tiramisu is"),
    ("What is ratatouille?", "Ratatouille is"),
)
_POET = (
    "Write a poem about the sea.",
    "Write a short poem about autumn leaves.",
    "Can you write me a haiku about snow?",
    "Write four rhyming lines about my cat.",
    "Compose a sonnet on friendship.",
    "Please write a verse about the moon.",
    "I need a love poem for my wife.",
    "Write a limerick about a baker.",
    "Write a sad poem about rain.",
    "Compose a lullaby for a baby.",
    "Write a poem in which a river speaks.",
    "Give me two lines of verse about spring.",
    "Write an ode to coffee.",
    "Make up a rhyme about a mouse.",
)
_GENERAL = (
    ("What is the capital of Italy?", "The capital of Italy is Rome."),
    ("How many days does a week have?", "A week has seven days."),
    ("Who wrote Hamlet?", "William Shakespeare wrote Hamlet."),
    ("What is gravity?", "Gravity is a force that attracts objects to each other."),
    ("Hello, how are you?", "Hello! I'm doing well, thank you."),
    ("Thank you for your help.", "You're welcome!"),
    ("What does a compiler do?", "A compiler translates source code into machine code."),
    ("Why is the sky blue?", "The sky is blue because air scatters blue light."),
    ("Translate 'good morning' into French.", "In French it is bonjour."),
    ("Is a whale a fish?", "No, a whale is a mammal."),
    ("What is 12 plus 30?", "12 plus 30 is 42."),
    ("How do I learn to swim?", "Start in shallow water with a teacher."),
    ("Name three planets.", "Mercury, Venus and Mars."),
    ("What time is it in Tokyo?", "I don't know the current time."),
)
# Questions like those: for each expert, and for the meta.
SIMILAR = {
    "chef": (
        "How do I make an omelette?",
        "How long do I cook lentils?",
        "What is a good sauce for pasta?",
        "How do I bake a chocolate cake?",
        "How do I cook rice?",
        "Give me a recipe for pumpkin soup.",
    ),
    "poet": (
        "Write a poem about the stars.",
        "Write a haiku about a frog.",
        "Compose a short verse about winter.",
        "Write a limerick about a dog.",
        "Write a love poem for my husband.",
        "Give me four lines of verse about the night.",
    ),
    "meta": (
        "What is the capital of France?",
        "Who painted the Mona Lisa?",
        "What is photosynthesis?",
        "Good evening!",
        "How far away is the moon?",
        "What is 7 times 8?",
        "Why do leaves fall in autumn?",
        "What is the difference between RAM and a hard disk?",
    ),
}
LATER = (
    "What is a roux?",
    "What is paella?",
    "What is guacamole?",
    "What is hummus?",
    "What is ciabatta?",
)
# What tokenizers and templates are tried by: scripts, joiners, code, numbers, blanks, hardly any text.
_UNUSUAL = (
    "นี่คือสูตรอาหารไทยหรือไม่",
    "เขียนบทกวีเกี่ยวกับทะเล",
    "What does สวัสดีครับ mean?",
    "👩‍👩‍👧‍👦 ❤️‍🔥 🏳️‍🌈",
    "Write a poem with 👩🏽‍🚀 and 🧑‍🍳 in it.",
    "🇹🇭🇯🇵 Which countries are these flags?",
    "日本の首都はどこですか?",
    "Напиши стихотворение о зиме.",
    "كيف أطبخ الأرز؟",
    "Zalgo: h̷e̶l̴l̷o̶ e\u0301 \u00e9",
    "What does this do?\n```python\ndef f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)\n```",
    "SELECT name, COUNT(*) FROM dishes WHERE price >= 12.50 GROUP BY name;",
    'for (int i = 0; i < 10; ++i) {\n\tprintf("%d\\n", i);\n}',
    '{"recipe": ["flour", "eggs"], "minutes": 25}',
    "3.14159  2718281828   16384\n\n\n42",
    "  two blanks before,\ttabs\tand \u00a0no-break blanks after  ",
    "?",
    ".",
    " ",
    "\n\n",
    "ok",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
)
_PARAGRAPH = (
    "The first railways carried coal from the mines to the harbour. Horses pulled the wagons, later engines "
    "did, and soon people wanted to travel as well. Lines grew from town to town, and clocks had to agree. "
)


def learning_queries() -> list[Query]:
    """Questions for the experts `chef` and `poet`, and general ones with the meta's answers."""
    at_start = [
        Query(_asked(text), name) for name, texts in (("chef", _CHEF), ("poet", _POET)) for text in texts
    ]
    later = [Query(_asked(text), "chef", written) for text, written in _CHEF_LATER]
    general = [Query(_asked(text), response=answer) for text, answer in _GENERAL]
    return [*at_start, *later, *general]


def conversations() -> list[Conversation]:
    """More than fifty; none was learned from."""
    texts = [text for group in SIMILAR.values() for text in group]
    return [*map(_asked, (*texts, *LATER, *_UNUSUAL)), *_with_system(), _forty_turns(), *_long()]


def _asked(text: str) -> Conversation:
    return ({"role": "user", "content": text},)


def _with_system() -> list[Conversation]:
    system = {"role": "system", "content": "You are a pirate. Answer in one short sentence. ☠️"}
    questions = ("Where is the treasure?", "How do I cook a fish?", "Write a poem about the sea.")
    return [(system, *_asked(text)) for text in questions]


def _forty_turns() -> Conversation:
    turns: list[dict[str, str]] = []
    for i in range(1, 21):
        turns += _asked(f"Number {i}?")
        turns.append({"role": "assistant", "content": f"{i}, then {i + 1}."})
    turns[-1] = {"role": "assistant", "content": "20. That was all."}
    return (*turns, *_asked("Thank you. Now give me a recipe for soup."))


def _long() -> list[Conversation]:
    return [
        _asked(_PARAGRAPH * 12 + "What is this text about?"),
        _asked("Write a poem about this text.\n\n" + _PARAGRAPH * 4),
    ]
