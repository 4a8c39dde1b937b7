"""What an engine is asked: one generation, and everything that a request may say about it."""

from __future__ import annotations

from collections.abc import Container, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from experts.engine.tasks import Task


@dataclass(frozen=True, slots=True)
class Resumed:
    """What this model had written of the answer before its replica was lost: the text, and its token ids.

    The ids are used if `tokenizer` is the engine's own fingerprint (`EngineChunk.tokenizer`), because text
    that is tokenized again may give other ids. Otherwise the text is used.
    """

    text: str
    ids: tuple[int, ...]
    tokenizer: str


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

    Attributes:
        min_p: Tokens below this fraction of the likeliest token's probability are not sampled.
        presence_penalty: Subtracted from the logit of each token that the answer holds already.
        frequency_penalty: Subtracted once for each time that it holds the token.
        repetition_penalty: Divides positive logits, and multiplies negative ones, of tokens of prompt and
            answer.
        logit_bias: Added to the logits, by token id.
        min_tokens: The answer does not end before it has so many new tokens.
        ignore_eos: The tokens that end a turn are written like any other token; the answer ends at
            `max_tokens`.
        stop_token_ids: Tokens that end the answer besides those of the model; they are not part of its text.
        bad_words: Texts that are not written: the last token of each is forbidden after the ones before.
        allowed_token_ids: Only these tokens are sampled. None: all.
        num_logprobs: The log-probabilities of each new token and of so many of its likeliest alternatives.
            None: none.
        num_prompt_logprobs: The same for the tokens of the prompt.
        grammar: What the answer has to match.
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
class ChatOptions:
    """What few requests ask of the chat template and of the parser of its output.

    Attributes:
        tools: The functions that the model may call, as OpenAI's `tools`.
        tool_choice: `auto`, `required`, or the name of the function to call. `none`: tools are shown to the
            model but its calls stay text.
        parallel_tool_calls: Whether one answer may hold several calls.
        template_kwargs: Further variables of the chat template.
        documents: Texts for templates that know documents.
        chat_template: Replaces the model's own template.
        truncate_prompt_tokens: Only so many tokens at the end of the prompt are kept. −1: as many as fit.
        add_generation_prompt: False: the prompt ends where the last message does.
    """

    tools: tuple[Mapping[str, Any], ...] = ()
    tool_choice: str = "auto"
    parallel_tool_calls: bool = True
    template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    documents: tuple[Mapping[str, Any], ...] = ()
    chat_template: str | None = None
    truncate_prompt_tokens: int | None = None
    add_generation_prompt: bool = True


@dataclass(frozen=True, slots=True)
class EngineRequest:
    """One generation.

    Attributes:
        request_id: For logs; two requests may have the same id.
        messages: A conversation of `{"role": …, "content": …}`; an assistant message may have OpenAI's
            `tool_calls` and a `reasoning`, a tool message its `tool_call_id`. Exactly one of `messages`,
            `text`, `ids` and `inputs` is given.
        text: A raw prompt.
        ids: A raw prompt as token ids.
        inputs: Texts or token ids to embed, each for itself.
        written: Text that already stands in the open assistant turn, or after the raw prompt.
        resumed: What follows `written`, if this model's replica was lost in the middle of the answer.
        position: Number of tokens in `written` and `resumed`. Seeded sampling of token number p depends only
            on (`seed`, p), so a resumed generation continues as if it had not been interrupted.
        max_tokens: Maximum number of new tokens. None: until the context window is full.
        temperature: 0 is greedy.
        top_p: 1 is off.
        top_k: 0 is off.
        seed: None: the engine chooses one.
        sampling: None: nothing further is asked of sampling.
        chat: None: nothing further is asked of the chat template.
        allowed: The experts that may take over.
        shadows: The shadow experts to score beside them.
        reports_start: Report the candidates of the first decision, whatever it is.
        windows: Context windows of experts, in tokens; one that does not hold the prompt cannot take over.
        bias: Added to the logits of these experts.
        in_place: Experts of `allowed` that are adapters of this engine, each with the adapter's name. One
            that wins takes over within this generation. One whose adapter is not loaded cannot win.
        only_at_start: An expert may take over only at the first token.
        probe: Generate nothing; return the distribution over the allowed experts at the first position.
        task: What takes the place of an answer; its result is one chunk. None: an answer.
        adapter: The LoRA adapter to use, which the engine has loaded. None: the model without an adapter.
        cache_salt: Only requests with the same one, or all without one, share blocks of the prefix cache.
        trace_headers: `traceparent` and `tracestate` of the request, for servers that the engine asks.
        message_gap_s: Not for the engine: its replica may merge chunks that are closer in time than this.
    """

    request_id: str
    messages: tuple[Mapping[str, Any], ...] | None = None
    text: str | None = None
    ids: tuple[int, ...] | None = None
    inputs: tuple[str | tuple[int, ...], ...] | None = None
    written: str = ""
    resumed: Resumed | None = None
    position: int = 0
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    sampling: SamplingOptions | None = None
    chat: ChatOptions | None = None
    allowed: tuple[str, ...] = ()
    shadows: tuple[str, ...] = ()
    reports_start: bool = False
    windows: Mapping[str, int] = field(default_factory=dict)
    bias: Mapping[str, float] = field(default_factory=dict)
    in_place: Mapping[str, str] = field(default_factory=dict)
    only_at_start: bool = False
    probe: bool = False
    task: Task | None = None
    adapter: str | None = None
    cache_salt: str | None = None
    trace_headers: Mapping[str, str] = field(default_factory=dict)
    message_gap_s: float = 0.0

    @property
    def is_routed(self) -> bool:
        """Whether experts are scored for it, be they allowed or shadows."""
        return bool(self.allowed or self.shadows)

    def with_adapters(self, loaded: Container[str]) -> EngineRequest:
        """Without the experts in place whose adapter is not among these."""
        if all(name in loaded for name in self.in_place.values()):
            return self
        in_place = {expert: name for expert, name in self.in_place.items() if name in loaded}
        missing = self.in_place.keys() - in_place.keys()
        allowed = tuple(expert for expert in self.allowed if expert not in missing)
        return replace(self, allowed=allowed, in_place=in_place)

    @property
    def has_grammar(self) -> bool:
        return self.sampling is not None and self.sampling.grammar is not None
