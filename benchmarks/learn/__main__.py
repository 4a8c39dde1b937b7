"""The cost of learning tokens and the quality of the tokens: a table for each section, then a line of JSON.

`exact`: the cached loss against the loss of the whole model. `recipe`: the published training against ours.
`implicit`: queries without labels. `new_expert`: a sixth expert is added to five. `probes`: other classifiers
on the same states. `many_experts`: a thousand experts. `step`: their cost in a decode step.
`states`: the forward pass of a real meta.

`exact`, `implicit`, `new_expert` and `probes` need the toy world: `python -m benchmarks.toy.build
.cache/toy`. `recipe` and `probes` need a wider meta; its training takes three minutes, once. Nothing is
asserted; the tables show target values beside the measured ones. Compare times only within one run on an idle
machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers.utils import logging

from benchmarks.learn.exact import exact
from benchmarks.learn.implicit import implicit
from benchmarks.learn.many_experts import many_experts
from benchmarks.learn.new_expert import new_expert
from benchmarks.learn.probes import probes
from benchmarks.learn.recipe import recipe
from benchmarks.learn.report import as_json, show
from benchmarks.learn.setting import Setting
from benchmarks.learn.states import states
from benchmarks.learn.step import step

SECTIONS: dict[str, Callable[[Setting], Any]] = {
    "exact": exact,
    "recipe": recipe,
    "implicit": implicit,
    "new_expert": new_expert,
    "probes": probes,
    "many_experts": many_experts,
    "step": step,
    "states": states,
}
_WIDTH = 130  # of the tables, if the output is not a terminal


def main() -> None:
    arguments = _arguments()
    setting = Setting(arguments.quick, arguments.toy, arguments.cache)
    torch.set_num_threads(arguments.num_threads)
    logging.disable_progress_bar()
    console = Console(width=None if sys.stdout.isatty() else _WIDTH)
    results: dict[str, dict[str, Any]] = {}
    for name in arguments.only or SECTIONS:
        began_s = time.perf_counter()
        result = SECTIONS[name](setting)
        show(console, name, result)
        results[name] = as_json(result) | {"section_s": round(time.perf_counter() - began_s, 1)}
    print(json.dumps({"num_threads": torch.get_num_threads(), "quick": setting.quick, **results}))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", choices=SECTIONS, help="this section; may be repeated")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: takes seconds, figures mean nothing"
    )
    parser.add_argument("--toy", type=Path, default=Path(".cache/toy"), help="the toy world's folder")
    parser.add_argument(
        "--cache", type=Path, default=Path(".cache/bench"), help="folder for the trained meta"
    )
    parser.add_argument("--num-threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
