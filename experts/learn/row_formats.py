"""Parses one row of a query set, in any of three formats, and writes it in one of them."""

from __future__ import annotations

import re
import string
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from experts.chat_messages import ROLES
from experts.learn.queries import Query
from experts.names import EXPERT_NAME

# Without "function_call": it holds a call in some model's own notation, not an answer to a person.
_SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_row(row: Any, place: str) -> Query:
    """The query in one JSON object. Its conversation is in one of three formats:

    - chat: `"messages": [{"role": …, "content": …}, …]`;
    - ShareGPT: `"conversations": [{"from": "human", "value": …}, {"from": "gpt", "value": …}, …]`;
    - Alpaca: `"instruction"`, and optionally `"input"`, which follows after a blank line, `"output"`, and
      `"history"`, a list of [question, answer] that came before.

    The last two may have a `"system"` message. An assistant's turn at the end is the reference.

    Optional keys in all formats: `expert` (a name; null: no hand-over; absent: unlabelled), `written` (the
    part of the reference that the meta writes), `answer`, and `choices` (then `answer` is a letter, or the
    text of a choice). Other keys are ignored. Raises ValueError with a one-line reason.
    """
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    messages, turn = _question_and_turn(row)
    written = _optional_text(row, "written") or ""
    # `written` without a turn is allowed: a hand-over can be learned from it, though no answer judged.
    if turn and not turn.startswith(written):
        raise ValueError("the assistant's turn does not begin with the text of 'written'")
    answer, choices = _answer(row)
    return Query(
        messages,
        _expert(row.get("expert")),
        written,
        turn.removeprefix(written),
        answer,
        choices,
        labelled="expert" in row,
        place=place,
    )


def parse_judged_answer(row: Any, place: str, prompt: Callable[[str, str], str], good_enough: str) -> Query:
    """The decision about an answer, from one JSON object: whether it is good enough.

    The conversation is as for `parse_row`, and the assistant's turn at its end is the answer. `better` says
    whether another answer was better. `prompt` makes of question and answer what the meta sees in place of
    the question. If the answer is good enough, the token of that name should win.
    Raises ValueError with a one-line reason.
    """
    query = parse_row(row, place)
    answer, better = query.written + query.response, row.get("better")
    if not answer:
        raise ValueError("has no answer; end the conversation with the assistant's turn")
    if not isinstance(better, bool):
        raise ValueError("'better' is not true or false; say whether another answer was better")
    asked = {**query.messages[-1], "content": prompt(query.question, answer)}
    return Query((*query.messages[:-1], asked), None if better else good_enough, place=place)


def to_row(query: Query) -> dict[str, Any]:
    """A chat row from which `parse_row` makes the same query, except for `place`."""
    messages = [dict(message) for message in query.messages]
    turn = query.written + query.response
    # If the question ends with an assistant message, it needs an empty turn, or would be taken for one.
    if query.response or messages[-1]["role"] == "assistant":
        messages.append({"role": "assistant", "content": turn})
    row: dict[str, Any] = {"messages": messages}
    if query.labelled:
        row["expert"] = query.expert
    optional = {"written": query.written, "answer": query.answer, "choices": list(query.choices)}
    return row | {key: value for key, value in optional.items() if value}


def _question_and_turn(row: Mapping[str, Any]) -> tuple[tuple[dict[str, str], ...], str]:
    """The messages, and the assistant's turn that ends them; "" if there is none."""
    messages = _conversation(row)
    turn = messages.pop()["content"] if messages[-1]["role"] == "assistant" else ""
    if not messages:
        raise ValueError("the conversation has no question, only an answer; add the question")
    return tuple(messages), turn


def _conversation(row: Mapping[str, Any]) -> list[dict[str, str]]:
    readers = {"messages": _chat, "conversations": _sharegpt, "instruction": _alpaca}
    found = [key for key in readers if key in row]
    if not found:
        raise ValueError(f"no conversation; give one of the keys {', '.join(readers)}")
    if len(found) > 1:
        raise ValueError(f"mixes formats: it has {' and '.join(found)}; keep one of them")
    return list(readers[found[0]](row))


def _chat(row: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    for number, message in enumerate(_objects(row, "messages"), 1):
        if message.get("role") not in ROLES:
            raise ValueError(f"message {number} has no valid role; use one of {', '.join(ROLES)}")
        yield {"role": message["role"], "content": _text(message.get("content"), f"content {number}")}


def _sharegpt(row: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    yield from _system(row)
    for number, message in enumerate(_objects(row, "conversations"), 1):
        speaker = message.get("from")
        if not isinstance(speaker, str) or speaker not in _SPEAKERS:
            raise ValueError(f"turn {number} has no valid 'from'; use one of {', '.join(_SPEAKERS)}")
        yield {"role": _SPEAKERS[speaker], "content": _text(message.get("value"), f"value {number}")}


def _alpaca(row: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    yield from _system(row)
    yield from _history(row.get("history"))
    parts = [_text(row["instruction"], "instruction"), _optional_text(row, "input") or ""]
    yield {"role": "user", "content": "\n\n".join(filter(None, parts))}
    if output := _optional_text(row, "output"):
        yield {"role": "assistant", "content": output}


def _system(row: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    if system := _optional_text(row, "system"):
        yield {"role": "system", "content": system}


def _history(value: Any) -> Iterator[dict[str, str]]:
    if not isinstance(value, list | None) or any(
        not isinstance(pair, list) or len(pair) != 2 for pair in value or ()
    ):
        raise ValueError("'history' is not a list of [question, answer]")
    for question, answer in value or ():
        yield {"role": "user", "content": _text(question, "history")}
        yield {"role": "assistant", "content": _text(answer, "history")}


def _objects(row: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    values = row[key]
    if not isinstance(values, list) or not values:
        raise ValueError(f"'{key}' is not a list of messages")
    for number, value in enumerate(values, 1):
        if not isinstance(value, dict):
            raise ValueError(f"'{key}': entry {number} is not a JSON object")
    return values


def _expert(value: Any) -> str | None:
    if value is None or (isinstance(value, str) and EXPERT_NAME.fullmatch(value)):
        return value
    raise ValueError(f"expert {value!r} is not a valid expert name; use {EXPERT_NAME.pattern} or null")


def _answer(row: Mapping[str, Any]) -> tuple[str | None, tuple[str, ...]]:
    answer, choices = _optional_text(row, "answer"), _choices(row.get("choices"))
    if answer is not None and not answer.strip():
        raise ValueError("'answer' is blank; leave the key out if there is none")
    if not choices:
        return answer, choices
    if answer is None:
        raise ValueError("'choices' without an 'answer'; give its letter or its text")
    letters = string.ascii_uppercase[: len(choices)]
    # A letter is not taken for a text: the choices may be letters themselves, in another order.
    if len(answer) == 1 and answer in letters:
        return answer, choices
    if answer in choices:
        return letters[choices.index(answer)], choices
    raise ValueError(f"answer {answer!r} is neither a letter from A to {letters[-1]} nor one of the choices")


def _choices(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    if not isinstance(value, list) or not 2 <= len(value) <= len(string.ascii_uppercase):
        raise ValueError("'choices' is not a list of 2 to 26 texts")
    return tuple(_text(choice, f"choice {number}") for number, choice in enumerate(value, 1))


def _optional_text(row: Mapping[str, Any], key: str) -> str | None:
    value = row.get(key)
    return None if value is None else _text(value, key)


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str):
        raise ValueError(f"'{name}' is not text")
    if _SURROGATE.search(value):
        raise ValueError(f"'{name}' holds half of a surrogate pair, which is not Unicode text")
    return value
