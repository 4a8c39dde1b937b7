"""Models and questions: the toy world's, and larger models with random weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.models import learn_tokens, save_random_model
from cluster.config.cluster_config import load_config
from cluster.local.ports import free_ports
from cluster.serve.deploy_config import build_serve_config
from experts.learn import Query, read_queries

NAME = "compared"
SEED = 7
# Grouped-query attention, as in current models, so that the KV cache of a batch is small.
HEAD_DIM, HEADS_PER_KEY = 64, 4
EngineKind = Literal["transformers", "vllm"]
# One thread per model; for vLLM, the environment says so.
ENGINES: Mapping[EngineKind, Mapping[str, Any]] = {
    "transformers": {"num_threads": 1},
    "vllm": {"kind": "vllm", "cache_bytes": 2**29, "enforce_eager": True},
}


@dataclass(frozen=True)
class World:
    models: Path
    tokens: Path
    experts: Sequence[str]
    questions: Sequence[Query]
    max_tokens: int

    def deploy_config(self, folder: Path, engine_kind: EngineKind) -> dict[str, Any]:
        """One replica of each model, with room for all questions at once."""
        engine = {
            "dtype": "float32",
            "max_model_len": 256,
            "max_streams": len(self.questions),
            **ENGINES[engine_kind],
        }
        block = {"engine": engine, "resources": {"num_cpus": 0.1}}
        text = {
            "name": NAME,
            "meta": {"model": {"path": str(self.models / "meta")}, **block},
            "experts": {
                name: {
                    "model": {"path": str(self.models / name)},
                    "token": str(self.tokens / f"{name}.safetensors"),
                    **block,
                }
                for name in self.experts
            },
            "http": {"port": free_ports(1)[0]},
        }
        path = folder / "cluster.yaml"
        path.write_text(yaml.safe_dump(text, sort_keys=False), encoding="utf-8")
        return build_serve_config(load_config(path))


MakeWorld = Callable[[Path, int], World]


def toy_world(toy: Path) -> MakeWorld:
    """A random sample of the held-out questions, and the toy world's models."""

    def make(folder: Path, num_questions: int) -> World:
        questions = read_queries(toy / "data" / "questions.jsonl")
        experts = sorted({question.expert for question in questions if question.expert})
        chosen = random.Random(SEED).sample(questions, num_questions)
        return World(toy / "models", toy / "tokens", experts, chosen, max_tokens=48)

    return make


def random_world(hidden_size: int, num_layers: int, num_tokens: int) -> MakeWorld:
    """A meta that hands over half of the questions to two experts. Every answer has `num_tokens` tokens."""

    def make(folder: Path, num_questions: int) -> World:
        models, names = folder / "models", ("left", "right")
        for seed, name in enumerate(("meta", *names)):
            save_random_model(
                models / name,
                hidden_size=hidden_size,
                num_layers=num_layers,
                head_dim=HEAD_DIM,
                heads_per_key=HEADS_PER_KEY,
                seed=seed,
            )
        questions = [_question(i, (*names, None, None)[i % 4]) for i in range(num_questions)]
        learn_tokens(models / "meta", questions, folder / "tokens")
        return World(models, folder / "tokens", names, questions, num_tokens)

    return make


def _question(number: int, expert: str | None) -> Query:
    return Query(
        ({"role": "user", "content": f"this is question number {number}"},), expert, response="." * 8
    )
