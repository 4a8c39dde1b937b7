"""Serves the pipeline, and asks it questions: `python -m examples.pipeline`."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
from pathlib import Path

import httpx
from rich.console import Console

from cluster.config.cluster_config import load_config
from examples.pipeline.checkpoint import make_pipeline_checkpoint
from examples.pipeline.client import Conversation, converse
from examples.pipeline.conversions import conversions
from examples.smollm2.checkpoint import make_checkpoint

CONFIG = Path(__file__).with_name("cluster.yaml")
CACHE = Path(__file__).resolve().parents[2] / ".cache"
CHECKPOINT = CACHE / "smollm2-pipeline"  # the path in CONFIG
EVERY = 5  # of the held-out questions, every fifth is asked

console = Console(highlight=False)


def make_checkpoints() -> None:
    make_pipeline_checkpoint(CHECKPOINT, make_checkpoint(CACHE / "smollm2", report=console.print))


def main() -> int:
    make_checkpoints()
    config = load_config(CONFIG)
    try:
        _etr("up", str(CONFIG))
        asyncio.run(_ask_all(f"http://{config.http.host}:{config.http.port}"))
    except subprocess.CalledProcessError as error:  # etr has printed the error
        return error.returncode
    finally:
        _etr("down", "--name", config.name)
    return 0


async def _ask_all(url: str) -> None:
    num_right, asked = 0, list(itertools.islice(conversions(held_out=True), 0, None, EVERY))
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        for conversion in asked:
            conversation = await converse(client, conversion.question)
            num_right += conversion.is_in(conversation.answer)
            _show(conversation)
    console.print(f"{num_right} of {len(asked)} answers are right")


def _show(conversation: Conversation) -> None:
    console.print(f"{'user':>12}  {conversation.messages[0]['content']}", style="dim", markup=False)
    for number, spans in enumerate(conversation.spans):
        for writer, text in spans:
            console.print(f"{writer:>12}  {text}", markup=False)
        for arguments, result in conversation.calls[number : number + 1]:
            console.print(f"{'tool':>12}  convert({arguments}) = {result}", style="dim", markup=False)
    console.print()


def _etr(*arguments: str) -> None:
    """Run the command that a user would type."""
    subprocess.run([Path(sys.executable).with_name("etr"), *arguments], check=True)
