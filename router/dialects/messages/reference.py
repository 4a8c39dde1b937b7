"""The reference of the fields of /v1/messages, as Markdown."""

from __future__ import annotations

from router.api.fields.reference import accepted_values, field_table, sentence
from router.api.fields.table import Endpoint
from router.dialects.messages.fields import HONOURED, NO_EFFECT, REFUSED

_BLOCKS = """\
`/v1/messages/count_tokens` takes the same fields; it ignores those that are only for messages.

## Content blocks

| type | in a message of | meaning |
|---|---|---|
| `text` | `user`, `assistant`, `system` | Text. Texts of the user in a row are one message |
| `image` | `user` | A picture, by its data or its address |
| `tool_use` | `assistant` | A call that the model made |
| `tool_result` | `user` | Its result, with `text` and `image`, for its caller. `is_error` adds `Error:` |
| `thinking` | `assistant` | Passed to the chat template; signatures are not checked |
| `redacted_thinking` | `assistant` | Left out |

Blocks of any other type are refused by name. `cache_control` may stand anywhere and changes nothing. A text
of the assistant in the last message is continued.
"""


def messages_reference() -> str:
    """Markdown: a table for each treatment of a field."""
    honoured = [(f.name, _scope(f.endpoints), f.values, f"{f.meaning}.", f.servers) for f in HONOURED]
    refused = [(f.name, accepted_values(f.accepted), f"{sentence(f.remedy)}.", f.servers) for f in REFUSED]
    no_effect = [(f.name, f"{f.reason}.", f.servers) for f in NO_EFFECT]
    head = ("field", "only for", "values", "meaning", "documented by")
    return "\n".join(
        [
            *field_table("/v1/messages: honoured", head, honoured),
            _BLOCKS,
            *field_table(
                "/v1/messages: refused", ("field", "accepted", "what to do", "documented by"), refused
            ),
            *field_table("/v1/messages: without effect", ("field", "why", "documented by"), no_effect),
        ]
    )


def _scope(endpoints: tuple[Endpoint, ...]) -> str:
    return "" if Endpoint.COUNT_TOKENS in endpoints else "messages"
