"""Run as a program: for each application named on standard input, its replica's `load()` as a line of JSON.

A Ray driver of its own, so that the tests' process stays free of Ray.
"""

import asyncio
import json
import sys
from dataclasses import asdict

import ray
from ray import serve

from deployments.model_app import MODEL_DEPLOYMENT


async def main() -> None:
    ray.init(address=sys.argv[1], namespace="serve", log_to_driver=False)
    print("ready", flush=True)
    while app := (await asyncio.to_thread(sys.stdin.readline)).strip():
        handle = serve.get_deployment_handle(MODEL_DEPLOYMENT, app)
        print(json.dumps(asdict(await handle.load.remote())), flush=True)


asyncio.run(main())
