"""Grammars in vLLM's workers, where tokens are chosen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from experts.engine.grammar.compiler import TIME_LIMIT_S, GrammarCompiler, too_slow
from experts.engine.sampling.rules import TokenRules
from experts.engine.sampling.token_chooser import answer_grammar
from experts.errors import EngineFailed, InvalidCall
from experts.text.decoder import TokenDecoder

POLL_S = 0.01

# None: still compiling. Empty: ready. Else the code, the param and the message of an error, or the message
# alone of a failure of the engine.
Outcome = Sequence[str] | None


class WorkerGrammars:
    """`call`: calls a method of all workers, between two steps, and returns the result of each."""

    def __init__(self, call: Callable[[dict[str, Any]], Awaitable[Sequence[Outcome]]]) -> None:
        self._call = call

    async def prepare(self, rules: TokenRules) -> None:
        """Returns when all workers have compiled the grammar of `rules` and can continue its answer.

        Raises InvalidCall, EngineFailed (see `GrammarCompiler` and `AnswerGrammar`).
        """
        grammar = rules.options.grammar
        if grammar is None:
            return
        start_s = time.monotonic()
        while True:
            outcomes = await self._call(rules.to_plain())
            if error := next((outcome for outcome in outcomes if outcome), None):
                raise InvalidCall(*error) if len(error) > 1 else EngineFailed(*error)
            if all(outcome is not None for outcome in outcomes):
                return
            if time.monotonic() - start_s > TIME_LIMIT_S:
                raise too_slow(grammar)
            await asyncio.sleep(POLL_S)


def outcome_in_worker(grammars: GrammarCompiler, rules: TokenRules, decoder: TokenDecoder) -> Outcome:
    """Begin to compile, if that has not begun; how far it is."""
    words = grammars.submit_words() if rules.call_beginnings else None
    if words is not None and not words.done():
        return None
    assert rules.options.grammar is not None
    future = grammars.submit(rules.options.grammar)
    if not future.done():
        return None
    try:
        answer_grammar(rules, future.result(), decoder, words.result() if words else None)
    except InvalidCall as error:
        return [error.code, error.param or "", error.message]
    except EngineFailed as error:
        return [str(error)]
    return []
