"""A real language model, SmolLM2-135M-Instruct, as a meta with two experts, in each local engine.

The router's decode loop runs over engines of this process. Every token of every answer, and every route, is
compared with plain forward passes.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from experts.checkpoint import Checkpoint
from experts.engine.base import Engine
from experts.engine.config import EngineConfig, ModelSource, TransformersConfig, VllmConfig
from experts.engine.factory import make_engine
from experts.learn import compute_states, learn_tokens
from experts.token import ExpertToken
from router.decoding.decode import Decoder
from router.decoding.generation import Done, GenerationRequest
from router.decoding.policy import Target
from router.model_port import Finish
from router.prompt import Message, Prompt
from router.sampling import Sampling
from router.table import ModelEntry, RouteTable
from tests.fakes.models import FakeGateway
from tests.support.engine_model import PATIENT, Call, EngineModel
from tests.support.engine_world import ENGINE_KINDS
from tests.support.greedy_check import answer_logits, prompt_ids, shortfalls
from tests.support.reference_loop import ReferenceModel
from tests.support.smollm2_prompts import LATER, SIMILAR, Conversation, conversations, learning_queries

MAX_TOKENS = 8
WINDOW = 1024
# float32 sums in another order differ by about 1e-4. Where two logits are closer than this, either is right.
NEAR_TIE = 1e-3
MAX_NEAR_TIES = 3
CONFIGS: dict[str, EngineConfig] = {
    "transformers": TransformersConfig(
        dtype="float32", max_model_len=WINDOW, max_streams=16, cache_tokens=8192, num_threads=1
    ),
    "vllm": VllmConfig(
        dtype="float32", max_model_len=WINDOW, max_streams=16, cache_bytes=2**28, enforce_eager=True
    ),
}
TABLE = RouteTable(
    table_version=1,
    name="generalist",
    meta=ModelEntry(app="meta"),
    experts={name: ModelEntry(app=name) for name in ("chef", "poet")},
    deadlines=PATIENT,
    retries=0,
)
# The poet is another model than the meta: its chat template has another system text.
DEFAULT_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
POET_SYSTEM = "You are a poet who answers in verse"

pytestmark = [
    pytest.mark.models,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(1800),  # with the download and the conversion of the model
    pytest.mark.filterwarnings("default"),  # vLLM's own code warns
]


@dataclass(frozen=True)
class Answer:
    """`calls`: in the order in which the models wrote."""

    messages: Conversation
    done: Done
    calls: list[Call]

    @property
    def writers(self) -> list[str]:
        return [call.writer for call in self.calls]


@pytest.fixture(scope="module", params=ENGINE_KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def folders(smollm2: Path, tmp_path_factory) -> dict[str, Path]:
    """The checkpoints. The chef is the meta's model under another name."""
    poet = tmp_path_factory.mktemp("models") / "poet"
    shutil.copytree(smollm2, poet, ignore=shutil.ignore_patterns("*.safetensors"))
    for weights in smollm2.glob("*.safetensors"):
        (poet / weights.name).symlink_to(weights)
    template = poet / "chat_template.jinja"
    text = template.read_text(encoding="utf-8")
    assert DEFAULT_SYSTEM in text
    template.write_text(text.replace(DEFAULT_SYSTEM, POET_SYSTEM), encoding="utf-8")
    return {"meta": smollm2, "poet": poet}


@pytest.fixture(scope="module")
def tokens(smollm2: Path) -> list[ExpertToken]:
    model, renderer = Checkpoint(str(smollm2), dtype="float32").load()
    queries = learning_queries()
    states = compute_states(model, renderer, queries, batch_size=8)
    return learn_tokens(states, queries, held_out_share=0.0).tokens


