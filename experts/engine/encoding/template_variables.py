"""What a chat template gets besides the messages."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from experts.chat_template import RESERVED
from experts.engine.request import ChatOptions
from experts.errors import InvalidPrompt


def template_variables(options: ChatOptions | None, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The variables of the template; `defaults` are those that the operator has set. Raises InvalidPrompt."""
    if options is None:
        return dict(defaults)
    if reserved := sorted(RESERVED & options.template_kwargs.keys()):
        raise InvalidPrompt(f"chat_template_kwargs.{reserved[0]}", "is not a variable of chat templates")
    variables: dict[str, Any] = {**defaults, **options.template_kwargs}
    if options.tools and options.tool_choice != "none":
        variables["tools"] = list(options.tools)
    if options.documents:
        variables["documents"] = list(options.documents)
    if options.chat_template is not None:
        variables["chat_template"] = options.chat_template
    return variables
