"""A `kubectl` for tests: get, apply and patch of RayServices and RayClusters, kept in a folder of JSON files.

It has the API server's rules that we rely on: another resource version is a conflict, fields have owners,
defaults are filled in, a dry run changes nothing, a JSON patch is made as a whole or not at all, and a
changed spec gets a new generation. And KubeRay's rules: a change of numbers of pods alone is ignored, groups
at the end are added to the cluster, and anything else starts a new cluster. The operator takes one step with
every `get`.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import re
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ.get("FAKE_KUBECTL_FOLDER", "."))
GROUP_DEFAULTS = {"replicas": 0, "numOfHosts": 1, "priority": 0}
NUMBERS = ("replicas", "minReplicas", "maxReplicas")


class Refused(Exception):
    pass


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    with (FOLDER / "calls").open("a") as calls:
        calls.write(f"{' '.join(arguments)}\n")
    try:
        if (FOLDER / "broken-once").exists():
            reason = (FOLDER / "broken-once").read_text()
            (FOLDER / "broken-once").unlink()
            raise Refused(reason)
        done = {"get": get, "apply": apply, "patch": patch}[options.verb](options)
    except Refused as refusal:
        print(refusal, file=sys.stderr)
        return 1
    print(json.dumps(done))
    return 0


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--namespace", required=True)
    parser.add_argument("verb", choices=("get", "apply", "patch"))
    parser.add_argument("kind", nargs="?", choices=("rayservices.ray.io", "rayclusters.ray.io"))
    parser.add_argument("name", nargs="?")
    parser.add_argument("--output", required=True, choices=("json",))
    parser.add_argument("--server-side", action="store_true")
    parser.add_argument("--field-manager")
    parser.add_argument("--validate", choices=("strict",))
    parser.add_argument("--dry-run", choices=("server",))
    parser.add_argument("--force-conflicts", action="store_true")
    parser.add_argument("-f", dest="file", choices=("-",))
    parser.add_argument("--type", choices=("json",))
    parser.add_argument("--patch")
    return parser.parse_args(arguments)


def get(options: argparse.Namespace) -> dict[str, Any]:
    found = read(options.namespace, options.kind, options.name)
    if found["kind"] == "RayService":
        operate(found)
    return found


def apply(options: argparse.Namespace) -> dict[str, Any]:
    assert options.server_side
    assert options.validate == "strict"
    given = json.loads(sys.stdin.read())
    live = read(options.namespace, "rayservices.ray.io", given["metadata"]["name"])
    version = given["metadata"].get("resourceVersion")
    if version not in (None, live["metadata"]["resourceVersion"]):
        raise Refused(
            "Error from server (Conflict): Operation cannot be fulfilled: the object has been modified"
        )
    spec = with_defaults(given["spec"])
    others = [key for key, owner in live["owners"].items() if owner != options.field_manager]
    taken = [f".spec.{key}" for key in others if spec.get(key) != live["spec"].get(key)]
    if taken and not options.force_conflicts:
        raise Refused(
            f'error: Apply failed with {len(taken)} conflict: conflict with "{live["owners"][taken[0][6:]]}" '
            f"using ray.io/v1: {' '.join(taken)}\nPlease review the fields above--others manage them."
        )
    wanted = {
        **live,
        "spec": spec,
        "owners": {**live["owners"], **dict.fromkeys(spec, options.field_manager)},
    }
    if options.dry_run or spec == live["spec"]:
        return wanted
    wanted["metadata"] = {**live["metadata"], "generation": live["metadata"]["generation"] + 1}
    with (FOLDER / "applied").open("a") as applied:
        applied.write(f"{json.dumps(spec)}\n")
    write(wanted)
    return wanted


def patch(options: argparse.Namespace) -> dict[str, Any]:
    found = read(options.namespace, options.kind, options.name)
    for operation in json.loads(options.patch):
        *parents, last = operation["path"].strip("/").split("/")
        block: Any = found
        for key in parents:
            block = block[int(key)] if isinstance(block, list) else block[key]
        if operation["op"] == "test" and block[last] != operation["value"]:
            raise Refused(
                "The request is invalid: the server rejected our request due to an error in our request"
            )
        block[last] = operation["value"]
    write(found)
    return found


def operate(service: dict[str, Any]) -> None:
    """One step of KubeRay: notice the change, then deploy it to Serve, then read the applications' status."""
    if (FOLDER / "no-operator").exists():
        return
    before, status = copy.deepcopy(service["status"]), service["status"]
    if status["observedGeneration"] < service["metadata"]["generation"]:
        status["observedGeneration"] = service["metadata"]["generation"]
        place(service)
    else:
        progress(service)
    if status != before:
        write(service)