@pytest.fixture(scope="module")
def references(folders, tokens) -> dict[str, ReferenceModel]:
    meta = ReferenceModel(folders["meta"], tokens)
    return {"meta": meta, "chef": meta, "poet": ReferenceModel(folders["poet"])}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def answers(kind, folders, tokens) -> list[Answer]:
    """The engine's answers to all conversations, asked at once."""
    calls: defaultdict[str, list[Call]] = defaultdict(list)
    async with AsyncExitStack() as engines:
        base = await engines.enter_async_context(started(kind, folders["meta"]))
        poet = await engines.enter_async_context(started(kind, folders["poet"]))
        await base.install(1, tokens)
        served = {"meta": base, "chef": base, "poet": poet}
        models = {name: EngineModel(name, engine, calls) for name, engine in served.items()}
        gateway = FakeGateway(models, ready=("chef", "poet"), table=TABLE)

        async def answer(i: int, messages: Conversation) -> Answer:
            turns = tuple(Message(message["role"], message["content"]) for message in messages)
            request = GenerationRequest(
                str(i), Prompt(turns), Target("meta", routed=True), Sampling(temperature=0.0), MAX_TOKENS
            )
            parts = [part async for part in Decoder(TABLE, models, gateway).decode(request)]
            assert isinstance(parts[-1], Done)
            return Answer(messages, parts[-1], calls[str(i)])

        return await asyncio.gather(*itertools.starmap(answer, enumerate(conversations())))


async def test_every_token_is_the_argmax_of_a_plain_forward_pass(answers, references):
    near_ties = []
    for answer in answers:
        for call in answer.calls:
            model = references[call.writer]
            messages = [dict(message) for message in answer.messages]
            prompt = prompt_ids(model, messages, call.request.written)
            assert prompt_length(call) == len(prompt)
            logits = answer_logits(model, prompt, call.ids, routed=call.writer == "meta")
            short = shortfalls(logits, call.ids, ending(call, model))
            assert max(short, default=0.0) <= NEAR_TIE, (messages[-1], call.writer, short)
            near_ties += [value for value in short if value > 0]
    assert len(near_ties) <= MAX_NEAR_TIES


async def test_text_is_what_the_tokens_say_across_hand_overs(answers, references):
    for answer in answers:
        written = ""
        for call in answer.calls:
            assert call.request.written == written
            assert call.text == references[call.writer].text(call.ids)
            written += call.text
        assert "".join(span.text for span in answer.done.spans) == written


async def test_answers_end_where_the_models_end_them(answers):
    for answer in answers:
        num_tokens = sum(len(call.ids) for call in answer.calls)
        finishes = [call.chunks[-1].finish for call in answer.calls]
        assert finishes[:-1] == [Finish.EXPERT] * (len(finishes) - 1)
        assert answer.done.finish is finishes[-1]
        assert (answer.done.finish is Finish.LENGTH) == (num_tokens == MAX_TOKENS), answer
        experts = [call.chunks[-1].expert for call in answer.calls[:-1]]
        assert answer.writers == ["meta", *experts]


@pytest.mark.parametrize("writer", SIMILAR)
async def test_questions_like_the_learned_ones_reach_their_model(answers, writer):
    last = {answer.messages[-1]["content"]: answer.writers[-1] for answer in answers}
    assert [last[text] for text in SIMILAR[writer]] == [writer] * len(SIMILAR[writer])


async def test_the_chef_goes_on_where_the_meta_has_begun(answers):
    begun = [answer for answer in answers if answer.messages[-1]["content"] in LATER]
    handed_over = [answer.calls[1].request.written for answer in begun if answer.writers == ["meta", "chef"]]
    assert sum(written != "" for written in handed_over) >= 3


@asynccontextmanager
async def started(kind: str, folder: Path) -> AsyncIterator[Engine]:
    engine = make_engine(ModelSource(path=str(folder)), CONFIGS[kind])
    try:
        yield engine
    finally:
        await engine.close()


def prompt_length(call: Call) -> int | None:
    return next(chunk.num_prompt_tokens for chunk in call.chunks if chunk.num_prompt_tokens)


def ending(call: Call, model: ReferenceModel) -> list[int]:
    """The ids of which one ended the call."""
    last = call.chunks[-1]
    if last.finish is Finish.STOP:
        return sorted(model.stop_ids)
    return [model.num_words + model.names.index(last.expert)] if last.expert is not None else []
