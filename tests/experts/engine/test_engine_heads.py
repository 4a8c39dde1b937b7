"""Heads of all kinds in each engine: it decides as a plain forward pass of a model whose head is [W_V; W_E].

They scale or cap their logits, have a bias, are shared with the embedding, or have rows for no word.
"""

import asyncio

import pytest
import pytest_asyncio
import torch

from experts.checkpoint import Checkpoint
from experts.engine.chunk import FinishReason
from experts.engine.config import EngineConfig, TransformersConfig, VllmConfig
from experts.learn import cache_states, fit_tokens, judge
from experts.token import ExpertToken
from tests.support.engine_world import ids_of, needs_vllm, prompt_ids, question, run, running
from tests.support.reference_loop import ReferenceModel
from tests.tiny.heads import HEADS, SCALED, model_with_head
from tests.tiny.taught_meta import query_set
from tests.tiny.tokenizers import byte_level

CONFIGS: dict[str, EngineConfig] = {
    "transformers": TransformersConfig(dtype="float32", max_streams=8, num_threads=1),
    "vllm": VllmConfig(dtype="float32", max_streams=8, cache_bytes=2**24, enforce_eager=True),
}
FIRST, LATER = "to the first", "to the later one"

pytestmark = [
    pytest.mark.models,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.filterwarnings("default"),  # vLLM's own code warns
]


@pytest.fixture(
    scope="module",
    params=[
        *(("transformers", head) for head in HEADS),
        *(pytest.param(("vllm", head), marks=needs_vllm) for head in SCALED),
    ],
    ids=" ".join,
)
def case(request) -> tuple[str, str]:
    return request.param


@pytest.fixture(scope="module")
def folder(case, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "meta"
    tokenizer = byte_level()
    ends = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    model = model_with_head(case[1], len(tokenizer), **ends)
    # No expert takes over inside a character, of which the reference knows nothing.
    partial = [i for i in range(len(tokenizer)) if "\ufffd" in str(tokenizer.decode([i]))]
    model.get_output_embeddings().weight.data[partial] = 0.0
    if model.get_output_embeddings().bias is not None:
        model.get_output_embeddings().bias.data[partial] = 0.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine(case, folder):
    async with running(CONFIGS[case[0]], folder) as engine:
        yield engine


def tokens_for(reference: ReferenceModel) -> list[ExpertToken]:
    """One that wins at once, one that wins after three words, each for one question; and the mean word."""
    hidden = torch.cat([states(reference, FIRST, 0), states(reference, LATER, 3)])
    score = 1.2 * (hidden @ reference.head.T + reference.bias).max()
    scores = {
        "first": score * torch.tensor([1, -1, -1, -1, -1]),
        "later": score * torch.tensor([-1, -1, -1, -1, 1]),
    }
    vectors = {name: torch.linalg.pinv(hidden) @ (wanted + 0.5) for name, wanted in scores.items()}
    vectors["mean"] = reference.head.mean(dim=0)
    return [
        ExpertToken(name, vector, -0.5, "meta", reference.fingerprint) for name, vector in vectors.items()
    ]


@torch.no_grad()
def states(reference: ReferenceModel, text: str, num_tokens: int) -> torch.Tensor:
    """[num_tokens + 1, d]: the inputs of the head for these tokens of the answer, and the one after them."""
    ids, _ = reference.write(question(text), "", num_tokens)
    hidden = reference.model.model(torch.tensor([[*prompt_ids(reference, text), *ids]])).last_hidden_state[0]
    return hidden[-num_tokens - 1 :]


async def test_decisions_are_those_of_a_plain_forward_pass_over_words_and_experts(engine, folder):
    tokens = tokens_for(ReferenceModel(folder))
    reference = ReferenceModel(folder, tokens)
    names = tuple(token.name for token in tokens)
    texts = [FIRST, LATER, *(f"question {i}: {'x' * i}?" for i in range(10))]
    await engine.install(1, tokens)
    answers = await asyncio.gather(*(run(engine, text, allowed=names, max_tokens=8) for text in texts))
    probes = await asyncio.gather(*(run(engine, text, allowed=names, probe=True) for text in texts))
    chosen = []
    for text, chunks in zip(texts, answers, strict=True):
        ids, expert = reference.write(question(text), "", 8)
        assert (ids_of(chunks), chunks[-1].expert) == (ids, expert), text
        if expert is not None:
            assert chunks[-1].finish is FinishReason.EXPERT
            logits = reference.logits([*prompt_ids(reference, text), *ids])
            index = reference.num_words + names.index(expert)
            assert chunks[-1].probability == pytest.approx(logits.softmax(-1)[index].item(), rel=1e-4)
        chosen.append(expert)
    assert chosen[:2] == ["first", "later"]
    for text, chunks in zip(texts, probes, strict=True):
        expected = reference.logits(prompt_ids(reference, text)).softmax(-1)[reference.num_words :]
        shares = chunks[-1].distribution
        assert shares is not None
        found = torch.tensor([shares[name] for name in names])
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-3)


async def test_learned_tokens_route_as_learning_says(engine, folder, tmp_path):
    queries = query_set(0, 6)
    states = cache_states(Checkpoint(str(folder), dtype="float32"), queries, tmp_path / "states")
    tokens = fit_tokens(states).tokens
    names = tuple(token.name for token in tokens)
    bare = [i for i, query in enumerate(queries) if not query.written]
    judged = judge(states, tokens)
    await engine.install(2, tokens)
    texts = [str(queries[i].messages[0]["content"]) for i in bare]
    answers = await asyncio.gather(*(run(engine, text, allowed=names, max_tokens=1) for text in texts))
    assert [chunks[-1].expert for chunks in answers] == [judged[i].routed for i in bare]
    assert {chunks[-1].expert for chunks in answers} >= set(names)
