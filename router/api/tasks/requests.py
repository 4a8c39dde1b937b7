"""The requests for the tokens of a prompt and for the text of tokens, as vLLM has them."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_validator

from router.api.body import validated
from router.api.fields.messages import ChatMessage
from router.api.fields.strict import JsonObject, Name, TokenIds
from router.api.fields.table import Endpoint, EndpointRequest, refused_by
from router.api.fields.tools import MAX_TOOLS, Tool
from router.api.requests import MAX_MESSAGES, ChatRequest
from router.api.tasks.fields import REFUSED
from router.errors import InvalidRequest
from router.prompt import Prompt
from router.tasks import Tokenize

# The fields that mean here what they mean for a chat completion.
CHAT_FIELDS = (
    "model",
    "messages",
    "add_generation_prompt",
    "continue_final_message",
    "chat_template",
    "chat_template_kwargs",
    "tools",
)


class TokenizeRequest(EndpointRequest):
    """Either a raw `prompt`, or `messages`, which the chat template of the model renders."""

    endpoint: ClassVar[Endpoint] = Endpoint.TOKENIZE
    refused = refused_by(endpoint, REFUSED)

    model: Name | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = Field(None, min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    add_special_tokens: bool | None = None
    return_token_strs: bool = False
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template: Annotated[str, Field(min_length=1)] | None = None
    chat_template_kwargs: JsonObject = Field(default_factory=dict)
    tools: list[Tool] = Field(default_factory=list, max_length=MAX_TOOLS, fail_fast=True)

    @model_validator(mode="after")
    def _has_one_prompt(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("send either prompt or messages", "prompt")
        if self.messages is not None and self.add_special_tokens:
            raise InvalidRequest(
                "add_special_tokens: the chat template writes the control tokens of messages; leave it out",
                "add_special_tokens",
                "unsupported_parameter",
            )
        of_chats = self.model_fields_set & {*CHAT_FIELDS} - {"model", "messages"}
        if self.messages is None and of_chats:
            raise InvalidRequest(f"{min(of_chats)} has an effect only with messages", min(of_chats))
        return self

    def to_chat(self) -> ChatRequest | None:
        """The conversation as a request for a chat completion; None for a raw prompt.

        Raises:
            InvalidRequest: the fields do not fit together.
        """
        if self.messages is None:
            return None
        fields: dict[str, Any] = self.model_dump(include=set(CHAT_FIELDS), exclude_unset=True)
        return validated(ChatRequest, {**fields, "messages": self.messages})

    @property
    def task(self) -> Tokenize:
        return Tokenize(self.add_special_tokens is not False, self.return_token_strs)


class DetokenizeRequest(EndpointRequest):
    """`tokens` are those of the model that is named."""

    endpoint: ClassVar[Endpoint] = Endpoint.DETOKENIZE
    refused = refused_by(endpoint, REFUSED)

    model: Name | None = None
    tokens: TokenIds

    @property
    def prompt(self) -> Prompt:
        return Prompt(ids=tuple(self.tokens))
