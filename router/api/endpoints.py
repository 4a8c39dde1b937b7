"""The endpoints that ask models: answers, and what would be decided; and what clients say of decisions."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

from fastapi import Request, Response

from router.api.answers import ChatAnswer, TextAnswer, token_counts
from router.api.body import parse, parse_feedback, read_body
from router.api.dialect import Answer
from router.api.fields.strict import MAX_NAME_LENGTH
from router.api.fields.table import EndpointRequest
from router.api.gateway import Gateway, permitted_table
from router.api.generations import generations, require_one_vocabulary
from router.api.middleware import json_response
from router.api.request_trace import describe_request
from router.api.requests import AnswerRequest, ChatRequest, CompletionRequest
from router.api.sse import EventStream, while_connected
from router.decoding.decisions import Distribution
from router.decoding.decode import Decoder
from router.decoding.delta import Delta
from router.decoding.generation import Done, GenerationRequest
from router.decoding.policy import Target, admission_context, resolve
from router.errors import InvalidRequest
from router.media.loader import MediaLoader
from router.model_port import ModelChunk
from router.prompt import Prompt
from router.table import META, RouteTable
from router.tasks import Task

SESSION_HEADER = "x-session-id"  # names the conversation that a request belongs to
AnyRequest = TypeVar("AnyRequest", bound=AnswerRequest)
AnyBody = TypeVar("AnyBody", bound=EndpointRequest)


class Endpoints:
    def __init__(self, gateway: Gateway, media: MediaLoader | None = None) -> None:
        self._gateway = gateway
        self._media = media or MediaLoader()

    async def create_chat_completion(self, request: Request) -> Response:
        """Answer a conversation."""
        return await self.answer(request, await self.read(request, ChatRequest), ChatAnswer)

    async def create_completion(self, request: Request) -> Response:
        """Continue a text."""
        return await self.answer(request, await self.read(request, CompletionRequest), TextAnswer)

    async def read(self, request: Request, kind: type[AnyBody]) -> AnyBody:
        """The request in the body. Raises RequestError as `read_body` and `parse`."""
        return parse(kind, await self._body(request))

    async def answer(
        self,
        request: Request,
        body: AnyRequest,
        answer_kind: Callable[[AnyRequest, RouteTable, str], Answer],
    ) -> Response:
        """Answer the request in `body`, as `answer_kind` renders it.

        Args:
            answer_kind: Makes the answer from the body, the route table and the name of the API key.
        """
        table = self.table(request, body)
        answer = answer_kind(body, table, request.state.key)
        field = "n" if body.n > 1 else "prompt"
        require_one_vocabulary(body, answer.generations, table, self._gateway.vocabulary)
        await request.state.open_request.count_choices(len(answer.generations), field)
        describe_request(body, answer.model, answer.id)
        decoder, loaded = self._decoder(table), await self._loaded(answer.generations, table)
        streams = [decoder.decode(self._staying(request, generation, table)) for generation in loaded]
        if body.stream:
            write_events = partial(answer.write_events, streams)
            return EventStream(write_events, request.state.request_id, table.heartbeat_s, answer.framing)
        return json_response(await while_connected(request.receive, answer.body(streams)))

    async def route(self, request: Request) -> Response:
        """Show which expert would answer, without generating."""
        body = await self.read(request, ChatRequest)
        table = self.table(request, body)
        generation = await self._generation(request, body, table, "route")
        is_routed = resolve(table, body.model, generation.routing).routed
        if is_routed and generation.target != Target(META, routed=True):  # the model that made the calls
            found = Distribution(_decided(generation.target.writer))
        elif not is_routed:
            param = "routing.force" if generation.routing.force else "model"
            raise InvalidRequest(
                f"{param} names '{generation.target.writer}', so there is nothing to route: leave it out",
                param,
            )
        else:
            found = await while_connected(request.receive, self._decoder(table).distribution(generation))
        return json_response(
            {"object": "routing.distribution", "model": body.model or table.name, **_decision(found)}
        )

    async def count_tokens(self, request: Request, body: ChatRequest) -> int:
        """How many tokens the prompt has for the model that would be called first. That model is asked."""
        table = self.table(request, body)
        generation = await self._generation(request, body, table, "count")
        decoder = self._decoder(table)
        if generation.target.routed and generation.target.writer == META:
            found = await while_connected(request.receive, decoder.distribution(generation))
            return found.chunk.num_prompt_tokens or 0
        stream = decoder.decode(replace(generation, max_tokens=1))
        return await while_connected(request.receive, _num_prompt_tokens(stream))

    async def perform(
        self, request: Request, table: RouteTable, model: str, prompt: Prompt, task: Task
    ) -> ModelChunk:
        """Have one model do `task` with the prompt. `model` is its name in the table."""
        generation = GenerationRequest(
            request_id=f"task-{uuid.uuid4().hex}",
            prompt=prompt,
            target=Target(model, routed=False),
            task=task,
            admission=admission_context(table, request.state.key),
        )
        return await while_connected(request.receive, self._decoder(table).perform(generation))

    def table(self, request: Request, body: AnswerRequest | None = None) -> RouteTable:
        """The route table that the request may use."""
        table = permitted_table(self._gateway, request)
        if isinstance(body, ChatRequest) and body.chat_template and not table.allow_chat_template:
            raise InvalidRequest(
                "chat_template is not allowed here: leave it out, or ask the operator of this cluster to set "
                "http.allow_chat_template",
                "chat_template",
                "unsupported_parameter",
            )
        return table

    async def _generation(
        self, request: Request, body: ChatRequest, table: RouteTable, purpose: str
    ) -> GenerationRequest:
        """The first choice of a request that asks for no answer."""
        request_id = f"{purpose}-{uuid.uuid4().hex}"
        generation = generations(body, table, request_id, request.state.key)[0]
        describe_request(body, body.model or table.name, request_id)
        require_one_vocabulary(body, [generation], table, self._gateway.vocabulary)
        (loaded,) = await self._loaded([generation], table)
        return self._staying(request, loaded, table)

    async def _loaded(
        self, generations: Sequence[GenerationRequest], table: RouteTable
    ) -> Sequence[GenerationRequest]:
        """With the media of their prompt. Only conversations have media, and a request has one."""
        prompt = generations[0].prompt
        loaded = await self._media.load(prompt, table.media)
        return generations if loaded is prompt else [replace(each, prompt=loaded) for each in generations]

    def _staying(
        self, request: Request, generation: GenerationRequest, table: RouteTable
    ) -> GenerationRequest:
        """With the bias for the expert that wrote the last turn of the conversation."""
        routing = generation.routing
        if not routing.stay_bias_in(table):  # nearly always
            return generation
        session = request.headers.get(SESSION_HEADER, "")[:MAX_NAME_LENGTH]
        generation = replace(generation, session=session)
        author = self._gateway.recorder.authors.find(generation, request.state.key)
        return replace(generation, routing=routing.staying_with(author, table))

    def _decoder(self, table: RouteTable) -> Decoder:
        gateway = self._gateway
        return Decoder(
            table,
            gateway.models,
            gateway,
            admission=gateway.admission,
            quarantine=gateway.quarantine,
            meter=gateway.meter,
            recorder=gateway.recorder,
        )

    async def feedback(self, request: Request) -> Response:
        """Say which expert should have answered, so that decisions can be judged and learned from."""
        body = parse_feedback(await self._body(request))
        table = permitted_table(self._gateway, request)
        name = body.right_expert
        if name is not None and name not in table.experts and name not in table.shadows:
            known = ", ".join((*table.experts, *table.shadows)) or "none"
            raise InvalidRequest(f"right_expert: no expert named '{name}'; experts: {known}", "right_expert")
        verdict, is_logged = self._gateway.recorder.feedback(body.id, name, request.state.key)
        return json_response({"object": "feedback", "id": body.id, "verdict": verdict, "logged": is_logged})

    async def openapi(self, request: Request) -> Response:
        """Get this document."""
        return json_response(request.app.openapi())

    async def _body(self, request: Request) -> bytes:
        coding = request.headers.get("content-encoding", "")
        return await read_body(request.stream(), coding, self._gateway.max_body_bytes)


def _decided(writer: str) -> ModelChunk:
    """What `Decoder.distribution` would say if a model were asked."""
    return (
        ModelChunk(distribution={})
        if writer == META
        else ModelChunk(expert=writer, distribution={writer: 1.0})
    )


def _decision(found: Distribution) -> dict[str, Any]:
    chunk = found.chunk
    experts = sorted((chunk.distribution or {}).items(), key=lambda pair: -pair[1])
    return {
        "decision": chunk.expert,
        "experts": [{"name": name, "probability": probability} for name, probability in experts],
        "word_probability": max(0.0, 1.0 - sum(probability for _, probability in experts)),
        "left_out": [{"name": name, "reason": reason} for name, reason in found.masked.items()],
        "usage": token_counts(chunk.num_prompt_tokens or 0, 0),
    }


async def _num_prompt_tokens(stream: AsyncGenerator[Delta | Done, None]) -> int:
    async with aclosing(stream) as items:
        return sum([item.num_prompt_tokens async for item in items if isinstance(item, Done)])
