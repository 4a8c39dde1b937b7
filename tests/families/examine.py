"""Runs all checks of families on one engine, and writes what came out as JSON.

    python -m tests.families.examine ENGINE RESULTS.json [FAMILY…]

`make models` runs it for both engines and writes docs/models.md.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from experts.engine.config import EngineConfig, ModelSource, TransformersConfig, VllmConfig
from experts.engine.factory import make_engine
from experts.errors import ModelLoadError, TemplateError
from tests.families.checks import CHECKS, World
from tests.families.family import Family
from tests.families.plain import PlainModel
from tests.families.registry import FAMILIES

# Small batches, so that longer prompts are prefilled in several steps.
CONFIGS: dict[str, EngineConfig] = {
    "transformers": TransformersConfig(dtype="float32", max_streams=8, max_batch_tokens=64, num_threads=1),
    "vllm": VllmConfig(
        dtype="float32", max_streams=8, max_batch_tokens=64, cache_bytes=2**25, enforce_eager=True
    ),
}


@dataclass(frozen=True)
class Outcome:
    """What was found of one family on one engine.

    `refusal`: why the engine does not run it; None if all checks hold. `has_system_role`: of the template;
    None if it does not run.
    """

    family: str
    engine: str
    refusal: str | None
    has_system_role: bool | None


async def examine(family: Family, engine_kind: str, folder: Path) -> Outcome:
    """Save the family's checkpoint in `folder`, start the engine on it, and run all checks.

    Raises what a check raises, with a note that names it.
    """
    family.save(folder)
    try:
        engine = make_engine(ModelSource(path=str(folder)), CONFIGS[engine_kind])
    except (ModelLoadError, TemplateError) as error:
        return Outcome(family.name, engine_kind, str(error).partition(": ")[2], None)
    try:
        world = World(family, engine, PlainModel(folder))
        results = {}
        for name, check in CHECKS.items():
            try:
                results[name] = await check(world)
            except BaseException as error:
                error.add_note(f"{family.name} on {engine_kind}: {name}")
                raise
    finally:
        await engine.close()
    return Outcome(family.name, engine_kind, None, results["system"])


def main(engine_kind: str, results: str, *names: str) -> None:
    torch.set_num_threads(1)
    Path(results).parent.mkdir(parents=True, exist_ok=True)
    outcomes: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for family in FAMILIES:
            if not names or family.name in names:
                outcome = asyncio.run(examine(family, engine_kind, Path(folder) / str(len(outcomes))))
                print(f"{family.name}: {outcome.refusal or 'runs'}", flush=True)
                outcomes.append(asdict(outcome))
                Path(results).write_text(json.dumps(outcomes, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
