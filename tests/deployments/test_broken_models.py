"""A model whose replicas die whatever they are asked is reported as failed until it answers something."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import pytest

from deployments.probe import PROBE_TOKENS
from deployments.replicas.probe_ids import is_probe
from router.availability import ModelState
from router.decoding.decode import Decoder
from router.errors import ModelBroken, ModelDied, ModelUnavailable, PoisonRequest
from router.model_port import ModelRequest
from router.prompt import Prompt
from router.table import ModelEntry
from tests.fakes.cluster import Cluster, FakeApp, call, gateway_to, opened, settle, table
from tests.fakes.models import DIRECT, STOP, Item, in_virtual_time, word

REPLACED_AFTER_S = 1.0
POISON = Prompt(text="poison")


@dataclass
class Dying:
    """A script of an application with one replica at a time, which dies in a call; Serve replaces it.

    It dies of `POISON` and, unless `is_mended`, at the second token of any answer.
    """

    app: FakeApp
    is_mended: bool = False
    dead: list[str] = field(default_factory=list)
    asked: list[ModelRequest] = field(default_factory=list)

    def __call__(self, request: ModelRequest) -> Iterator[Item]:
        self.asked.append(request)
        [replica] = self.app.replicas.running
        if request.prompt != POISON and replica not in self.dead:
            yield word("one ")
            if self.is_mended:
                yield word("two")
                yield STOP
                return
        if replica not in self.dead:
            self.dead.append(replica)
            loop = asyncio.get_running_loop()
            loop.call_later(REPLACED_AFTER_S, self.app.comes_up, f"r{len(self.dead) + 1}")
        yield ModelDied(f"{replica} died", replica)


def dying(cluster: Cluster, app: str, is_mended: bool = False) -> Dying:
    script = cluster.models[app].script = Dying(cluster.models[app], is_mended)
    return script


def test_a_model_that_dies_whatever_it_is_asked_fails_until_it_answers():
    """Regression: its route opened by a probe of one token, which it survived."""

    async def main() -> None:
        cluster = Cluster()
        chem = dying(cluster, "chem")
        async with gateway_to(cluster, table("chem", "law")) as gateway:
            await settle()
            assert gateway.state("chem") is ModelState.FAILED
            assert opened(gateway) == {"meta", "law"}
            began_s = asyncio.get_running_loop().time()
            with pytest.raises(
                ModelBroken, match="chem has failed: its replicas die whatever they are asked"
            ):
                await gateway.wait_until_ready("chem")
            assert asyncio.get_running_loop().time() == began_s
            chem.is_mended = True
            await settle()
            assert gateway.state("chem") is ModelState.READY
        assert all(request.max_tokens == PROBE_TOKENS > 1 for request in chem.asked)

    in_virtual_time(main())


def test_a_caller_that_waits_is_told_as_soon_as_the_model_is_known_to_fail():
    async def main() -> None:
        cluster = Cluster()
        chem = dying(cluster, "chem", is_mended=True)
        async with gateway_to(cluster, table("chem")) as gateway:
            await settle()
            chem.is_mended = False
            with pytest.raises(ModelUnavailable):
                await call(gateway, "chem")
            began_s = asyncio.get_running_loop().time()
            with pytest.raises(ModelBroken):
                await gateway.wait_until_ready("chem")
            assert asyncio.get_running_loop().time() - began_s < 5

    in_virtual_time(main())


def test_a_prompt_that_crashes_a_sound_model_is_blocked_and_the_model_stays_up():
    async def main() -> None:
        cluster = Cluster()
        chem = dying(cluster, "chem", is_mended=True)
        async with gateway_to(cluster, table("chem")) as gateway:
            await settle()
            for prompt, error in ((POISON, PoisonRequest), (POISON, PoisonRequest), (DIRECT.prompt, None)):
                decoder = Decoder(gateway.table, gateway.models, gateway, quarantine=gateway.quarantine)
                generation = replace(DIRECT, prompt=prompt)
                if error is None:
                    assert [item async for item in decoder.decode(generation)]
                    continue
                with pytest.raises(error):
                    assert not [item async for item in decoder.decode(generation)]
            assert len(chem.dead) == 2
            assert gateway.state("chem") is ModelState.READY

    in_virtual_time(main())


def test_an_adapter_whose_calls_kill_the_pool_fails_alone():
    async def main() -> None:
        cluster = Cluster()
        pool = cluster.models["chem"]
        script = Dying(pool)
        pool.script = lambda ask: script(ask) if ask.adapter == "a" else [word("one "), word("two"), STOP]
        entries = {name: ModelEntry(app="chem", adapter=name) for name in "ab"}
        async with gateway_to(cluster, table(experts=entries)) as gateway:
            await settle()
            states = []
            for _ in range(8):
                gateway.refresh_app("chem")
                await settle(1)
                states.append(gateway.state("b"))
            assert gateway.state("a") is ModelState.FAILED
            assert ModelState.FAILED not in states
        assert any(is_probe(request.request_id) for request in script.asked)

    in_virtual_time(main())
