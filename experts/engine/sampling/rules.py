"""What a request asks of sampling, in the token ids of one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from experts.engine.encoding.encoded_request import EncodedRequest
from experts.engine.encoding.thoughts import ThoughtMarks
from experts.engine.encoding.tokenization import ModelTokenizer
from experts.engine.request import EngineRequest, Grammar, GrammarKind, Resumed, SamplingOptions
from experts.errors import InvalidCall


@dataclass(frozen=True, slots=True)
class TokenRules:
    """How the tokens of a request are chosen beyond temperature, top-k, top-p and seed.

    Attributes:
        options: Of the request.
        end_ids: The tokens that end the answer.
        turn_end_ids: Those of the model itself, the only tokens that may follow a matched grammar.
        max_tokens: How many may be generated.
        bad_words: The ids of each text that must not be written.
        own_ids: The answer's tokens so far, which stand at the end of the prompt.
        resumed: The part of them that the grammar has seen.
        knows_resumed_ids: Whether the ids of `resumed` are of this model's tokenizer.
        thoughts: With which the answer may begin, before its grammar.
        call_beginnings: With which a call begins that the answer may be, without its grammar.
    """

    options: SamplingOptions
    end_ids: tuple[int, ...]
    turn_end_ids: tuple[int, ...]
    max_tokens: int
    bad_words: tuple[tuple[int, ...], ...] = ()
    own_ids: tuple[int, ...] = ()
    resumed: Resumed | None = None
    knows_resumed_ids: bool = False
    thoughts: ThoughtMarks | None = None
    call_beginnings: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """As data of plain types, which cross process boundaries."""
        return asdict(self)

    @classmethod
    def of_plain(cls, fields: Mapping[str, Any]) -> TokenRules:
        """From `to_plain`, with lists in the place of tuples."""
        options, resumed, thoughts = dict(fields["options"]), fields["resumed"], fields["thoughts"]
        if options["grammar"] is not None:
            options["grammar"] = Grammar(
                GrammarKind(options["grammar"]["kind"]), options["grammar"]["source"]
            )
        return cls(
            SamplingOptions(**options),
            tuple(fields["end_ids"]),
            tuple(fields["turn_end_ids"]),
            fields["max_tokens"],
            tuple(map(tuple, fields["bad_words"])),
            tuple(fields["own_ids"]),
            Resumed(**resumed) if resumed else None,
            fields["knows_resumed_ids"],
            ThoughtMarks(**thoughts) if thoughts else None,
            tuple(fields["call_beginnings"]),
        )


def rules_of(encoded: EncodedRequest, options: SamplingOptions, tokenizer: ModelTokenizer) -> TokenRules:
    """What the request asks of sampling with its `options`.

    Raises InvalidCall: an option has a value that this model cannot take.
    """
    request, resumed = encoded.request, encoded.request.resumed
    _require_valid(options, len(tokenizer.hf_tokenizer))
    counts_text = has_penalties(options) or options.bad_words
    return TokenRules(
        options,
        tuple(sorted(tokenizer.end_ids(request))),
        tuple(sorted(tokenizer.stop_ids)),
        tokenizer.max_new_tokens(len(encoded.prompt), request),
        tuple(ids for text in options.bad_words for ids in _spellings(text, tokenizer)),
        tokenizer.own_ids(request, encoded.prompt) if counts_text else (),
        resumed if options.grammar else None,
        resumed is not None and resumed.tokenizer == tokenizer.fingerprint,
        encoded.thoughts if options.grammar else None,
        encoded.call_beginnings,
    )


def has_penalties(options: SamplingOptions) -> bool:
    return bool(options.presence_penalty or options.frequency_penalty or options.repetition_penalty != 1)


def chooses_tokens(options: SamplingOptions) -> bool:
    """Whether the options need more at each step than sampling with min-p."""
    restricts = options.min_tokens or options.bad_words or options.allowed_token_ids is not None
    return bool(
        has_penalties(options)
        or options.logit_bias
        or restricts
        or options.grammar
        or options.num_logprobs is not None
    )


def stop_token(request: EngineRequest, token_id: int) -> int | None:
    """The token that ended the answer, if the request has it in `stop_token_ids`."""
    options = request.sampling
    return token_id if options and token_id in options.stop_token_ids else None


def _spellings(text: str, tokenizer: ModelTokenizer) -> list[tuple[int, ...]]:
    """The ids of a bad word at the beginning of a text, and after a space if they are others."""
    encode = tokenizer.hf_tokenizer.backend_tokenizer.encode
    plain, spaced = (
        tuple(encode(prefix + text.lstrip(), add_special_tokens=False).ids) for prefix in ("", " ")
    )
    if not plain:
        message = "bad_words: each must be a text of one or more tokens"
        raise InvalidCall("invalid_value", "bad_words", message)
    is_other = len(spaced) == len(plain) and spaced[0] != plain[0]
    return [plain, spaced] if is_other else [plain]


def _require_valid(options: SamplingOptions, num_ids: int) -> None:
    """`num_ids`: the size of the vocabulary. Raises InvalidCall."""
    for name, low, high in _RANGES:
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise InvalidCall("invalid_value", name, f"{name} must be from {low} to {high}")
    if not options.repetition_penalty > 0:
        raise InvalidCall("invalid_value", "repetition_penalty", "repetition_penalty must be greater than 0")
    if options.allowed_token_ids is not None and not options.allowed_token_ids:
        raise InvalidCall("invalid_value", "allowed_token_ids", "allowed_token_ids must not be empty")
    for name in ("logit_bias", "stop_token_ids", "allowed_token_ids"):
        if any(not 0 <= token_id < num_ids for token_id in getattr(options, name) or ()):
            message = f"{name}: this model's token ids are from 0 to {num_ids - 1}"
            raise InvalidCall("invalid_value", name, message)


_RANGES: tuple[tuple[str, float, float], ...] = (
    ("min_p", 0, 1),
    ("presence_penalty", -2, 2),
    ("frequency_penalty", -2, 2),
    ("num_logprobs", 0, 20),
    ("num_prompt_logprobs", 0, 20),
)
