"""Queries in other words, by the meta: tokens that learn from several wordings depend less on one."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from transformers import PreTrainedModel

from experts.learn.hidden_states import Progress
from experts.learn.own_answers import write_answers
from experts.learn.queries import Query
from experts.prompt import PromptRenderer
from experts.synthesize.rejection import MAX_CHARS, normalised, text_rejection

NUM_NEW_TOKENS = 96
# How the meta is to write, and the example as it would write it. One paraphrase each: greedy ones of several
# kinds differ more than sampled ones of one kind, and make less nonsense.
_EXAMPLE = "What is the price of 3 tickets from Bern to 'Old Town' at 9:30?"
_STYLES = {
    "in other words": "How much do 3 tickets from Bern to 'Old Town' cost at 9:30?",
    "as a short, casual message": "price of 3 tickets, Bern to 'Old Town', 9:30?",
    "as a polite request": "Could you please tell me what 3 tickets from Bern to 'Old Town' cost at 9:30?",
    "as a command": "Tell me the price of 3 tickets from Bern to 'Old Town' at 9:30.",
}
MAX_PARAPHRASES = len(_STYLES)

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_QUOTED = re.compile(r"\"[^\"\n]+\"|“[^”\n]+”|`[^`\n]+`|(?<!\w)'[^'\n]+'(?!\w)")
# Not at the beginning of a sentence, where every word has a capital letter.
_NAME = re.compile(r"(?<=[\w,;] )[^\W\d_a-z]\w+")
_QUOTATION_MARKS = "\"'“”"


def can_be_rephrased(query: Query) -> bool:
    """Whether it is one short line of a user, after a system message at most.

    A meta loses what it should keep of several lines, of choices, and of what was said before.
    """
    is_alone = all(message["role"] == "system" for message in query.messages[:-1])
    is_line = len(query.question) <= MAX_CHARS and "\n" not in query.question
    return is_alone and is_line and query.messages[-1]["role"] == "user" and not query.choices


def paraphrase_requests(query: Query, num: int) -> list[Query]:
    """General queries that ask for the last message in `num` other wordings, at most MAX_PARAPHRASES."""
    return [_request(query.question, style, example) for style, example in list(_STYLES.items())[:num]]


def write_paraphrases(
    model: PreTrainedModel,
    renderer: PromptRenderer,
    requests: Sequence[Query],
    *,
    batch_size: int = 16,
    progress: Progress = lambda done, total, what: None,
) -> list[str]:
    """The meta's answer to every request; "" if it has none with an end. Raises as `write_answers` does."""
    return write_answers(
        model,
        renderer,
        requests,
        num_new_tokens=NUM_NEW_TOKENS,
        only_whole=True,
        batch_size=batch_size,
        progress=lambda done, total, what: progress(done, total, "paraphrases"),
    )


def rephrased(query: Query, text: str) -> Query | None:
    """The query with `text` as its last message; None if that is no other wording of the same question.

    It must have the numbers, names and quoted texts of the question and no more, and not the answer.
    """
    text = _unquoted(text.strip())
    question = query.question
    if text_rejection(text) or len(text) > 2 * len(question) + MAX_CHARS // 10:
        return None
    if _words(text) == _words(question) or _answers(text, query):
        return None
    if Counter(_NUMBER.findall(text)) != Counter(_NUMBER.findall(question)):
        return None
    if not _names(question, text) or not _names(text, question):
        return None
    messages = (*query.messages[:-1], {"role": "user", "content": text})
    place = f"{query.place}, in other words"
    return replace(query, messages=messages, place=place, own_answer="", late=False, origin="paraphrase")


def _request(question: str, style: str, example: str) -> Query:
    instruction = (
        f"Write this message again, {style}. Keep its meaning, and all numbers and names. Do not answer it."
    )
    messages = (
        {"role": "user", "content": f"{instruction}\n\n{_EXAMPLE}"},
        {"role": "assistant", "content": example},
        {"role": "user", "content": f"{instruction}\n\n{question}"},
    )
    return Query(messages)


def _names(text: str, other: str) -> bool:
    """Whether the names and quoted texts in `text` are in `other` too."""
    return all(part in other for part in [*_QUOTED.findall(text), *_NAME.findall(text)])


def _unquoted(text: str) -> str:
    """Without marks around the whole of it."""
    inner = text[1:-1]
    is_quoted = len(text) > 1 and text[0] in _QUOTATION_MARKS and text[-1] in _QUOTATION_MARKS
    return inner if is_quoted and not any(mark in inner for mark in _QUOTATION_MARKS) else text


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", normalised(text))


def _answers(text: str, query: Query) -> bool:
    """Whether it has the answer in it, which the question has not."""
    answer = normalised(query.answer or query.response)
    return bool(answer) and answer in normalised(text) and answer not in normalised(query.question)
