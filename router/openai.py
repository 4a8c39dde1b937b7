"""What a client may send: OpenAI's requests with the `routing` extension.

Unknown fields are ignored, as clients send many. Known ones are checked strictly, and a known one that
cannot be honoured is refused by name: an answer that silently ignores it would be wrong.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError, from_json

from router.errors import InvalidRequest
from router.model import Message, Prompt, Sampling
from router.neutral import NEUTRAL
from router.policy import Routing

MAX_CHOICES = 128
MAX_MESSAGES = 2048
MAX_PARTS = 2048  # of one message
MAX_NAMES = 1024  # in one routing option
MAX_INT32 = 2**31 - 1
# A field's path is repeated to the client, and a client may name a field as it likes.
MAX_PARAM_LENGTH = 256

Bias = Annotated[float, Field(ge=-100, le=100)]
Count = Annotated[int, Field(ge=1, le=MAX_INT32)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
# A body of a megabyte can hold 300,000 wrong items; to report them all would keep everybody else waiting.
Names = Annotated[list[Name], Field(max_length=MAX_NAMES, fail_fast=True)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _as_json_means_it(cls, value: Any) -> Any:
        """A null is not given, and 6.0 is the integer 6: JSON has one kind of number."""
        if not isinstance(value, dict):
            return value
        given = ((k, v) for k, v in value.items() if v is not None)
        return {k: int(v) if type(v) is float and v.is_integer() else v for k, v in given}


class RoutingOptions(Strict):
    """The `routing` extension; ours alone, so a misspelt key is an error."""

    model_config = ConfigDict(extra="forbid")

    trace: bool = False
    experts: Names | None = None
    exclude: Names = Field(default_factory=list)
    force: Name | None = None
    bias: dict[Name, Bias] = Field(default_factory=dict, max_length=MAX_NAMES)
    call_bias: Bias = 0.0

    @model_validator(mode="before")
    @classmethod
    def _few_enough(cls, value: Any) -> Any:
        """Looked at first: all that is wrong with a megabyte of names would be found otherwise."""
        parts = {"routing": value, "routing.bias": value.get("bias")} if isinstance(value, dict) else {}
        for name, part in parts.items():
            if isinstance(part, dict) and len(part) > MAX_NAMES:
                raise InvalidRequest(f"{name}: at most {MAX_NAMES} names", name)
        return value

    def wishes(self) -> Routing:
        experts = None if self.experts is None else tuple(dict.fromkeys(self.experts))
        return Routing(experts, tuple(self.exclude), self.force, self.bias, self.call_bias)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ChatMessage(Strict):
    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: list[TextPart] = Field(min_length=1, max_length=MAX_PARTS, fail_fast=True)
    tool_calls: list[Any] = Field(default_factory=list)

    @field_validator("content", mode="before")
    @classmethod
    def _as_parts(cls, value: Any) -> Any:
        if not isinstance(value, str | list):
            raise PydanticCustomError("content", "must be a string or a list of text parts")
        return [{"type": "text", "text": value}] if isinstance(value, str) else value

    @field_validator("tool_calls")
    @classmethod
    def _no_tool_calls(cls, value: list[Any]) -> list[Any]:
        if value:
            raise PydanticCustomError("unsupported_parameter", "is not supported")
        return value

    def plain(self) -> Message:
        # `developer` is OpenAI's newer name of the system role; open models' templates know the older one.
        role = "system" if self.role == "developer" else self.role
        return Message(role, "\n".join(part.text for part in self.content))


class StreamOptions(Strict):
    include_usage: bool = False


class AnswerRequest(Strict, ABC):
    """What chat and plain completions have in common."""

    routed_unasked: ClassVar[bool]

    model: Name | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: int = Field(1, ge=1, le=16)
    stop: list[StopString] = Field(default_factory=list, max_length=4)
    max_tokens: Count | None = None
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=MAX_INT32)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    routing: RoutingOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _options_take_effect(self) -> Self:
        if "stream_options" in self.model_fields_set and not self.stream:
            raise InvalidRequest('stream_options takes effect only with "stream": true', "stream_options")
        return self

    @abstractmethod
    def prompts(self) -> list[Prompt]: ...

    def token_limit(self) -> int | None:
        return self.max_tokens

    @property
    def trace(self) -> bool:
        return self.routing is not None and self.routing.trace

    def sampling(self, choice: int) -> Sampling:
        # Engines take seeds without a sign; every choice needs its own, or all would be the same.
        seed = None if self.seed is None else (self.seed + choice) % 2**63
        return Sampling(self.temperature, self.top_p, self.top_k, seed)


class ChatRequest(AnswerRequest):
    routed_unasked: ClassVar[bool] = True

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    max_completion_tokens: Count | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise InvalidRequest("max_tokens and max_completion_tokens differ: give one", "max_tokens")
        return self

    def prompts(self) -> list[Prompt]:
        return [Prompt(messages=tuple(message.plain() for message in self.messages))]

    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(AnswerRequest):
    """A raw prompt has no turns to hand over, so it is routed only when a `routing` object asks for it."""

    routed_unasked: ClassVar[bool] = False

    prompt: list[str | list[int]]
    max_tokens: Count | None = 16  # OpenAI's default for this endpoint
    best_of: int | None = None

    @field_validator("prompt", mode="plain")
    @classmethod
    def _as_list(cls, value: Any) -> list[str | list[int]]:
        """OpenAI's four spellings: a text, token ids, or a list of either."""
        prompts = [value] if _is_prompt(value) else value
        if isinstance(prompts, list) and len(prompts) > MAX_CHOICES and isinstance(prompts[0], str | list):
            raise InvalidRequest(f"at most {MAX_CHOICES} prompts", "prompt")
        if isinstance(prompts, list) and prompts and all(_is_prompt(prompt) for prompt in prompts):
            return [one if isinstance(one, str) else list(map(int, one)) for one in prompts]
        raise PydanticCustomError("prompt", "must be a non-empty text, token ids or a list of either")

    @model_validator(mode="after")
    def _few_enough(self) -> Self:
        if self.best_of not in (None, self.n):
            raise InvalidRequest("best_of other than n is not supported", "best_of", "unsupported_parameter")
        if len(self.prompt) * self.n > MAX_CHOICES:
            raise InvalidRequest(f"at most {MAX_CHOICES} choices: send fewer prompts or a lower n", "prompt")
        return self

    def prompts(self) -> list[Prompt]:
        return [Prompt(text=p) if isinstance(p, str) else Prompt(ids=tuple(p)) for p in self.prompt]


AnyRequest = TypeVar("AnyRequest", bound=AnswerRequest)


def parse(kind: type[AnyRequest], body: bytes) -> AnyRequest:
    """Read a request body.

    Raises:
        InvalidRequest: not a JSON object, a field out of its range, or a parameter that is not supported.
    """
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object")
    for name, value in fields.items():
        _refuse_unless_neutral(name, value)
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _first_of(error) from error


def _is_prompt(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str) and value != ""
    return value != [] and all(
        (type(i) is int or (type(i) is float and i.is_integer())) and 0 <= i <= MAX_INT32 for i in value
    )


def _refuse_unless_neutral(name: str, value: Any) -> None:
    if value is None or name not in NEUTRAL:
        return
    # A bool is an int to Python, but `logprobs: 0` asks for something and `logprobs: false` does not.
    if not any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in NEUTRAL[name]):
        raise InvalidRequest(f"{name} is not supported", name, "unsupported_parameter")


def _first_of(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"])[:MAX_PARAM_LENGTH] or None
    code = first["type"] if first["type"] == "unsupported_parameter" else None
    return InvalidRequest(f"{param}: {first['msg']}" if param else first["msg"], param, code)
