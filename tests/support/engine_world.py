"""Helpers for tests of engines: questions, answers, and expert tokens that win at a given position."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from experts.engine.base import Engine
from experts.engine.chunk import EngineChunk
from experts.engine.config import EngineConfig, ModelSource
from experts.engine.factory import make_engine
from experts.engine.request import EngineRequest
from experts.token import ExpertToken
from tests.support.reference_loop import ReferenceModel

needs_vllm = pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed")
ENGINE_KINDS = ("transformers", pytest.param("vllm", marks=needs_vllm))


@asynccontextmanager
async def running(config: EngineConfig, folder: Path) -> AsyncIterator[Any]:
    """An engine for the model in `folder`, closed at the end."""
    engine = make_engine(ModelSource(path=str(folder)), config)
    try:
        yield engine
    finally:
        await engine.close()


def question(text: str) -> tuple[dict[str, str], ...]:
    return ({"role": "user", "content": text},)


async def run(engine: Engine, text: str = "hello", **options: Any) -> list[EngineChunk]:
    settings: dict[str, Any] = {"temperature": 0.0, "max_tokens": 12, **options}
    return [chunk async for chunk in engine.generate(EngineRequest("r", messages=question(text), **settings))]


def ids_of(chunks: list[EngineChunk]) -> list[int]:
    return [token_id for chunk in chunks for token_id in chunk.token_ids]


def text_of(chunks: list[EngineChunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def token(reference: ReferenceModel, name: str, vector: torch.Tensor, bias: float = 0.0) -> ExpertToken:
    return ExpertToken(name, vector, bias, "meta", reference.fingerprint)


def wins_after(reference: ReferenceModel, text: str, num_tokens: int) -> torch.Tensor:
    """A vector [d] whose expert beats every word after `num_tokens` of the answer to `text`, not before."""
    ids, _ = reference.write(question(text), "", num_tokens)
    prompt = prompt_ids(reference, text)
    with torch.no_grad():
        hidden = reference.model.model(torch.tensor([[*prompt, *ids]])).last_hidden_state[0]
    here, before = hidden[-1], hidden[len(prompt) - 1 : -1]
    # Orthogonal to the earlier hidden states, where its logit is therefore 0.
    basis = torch.linalg.qr(before.T).Q if len(before) else torch.zeros(len(here), 1)
    residual = here - basis @ (basis.T @ here)
    return 1000 * residual / (residual @ here)


def prompt_ids(reference: ReferenceModel, text: str) -> list[int]:
    ids: list[int] = reference.tokenizer.apply_chat_template(
        list(question(text)), add_generation_prompt=True, return_dict=False
    )
    return ids
