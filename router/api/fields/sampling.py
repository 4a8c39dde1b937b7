"""The fields that say how models choose their tokens."""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Any

from pydantic import Field, field_validator

from router.api.fields.grammar import GrammarFields
from router.api.fields.strict import MAX_INT32, MAX_NAMES, Bias, StrictRequest, TokenIds, at_most
from router.sampling import Sampling, SamplingOptions

MAX_BAD_WORDS = 128
MAX_LOGPROBS = 20
MAX_STOP_STRINGS = 16

BadWord = Annotated[str, Field(min_length=1, max_length=256)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
StopStrings = Annotated[list[StopString], Field(max_length=MAX_STOP_STRINGS)]
Penalty = Annotated[float, Field(ge=-2, le=2)]
TokenKey = Annotated[str, Field(pattern=r"^[0-9]{1,10}$")]  # keys of JSON objects are strings

# These hold token ids, which mean something for one tokenizer only.
TOKEN_ID_FIELDS = ("logit_bias", "stop_token_ids", "allowed_token_ids")
_PASSED_ON = (
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "min_tokens",
    "ignore_eos",
)


class StopFields(StrictRequest):
    stop: StopStrings = Field(default_factory=list)
    include_stop_str_in_output: bool = False

    @field_validator("stop", mode="before", json_schema_input_type=StopString | StopStrings)
    @classmethod
    def _as_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value


class SamplingFields(GrammarFields):
    temperature: float = Field(1.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: int = Field(0, ge=-1, le=MAX_INT32)
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    min_p: float = Field(0.0, ge=0, le=1)
    presence_penalty: Penalty = 0.0
    frequency_penalty: Penalty = 0.0
    repetition_penalty: float = Field(1.0, gt=0, le=100)
    logit_bias: Annotated[dict[TokenKey, Bias], Field(max_length=MAX_NAMES), at_most(MAX_NAMES)] = Field(
        default_factory=dict
    )
    min_tokens: int = Field(0, ge=0, le=MAX_INT32)
    ignore_eos: bool = False
    stop_token_ids: TokenIds = Field(default_factory=list)
    allowed_token_ids: TokenIds | None = Field(None, min_length=1)
    bad_words: list[BadWord] = Field(default_factory=list, max_length=MAX_BAD_WORDS, fail_fast=True)
    prompt_logprobs: int | None = Field(None, ge=0, le=MAX_LOGPROBS)

    @property
    def num_logprobs(self) -> int | None:
        """How many alternatives to each token are wanted; None: no log-probabilities."""
        return None

    @property
    def num_prompt_logprobs(self) -> int | None:
        """The same for the tokens of the prompt."""
        return self.prompt_logprobs

    def sampling(self, choice: int) -> Sampling:
        # Engines need seeds that are not negative, and each choice its own, or all choices would be equal.
        seed = None if self.seed is None else (self.seed + choice) % 2**63
        return Sampling(self.temperature, self.top_p, max(self.top_k, 0), seed, self._options)

    @cached_property
    def _options(self) -> SamplingOptions | None:
        if self.model_fields_set.isdisjoint(_OPTION_FIELDS):  # nearly always
            return None
        allowed = self.allowed_token_ids
        options = SamplingOptions(
            **{name: getattr(self, name) for name in _PASSED_ON},
            logit_bias={int(token): bias for token, bias in self.logit_bias.items()},
            stop_token_ids=tuple(self.stop_token_ids),
            bad_words=tuple(self.bad_words),
            allowed_token_ids=None if allowed is None else tuple(allowed),
            num_logprobs=self.num_logprobs,
            num_prompt_logprobs=self.num_prompt_logprobs,
            grammar=self.grammar,
        )
        return None if options == _NOTHING else options


_OPTION_FIELDS = {*SamplingFields.model_fields, "logprobs", "echo"} - {
    "temperature",
    "top_p",
    "top_k",
    "seed",
}
_NOTHING = SamplingOptions()
