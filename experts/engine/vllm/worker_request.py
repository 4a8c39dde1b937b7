"""What the workers need to know of a request: sent by the engine as plain data, and rebuilt there."""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from experts.engine.encoding.thoughts import ThoughtMarks
from experts.engine.grammar.compiler import GrammarCompiler
from experts.engine.request import EngineRequest
from experts.engine.sampling.gumbel import MIN_TEMPERATURE
from experts.engine.sampling.routing import RequestState
from experts.engine.sampling.rules import TokenRules, chooses_tokens, has_penalties
from experts.engine.sampling.token_chooser import TokenChooser, answer_grammar
from experts.text.decoder import TokenDecoder

EXTRA_ARGS_KEY = "etr"  # in `SamplingParams.extra_args`


def is_chosen_by_worker(request: EngineRequest) -> bool:
    """Whether vLLM's own sampling cannot do what the request asks.

    Its generators do not depend on the position, so a resumed answer would continue differently. Its
    penalties take all text before the answer's new tokens for the prompt. It does not know the tokenizer, nor
    where a grammar was when an answer was interrupted.
    """
    if request.seed is not None and request.temperature >= MIN_TEMPERATURE:
        return True
    options = request.sampling
    if options is None:
        return False
    has_text = bool(request.written) or request.resumed is not None
    return bool(options.grammar or options.bad_words or (has_text and has_penalties(options)))


def extra_args(
    request: EngineRequest,
    key: str,
    rules: TokenRules | None = None,
    thoughts: ThoughtMarks | None = None,
) -> dict[str, Any] | None:
    """What a worker needs beyond vLLM's own sampling parameters, as plain data; None if it needs nothing.

    `key` names the request in the decision store.
    """
    is_chosen = is_chosen_by_worker(request)
    if not request.is_routed and not is_chosen:
        return None
    fields: dict[str, Any] = {"request_id": key}
    if request.is_routed:
        fields |= {"shadows": list(request.shadows), "reports_start": request.reports_start}
        fields |= {"allowed": list(request.allowed), "bias": dict(request.bias), "probe": request.probe}
        fields["only_at_start"] = request.only_at_start or (
            rules is not None and rules.options.grammar is not None
        )
        fields["thoughts"] = thoughts and asdict(thoughts)
    if is_chosen:
        fields["seed"] = request.seed if request.seed is not None else secrets.randbits(48)
        fields |= {"position": request.position, "temperature": request.temperature}
        fields |= {"top_p": request.top_p, "top_k": request.top_k}
        fields["rules"] = rules.to_plain() if rules else None
    return {EXTRA_ARGS_KEY: fields}


def to_state(
    extra: Mapping[str, Any] | None,
    prompt: Sequence[int],
    grammars: GrammarCompiler,
    decoder: TokenDecoder,
) -> RequestState | None:
    """`extra`: from `extra_args`; `prompt`: token ids; `decoder`: shows the marks of thoughts."""
    fields = dict((extra or {}).get(EXTRA_ARGS_KEY) or {})
    if not fields:
        return None
    plain_rules, plain_thoughts = fields.pop("rules", None), fields.pop("thoughts", None)
    rules = TokenRules.of_plain(plain_rules) if plain_rules else None
    for name in ("allowed", "shadows"):
        fields[name] = tuple(fields.get(name, ()))
    request = EngineRequest(**fields, sampling=rules.options if rules else None)
    chooser = _chooser(rules, prompt, grammars, decoder) if rules else None
    thoughts = ThoughtMarks(**plain_thoughts).tracker() if plain_thoughts else None
    return RequestState(request, seed=request.seed or 0, chooser=chooser, thoughts=thoughts)


def _chooser(
    rules: TokenRules, prompt: Sequence[int], grammars: GrammarCompiler, decoder: TokenDecoder
) -> TokenChooser | None:
    grammar = rules.options.grammar
    if grammar is not None:  # both are there already, before the request came
        words = grammars.submit_words().result() if rules.call_beginnings else None
        compiled = grammars.submit(grammar).result()
        return TokenChooser(rules, prompt, answer_grammar(rules, compiled, decoder, words))
    return TokenChooser(rules, prompt) if chooses_tokens(rules.options) else None
