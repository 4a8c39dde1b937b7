"""What the router sends besides completions, for the OpenAPI document.

The docstrings of models are part of the document.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic.json_schema import SkipJsonSchema

from router.api.completion_models import ExpertProbability, ResponseModel, TokenUsage
from router.availability import ModelState
from router.decisions.recorder import Verdict
from router.load_report import ModelLoad
from router.media_rules import Modality


class ErrorObject(ResponseModel):
    message: str
    type: Literal["invalid_request_error", "rate_limit_error", "server_error"]
    param: str | None
    code: str | None


class ErrorResponse(ResponseModel):
    error: ErrorObject


class LeftOutExpert(ResponseModel):
    """`reason` is one of those in the documentation of decisions, such as `modality`."""

    name: str
    reason: str


class RoutingDistribution(ResponseModel):
    """`left_out` are the experts that could not be chosen."""

    object: Literal["routing.distribution"]
    model: str
    decision: str | None
    experts: list[ExpertProbability]
    word_probability: float
    left_out: list[LeftOutExpert]
    usage: TokenUsage


class FeedbackReceipt(ResponseModel):
    """`verdict` is `unknown` if another router answered; the decision log joins the two. `logged` says
    whether there is a decision log."""

    object: Literal["feedback"]
    id: str
    verdict: Verdict
    logged: bool


class ModelCard(ResponseModel):
    """`max_model_len` is null unless cluster.yaml has it. The `state` of the generalist is that of the meta.
    `task` is `embed` for models of `/v1/embeddings`. `modalities` are what the model reads, those of the
    generalist what any of its models does. `aliases` are the other names of the model."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    max_model_len: int | None
    state: ModelState
    task: Literal["generate", "embed"]
    modalities: list[Modality]
    aliases: list[str]


class ModelList(ResponseModel):
    object: Literal["list"]
    data: list[ModelCard]


class HealthResponse(ResponseModel):
    status: Literal["ok", "unavailable", "failed"]
    table_version: int
    experts: dict[str, ModelState]
    embedders: dict[str, ModelState] | SkipJsonSchema[None] = None
    error: ErrorObject | SkipJsonSchema[None] = None


class VersionResponse(ResponseModel):
    version: str


class QueueLoad(ResponseModel):
    """The answers that a model is writing for this router, those that wait for it, and how long one takes."""

    num_running: int
    num_waiting: int
    mean_hold_s: float | None


class StatsResponse(ResponseModel):
    """`ejected`: why the router that answers avoids replicas, by model and replica."""

    table_version: int
    models: dict[str, ModelLoad | None]
    admission: dict[str, QueueLoad]
    ejected: dict[str, dict[str, str]]


class KeyUsage(ResponseModel):
    """What all routers together have counted of one API key: since midnight UTC, and answers open now."""

    name: str
    sha256: str
    requests_today: int
    tokens_today: int
    num_open: int
    requests_per_minute: int | None
    tokens_per_minute: int | None
    tokens_per_day: int | None
    max_concurrent: int | None


class KeyUsageList(ResponseModel):
    object: Literal["list"]
    data: list[KeyUsage]


class OpenApiDocument(ResponseModel):
    openapi: str
    info: dict[str, Any]
    paths: dict[str, Any]
    components: dict[str, Any]
