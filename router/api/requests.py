"""The requests that a client may send: OpenAI's, with the `routing` extension.

Known fields are validated strictly; `router/api/fields/` says which are known. Any other field is ignored,
since clients send many. The models' docstrings are part of the OpenAPI document.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from router.api.fields.messages import ChatMessage
from router.api.fields.refused import REFUSED
from router.api.fields.routing import RoutingOptions
from router.api.fields.sampling import MAX_LOGPROBS, SamplingFields, StopFields
from router.api.fields.strict import MAX_INT32, Name, StrictRequest
from router.api.fields.table import Endpoint, EndpointRequest, refused_by
from router.api.fields.template import TemplateFields, TruncationFields
from router.api.fields.tools import ToolFields
from router.errors import InvalidRequest
from router.media.tool_results import with_pictures_after_results
from router.prompt import ChatOptions, Prompt

MAX_CHOICES = 128
MAX_MESSAGES = 2048

Limit = Annotated[int, Field(ge=0, le=MAX_INT32)]


class StreamOptions(StrictRequest):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False

    @property
    def is_continuous(self) -> bool:
        """Whether every event has the usage so far."""
        return self.include_usage and self.continuous_usage_stats


class AnswerRequest(SamplingFields, StopFields, TruncationFields, EndpointRequest, ABC):
    """The fields that chat and text completions share."""

    endpoint: ClassVar[Endpoint]
    routed_by_default: ClassVar[bool]

    model: Name | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: int = Field(1, ge=1, le=16)
    best_of: int | None = None
    max_tokens: Limit | None = None
    max_completion_tokens: Limit | None = None
    priority: int = Field(0, ge=-(2**63), lt=2**63)
    cache_salt: Name | None = None
    routing: RoutingOptions | None = None

    @model_validator(mode="after")
    def _has_no_contradiction(self) -> Self:
        if "stream_options" in self.model_fields_set and not self.stream:
            raise InvalidRequest('stream_options needs "stream": true', "stream_options")
        if self.stream and self.prompt_logprobs is not None:
            raise InvalidRequest("prompt_logprobs cannot be streamed", "prompt_logprobs")
        if self.best_of not in (None, self.n):
            raise InvalidRequest("best_of must be equal to n", "best_of", "unsupported_parameter")
        given = {"max_tokens", "max_completion_tokens"} & self.model_fields_set
        if len({getattr(self, name) for name in given}) > 1:
            raise InvalidRequest("max_tokens and max_completion_tokens differ: send only one", "max_tokens")
        limit = self.token_limit()
        if limit == 0 and self.num_prompt_logprobs is None and not self.echoes:
            raise InvalidRequest(
                "max_tokens: 0 needs something to score: echo or prompt_logprobs", "max_tokens"
            )
        if limit is not None and self.min_tokens > limit:
            raise InvalidRequest("min_tokens is above the maximum number of tokens", "min_tokens")
        return self

    @abstractmethod
    def prompts(self) -> list[Prompt]: ...

    def token_limit(self) -> int | None:
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    @property
    def writes_nothing(self) -> bool:
        """Whether only the prompt is scored."""
        return self.token_limit() == 0

    @property
    def echoes(self) -> bool:
        return False

    @property
    def hides_reasoning(self) -> bool:
        return False

    @property
    def legacy_functions(self) -> bool:
        """Whether the client uses `functions`, which OpenAI had before `tools`."""
        return False

    @property
    def trace(self) -> bool:
        return self.routing is not None and self.routing.trace

    def refuse_prompt_ids(self) -> None:
        """Raises InvalidRequest if a prompt consists of token ids, which is not routed."""


class ChatRequest(ToolFields, TemplateFields, AnswerRequest):
    endpoint: ClassVar[Endpoint] = Endpoint.CHAT
    refused = refused_by(endpoint, REFUSED)
    routed_by_default: ClassVar[bool] = True

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=MAX_LOGPROBS)
    include_reasoning: bool = True

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise InvalidRequest('top_logprobs needs "logprobs": true', "top_logprobs")
        if self.continue_final_message:
            last = self.messages[-1]
            if last.role != "assistant" or last.tool_calls or last.function_call or len(self.messages) == 1:
                raise InvalidRequest(
                    "continue_final_message needs a last message of the assistant with text, after others",
                    "continue_final_message",
                )
        return self

    @property
    def num_logprobs(self) -> int | None:
        return self.top_logprobs if self.logprobs else None

    @property
    def hides_reasoning(self) -> bool:
        return not self.include_reasoning

    def prompts(self) -> list[Prompt]:
        messages, written = self.messages, ""
        if self.continue_final_message:
            messages, written = messages[:-1], messages[-1].text
        sent = with_pictures_after_results([message.to_message() for message in messages])
        return [Prompt(messages=sent, written=written, options=self._chat_options())]

    def _chat_options(self) -> ChatOptions | None:
        if self.model_fields_set.isdisjoint(_CHAT_FIELDS):  # nearly always
            return None
        options = ChatOptions(
            **self.tool_options(),
            template_kwargs=self.template_kwargs,
            documents=tuple(self.documents),
            chat_template=self.chat_template,
            truncate_prompt_tokens=self.truncate_prompt_tokens,
            add_generation_prompt=self.continue_final_message or self.add_generation_prompt is not False,
        )
        return None if options == _NO_OPTIONS else options


_CHAT_FIELDS = {*ToolFields.model_fields, *TemplateFields.model_fields, *TruncationFields.model_fields}
_NO_OPTIONS = ChatOptions()


_NumLogprobs = Annotated[int, Field(ge=0, le=MAX_LOGPROBS)] | Literal[False]


class CompletionRequest(AnswerRequest):
    """A raw prompt has no turns, so it is routed only if the request has a `routing` object."""

    endpoint: ClassVar[Endpoint] = Endpoint.TEXT
    refused = refused_by(endpoint, REFUSED)
    routed_by_default: ClassVar[bool] = False

    prompt: list[str | list[int]]
    max_tokens: Limit | None = 16  # OpenAI's default for this endpoint
    logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)
    echo: bool = False

    @field_validator("prompt", mode="plain")
    @classmethod
    def _as_prompts(cls, value: Any) -> list[str | list[int]]:
        """OpenAI allows a text, token ids, or a list of either."""
        prompts = [value] if _is_prompt(value) else value
        if isinstance(prompts, list) and len(prompts) > MAX_CHOICES and isinstance(prompts[0], str | list):
            raise InvalidRequest(f"prompt: at most {MAX_CHOICES} prompts are allowed", "prompt")
        if isinstance(prompts, list) and prompts and all(_is_prompt(prompt) for prompt in prompts):
            return [prompt if isinstance(prompt, str) else list(map(int, prompt)) for prompt in prompts]
        raise PydanticCustomError("prompt", "must be a non-empty string, token ids, or a list of either")

    @field_validator("logprobs", mode="before", json_schema_input_type=_NumLogprobs)
    @classmethod
    def _as_number(cls, value: Any) -> Any:
        """Clients that know the chat endpoint send false."""
        return None if value is False else value

    @model_validator(mode="after")
    def _has_few_choices(self) -> Self:
        if len(self.prompt) * self.n > MAX_CHOICES:
            raise InvalidRequest(f"at most {MAX_CHOICES} choices: send fewer prompts or a lower n", "prompt")
        return self

    @property
    def echoes(self) -> bool:
        return self.echo

    @property
    def num_logprobs(self) -> int | None:
        return self.logprobs

    @property
    def num_prompt_logprobs(self) -> int | None:
        """Also asked for by `echo`: the echoed tokens have theirs, and token ids have no other text."""
        if self.prompt_logprobs is None and self.echo:
            has_ids = any(isinstance(prompt, list) for prompt in self.prompt)
            return 0 if self.logprobs is None and has_ids else self.logprobs
        return self.prompt_logprobs

    def prompts(self) -> list[Prompt]:
        truncate = self.truncate_prompt_tokens
        options = None if truncate is None else ChatOptions(truncate_prompt_tokens=truncate)
        return [
            Prompt(text=p, options=options) if isinstance(p, str) else Prompt(ids=tuple(p), options=options)
            for p in self.prompt
        ]

    def refuse_prompt_ids(self) -> None:
        if not all(isinstance(prompt, str) for prompt in self.prompt):
            raise InvalidRequest(
                "prompt: token ids differ between models; send text to have it routed", "prompt"
            )


def _is_prompt(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str) and value != ""
    return value != [] and all(
        (type(i) is int or (type(i) is float and i.is_integer())) and 0 <= i <= MAX_INT32 for i in value
    )
