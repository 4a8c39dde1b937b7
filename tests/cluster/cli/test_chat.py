"""`etr chat` on a pseudo-terminal, and without a terminal."""

from __future__ import annotations

import os
import pty
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
from router.api.http import build_app
from tests.fakes.models import FakeGateway, FakeModel, Pause, hands_over, models, served, word, writes

SLOW = "slow"


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
            with suppress(OSError):  # the program has ended
                if data := os.read(self.fd, 4096):
                    self.text += data.decode()
                    continue
            pytest.fail(f"{text!r} is not in {self.text!r}")
        self.text = self.text.partition(text)[2]


@contextmanager
def terminal(*arguments: str) -> Iterator[Terminal]:
    leader, follower = pty.openpty()
    program = [sys.executable, "-c", "from cluster.cli.main import app; app()", *arguments]
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
        shell.process.send_signal(signal.SIGINT)  # at the prompt: the line is given up
        shell.wait_for("> ")
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
