"""Models and questions: the demo's, and larger ones with random weights."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from benchmarks.models import save_random_model, teach
from cluster.config import load_config
from cluster.ports import free_ports
from cluster.serve_config import build_serve_config
from experts.learn import Query, read_queries

NAME = "compared"
SEED = 7
# As models of these years have it: several heads read one key, so that a batch's cache is small.
HEAD_DIM, HEADS_PER_KEY = 64, 4
EngineKind = Literal["transformers", "vllm"]
# One thread for each; vLLM is told by its environment.
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


def demo_world(demo: Path) -> MakeWorld:
    """Held-out questions of all kinds as they come, to the models that `make demo` builds."""

    def make(folder: Path, num_questions: int) -> World:
        questions = read_queries(demo / "data" / "questions.jsonl")
        experts = sorted({one.expert for one in questions if one.expert})
        chosen = random.Random(SEED).sample(questions, num_questions)
        return World(demo / "models", demo / "tokens", experts, chosen, max_tokens=48)

    return make


def random_world(hidden_size: int, num_layers: int, num_tokens: int) -> MakeWorld:
    """A meta that hands over half of the questions, to one of two experts; nobody ends a turn before it is
    `num_tokens` long."""

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
        teach(models / "meta", questions, folder / "tokens")
        return World(models, folder / "tokens", names, questions, num_tokens)

    return make


def _question(number: int, expert: str | None) -> Query:
    return Query(
        ({"role": "user", "content": f"this is question number {number}"},), expert, response="." * 8
    )
