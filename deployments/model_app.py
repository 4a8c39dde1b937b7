"""The Serve application of a model: the model, and an ingress that is never called.

Serve requires an ingress in every application, and with HAProxy an ingress must not have a request router of
its own (`deployments.replica_router`). Models are called by handle, so their ingress can be anything.
"""

from __future__ import annotations

import asyncio
from typing import Any

from ray import serve
from ray.exceptions import RayError
from ray.serve import Application
from ray.serve.exceptions import RayServeException
from ray.serve.handle import DeploymentHandle

from router.errors import ModelUnavailable

MODEL_DEPLOYMENT = "Model"
NO_REPLICAS = {"min_replicas": 0, "max_replicas": 1}  # Serve starts a replica at a call, and there is none


def model_app(server: type[Any], *args: Any) -> Application:
    """An application of `server`, a class that keeps the contract of `ModelServer`, created with `args`."""
    model = serve.deployment(name=MODEL_DEPLOYMENT)(server).bind(*args)
    return serve.deployment(name="NoIngress", autoscaling_config=NO_REPLICAS)(NoIngress).bind(model)


async def model_handle(app: str) -> DeploymentHandle[Any]:
    """A handle to the application's model, even if no replica runs.

    Raises:
        ModelUnavailable: there is no such application yet.
    """
    try:
        return await asyncio.to_thread(serve.get_deployment_handle, MODEL_DEPLOYMENT, app)
    except (RayError, RayServeException, KeyError) as error:
        raise ModelUnavailable(f"there is no application {app} yet") from error


class NoIngress:
    """Serve finds the model by the constructor's argument."""

    def __init__(self, model: DeploymentHandle[Any]) -> None:
        raise RuntimeError("this deployment must not have replicas: call the model by its handle")
