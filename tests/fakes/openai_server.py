"""A server of the OpenAI API, as other projects write them: with its own template and its own behaviour.

Its model is greedy. Each word depends on the whole prompt, control tokens included, so another rendering of
the prompt gives another answer. A token is a word with the blanks before it.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
from base64 import b64encode
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse

from tests.fakes.models import served

WORDS = (" iron", " gold", " lead", " tin", " zinc", " copper", " silver", " mercury", " nickel", " cobalt")
END = "<end>"
MAX_ANSWER_TOKENS = 40
# What a template puts before and after an assistant's turn. INST has no token that opens a turn.
Template = tuple[list[str], list[str]]
CHATML: Template = (["<start>", "assistant"], ["<end>"])
INST: Template = ([], ["<end>"])

OpenTurns = Literal["supported", "ignored", "refused", "partial", "always"]


def tokens(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+$", text)


@dataclass
class OpenAIServer:
    """The behaviour of the server, and what it has received.

    Attributes:
        open_turns: What it does with the fields that ask it to continue an open turn. `partial` obeys
            `add_generation_prompt` alone; `always` continues a last assistant turn without being asked.
        template: What surrounds an assistant's turn.
        reports_usage: `messages` leaves out the template's tokens.
        is_deterministic: Whether the same prompt always gives the same answer.
        only_word: The only word that the model writes.
        breaks_after: The number of tokens after which an answer breaks off, with `stream_error` if given.
        failures: Statuses and bodies of the next responses, instead of answers.
        headers: Of these responses.
        knows_base64: Whether it sends embeddings as base64 if it is asked to.
        hangs: Whether answers hang after their first token.
        bodies: Of all requests; `keys` are their Authorization headers, and `clients` their connections.
        num_open: Number of answers that are being streamed.
    """

    open_turns: OpenTurns = "supported"
    template: Template = field(default_factory=lambda: CHATML)
    reports_usage: bool | Literal["messages"] = True
    is_deterministic: bool = True
    only_word: str | None = None
    max_model_len: int = 1_000
    breaks_after: int | None = None
    stream_error: dict[str, Any] | None = None
    failures: list[tuple[int, Any]] = field(default_factory=list)
    headers: dict[str, str] = field(default_factory=dict)
    hangs: bool = False
    knows_base64: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    clients: set[tuple[str, int]] = field(default_factory=set)
    num_open: int = 0

    @property
    def app(self) -> FastAPI:
        app = FastAPI()
        app.add_api_route("/v1/chat/completions", self._chat, methods=["POST"], response_model=None)
        app.add_api_route("/v1/embeddings", self._embeddings, methods=["POST"], response_model=None)
        app.add_api_route("/v1/completions", self._completions, methods=["POST"], response_model=None)
        return app

    def answer(
        self,
        messages: Sequence[Mapping[str, Any]],
        num_tokens: int = MAX_ANSWER_TOKENS,
        *,
        is_open: bool = False,
    ) -> str:
        """The text of a new turn after `messages`, or the continuation of the last one if it is open."""
        fields = {"add_generation_prompt": not is_open, "continue_final_message": is_open}
        return "".join(self._write(self._rendered({"messages": messages, **fields}), num_tokens))

    async def _chat(self, request: Request) -> JSONResponse | StreamingResponse:
        body = await self._received(request)
        if self.open_turns == "refused" and {"add_generation_prompt", "continue_final_message"} & body.keys():
            return _error(400, "Unrecognized request argument supplied: continue_final_message")
        return self._answered(request, body, self._rendered(body), is_chat=True)

    async def _completions(self, request: Request) -> JSONResponse | StreamingResponse:
        body = await self._received(request)
        prompt = body["prompt"]
        written = tokens(prompt) if isinstance(prompt, str) else prompt
        return self._answered(request, body, written, is_chat=False)

    def embedding(self, given: str | list[int]) -> tuple[float, ...]:
        """Four numbers that 32-bit floats hold exactly."""
        return tuple(byte / 128 - 1 for byte in sha256(str(given).encode()).digest()[:4])

    async def _embeddings(self, request: Request) -> JSONResponse:
        """In any order: each vector has its index."""
        body = await self._received(request)
        if self.failures:
            status, content = self.failures.pop(0)
            return JSONResponse(content, status, headers=self.headers)
        counts = [len(tokens(each) if isinstance(each, str) else each) for each in body["input"]]
        if max(counts) > self.max_model_len:
            return _error(400, f"This model's maximum context length is {self.max_model_len} tokens.")
        vectors: list[Any] = [[*self.embedding(each)] for each in body["input"]]
        if self.knows_base64 and body.get("encoding_format") == "base64":
            vectors = [b64encode(struct.pack("<4f", *vector)).decode() for vector in vectors]
        data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors)]
        usage = {"usage": {"prompt_tokens": sum(counts)}} if self.reports_usage else {}
        return JSONResponse({"object": "list", "data": data[::-1], **usage})

    async def _received(self, request: Request) -> dict[str, Any]:
        body: dict[str, Any] = await request.json()
        self.bodies.append(body)
        self.keys.append(request.headers.get("authorization"))
        assert request.client is not None
        self.clients.add((request.client.host, request.client.port))
        return body

    def _answered(
        self, request: Request, body: dict[str, Any], prompt: list[Any], *, is_chat: bool
    ) -> JSONResponse | StreamingResponse:
        if self.failures:
            status, content = self.failures.pop(0)
            return JSONResponse(content, status, headers=self.headers)
        limit = body.get("max_tokens", body.get("max_completion_tokens", 16 if not is_chat else None))
        room = self.max_model_len - len(prompt)
        if room < 1 or (limit or 0) > room:
            return _error(400, f"This model's maximum context length is {self.max_model_len} tokens.")
        assert body["stream"]
        parts = self._parts(prompt, min(limit or room, room), is_chat=is_chat)
        return StreamingResponse(self._streamed(request, parts), media_type="text/event-stream")

    def _parts(self, prompt: list[Any], limit: int, *, is_chat: bool) -> Iterator[dict[str, Any]]:
        written = self._write(prompt, limit)
        for number, word in enumerate(written):
            if number == self.breaks_after:
                if self.stream_error is not None:
                    yield {"error": self.stream_error}
                return
            part: dict[str, Any] = {"delta": {"content": word}} if is_chat else {"text": word}
            yield {"choices": [{"index": 0, **part, "finish_reason": None}], "usage": None}
        finish = "length" if len(written) == limit else "stop"
        yield {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]}
        if self.reports_usage:
            template_tokens = {*self.template[0], *self.template[1], "<user>"}
            ignored = template_tokens if self.reports_usage == "messages" else ()
            num_prompt_tokens = sum(token not in ignored for token in prompt)
            usage = {"prompt_tokens": num_prompt_tokens, "completion_tokens": len(written)}
            yield {"choices": [], "usage": usage}

    async def _streamed(self, request: Request, parts: Iterator[dict[str, Any]]) -> AsyncGenerator[str, None]:
        self.num_open += 1
        try:
            yield ": waiting\n\n"
            yield _event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})
            for part in parts:
                yield _event(part)
                while self.hangs and not await request.is_disconnected():  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            if self.breaks_after is None:
                yield "data: [DONE]\n\n"
        finally:
            self.num_open -= 1

    def _rendered(self, body: Mapping[str, Any]) -> list[str]:
        messages, before, after = body["messages"], *self.template
        opens = body.get("add_generation_prompt", True)
        is_asked = self.open_turns == "supported" and body.get("continue_final_message", False)
        is_open = is_asked or self.open_turns == "always"
        if self.open_turns in ("ignored", "always"):
            opens = True
        is_open = is_open and messages[-1]["role"] == "assistant"
        prompt: list[str] = []
        for message in messages:
            opening = before if message["role"] == "assistant" else [f"<{message['role']}>"]
            prompt += [*opening, *_content_tokens(message["content"]), *after]
        if is_open:
            return prompt[: len(prompt) - len(after)]
        return prompt + before if opens else prompt

    def _write(self, prompt: Sequence[Any], limit: int) -> list[str]:
        """Each word depends on all before it, so the longer of two answers begins with the shorter one."""
        all_tokens, written = [*map(str, prompt)], list[str]()
        if not self.is_deterministic:
            all_tokens.append(str(len(self.bodies)))
        while len(written) < limit:
            digest = sha256("\0".join(all_tokens).encode()).digest()
            if digest[0] < 8 and self.only_word is None:
                break
            word = self.only_word or WORDS[digest[1] % len(WORDS)]
            if not written and all_tokens[-1] in ("assistant", END):
                word = word.strip()
            written.append(word)
            all_tokens.append(word)
        return written


@contextmanager
def serving(server: OpenAIServer) -> Iterator[str]:
    """Run the server in a thread; yields the address for `remote.url`."""
    with served(server.app) as url:
        yield f"{url}/v1"


def _content_tokens(content: str | list[dict[str, Any]]) -> list[str]:
    """A part that is not text is one token."""
    if isinstance(content, str):
        return tokens(content)
    written = (tokens(part["text"]) if part["type"] == "text" else [json.dumps(part)] for part in content)
    return [token for part in written for token in part]


def _error(status: int, message: str) -> JSONResponse:
    return JSONResponse({"error": {"message": message, "type": "BadRequestError", "code": status}}, status)


def _event(data: object) -> str:
    return f"data: {json.dumps(data)}\n\n"