def place(service: dict[str, Any]) -> None:
    status, spec = service["status"], service["spec"]["rayClusterConfig"]
    cluster = read(
        service["metadata"]["namespace"],
        "rayclusters.ray.io",
        status["activeServiceStatus"]["rayClusterName"],
    )
    num_groups = len(cluster["spec"]["workerGroupSpecs"])
    shortened = {**spec, "workerGroupSpecs": spec["workerGroupSpecs"][:num_groups]}
    if muted(spec) != muted(cluster["spec"]) and muted(shortened) == muted(cluster["spec"]):
        write({**cluster, "spec": spec})
    elif muted(spec) != muted(cluster["spec"]):
        name = f"{service['metadata']['name']}-{service['metadata']['generation']}"
        metadata = {**cluster["metadata"], "name": name}
        write({**cluster, "metadata": metadata, "spec": spec})
        status["pendingServiceStatus"] = {"rayClusterName": name}
        return
    before, now = status["activeServiceStatus"]["applicationStatuses"], statuses(service, "DEPLOYING")
    leaving = {app: {"status": "DELETING", "message": ""} for app in before if app not in now}
    status["activeServiceStatus"]["applicationStatuses"] = {**now, **leaving}


def progress(service: dict[str, Any]) -> None:
    status = service["status"]
    if status["pendingServiceStatus"]:
        status["activeServiceStatus"], status["pendingServiceStatus"] = status["pendingServiceStatus"], {}
    status["activeServiceStatus"]["applicationStatuses"] = statuses(service, "RUNNING")


def statuses(service: dict[str, Any], status: str) -> dict[str, Any]:
    broken = json.loads((FOLDER / "failing").read_text()) if (FOLDER / "failing").exists() else {}
    # Without a YAML parser, whose import would take most of the run time.
    apps = re.findall(r"^- name: (\S+)$", service["spec"]["serveConfigV2"], re.MULTILINE)
    return {
        app: {"status": "DEPLOY_FAILED", "message": broken[app]}
        if app in broken
        else {"status": status, "message": ""}
        for app in apps
    }


def muted(spec: dict[str, Any]) -> dict[str, Any]:
    groups = [
        {key: value for key, value in one.items() if key not in NUMBERS} for one in spec["workerGroupSpecs"]
    ]
    return {**spec, "workerGroupSpecs": groups}


def with_defaults(spec: dict[str, Any]) -> dict[str, Any]:
    filled = copy.deepcopy(spec)
    cluster = filled["rayClusterConfig"]
    cluster["workerGroupSpecs"] = [{**GROUP_DEFAULTS, **one} for one in cluster["workerGroupSpecs"]]
    return filled


def create(manifest: dict[str, Any], manager: str) -> None:
    """Create a RayService that already runs on a cluster."""
    metadata = {**manifest["metadata"], "generation": 1}
    cluster_name = f"{metadata['name']}-1"
    spec = with_defaults(manifest["spec"])
    service = {
        **manifest,
        "metadata": metadata,
        "spec": spec,
        "owners": dict.fromkeys(spec, manager),
        "status": {
            "observedGeneration": 1,
            "activeServiceStatus": {"rayClusterName": cluster_name},
            "pendingServiceStatus": {},
        },
    }
    service["status"]["activeServiceStatus"]["applicationStatuses"] = statuses(service, "RUNNING")
    write(service)
    cluster = {"kind": "RayCluster", "metadata": {"name": cluster_name, "namespace": metadata["namespace"]}}
    write({**cluster, "spec": spec["rayClusterConfig"]})


def read(namespace: str, kind: str, name: str) -> dict[str, Any]:
    path = FOLDER / f"{kind}.{namespace}.{name}.json"
    if not path.exists():
        raise Refused(f'Error from server (NotFound): {kind} "{name}" not found')
    return dict(json.loads(path.read_text()))


def write(thing: dict[str, Any]) -> None:
    metadata = thing["metadata"]
    metadata["resourceVersion"] = str(int(metadata.get("resourceVersion", 0)) + 1)
    kind = f"{thing['kind'].lower()}s.ray.io"
    (FOLDER / f"{kind}.{metadata['namespace']}.{metadata['name']}.json").write_text(json.dumps(thing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
