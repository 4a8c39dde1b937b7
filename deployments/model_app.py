"""A model's application: the model, and an ingress that nobody uses.

Serve wants an ingress in every application, and where HAProxy spreads the requests, none may have a choice of
replicas like ours (`deployments.choice`). Models are called by handle alone, so theirs can be anything.
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
NONE = {"min_replicas": 0, "max_replicas": 1}  # Serve starts one when somebody calls, which nobody does


def model_app(server: type[Any], *args: Any) -> Application:
    """Of a class that keeps the contract of `ModelServer`, made with these arguments."""
    model = serve.deployment(name=MODEL_DEPLOYMENT)(server).bind(*args)
    return serve.deployment(name="NoIngress", autoscaling_config=NONE)(NoIngress).bind(model)


async def model_handle(app: str) -> DeploymentHandle[Any]:
    """A handle to the application's model, whether or not a replica is up.

    Raises:
        ModelUnavailable: there is no such application yet.
    """
    try:
        return await asyncio.to_thread(serve.get_deployment_handle, MODEL_DEPLOYMENT, app)
    except (RayError, RayServeException, KeyError) as error:
        raise ModelUnavailable(f"there is no application {app} yet") from error


class NoIngress:
    """Serve finds the model by the argument."""

    def __init__(self, model: DeploymentHandle[Any]) -> None:
        raise RuntimeError("this deployment is to have no replica: call the model by its handle")
