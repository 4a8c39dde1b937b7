"""The demo as a live RayService behind a fake `kubectl`, with the cluster.yaml that it came from."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import yaml

from cluster.kuberay.apply import patch_rayservice
from cluster.kuberay.kubectl import RAYCLUSTER, RAYSERVICE
from cluster.kuberay.render import build_rayservice
from cluster.serve.app_status import AppEvent
from examples.gpu.placeholder_tokens import write_placeholders
from tests.fakes import kubectl as fake_kubectl
from tests.support.k8s_world import config_of


def install_kubectl(folder: Path) -> None:
    kubectl = folder / "kubectl"
    kubectl.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {fake_kubectl.__file__} "$@"\n')
    kubectl.chmod(0o755)


class Live:
    """A live RayService and the cluster.yaml that it came from."""

    def __init__(self, folder: Path, config: Path) -> None:
        self.folder = folder
        self.config = config
        self.data: dict[str, Any] = yaml.safe_load(config.read_text())

    def create(self, manager: str = "etr") -> None:
        fake_kubectl.FOLDER = self.folder
        fake_kubectl.create(self.manifest(), manager)

    def manifest(self) -> dict[str, Any]:
        self.config.write_text(yaml.safe_dump(self.data, sort_keys=False))
        write_placeholders(self.config, 128)
        return build_rayservice(config_of(self.config))

    def add_expert(self, name: str, **settings: Any) -> None:
        model = {"path": f"/opt/etr/demo/models/{name}"}
        self.data["experts"][name] = {"model": model, "token": f"tokens/{name}.safetensors", **settings}

    def patch(self, **options: Any) -> list[AppEvent]:
        events: list[AppEvent] = []
        patch_rayservice("default", "demo", self.manifest(), events.append, poll_s=0, **options)
        return events

    @property
    def service(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / f"{RAYSERVICE}.default.demo.json").read_text()))

    @property
    def clusters(self) -> list[str]:
        return sorted(path.name.split(".")[-2] for path in self.folder.glob(f"{RAYCLUSTER}.*"))

    def groups(self, cluster: str = "demo-1") -> dict[str, tuple[int, int]]:
        found = json.loads((self.folder / f"{RAYCLUSTER}.default.{cluster}.json").read_text())
        return {
            one["groupName"]: (one["minReplicas"], one["maxReplicas"])
            for one in found["spec"]["workerGroupSpecs"]
        }

    @property
    def applied(self) -> list[dict[str, Any]]:
        """The specs that were applied, in order."""
        return [json.loads(line) for line in (self.folder / "applied").read_text().splitlines()]

    @property
    def calls(self) -> list[str]:
        """The verbs of the kubectl commands, in order."""
        lines = (self.folder / "calls").read_text().splitlines()
        return [line.split()[1] + (" dry" if "--dry-run" in line else "") for line in lines]

    @property
    def table_version(self) -> int:
        """The version of the route table and of the meta's tokens, which must be the same."""
        deploy = yaml.safe_load(self.service["spec"]["serveConfigV2"])
        apps = [app for app in deploy["applications"] if app["name"] in ("meta", "router")]
        (only,) = {app["deployments"][0]["user_config"]["table_version"] for app in apps}
        return int(only)
