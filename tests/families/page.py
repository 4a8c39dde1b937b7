"""Writes docs/models.md from the results of `tests.families.examine`.

python -m tests.families.page RESULTS.json… docs/models.md
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path

from tests.families.examine import Outcome
from tests.families.registry import FAMILIES

PAGE = Path(__file__).resolve().parents[2] / "docs" / "models.md"
ENGINES = ("transformers", "vllm")
YES, NO = "yes", "no: "
NOT_TESTED = "not tested"
TEXT = """# Model families

`make models` writes this page from the results of tests; do not edit it. CI runs the tests of all families on
the default engine and of some on vLLM, and fails if this page says anything else.

Each row is tested with a tiny model of the real architecture with random weights, a tokenizer of its kind,
and a chat template with its traits. *yes* means that all of this holds on that engine:

- Greedy answers, several at a time, with long prompts prefilled in pieces, equal those of Hugging Face's own
  `generate`.
- An answer that another model began goes on exactly as the model's own chat template renders such a turn.
- An answer whose replica was lost goes on with the same tokens.
- Text from users never becomes a control token, and is not lost.
- Tokens are learned and installed, and they route as plain forward passes decide whose head has the experts
  as rows, with the same probabilities.

*no* is followed by what the engine says when it has to load such a model. The tests ran on CPUs, with vLLM's
CPU build and without torchvision, which its models for images need; a GPU may run more. If a template has no
system role, a system message becomes the beginning of the next message of the user.

| family | checkpoints | what is special | system role | `transformers` | `vllm` |
|---|---|---|---|---|---|
"""


def render(outcomes: Iterable[Outcome]) -> str:
    """The page, with one row per family."""
    found = {(outcome.family, outcome.engine): outcome for outcome in outcomes}
    rows = []
    for family in FAMILIES:
        own = [found.get((family.name, engine)) for engine in ENGINES]
        rows.append([family.name, family.models, family.traits, _system(own), *map(_cell, own)])
    return TEXT + "".join(f"| {' | '.join(row)} |\n" for row in rows)


def read(page: Path = PAGE) -> dict[tuple[str, str], Outcome]:
    """The outcomes that the page tells, by (family, engine)."""
    lines = page.read_text(encoding="utf-8").splitlines()
    outcomes = {}
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split(" | ")]
        if len(cells) != 4 + len(ENGINES) or cells[0] == "family":
            continue
        tested = [pair for pair in zip(ENGINES, cells[4:], strict=True) if pair[1] != NOT_TESTED]
        for engine, cell in tested:
            outcomes[cells[0], engine] = _outcome(cells[0], engine, cells[3], cell)
    return outcomes


def _outcome(family: str, engine: str, system: str, cell: str) -> Outcome:
    if cell == YES:
        return Outcome(family, engine, None, system == YES)
    return Outcome(family, engine, cell.removeprefix(NO), None)


def _cell(outcome: Outcome | None) -> str:
    if outcome is None:
        return NOT_TESTED
    return YES if outcome.refusal is None else NO + outcome.refusal.replace("|", "\\|")


def _system(outcomes: Iterable[Outcome | None]) -> str:
    """All engines that run the model treat system messages alike."""
    known = {each.has_system_role for each in outcomes if each} - {None}
    (taken,) = known or {None}
    return {True: YES, False: "no", None: "-"}[taken]


def main(*files: str) -> None:
    *results, page = files
    outcomes = [Outcome(**each) for name in results for each in json.loads(Path(name).read_text("utf-8"))]
    Path(page).write_text(render(outcomes), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
