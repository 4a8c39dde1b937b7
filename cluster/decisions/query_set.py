"""Feedback as a query set for `etr learn`: the prompts of judged answers, with the right expert."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cluster.decisions.log_reader import DecisionRecords
from router.decisions.prompt_digest import messages_digest

Messages = list[dict[str, str]]


@dataclass(frozen=True)
class ExportedQueries:
    """`rows` are in the chat format of query sets, one for each prompt; the last feedback on a prompt counts.

    `num_unjoined`: feedback whose decision is in none of the files; `num_without_prompt`: whose decision has
    no text, and whose digest no given prompt has.
    """

    rows: list[dict[str, Any]]
    num_unjoined: int
    num_without_prompt: int


def export_queries(records: DecisionRecords, prompts: Iterable[Messages]) -> ExportedQueries:
    """`prompts`: conversations that may have been asked. A log with text needs none."""
    decided = {line["id"]: line for line in reversed(records.decisions)}
    by_digest = {messages_digest(messages): messages for messages in prompts}
    rows: dict[str, dict[str, Any]] = {}
    num_unjoined = num_without_prompt = 0
    for answer_id, said in records.feedback.items():
        line = decided.get(answer_id)
        if line is None:
            num_unjoined += 1
        elif (messages := _messages(line, by_digest)) is None:
            num_without_prompt += 1
        else:
            rows.pop(line["prompt"], None)
            rows[line["prompt"]] = {"messages": messages, "expert": said["right_expert"]}
    return ExportedQueries([*rows.values()], num_unjoined, num_without_prompt)


def _messages(line: Mapping[str, Any], by_digest: Mapping[str, Messages]) -> Messages | None:
    found: Messages | None = line.get("messages") or by_digest.get(line["prompt"])
    return found
