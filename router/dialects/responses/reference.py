"""The reference of the fields of /v1/responses, as Markdown."""

from __future__ import annotations

from router.api.fields.reference import accepted_values, field_table, sentence
from router.dialects.responses.fields import AS_IN_CHAT, HONOURED, NO_EFFECT, REFUSED

_ITEMS = """\
## Items

The types of items in `input` of `/v1/responses`; every other type is refused by name.

| type | fields | meaning |
|---|---|---|
| `message` | `role`, `content` | Of a `user`, the `assistant`, `system` or `developer`; needs no type |
| `function_call` | `call_id`, `name`, `namespace`, `arguments` | A call that a model made |
| `function_call_output` | `call_id`, `output` | Its result. The model that made the call gets it |
| `reasoning` | `content`, `encrypted_content`, `summary` | Thoughts, in the first of the three that has any |

Content is text, or a list of parts of type `input_text`, `output_text`, `text`, `refusal`, `summary_text` or
`reasoning_text`; of a user, also `input_image` (`image_url`, `detail`) and `input_file` (`file_data`,
`filename`), and in `output` also `input_image`. What an assistant thinks, says and calls in a row is one
message for the chat template, and so are `instructions` and the system messages that begin `input`.
"""


def responses_reference() -> str:
    """Markdown: a table for each treatment of a field."""
    honoured = [(f.name, f.values, f"{f.meaning}.", f.servers) for f in HONOURED]
    refused = [(f.name, accepted_values(f.accepted), f"{sentence(f.remedy)}.", f.servers) for f in REFUSED]
    no_effect = [(f.name, f"{f.reason}.", f.servers) for f in NO_EFFECT]
    return "\n".join(
        [
            *field_table(
                "/v1/responses: honoured", ("field", "values", "meaning", "documented by"), honoured
            ),
            f"As in a request to `/v1/chat/completions`: {', '.join(f'`{name}`' for name in AS_IN_CHAT)}.\n",
            _ITEMS,
            *field_table(
                "/v1/responses: refused", ("field", "accepted", "what to do", "documented by"), refused
            ),
            *field_table("/v1/responses: without effect", ("field", "why", "documented by"), no_effect),
        ]
    )
