"""One answer: what was asked, where it stands, what comes out."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from router.errors import ModelDied, RouterError
from router.model import Finish, Piece, Prompt, Sampling
from router.policy import Routing, Target
from router.timing import Timing
from router.transcript import Span, Transcript


@dataclass(frozen=True, slots=True)
class Job:
    """One answer to write: `n` choices of a request are `n` jobs."""

    request_id: str
    prompt: Prompt
    target: Target
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    routing: Routing = Routing()
    message_gap_s: float = 0.0  # what of a model's text may wait so long, because nobody reads along
    key: str = ""  # the name of the API key, by which waiting answers take turns
    # Shared by the jobs of one request: the applications that let one of them in. The others wait for as long
    # as it takes, or a request with more choices than there are slots could never be served.
    let_in: set[str] | None = field(default=None, compare=False)


@dataclass(slots=True)
class ModelUsage:
    """What one model did for an answer; a model asked twice is prefilled twice."""

    num_calls: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Delta:
    """Text the client may see now."""

    text: str
    model: str


@dataclass(frozen=True, slots=True)
class Done:
    finish: Finish
    num_prompt_tokens: int
    num_completion_tokens: int
    spans: list[Span]
    usage_by_model: dict[str, ModelUsage]
    timing: Timing


@dataclass(slots=True)
class Answering:
    """Where an answer under way stands; one per job, changed by the decode loop alone."""

    writer: str
    transcript: Transcript
    deadline: float
    num_handoffs: int = 0
    num_prompt_tokens: int = 0
    admitted: set[str] = field(default_factory=set)  # models that let it in: none keeps it waiting twice
    masked: set[str] = field(default_factory=set)
    waking_s: float = 0.0  # spent on the start of models that slept
    num_failures: int = 0
    failures: Counter[str] = field(default_factory=Counter)  # by model, since it last produced a token
    deaths: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))  # likewise: replicas
    is_alone: bool = False  # of those who were on a replica that died, it alone was at the writer
    usage: dict[str, ModelUsage] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)

    @property
    def begun(self) -> bool:
        """Whether it must not be turned away any more by the writer of the moment."""
        return bool(self.transcript.text) or self.writer in self.admitted

    def limit(self, job: Job) -> Finish | None:
        """LENGTH once the token budget is spent."""
        spent = job.max_tokens is not None and self.transcript.num_tokens >= job.max_tokens
        return Finish.LENGTH if spent else None

    def pass_pen(self, writer: str, probability: float | None = None) -> None:
        self.writer = writer
        self.transcript.begin(writer, probability)

    def receive(self, piece: Piece) -> Iterator[tuple[str, str]]:
        """Take in what the writer produced; yields the newly visible (model, text) pairs."""
        if piece.num_prompt_tokens and not self.num_prompt_tokens:
            self.num_prompt_tokens = piece.num_prompt_tokens
        if piece.num_tokens:
            self.failures.pop(self.writer, None)
            self.deaths.pop(self.writer, None)
        return self.transcript.add(piece)

    def failed(self, error: RouterError) -> None:
        """The writer failed."""
        self.num_failures += 1
        self.failures[self.writer] += 1
        deaths = self.deaths[self.writer]
        # A second death says nothing of one among many.
        if isinstance(error, ModelDied) and (not deaths or self.is_alone):
            deaths.add(error.replica)

    def done(self, finish: Finish) -> Done:
        self.timing.over()
        return Done(
            finish=finish,
            num_prompt_tokens=self.num_prompt_tokens,
            num_completion_tokens=self.transcript.num_tokens,
            spans=self.transcript.spans(),
            usage_by_model=self.usage,
            timing=self.timing,
        )
