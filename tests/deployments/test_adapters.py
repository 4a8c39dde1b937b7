"""A replica's adapters: it loads what its settings name, and no adapter delays another."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from deployments.adapters import LOAD_RETRY_S, AdapterSource, ReplicaAdapters
from deployments.model import ModelServer
from deployments.replicas.wire_format import pack, unpack_chunk
from experts.adapter import CONFIG, WEIGHTS, Invocation, adapter_digest
from experts.engine.base import EngineStats
from experts.engine.chunk import EngineChunk, FinishReason
from experts.engine.request import EngineRequest
from experts.errors import AdapterFailed, ModelLoadError, UnknownAdapter
from experts.shadow import ShadowToken
from experts.token import ExpertToken
from tests.fakes.models import in_virtual_time


@dataclass
class FakeEngine:
    """Answers a call with the folder that its adapter was loaded from; `broken` folders cannot be loaded."""

    loaded: dict[str, str] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    load_s: dict[str, float] = field(default_factory=dict)
    num_loads: int = 0
    most_at_once: int = 0
    keeps_prefixes: bool = True
    vocabulary: str | None = None

    async def load_adapter(self, name: str, folder: str, invocation: Invocation | None = None) -> None:
        self.num_loads += 1
        await asyncio.sleep(self.load_s.get(name, 1.0))
        if folder in self.broken:
            raise ModelLoadError(f"{folder}: has rank 64, above engine.max_adapter_rank 16")
        self.loaded[name] = folder
        self.most_at_once = max(self.most_at_once, len(self.loaded))

    async def unload_adapter(self, name: str) -> None:
        if self.loaded.pop(name, None) is None:
            raise UnknownAdapter(name)

    async def generate(self, request: EngineRequest) -> AsyncGenerator[EngineChunk, None]:
        if request.adapter is not None and request.adapter not in self.loaded:
            raise UnknownAdapter(request.adapter)
        for expert in request.in_place:
            yield EngineChunk("the base", (7,), expert=expert)
        yield EngineChunk(
            self.loaded.get(request.adapter or "", "the base"), (1, 2), finish=FinishReason.STOP
        )

    async def install(
        self, table_version: int, tokens: Sequence[ExpertToken], shadows: Sequence[ShadowToken] = ()
    ) -> None:
        raise AssertionError("a pool has no experts of its own")

    async def check(self) -> None: ...

    def stats(self) -> EngineStats:
        return EngineStats(0, 0, 0.0, 0, 0)

    async def close(self) -> None: ...


def source(folder: str, digest: str | None = None) -> AdapterSource:
    return AdapterSource(source=folder, digest=digest)


async def text(adapters: ReplicaAdapters, name: str) -> str:
    call = EngineRequest("r", text="q", adapter=name)
    return "".join([chunk.text async for chunk in adapters.generate(name, call)])


def files(folder: Path, weights: str) -> str:
    """Writes an adapter's files; returns their digest."""
    folder.mkdir(exist_ok=True)
    (folder / CONFIG).write_text("{}")
    (folder / WEIGHTS).write_text(weights)
    return adapter_digest(folder)


def test_adapters_are_loaded_replaced_and_unloaded_by_the_settings(tmp_path: Path):
    law, moved_law, chem = tmp_path / "law", tmp_path / "moved", tmp_path / "chem"
    digest, new_digest = files(law, "law"), files(chem, "new")
    files(moved_law, "law")
    old_digest = files(chem, "old")

    async def main() -> None:
        engine = FakeEngine(load_s={"law": 0.0, "chem": 0.0})
        adapters = ReplicaAdapters(engine)
        adapters.set_wanted({"law": source(str(law), digest), "chem": source(str(chem), old_digest)})
        await adapters.wait_until_settled(60)
        assert engine.loaded == {"law": str(law), "chem": str(chem)}
        files(chem, "new")
        adapters.set_wanted({"law": source(str(moved_law), digest), "chem": source(str(chem), new_digest)})
        await adapters.wait_until_settled(60)
        assert engine.num_loads == 3  # the same weights in another folder are not loaded again
        adapters.set_wanted({"chem": source(str(chem), new_digest), "roman": source("s3://b/roman")})
        assert set(adapters.loads()) == {"chem", "roman"}
        with pytest.raises(ModelLoadError):
            await text(adapters, "roman")  # there is no such bucket
        assert set(engine.loaded) == {"chem"}
        await adapters.close()

    asyncio.run(main())


def test_files_that_changed_but_were_not_applied_are_not_served(tmp_path: Path):
    """A replica that started afterwards loaded the new weights and reported the old digest."""
    digest = files(tmp_path / "law", "old")
    files(tmp_path / "law", "new")

    async def main() -> None:
        engine = FakeEngine(load_s={"law": 0.0})
        adapters = ReplicaAdapters(engine)
        adapters.set_wanted({"law": source(str(tmp_path / "law"), digest)})
        await adapters.wait_until_settled(60)
        load = adapters.loads()["law"]
        assert (engine.num_loads, load.version) == (0, None)
        assert load.error.startswith("law: its files changed since they were applied; run `etr apply`")
        with pytest.raises(AdapterFailed, match="run `etr apply`"):
            await text(adapters, "law")
        await adapters.close()

    asyncio.run(main())


