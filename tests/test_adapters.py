"""A replica's adapters: what is asked for is what it has in the end, and no adapter is in another's way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deployments.adapters import RETRY_S, Adapters, AdapterSource
from deployments.model import ModelServer
from experts.engine.base import Call, Chunk, FinishReason, Stats
from experts.errors import AdapterFailed, ModelLoadError, UnknownAdapter
from experts.token import ExpertToken
from tests.fakes import in_virtual_time


@dataclass
class FakeEngine:
    """Answers a call with the folder that its adapter was loaded from; `broken` folders cannot be."""

    loaded: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    load_s: dict[str, float] = field(default_factory=dict)
    num_loads: int = 0
    most_at_once: int = 0
    keeps_prefixes: bool = True

    async def load_adapter(self, name: str, folder: str) -> None:
        self.num_loads += 1
        await asyncio.sleep(self.load_s.get(name, 1.0))
        if folder in self.broken:
            raise ModelLoadError(f"{folder}: has rank 64, above engine.max_adapter_rank 16")
        self.loaded[name] = folder
        self.most_at_once = max(self.most_at_once, len(self.loaded))

    async def unload_adapter(self, name: str) -> None:
        if self.loaded.pop(name, None) is None:
            raise UnknownAdapter(name)

    async def generate(self, call: Call) -> AsyncGenerator[Chunk, None]:
        if call.adapter is not None and call.adapter not in self.loaded:
            raise UnknownAdapter(call.adapter)
        yield Chunk(self.loaded.get(call.adapter or "", "the base"), (1, 2), finish=FinishReason.STOP)

    async def install(self, epoch: int, tokens: Sequence[ExpertToken]) -> None:
        raise AssertionError("a pool has no experts of its own")

    async def check(self) -> None: ...

    def stats(self) -> Stats:
        return Stats(0, 0, 0.0, 0, 0)

    async def close(self) -> None: ...


def source(folder: str, digest: str | None = None) -> AdapterSource:
    return AdapterSource(source=folder, digest=digest)


async def text(adapters: Adapters, name: str) -> str:
    call = Call("r", text="q", adapter=name)
    return "".join([chunk.text async for chunk in adapters.generate(name, call)])


def test_adapters_are_loaded_replaced_and_unloaded_as_the_settings_say():
    async def main() -> None:
        engine = FakeEngine()
        adapters = Adapters(engine)
        adapters.want({"law": source("/a/law", "1"), "chem": source("/a/chem", "1")})
        await adapters.settled(60)
        assert engine.loaded == {"law": "/a/law", "chem": "/a/chem"}
        adapters.want({"law": source("/b/law", "1"), "chem": source("/a/chem", "2")})
        await adapters.settled(60)
        assert engine.num_loads == 3  # the same weights elsewhere are the same
        adapters.want({"chem": source("/a/chem", "2"), "roman": source("s3://b/roman")})
        assert set(adapters.loads()) == {"chem", "roman"}
        with pytest.raises(ModelLoadError):
            await text(adapters, "roman")  # there is no such bucket
        assert set(engine.loaded) == {"chem"}
        await adapters.close()

    asyncio.run(main())


def test_those_that_leave_make_room_for_those_that_come():
    async def main() -> None:
        engine = FakeEngine()
        adapters = Adapters(engine)
        adapters.want({"law": source("/law")})
        await adapters.settled(60)
        adapters.want({"chem": source("/chem")})
        await adapters.settled(60)
        assert (engine.loaded, engine.most_at_once) == ({"chem": "/chem"}, 1)
        adapters.want({})
        await adapters.settled(60)
        assert (engine.loaded, adapters.loads()) == ({}, {})
        await adapters.close()

    asyncio.run(main())


def test_one_that_cannot_be_loaded_says_why_and_is_tried_again():
    async def main() -> None:
        engine = FakeEngine(broken={"/secret/law"})
        adapters = Adapters(engine)
        adapters.want({"law": source("/secret/law"), "chem": source("/chem")})
        await adapters.settled(60)
        assert await text(adapters, "chem") == "/chem"
        with pytest.raises(AdapterFailed, match="'law' cannot be loaded: law: has rank 64"):
            await text(adapters, "law")
        assert "secret" not in adapters.loads()["law"].error
        engine.broken.clear()
        await asyncio.sleep(RETRY_S + 2)
        assert await text(adapters, "law") == "/secret/law"
        assert adapters.loads()["law"].error == ""
        await adapters.close()

    in_virtual_time(main())


def test_a_new_version_that_cannot_be_loaded_leaves_the_old_one_serving():
    async def main() -> None:
        engine = FakeEngine(broken={"/v2"})
        adapters = Adapters(engine)
        adapters.want({"law": source("/v1")})
        await adapters.settled(60)
        adapters.want({"law": source("/v2")})
        await adapters.settled(60)
        assert await text(adapters, "law") == "/v1"
        load = adapters.loads()["law"]
        assert (load.wanted, load.version, load.num_tokens) == ("/v2", "/v1", 2)
        assert "rank 64" in load.error
        adapters.want({"law": source("/v1")})
        await adapters.settled(60)
        assert adapters.loads()["law"].error == ""
        await adapters.close()

    in_virtual_time(main())


def test_a_call_may_be_there_before_its_adapter_is():
    async def main() -> None:
        adapters = Adapters(FakeEngine(load_s={"law": 0.5, "chem": 60.0}))
        early = asyncio.create_task(text(adapters, "law"))
        await asyncio.sleep(1)
        adapters.want({"law": source("/law"), "chem": source("/chem")})
        assert await early == "/law"
        for name in ("chem", "nobody"):
            with pytest.raises(UnknownAdapter):
                await text(adapters, name)
        await adapters.close()

    in_virtual_time(main())


def test_one_that_is_wanted_no_longer_while_it_is_loaded_goes_when_it_is_there():
    async def main() -> None:
        engine = FakeEngine()
        adapters = Adapters(engine)
        adapters.want({"law": source("/law")})
        await asyncio.sleep(0.5)
        adapters.want({})
        await adapters.settled(60)
        assert (engine.num_loads, engine.loaded) == (1, {})
        await adapters.close()

    in_virtual_time(main())


def test_a_replica_that_starts_waits_for_its_adapters_and_later_for_none(tmp_path: Path):
    """Serve takes a replica that is long about new settings for one that does not run."""

    async def main() -> None:
        server = ModelServer(engine := FakeEngine(load_s={"law": 1.5, "chem": 1.5}))
        clock = asyncio.get_running_loop().time
        await server.reconfigure({"adapters": {"law": {"source": "/law"}}})
        assert (clock(), set(engine.loaded)) == (1.5, {"law"})
        await server.reconfigure({"adapters": {"law": {"source": "/law"}, "chem": {"source": "/chem"}}})
        assert clock() == 1.5
        chunks = [chunk async for chunk in server.generate(Call("r", text="q", adapter="chem"))]
        assert (chunks[0].text, clock()) == ("/chem", 3.0)
        await server.close()
        assert len(asyncio.all_tasks()) == 1

    in_virtual_time(main())
