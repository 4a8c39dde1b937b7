"""The rate that is counted of a shadow is that at which it takes over as an expert: a real meta, no Ray."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest

from experts.engine.base import Engine
from experts.engine.config import TransformersConfig
from experts.learn import read_queries
from experts.shadow import ShadowToken
from experts.token import ExpertToken
from router.decision_log_rules import DecisionLogRules
from router.decisions.log_lines import Line
from router.decisions.recorder import DecisionRecorder
from router.decoding.decode import Decoder
from router.model_port import Model
from router.prompt import Message, Prompt
from router.table import ModelEntry, RouteTable
from tests.fakes.availability import FakeRoutes
from tests.fakes.metrics import CountedMetrics, ListedLog
from tests.fakes.models import GENERATION, FakeModel, writes
from tests.support.engine_model import EngineModel
from tests.support.engine_world import running
from tests.tiny.taught_cluster import ENGINE
from tests.tiny.taught_meta import EXPERTS

LEFT_OUT = "roman"
OTHERS = tuple(name for name in EXPERTS if name != LEFT_OUT)


def table_of(experts: Sequence[str], shadows: tuple[str, ...] = ()) -> RouteTable:
    return RouteTable(
        table_version=1,
        name="g",
        meta=ModelEntry(app="meta"),
        experts={name: ModelEntry(app=name) for name in experts},
        shadows=shadows,
        decision_log=DecisionLogRules(folder="/log"),
    )


async def decisions(engine: Engine, table: RouteTable, questions: Sequence[str]) -> list[Line]:
    log = ListedLog()
    recorder = DecisionRecorder(CountedMetrics(), log, lambda: table)
    experts: Mapping[str, Model] = {name: FakeModel(writes("x")) for name in EXPERTS}
    models = {"meta": EngineModel("meta", engine, defaultdict(list)), **experts}
    decoder = Decoder(table, models, FakeRoutes(EXPERTS), recorder=recorder)
    for number, text in enumerate(questions):
        prompt = Prompt((Message("user", text),))
        sampling = replace(GENERATION.sampling, temperature=0.0)
        generation = replace(
            GENERATION, request_id=f"q-{number}-0", prompt=prompt, sampling=sampling, max_tokens=12
        )
        async for _ in decoder.decode(generation):
            pass
    return log.lines


@pytest.mark.asyncio
async def test_a_shadow_wins_in_the_answers_that_it_would_get_as_an_expert(taught_world):
    questions = [query.question for query in read_queries(taught_world / "data" / "questions.jsonl")][:40]
    tokens = {name: ExpertToken.load(taught_world / "tokens" / f"{name}.safetensors") for name in EXPERTS}
    async with running(TransformersConfig(**ENGINE), taught_world / "models" / "meta") as engine:
        await engine.install(1, [*tokens.values()])
        as_expert = await decisions(engine, table_of(EXPERTS), questions)
        shadow = ShadowToken(tokens[LEFT_OUT])
        await engine.install(2, [tokens[name] for name in OTHERS], [shadow])
        as_shadow = await decisions(engine, table_of(OTHERS, (LEFT_OUT,)), questions)
    taken = {line["id"]: line["probability"] for line in as_expert if line["winner"] == LEFT_OUT}
    won = {line["id"]: line["shadows"][0]["probability"] for line in as_shadow if line["shadows"]}
    assert 0 < len(taken) < len(questions)
    assert won == pytest.approx(taken, rel=1e-4)
    assert all(line["scored_shadows"] == [LEFT_OUT] for line in as_shadow)
