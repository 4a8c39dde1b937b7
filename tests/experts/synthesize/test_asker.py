"""A model writes in the user's place and scores what is there: checked against one plain pass per text."""

import pytest
import torch
from transformers import GenerationConfig, PreTrainedModel

from experts.prompt import PromptRenderer
from experts.synthesize.asker import Asker
from experts.synthesize.user_turn import UserTurn
from tests.tiny.asking_models import ELEMENTS, chemist
from tests.tiny.tokenizers import sentencepiece_like


@pytest.fixture(scope="module")
def model(renderer) -> PreTrainedModel:
    return chemist(renderer)


@pytest.fixture(scope="module")
def asker(model, renderer) -> Asker:
    return Asker(model, UserTurn.of(renderer))


def test_a_model_writes_what_it_is_asked(asker):
    texts = asker.sample(16, temperature=0.5, seed=0)
    assert len(texts) == 16
    assert len({*texts} & {*ELEMENTS}) >= 3


def test_a_seed_gives_the_same_texts_and_leaves_torchs_own_state(asker):
    state = torch.get_rng_state()
    first = asker.sample(8, temperature=1.0, seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(1)
    assert asker.sample(8, temperature=1.0, seed=1) == first
    assert asker.sample(8, temperature=1.0, seed=2) != first


def test_a_models_own_generation_settings_do_not_matter(asker):
    expected = asker.sample(8, temperature=1.0, seed=1)
    own = asker.model.generation_config
    asker.model.generation_config = GenerationConfig(top_k=1, repetition_penalty=9.0, no_repeat_ngram_size=1)
    try:
        assert asker.sample(8, temperature=1.0, seed=1) == expected
    finally:
        asker.model.generation_config = own


def test_a_text_without_an_end_is_none(asker, monkeypatch):
    monkeypatch.setattr("experts.synthesize.asker.MAX_NEW_TOKENS", 3)
    assert asker.sample(4, temperature=0.5, seed=0) == [None] * 4


def test_a_score_is_that_of_one_plain_pass(asker, renderer):
    texts = [*ELEMENTS[:2], "☃ is no element", "x"]
    found = asker.nll_per_byte(texts, 3)
    for text, score in zip(texts, found, strict=True):
        ids = renderer.chat([{"role": "user", "content": text}])
        first, last = len(asker.turn.before), len(ids) - len(asker.turn.after)
        with torch.inference_mode():
            log_p = asker.model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        nll = -sum(float(log_p[at - 1, ids[at]]) for at in range(first, last))
        assert score == pytest.approx(nll / len(text.encode()), rel=1e-4)


def test_a_text_that_does_not_fit_is_infinitely_unlikely(asker):
    fits, too_long = asker.nll_per_byte(["what is it?", "iron " * 300], 2)
    assert fits < float("inf") == too_long


def test_a_model_with_spaces_before_its_words_writes_the_space_itself():
    spelling = PromptRenderer(sentencepiece_like("{% for m in messages %}[ {{ m.content }} ]{% endfor %}"))
    turn = UserTurn.of(spelling)
    prompt = spelling.chat([{"role": "user", "content": "iron"}])
    after_text = torch.tensor([prompt[len(turn.before) :]])
    assert Asker(None, turn).texts(after_text) == ["iron"]  # type: ignore[arg-type]
