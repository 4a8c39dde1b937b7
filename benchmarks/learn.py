"""What learning tokens costs and what tokens are worth: a table for each section, last a line of JSON.

`exact`: the cached loss against the whole model's. `recipe`: the published way to train against ours.
`implicit`: query sets without labels. `newcomer`: a sixth expert beside five. `probes`: other classifiers on
the same states. `crowd`: a thousand experts. `step`: what they cost in a decode step.

`exact`, `implicit`, `newcomer` and `probes` need the demo world: `python -m examples.demo.build .cache/demo`.
`recipe` and `probes` need a wider meta, which is trained for three minutes, once. Nothing is asserted: the
wanted values stand beside the measured ones. Times compare only within one run, on a machine that does
nothing else.
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

from benchmarks.learning.crowd import crowd
from benchmarks.learning.exact import exact
from benchmarks.learning.implicit import implicit
from benchmarks.learning.newcomer import newcomer
from benchmarks.learning.probes import probes
from benchmarks.learning.recipe import recipe
from benchmarks.learning.report import as_json, show
from benchmarks.learning.setting import Setting
from benchmarks.learning.step import step

SECTIONS: dict[str, Callable[[Setting], Any]] = {
    "exact": exact,
    "recipe": recipe,
    "implicit": implicit,
    "newcomer": newcomer,
    "probes": probes,
    "crowd": crowd,
    "step": step,
}
_WIDTH = 130  # of the tables, where no terminal says otherwise


def main() -> None:
    arguments = _arguments()
    setting = Setting(arguments.quick, arguments.demo, arguments.cache)
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
    parser.add_argument("--quick", action="store_true", help="everything small: seconds, and no figures")
    parser.add_argument("--demo", type=Path, default=Path(".cache/demo"), help="the demo world")
    parser.add_argument("--cache", type=Path, default=Path(".cache/bench"), help="where a meta is kept")
    parser.add_argument("--num-threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    main()
