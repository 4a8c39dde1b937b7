"""`ask` reads a streamed answer as the router sends it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cluster.client.chat import AnswerPart, AnswerTrace, SpanTrace, ask
from cluster.errors import AskError
from router.dialects.app import build_app
from router.model_port import ModelChunk
from router.parts import ReasoningPart, TextPart
from tests.fakes.models import STOP, FakeGateway, hands_over, models, served, writes

Serve = Callable[..., str]
QUESTION = [{"role": "user", "content": "14?"}]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serve one fixed response to every POST, and return the URL."""
    servers = []

    def start(body: str, content_type: str = "text/event-stream") -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(200)
                self.send_header("content-type", content_type)
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *args: Any) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def event(text: str, **chunk: Any) -> str:
    data = {"choices": [{"index": 0, "delta": {"content": text}}], **chunk}
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\u000b", "\u001c"])
def test_unicode_line_separators_in_an_answer_do_not_split_an_event(serve: Serve, separator: str):
    texts = [f"one{separator}two", f" and {separator} three"]
    url = serve("".join(event(text) for text in texts) + "data: [DONE]\n\n")
    assert list(ask(url, QUESTION)) == [AnswerPart(text, None) for text in texts]


def test_a_trace_names_the_model_that_wrote_each_part(serve: Serve):
    events = event("Hello! ", routing={"model": "meta"}) + ": heartbeat\n\n"
    url = serve(events + event("XIV", routing={"model": "roman"}) + "data: [DONE]\n\n")
    parts = list(ask(url, QUESTION, routing={"trace": True}))
    assert parts == [AnswerPart("Hello! ", "meta"), AnswerPart("XIV", "roman")]


def test_thoughts_are_parts_of_their_own():
    fakes = models(
        meta=lambda ask: [ModelChunk("Hm.Hi.", 2, parts=(ReasoningPart("Hm."), TextPart("Hi."))), STOP]
    )
    with served(build_app(FakeGateway(fakes))) as url:
        parts = list(ask(url, QUESTION))
    assert parts == [AnswerPart("Hm.", None, is_thought=True), AnswerPart("Hi.", None)]


def test_a_requested_trace_ends_the_answer():
    fakes = models(meta=hands_over("roman", 0.9, "It is "), roman=writes("2", "-propanol"))
    with served(build_app(FakeGateway(fakes))) as url:
        *parts, trace = ask(url, QUESTION, routing={"trace": True})
    assert [(part.writer, part.text) for part in parts if isinstance(part, AnswerPart)] == [
        ("meta", "It is "),
        ("roman", "2"),
        ("roman", "-propanol"),
    ]
    assert isinstance(trace, AnswerTrace)
    assert trace.spans == (SpanTrace("meta", 1, None), SpanTrace("roman", 2, 0.9))
    assert trace.total_ms >= (trace.first_text_ms or 0) >= 0


@pytest.mark.parametrize(
    ("body", "content_type", "complaint"),
    [
        (event("one"), "text/event-stream", "the answer broke off before its end; ask again"),
        (
            'data: {"error": {"message": "too busy"}}\n\n',
            "text/event-stream",
            "the answer broke off: too busy",
        ),
        ("data: [1]\n\n", "text/event-stream", "not what an OpenAI server sends; give the URL of a router"),
        ("data: {\n\n", "text/event-stream", "not what an OpenAI server sends; give the URL of a router"),
        ("<html>", "text/html", "does not stream its answer; give the URL of a router"),
    ],
)
def test_an_answer_that_is_not_complete_and_valid_is_an_error(
    serve: Serve, body: str, content_type: str, complaint: str
):
    with pytest.raises(AskError, match=complaint):
        list(ask(serve(body, content_type), QUESTION))
