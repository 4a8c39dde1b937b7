"""Rules cross process boundaries as plain data."""

from __future__ import annotations

import json

from experts.engine.encoding.thoughts import ThoughtMarks
from experts.engine.request import Grammar, GrammarKind, Resumed, SamplingOptions
from experts.engine.sampling.rules import TokenRules


def test_rules_are_the_same_after_their_way_to_another_process():
    options = SamplingOptions(
        min_p=0.5,
        logit_bias={},
        stop_token_ids=(4,),
        num_logprobs=2,
        grammar=Grammar(GrammarKind.REGEX, "a"),
    )
    thoughts = ThoughtMarks("deepseek_r1", "tail", False, "")
    rules = TokenRules(
        options,
        (2, 4),
        (2,),
        9,
        ((1, 2), (3,)),
        (7, 8),
        Resumed("a", (1,), "f"),
        True,
        thoughts,
        ("<call>",),
    )
    sent = TokenRules.of_plain(json.loads(json.dumps(rules.to_plain())))
    assert json.dumps(sent.to_plain()) == json.dumps(rules.to_plain())
    assert (sent.resumed and sent.resumed.text, sent.options.grammar) == ("a", options.grammar)
    assert (sent.end_ids, sent.bad_words, sent.own_ids) == ((2, 4), ((1, 2), (3,)), (7, 8))
