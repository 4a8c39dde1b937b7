"""Fields of a log line as JSON. The kind of line decides which fields."""

from __future__ import annotations

import json
import random

from examples.smollm2.domains.log_lines import draw_line
from examples.smollm2.phrasing import Exercise, Phrasings, converse
from examples.smollm2.question import Part, Question

PHRASINGS = Phrasings(
    {
        "train": (
            "Extract the fields of this log line as JSON: {}",
            "Parse this log line into JSON.\n{}",
            "Turn the following log entry into JSON:\n\n{}",
            "log to json: {}",
            "parse: {}",
            "json please\n{}",
            "What are the fields of this log line?\n{}",
            "Convert this log line to structured data.\n{}",
            "Please structure this log record: {}",
            "Here is a line of our log file. Give me its fields as JSON.\n{}",
            "{}\nParse the line above.",
            "{}\n\nWrite that as a JSON object.",
            "Make JSON of this: {}",
            "I need this log line in a structured form: {}",
            "Could you parse this log entry for me? {}",
            "Read the log line and return the fields as one line of JSON.\n{}",
            "structured fields of '{}'",
            "Log line: {}\nJSON:",
            "Input: {}\nOutput: JSON with the log fields",
            "My pipeline wants JSON, and the server writes this:\n{}",
            "Help me parse logs. This one: {}",
            "Transform the log message into key-value pairs (JSON).\n{}",
            "Which fields does this log line have? Answer as JSON.\n{}",
            "hey can you turn this log into json\n{}",
            "Tokenize this server log entry to JSON fields:\n{}",
            "From this log entry, extract the structured information: {}",
            "Act as a log parser.\n{}",
            "```\n{}\n```\nAs JSON, please.",
            "A log collector received `{}`. Which JSON document does it store?",
            "Break this log line up into its fields, as JSON: {}",
            "Kindly extract the structured fields from the log entry below.\n\n{}",
            "Decode this line of the log: {}",
            "got this in the logs, need it as json: {}",
            "JSON representation of the log line {}",
            "Our service logged this. Pull the fields out.\n{}",
            "Parse one line of a log file and print a JSON object.\nLine: {}",
            "Structure: {}",
            "We index logs as JSON. How is this line indexed?\n{}",
            "Split this log entry into JSON keys and values.\n{}",
            "logline2json {}",
            "Take the log line '{}' apart and return JSON.",
            "Summarise this log line as a JSON object with its fields.\n{}",
        ),
        "held_out": (
            "Do what a log shipper does and emit JSON for this entry:\n{}",
            "this log -> json fields\n{}",
            "{}\n^ that's from a log file, what are the JSON fields",
            "You are given a raw log record. Respond with its structured equivalent.\n{}",
            "Dissect the log line: {}",
            "ugh I have to get this log thing into JSON:\n{}",
            "For our log database, produce the JSON document that corresponds to {}",
            "parse_log('{}')",
            "Represent this entry from the server's log as an object with named fields.\n{}",
            "Raw log: {}\nStructured log:",
            "Get me the parts of this log line in JSON notation. {}",
            "Found in /var/log:\n{}\nPlease return it parsed.",
            "The undersigned asks for a field extraction, in JSON, of this log entry:\n{}",
            "Rewrite the log record as JSON: {}",
            "What would jq show me for this line if the log were JSON already?\n{}",
            "One log line, one JSON object. Go: {}",
            "Field extraction, log line, JSON out.\n{}",
        ),
    },
    {
        "train": (
            *("Now this one: {}", "And this one?\n{}", "next\n{}", "Same for {}", "What about {}"),
            *("Thanks! And {}", "the next line: {}", "{}", "Another: {}"),
        ),
        "held_out": (
            *("Then this line: {}", "ok and that one\n{}", "Do it again for {}", "One more: {}"),
            *("Great, now parse {}", "Carry on with\n{}"),
        ),
    },
)


def sample(rng: random.Random, part: Part) -> Question:
    """A question of the part. Both parts have the same formats of lines, but no services or messages in
    common."""
    return converse("logs", PHRASINGS, _draw, rng, part)


def is_right(question: Question, text: str) -> bool:
    """Whether the text is JSON with exactly the right fields."""
    try:
        return bool(json.loads(text) == json.loads(question.answer))
    except (ValueError, RecursionError):
        return False


def _draw(rng: random.Random, part: Part, _before: Exercise | None) -> Exercise:
    line, fields = draw_line(rng, part)
    return Exercise({"": line}, json.dumps(fields))
