"""How a model chooses its tokens: what every request says, and what few ask for besides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class GrammarKind(StrEnum):
    """What `Grammar.source` is written in."""

    JSON_OBJECT = "json_object"  # any JSON object; the source is empty
    JSON_SCHEMA = "json_schema"  # a JSON schema, as JSON
    REGEX = "regex"
    CHOICE = "choice"  # the texts to choose from, as a JSON list
    GRAMMAR = "grammar"  # EBNF, as GBNF has it
    STRUCTURAL_TAG = "structural_tag"  # free text with parts under a schema, as JSON


@dataclass(frozen=True, slots=True)
class Grammar:
    """What the answer has to match, from the first token of its writer on."""

    kind: GrammarKind
    source: str = ""


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """What few requests ask of sampling. The defaults change nothing.

    The fields are vLLM's sampling parameters of these names. `num_logprobs` and `num_prompt_logprobs` are
    the numbers of alternatives; None asks for no log-probabilities. `allowed_token_ids` None allows all.
    """

    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    min_tokens: int = 0
    ignore_eos: bool = False
    stop_token_ids: tuple[int, ...] = ()
    bad_words: tuple[str, ...] = ()
    allowed_token_ids: tuple[int, ...] | None = None
    num_logprobs: int | None = None
    num_prompt_logprobs: int | None = None
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """`options` None: the request asks for nothing further."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0  # 0 is no limit
    seed: int | None = None
    options: SamplingOptions | None = None
