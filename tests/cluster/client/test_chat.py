"""`ask` reads a streamed answer as the router sends it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from cluster.client.chat import AnswerPart, ask
from cluster.errors import AskError

Serve = Callable[..., str]


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
    assert [part.text for part in ask(url, "hello")] == texts


def test_a_trace_names_the_model_that_wrote_each_part(serve: Serve):
    events = event("Hello! ", routing={"model": "meta"}) + ": heartbeat\n\n"
    url = serve(events + event("XIV", routing={"model": "roman"}) + "data: [DONE]\n\n")
    assert list(ask(url, "14?", trace=True)) == [AnswerPart("Hello! ", "meta"), AnswerPart("XIV", "roman")]


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
        list(ask(serve(body, content_type), "hello"))
