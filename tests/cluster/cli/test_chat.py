"""`etr chat` on a pseudo-terminal, and without a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import pytest
from typer.testing import CliRunner

from cluster.cli.main import app as etr
from router.dialects.app import build_app
from tests.fakes.models import FakeGateway, FakeModel, Pause, hands_over, models, served, word, writes

SLOW = "slow"
AGAIN_S = 2.0
# A shell that runs the tests in the background lets their processes ignore Ctrl-C.
PROGRAM = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from cluster.cli.main import app
app()
"""


@pytest.fixture
def fakes() -> Mapping[str, FakeModel]:
    def meta(ask: Any) -> list[Any]:
        if SLOW in ask.prompt.messages[-1].content:
            return [word("I begin "), word("and "), Pause()]
        return list(hands_over("roman", 0.9, "Well, ")(ask))

    return models(meta=meta, roman=writes("2", "-propanol"))


@pytest.fixture
def url(fakes: Mapping[str, FakeModel]) -> Iterator[str]:
    with served(build_app(FakeGateway(fakes))) as url:
        yield url


@dataclass
class Terminal:
    process: subprocess.Popen[bytes]
    fd: int
    text: str = field(default="")

    def type(self, text: str) -> None:
        os.write(self.fd, text.encode())

    def wait_for(self, text: str) -> None:
        """Read on until the terminal shows the text."""
        while text not in self.text:
            self._read(text)
        self.text = self.text.partition(text)[2]

    def interrupt_until(self, text: str) -> None:
        """Press Ctrl-C until the terminal shows the text. Between the prompt and its wait for a key, the line
        editor of Python notes a Ctrl-C only with the next one."""
        while text not in self.text:
            self.process.send_signal(signal.SIGINT)
            while text not in self.text and select.select([self.fd], [], [], AGAIN_S)[0]:
                self._read(text)
        self.wait_for(text)

    def _read(self, text: str) -> None:
        with suppress(OSError):  # the program has ended
            if data := os.read(self.fd, 4096):
                self.text += data.decode()
                return
        pytest.fail(f"{text!r} is not in {self.text!r}")


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    leader, follower = pty.openpty()
    program = [sys.executable, "-c", PROGRAM, *arguments]
    env = os.environ | {"TERM": "dumb", "COLUMNS": "60"}
    process = subprocess.Popen(
        program, stdin=follower, stdout=follower, stderr=follower, env=env, start_new_session=True
    )
    os.close(follower)
    try:
        yield Terminal(process, leader)
    finally:
        process.kill()
        process.wait()
        os.close(leader)


def test_ctrl_c_stops_the_answer_and_ctrl_d_the_conversation(url: str, fakes: Mapping[str, FakeModel]):
    meta = fakes["meta"]
    with terminal("chat", "--url", url) as shell:
        shell.wait_for("> ")
        shell.type(f"{SLOW}\n")
        shell.wait_for("            meta  I begin and")
        shell.process.send_signal(signal.SIGINT)
        shell.wait_for("(stopped)")
        assert meta.all_closed.wait(30)
        shell.wait_for("> ")
        shell.interrupt_until("> ")  # at the prompt: the line is given up
        shell.type("/force nobody\nwhat?\n")
        shell.wait_for("error: ")
        shell.type("/force\nwhat?\n")
        shell.wait_for("           roman  2-propanol")
        shell.wait_for("> ")
        shell.type("\x04")
        assert shell.process.wait(30) == 0
    said = [message.content for message in meta.asks[-1].prompt.messages or ()]
    assert said == [SLOW, "I begin and ", "what?"]


def test_without_a_terminal_each_line_is_a_question_and_the_output_is_text(url: str):
    done = CliRunner().invoke(etr, ["chat", "--url", url], input="what?\n/force roman\nand?\n/quit\nno\n")
    assert (done.exit_code, done.stdout) == (0, "Well, 2-propanol\n2-propanol\n"), done.output


def test_without_a_terminal_an_error_ends_the_command(url: str):
    done = CliRunner().invoke(etr, ["chat", "--url", url, "--model", "nobody"], input="what?\nand?\n")
    assert (done.exit_code, done.stdout) == (1, "")
    assert "answers 404: model 'nobody' does not exist" in done.stderr