def test_files_that_change_while_they_are_loaded_are_not_served(tmp_path: Path):
    digest = files(tmp_path / "law", "old")

    class OverwrittenEngine(FakeEngine):
        async def load_adapter(self, name: str, folder: str, invocation: Invocation | None = None) -> None:
            await super().load_adapter(name, folder, invocation)
            files(Path(folder), "new")

    async def main() -> None:
        engine = OverwrittenEngine(load_s={"law": 0.0})
        adapters = ReplicaAdapters(engine)
        adapters.set_wanted({"law": source(str(tmp_path / "law"), digest)})
        await adapters.wait_until_settled(60)
        assert (engine.num_loads, engine.loaded, adapters.loads()["law"].version) == (1, {}, None)
        await adapters.close()

    asyncio.run(main())


def test_removed_adapters_are_unloaded_before_new_ones_are_loaded():
    async def main() -> None:
        engine = FakeEngine()
        adapters = ReplicaAdapters(engine)
        adapters.set_wanted({"law": source("/law")})
        await adapters.wait_until_settled(60)
        adapters.set_wanted({"chem": source("/chem")})
        await adapters.wait_until_settled(60)
        assert (engine.loaded, engine.most_at_once) == ({"chem": "/chem"}, 1)
        adapters.set_wanted({})
        await adapters.wait_until_settled(60)
        assert (engine.loaded, adapters.loads()) == ({}, {})
        await adapters.close()

    asyncio.run(main())


def test_an_adapter_that_cannot_be_loaded_reports_why_and_is_retried():
    async def main() -> None:
        engine = FakeEngine(broken={"/secret/law"})
        adapters = ReplicaAdapters(engine)
        adapters.set_wanted({"law": source("/secret/law"), "chem": source("/chem")})
        await adapters.wait_until_settled(60)
        assert await text(adapters, "chem") == "/chem"
        with pytest.raises(AdapterFailed, match="'law' cannot be loaded: law: has rank 64"):
            await text(adapters, "law")
        assert "secret" not in adapters.loads()["law"].error
        engine.broken.clear()
        await asyncio.sleep(LOAD_RETRY_S + 2)
        assert await text(adapters, "law") == "/secret/law"
        assert adapters.loads()["law"].error == ""
        await adapters.close()

    in_virtual_time(main())


def test_a_new_version_that_cannot_be_loaded_leaves_the_old_one_serving():
    async def main() -> None:
        engine = FakeEngine(broken={"/v2"})
        adapters = ReplicaAdapters(engine)
        adapters.set_wanted({"law": source("/v1")})
        await adapters.wait_until_settled(60)
        adapters.set_wanted({"law": source("/v2")})
        await adapters.wait_until_settled(60)
        assert await text(adapters, "law") == "/v1"
        load = adapters.loads()["law"]
        assert (load.wanted, load.version, load.num_tokens) == ("/v2", "/v1", 2)
        assert "rank 64" in load.error
        adapters.set_wanted({"law": source("/v1")})
        await adapters.wait_until_settled(60)
        assert adapters.loads()["law"].error == ""
        await adapters.close()

    in_virtual_time(main())


def test_a_call_may_arrive_before_its_adapter():
    async def main() -> None:
        adapters = ReplicaAdapters(FakeEngine(load_s={"law": 0.5, "chem": 60.0}))
        early = asyncio.create_task(text(adapters, "law"))
        await asyncio.sleep(1)
        adapters.set_wanted({"law": source("/law"), "chem": source("/chem")})
        assert await early == "/law"
        for name in ("chem", "nobody"):
            with pytest.raises(UnknownAdapter):
                await text(adapters, name)
        await adapters.close()

    in_virtual_time(main())


def test_an_adapter_that_is_removed_while_it_loads_is_unloaded():
    async def main() -> None:
        engine = FakeEngine()
        adapters = ReplicaAdapters(engine)
        adapters.set_wanted({"law": source("/law")})
        await asyncio.sleep(0.5)
        adapters.set_wanted({})
        await adapters.wait_until_settled(60)
        assert (engine.num_loads, engine.loaded) == (1, {})
        await adapters.close()

    in_virtual_time(main())


def test_a_replica_waits_for_its_adapters_only_when_it_starts(tmp_path: Path):
    """Serve regards a replica that takes long over new settings as not running."""

    async def main() -> None:
        server = ModelServer(engine := FakeEngine(load_s={"law": 1.5, "chem": 1.5}))
        clock = asyncio.get_running_loop().time
        await server.reconfigure({"adapters": {"law": {"source": "/law"}}})
        assert (clock(), set(engine.loaded)) == (1.5, {"law"})
        await server.reconfigure({"adapters": {"law": {"source": "/law"}, "chem": {"source": "/chem"}}})
        assert clock() == 1.5
        request = pack(EngineRequest("r", text="q", adapter="chem"))
        chunks = [unpack_chunk(message) async for message in server.generate(request)]
        assert (chunks[0].text, clock()) == ("/chem", 3.0)
        await server.close()
        assert len(asyncio.all_tasks()) == 1

    in_virtual_time(main())


def test_what_an_adapter_writes_in_place_counts_as_its_own():
    async def main() -> None:
        adapters = ReplicaAdapters(FakeEngine(load_s={"law": 0.0}))
        adapters.set_wanted({"law": source("law")})
        await adapters.wait_until_settled(60)
        request = EngineRequest("r", text="q", allowed=("lawyer",), in_place={"lawyer": "law"})
        async with aclosing(adapters.generate_in_place(request)) as chunks:
            running = [adapters.loads()["law"].num_running async for _ in chunks]
        assert running == [1, 1]
        assert adapters.loads()["law"].num_running == 0
        assert adapters.loads()["law"].num_tokens == 2

    in_virtual_time(main())
