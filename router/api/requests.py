"""The requests that a client may send: OpenAI's, with the `routing` extension.

Unknown fields are ignored, since clients send many. Known fields are validated strictly, and those that are
not supported are refused by name. The models' docstrings are part of the OpenAPI document.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Annotated, Any, ClassVar, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError, from_json

from router.api.unsupported_params import NO_OP_VALUES
from router.decoding.policy import Routing
from router.errors import InvalidRequest
from router.prompt import Message, Prompt
from router.sampling import Sampling

MAX_CHOICES = 128
MAX_MESSAGES = 2048
MAX_PARTS = 2048  # per message
MAX_NAMES = 1024  # per routing option
MAX_INT32 = 2**31 - 1
MAX_PARAM_LENGTH = 256  # error messages repeat the path of a field, and the client chooses the names in it

Bias = Annotated[float, Field(ge=-100, le=100)]
Count = Annotated[int, Field(ge=1, le=MAX_INT32)]
Name = Annotated[str, Field(min_length=1, max_length=256)]
# Reporting all of the 300,000 invalid items that fit into a body of 1 MB would block other requests.
Names = Annotated[list[Name], Field(max_length=MAX_NAMES, fail_fast=True)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]


class StrictRequest(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True, extra="ignore", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _normalized(cls, value: Any) -> Any:
        """Drops nulls, and turns 6.0 into 6: JSON has only one type of number."""
        if not isinstance(value, dict):
            return value
        present = ((k, v) for k, v in value.items() if v is not None)
        return {k: int(v) if type(v) is float and v.is_integer() else v for k, v in present}


class RoutingOptions(StrictRequest):
    """The `routing` extension of this API. Unknown fields are errors here."""

    model_config = ConfigDict(extra="forbid")

    trace: bool = False
    experts: Names | None = None
    exclude: Names = Field(default_factory=list)
    force: Name | None = None
    bias: dict[Name, Bias] = Field(default_factory=dict, max_length=MAX_NAMES)
    call_bias: Bias = 0.0

    @model_validator(mode="before")
    @classmethod
    def _has_few_names(cls, value: Any) -> Any:
        # Before the validation of the names, which would report every invalid one in a body of 1 MB.
        parts = {"routing": value, "routing.bias": value.get("bias")} if isinstance(value, dict) else {}
        for name, part in parts.items():
            if isinstance(part, dict) and len(part) > MAX_NAMES:
                raise InvalidRequest(f"{name}: at most {MAX_NAMES} names are allowed", name)
        return value

    def to_routing(self) -> Routing:
        experts = None if self.experts is None else tuple(dict.fromkeys(self.experts))
        return Routing(experts, tuple(self.exclude), self.force, self.bias, self.call_bias)


class TextPart(StrictRequest):
    type: Literal["text"]
    text: str


class ChatMessage(StrictRequest):
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

    def to_message(self) -> Message:
        # OpenAI renamed the system role to `developer`; the chat templates of open models use the old name.
        role = "system" if self.role == "developer" else self.role
        return Message(role, "\n".join(part.text for part in self.content))


class StreamOptions(StrictRequest):
    include_usage: bool = False


class AnswerRequest(StrictRequest, ABC):
    """The fields that chat and text completions share."""

    routed_by_default: ClassVar[bool]

    model: Name | None = None
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    n: int = Field(1, ge=1, le=16)
    stop: list[StopString] = Field(default_factory=list, max_length=4)
    include_stop_str_in_output: bool = False
    prompt_logprobs: int | None = Field(None, ge=0, le=20)
    max_tokens: Count | None = None
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=0, le=MAX_INT32)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    routing: RoutingOptions | None = None

    @field_validator("stop", mode="before")
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @model_validator(mode="after")
    def _has_stream_options_only_if_streamed(self) -> Self:
        if "stream_options" in self.model_fields_set and not self.stream:
            raise InvalidRequest('stream_options needs "stream": true', "stream_options")
        return self

    @abstractmethod
    def prompts(self) -> list[Prompt]: ...

    def token_limit(self) -> int | None:
        return self.max_tokens

    @property
    def legacy_functions(self) -> bool:
        """Whether the client uses `functions`, which OpenAI had before `tools`."""
        return False

    @property
    def trace(self) -> bool:
        return self.routing is not None and self.routing.trace

    def sampling(self, choice: int) -> Sampling:
        # Engines need seeds that are not negative, and each choice its own, or all choices would be equal.
        seed = None if self.seed is None else (self.seed + choice) % 2**63
        return Sampling(self.temperature, self.top_p, self.top_k, seed)


class ChatRequest(AnswerRequest):
    routed_by_default: ClassVar[bool] = True

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)
    max_completion_tokens: Count | None = None

    @model_validator(mode="after")
    def _has_one_token_limit(self) -> Self:
        limits = {self.max_tokens, self.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise InvalidRequest("max_tokens and max_completion_tokens differ: send only one", "max_tokens")
        return self

    def prompts(self) -> list[Prompt]:
        return [Prompt(messages=tuple(message.to_message() for message in self.messages))]

    def token_limit(self) -> int | None:
        return self.max_completion_tokens or self.max_tokens


class CompletionRequest(AnswerRequest):
    """A raw prompt has no turns, so it is routed only if the request has a `routing` object."""

    routed_by_default: ClassVar[bool] = False

    prompt: list[str | list[int]]
    max_tokens: Count | None = 16  # OpenAI's default for this endpoint
    best_of: int | None = None
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

    @model_validator(mode="after")
    def _has_few_choices(self) -> Self:
        if self.best_of not in (None, self.n):
            raise InvalidRequest("best_of must be equal to n", "best_of", "unsupported_parameter")
        if len(self.prompt) * self.n > MAX_CHOICES:
            raise InvalidRequest(f"at most {MAX_CHOICES} choices: send fewer prompts or a lower n", "prompt")
        return self

    def prompts(self) -> list[Prompt]:
        return [Prompt(text=p) if isinstance(p, str) else Prompt(ids=tuple(p)) for p in self.prompt]


AnyRequest = TypeVar("AnyRequest", bound=AnswerRequest)


def parse(kind: type[AnyRequest], body: bytes) -> AnyRequest:
    """Parse a request body.

    Raises:
        InvalidRequest: the body is not a JSON object, a field is invalid, or a parameter is not supported.
    """
    try:
        fields = from_json(body, allow_inf_nan=False)
    except ValueError as error:
        raise InvalidRequest(f"the body is not valid JSON: {error}") from error
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object")
    for name, value in fields.items():
        _refuse_unless_no_op(name, value)
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _to_invalid_request(error) from error


def _is_prompt(value: Any) -> bool:
    if not isinstance(value, list):
        return isinstance(value, str) and value != ""
    return value != [] and all(
        (type(i) is int or (type(i) is float and i.is_integer())) and 0 <= i <= MAX_INT32 for i in value
    )


def _refuse_unless_no_op(name: str, value: Any) -> None:
    if value is None or name not in NO_OP_VALUES:
        return
    # In Python, False == 0; but `logprobs: 0` asks for something, unlike `logprobs: false`.
    if not any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in NO_OP_VALUES[name]):
        raise InvalidRequest(f"{name} is not supported", name, "unsupported_parameter")


def _to_invalid_request(error: ValidationError) -> InvalidRequest:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    param = ".".join(str(part) for part in first["loc"])[:MAX_PARAM_LENGTH] or None
    code = first["type"] if first["type"] == "unsupported_parameter" else None
    return InvalidRequest(f"{param}: {first['msg']}" if param else first["msg"], param, code)
