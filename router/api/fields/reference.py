"""The reference of the request fields, as Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from router.api.fields.honoured import HONOURED
from router.api.fields.no_effect import NO_EFFECT
from router.api.fields.refused import REFUSED
from router.api.fields.table import BOTH, SERVERS, Endpoint

_INTRODUCTION = """\
# Request fields

Generated from the code. Every field of `/v1/chat/completions` and `/v1/completions` that OpenAI, vLLM,
SGLang, llama.cpp or TGI documents is in one of three tables: those that are honoured, those that are refused
with a 400 that names them, and those that change nothing here. A field that none of them documents is
ignored. `null` means not given.

`/v1/route` takes the fields of `/v1/chat/completions`.
"""
_MESSAGES = """\
## Messages

| field | of | meaning |
|---|---|---|
| `role` | | `system`, `developer`, `user`, `assistant`, `tool`, or `function` of OpenAI's first API |
| `content` | | Text, or a list of parts of type `text`. A message of the assistant may be without |
| `content` | `user` | Also parts of type [`image_url`, `input_audio` and `file`](../images.md) |
| `name` | | Passed to the chat template |
| `author` | `assistant` | Who wrote it, as an answer [says](../conversations.md). No model gets it |
| `tool_calls`, `function_call` | `assistant` | The calls that the message made |
| `reasoning`, `reasoning_content` | `assistant` | Passed to the chat template, which most often drops them |
| `refusal` | `assistant` | Read as the message's text if it has no other |
| `tool_call_id` | `tool` | The call whose result this is. The model that made the call gets the result |
| `tool_call_id` | `user` | The text came together with the result of this call, and goes to the same model |

Other fields of a message are ignored, except `audio` and `tools`, which are refused.
"""
_SHORT = {Endpoint.CHAT: "chat", Endpoint.TEXT: "completions"}


def fields_reference() -> str:
    """Markdown: a table for each treatment of a field."""
    honoured = [(f.name, _scope(f.endpoints), f.values, f"{f.meaning}.", f.servers) for f in HONOURED]
    refused = [
        (f.name, _scope(f.endpoints), accepted_values(f.accepted), f"{sentence(f.remedy)}.", f.servers)
        for f in REFUSED
    ]
    no_effect = [(f.name, f"{f.reason}.", f.servers) for f in NO_EFFECT]
    return "\n".join(
        [
            _INTRODUCTION,
            *field_table("Honoured", ("field", "only for", "values", "meaning", "documented by"), honoured),
            _MESSAGES,
            *field_table(
                "Refused", ("field", "only for", "accepted", "what to do", "documented by"), refused
            ),
            *field_table("Without effect", ("field", "why", "documented by"), no_effect),
        ]
    )


def field_table(title: str, head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    """The lines of a section. The first cell of a row is the name of a field, the last one the letters of
    servers."""
    cells = [(f"`{name}`", *middle, _servers(letters)) for name, *middle, letters in rows]
    lines = [f"| {' | '.join(row)} |" for row in (head, *cells)]
    return [f"## {title}\n", lines[0], "|---" * len(head) + "|", *lines[1:], ""]


def _scope(endpoints: tuple[Endpoint, ...]) -> str:
    return "" if endpoints == BOTH else ", ".join(_SHORT[endpoint] for endpoint in endpoints)


def accepted_values(accepted: tuple[Any, ...]) -> str:
    return ", ".join(f"`{json.dumps(value)}`" for value in accepted)


def _servers(letters: str) -> str:
    return ", ".join(SERVERS[letter] for letter in letters)


def sentence(text: str) -> str:
    return text[0].upper() + text[1:]
