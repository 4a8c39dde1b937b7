"""The pipeline's cluster.yaml, questions and client, on SmolLM2 behind the real HTTP app, without Ray."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

from cluster.config.cluster_config import check_config
from cluster.serve.route_table import route_table
from deployments.replicas.wire import to_engine_request, to_model_chunk
from examples.pipeline.checkpoint import make_pipeline_checkpoint
from examples.pipeline.client import converse
from examples.pipeline.conversions import Conversion, conversions, convert
from examples.pipeline.run import CHECKPOINT, CONFIG
from experts.engine.base import Engine
from experts.engine.config import ModelSource, TransformersConfig
from experts.engine.factory import make_engine
from experts.engine.request import ChatOptions
from experts.token import ExpertToken
from router.dialects.app import build_app
from router.model_port import ModelChunk, ModelRequest
from router.table import META, RouteTable
from tests.fakes.models import FakeGateway
from tests.support.engine_model import PATIENT

# As in cluster.yaml; the engine blocks differ in the variables of the template alone.
ENGINE = TransformersConfig(
    dtype="float32",
    max_model_len=1024,
    max_streams=8,
    cache_tokens=4096,
    num_threads=1,
    tool_parser="hermes",
)
HELD_OUT = list(conversions(held_out=True))
TRAIN = list(conversions())


@dataclass(frozen=True)
class RoleModel:
    """One model of the pipeline: the engine that all share, with the variables of its own engine block."""

    engine: Engine
    variables: Mapping[str, Any]

    async def stream(self, request: ModelRequest) -> AsyncGenerator[ModelChunk, None]:
        asked = to_engine_request(request)
        chat = asked.chat or ChatOptions()
        kwargs = {**self.variables, **chat.template_kwargs}
        asked = replace(asked, chat=replace(chat, template_kwargs=kwargs))
        async with aclosing(self.engine.generate(asked)) as chunks:
            async for chunk in chunks:
                yield to_model_chunk(chunk)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(smollm2, tmp_path_factory) -> AsyncIterator[httpx.AsyncClient]:
    folder = make_pipeline_checkpoint(tmp_path_factory.mktemp("pipeline"), smollm2)
    text = CONFIG.read_text("utf-8").replace("../../.cache/smollm2-pipeline", str(folder))
    config = check_config(yaml.safe_load(text), CONFIG)
    engine = make_engine(ModelSource(path=str(folder)), ENGINE)
    try:
        tokens = [
            ExpertToken.load(CONFIG.parent / "tokens" / f"{name}.safetensors") for name in config.experts
        ]
        await engine.install(1, tokens)
        blocks: dict[str, Any] = {META: config.meta, **config.experts}
        table = RouteTable.model_validate(route_table(config, 1)).model_copy(update={"deadlines": PATIENT})
        models = {
            table.app(name): RoleModel(engine, block.engine.chat_template_kwargs)
            for name, block in blocks.items()
        }
        transport = httpx.ASGITransport(
            build_app(FakeGateway(models, ready=tuple(config.experts), table=table))
        )
        async with httpx.AsyncClient(transport=transport, base_url="http://router", timeout=None) as client:
            yield client
    finally:
        await engine.close()


@pytest.mark.models
@pytest.mark.timeout(900)
@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("conversion", HELD_OUT[2:13:10], ids=lambda each: each.plan)
async def test_planner_caller_and_summariser_answer_with_the_tool_between_them(
    client, conversion: Conversion
):
    conversation = await converse(client, conversion.question)
    assert conversation.models == [
        ["meta", "planner", "meta", "caller"],  # its call ends the answer
        ["caller", "meta", "summariser", "meta"],  # it has the result, and nothing to add
    ]
    assert conversation.messages[1]["content"].strip() == conversion.plan
    [(arguments, result)] = conversation.calls
    assert result == conversion.result == convert(arguments)
    assert conversion.is_in(conversation.answer)


def test_every_model_of_the_cluster_has_the_checkpoint_of_the_example():
    config = yaml.safe_load(CONFIG.read_text(encoding="utf-8"))
    blocks = [config["meta"], *config["experts"].values()]
    assert {(CONFIG.parent / block["model"]["path"]).resolve() for block in blocks} == {CHECKPOINT.resolve()}
    settings = [{k: v for k, v in b["engine"].items() if k != "chat_template_kwargs"} for b in blocks]
    assert all(TransformersConfig.model_validate(each) == ENGINE for each in settings)


def test_held_out_questions_are_none_that_tokens_are_learned_from():
    assert not {each.question for each in HELD_OUT} & {each.question for each in TRAIN}
    assert not {each.amount for each in HELD_OUT} & {each.amount for each in TRAIN}


@pytest.mark.parametrize(
    ("arguments", "result"),
    [
        ('{"amount": 17, "source": "miles", "target": "kilometers"}', "17 miles = 27.36 kilometers"),
        ('{"amount": 1, "source": "miles", "target": "grams"}', "cannot convert miles to grams"),
    ],
)
def test_the_tool_converts_units_of_one_kind(arguments: str, result: str):
    assert convert(arguments) == result
