"""The options that all learning commands share. Imports no torch, because `etr --help` imports this file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MidAnswer = Literal["none", "late", "ignore"]

MARGIN = 0.05
HELD_OUT_SHARE = 0.2
BATCH_SIZE = 16
MID_ANSWER: MidAnswer = "none"
NEGATIVES = 200
MAX_PARAPHRASES = 4
NUM_QUESTIONS = 200


@dataclass(frozen=True)
class LearnOptions:
    """
    data: File with the queries: chat JSONL, ShareGPT or Alpaca.
    assigned: File to write the queries to after they got labels; None means beside `data`.
    margin: An unlabelled query goes to an expert only if its likelihood of the reference answer is higher
        than every other model's by this much, in nats per byte.
    states: Folder that keeps the meta's hidden states; None means a folder below `.etr` beside cluster.yaml.
    held_out_share: Share of the queries, 0 to 0.9, that is not learned from but used to judge the tokens.
    batch_size: Number of queries in one forward pass.
    ray_address: Address of a Ray cluster that computes the states; None means this process.
    skip_broken: Whether to go on without rows that are broken.
    mid_answer: What is wanted at positions in the middle of an answer that the meta has begun itself to an
        expert's query: no hand-over ("none"), the expert there too ("late"), or nothing is learned from them
        ("ignore").
    negatives: Number of general queries to learn from. If the data has fewer, the meta writes the rest.
    paraphrase: Number of other wordings to learn from for each query, at most MAX_PARAPHRASES, by the meta.
    """

    data: Path
    assigned: Path | None = None
    margin: float = MARGIN
    states: Path | None = None
    held_out_share: float = HELD_OUT_SHARE
    batch_size: int = BATCH_SIZE
    ray_address: str | None = None
    skip_broken: bool = False
    mid_answer: MidAnswer = MID_ANSWER
    negatives: int = NEGATIVES
    paraphrase: int = 0


@dataclass(frozen=True)
class ExpertQueries:
    """Where the queries of a new expert are from: a file, questions that a model writes, or both.

    synthesize: Whether the expert writes questions that it is likely to get.
    about: A text about its subject, by which the meta writes them instead; "" leaves it to the expert.
    """

    file: Path | None
    synthesize: bool = False
    about: str = ""
    num_questions: int = NUM_QUESTIONS
