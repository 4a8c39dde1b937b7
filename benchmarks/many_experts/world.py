"""A meta that tells a thousand experts apart, and clusters with any number of these experts."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from benchmarks.models import save_random_model
from cluster.config.cluster_config import load_config
from cluster.local.ports import free_ports
from cluster.serve.app_names import META_APP, ROUTER_APP, expert_app
from cluster.serve.deploy_config import build_serve_config
from experts.checkpoint import Checkpoint
from experts.learn import Query, States, compute_states
from experts.token import ExpertToken

NAME = "many-experts"
SHARED = "shared"  # the one application behind many experts
HIDDEN_SIZE, NUM_LAYERS = 256, 4
ABOVE_WORDS = 1000.0  # added to every expert's logit, because every question is for an expert
INSTANT = {"import_path": "benchmarks.relay.instant:build_instant", "args": {}}


@dataclass(frozen=True)
class ExpertSet:
    """Experts of a random meta, in `folder`. Each has one question that its token wins."""

    folder: Path
    names: Sequence[str]

    @classmethod
    def create(cls, folder: Path, num_experts: int) -> ExpertSet:
        expert_set = cls(folder, [f"expert-{i:04}" for i in range(num_experts)])
        save_random_model(folder / "meta", hidden_size=HIDDEN_SIZE, num_layers=NUM_LAYERS, max_model_len=256)
        (folder / "config.json").write_text(
            "{}", encoding="utf-8"
        )  # the only file of the experts that is read
        (folder / "tokens").mkdir()
        model, renderer = Checkpoint(str(folder / "meta")).load()
        queries = [
            Query(({"role": "user", "content": expert_set.question(name)},), name)
            for name in expert_set.names
        ]
        for token in _nearest(compute_states(model, renderer, queries)):
            token.save(folder / "tokens" / f"{token.name}.safetensors")
        return expert_set

    def question(self, name: str) -> str:
        return f"a question for {name}"

    def cluster(self, num_experts: int) -> dict[str, Any]:
        """A cluster.yaml in which all experts but the first sleep."""
        resources = {"num_cpus": 0.01}
        engine = {"dtype": "float32", "num_threads": 1}
        experts = {
            name: {
                "model": {"path": str(self.folder)},
                "token": str(self.folder / "tokens" / f"{name}.safetensors"),
                "autoscaling": {"min_replicas": int(name == self.names[0])},
                "resources": resources,
            }
            for name in self.names[:num_experts]
        }
        meta = {"model": {"path": str(self.folder / "meta")}, "engine": engine, "resources": resources}
        return {"name": NAME, "meta": meta, "experts": experts, "http": {"port": free_ports(1)[0]}}


def own_apps(expert_set: ExpertSet, folder: Path, num_experts: int) -> dict[str, Any]:
    """An application for each expert. The first answers in no time; all others sleep."""
    deploy = _deploy_config(expert_set, folder, num_experts)
    first = next(app for app in deploy["applications"] if app["name"] == expert_app(expert_set.names[0]))
    first |= INSTANT
    return deploy


def shared_app(expert_set: ExpertSet, folder: Path, num_experts: int) -> dict[str, Any]:
    """One application for all experts, which answers in no time."""
    deploy = _deploy_config(expert_set, folder, num_experts)
    apps = {app["name"]: app for app in deploy["applications"]}
    shared = apps[expert_app(expert_set.names[0])] | {"name": SHARED} | INSTANT
    for entry in _settings(apps[ROUTER_APP])["experts"].values():
        entry |= {"app": SHARED, "scales_to_zero": False}
    return deploy | {"applications": [shared, apps[META_APP], apps[ROUTER_APP]]}


def without(deploy: Mapping[str, Any], name: str, table_version: int) -> dict[str, Any]:
    """The same cluster without this expert."""
    changed = renumbered(deploy, table_version)
    apps = {app["name"]: app for app in changed["applications"]}
    del _settings(apps[META_APP])["tokens"][name], _settings(apps[ROUTER_APP])["experts"][name]
    apps.pop(expert_app(name), None)
    return changed | {"applications": list(apps.values())}


def renumbered(deploy: Mapping[str, Any], table_version: int) -> dict[str, Any]:
    changed = copy.deepcopy(dict(deploy))
    for app in changed["applications"]:
        if app["name"] in (META_APP, ROUTER_APP):
            _settings(app)["table_version"] = table_version
    return changed


def _deploy_config(expert_set: ExpertSet, folder: Path, num_experts: int) -> dict[str, Any]:
    path = folder / "cluster.yaml"
    path.write_text(yaml.safe_dump(expert_set.cluster(num_experts), sort_keys=False), encoding="utf-8")
    return build_serve_config(load_config(path))


def _settings(app: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = app["deployments"][0]["user_config"]
    return found


def _nearest(states: States) -> list[ExpertToken]:
    """A token for every expert, without a fit.

    A row is the difference of the hidden state of its expert's question from the mean, whitened and
    normalized. All rows have the same length, so no other row is closer to that state.
    """
    hidden = states.hidden.double()
    centred = hidden - hidden.mean(dim=0)
    _, lengths, axes = torch.linalg.svd(centred, full_matrices=False)
    whiten = axes.T / lengths.clamp(min=1e-6 * lengths[0])
    rows = torch.nn.functional.normalize(centred @ whiten, dim=-1) @ whiten.T
    own = (centred * rows).sum(dim=-1)
    rows /= own.mean()
    biases = ABOVE_WORDS - rows @ hidden.mean(dim=0)
    order = states.expert.argsort()
    return [
        ExpertToken(name, rows[i].float(), float(biases[i]), states.meta_name, states.meta_fingerprint)
        for name, i in zip(states.expert_names, order.tolist(), strict=True)
    ]
