"""One generation: the request for it, its state in the decode loop, and its end."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from router.admission.context import AdmissionContext
from router.decoding.decisions import Decision, DecisionTrail
from router.decoding.policy import Routing, Target
from router.decoding.timing import Timing
from router.decoding.transcript import Span, StopRule, Transcript
from router.errors import ModelDied, RouterError
from router.model_port import Finish, ModelChunk
from router.parts import ReasoningPart
from router.prompt import Prompt
from router.sampling import Sampling
from router.table import META
from router.tasks import Task
from router.tracing import RequestTrace


@dataclass(slots=True)
class Progress:
    """How far an answer is, in tokens. The first two are as in `Done`."""

    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    num_completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One answer to write. A client request with `n` choices has `n` generations for each of its prompts.

    `session` names the conversation, if the client does; requests of one session belong together.
    With a `task`, the model does that instead of writing an answer. Models share what they keep of prompts
    only among requests with the same `cache_salt`.
    A model may hold its text back for `message_gap_s` seconds, to send fewer messages. `admission` is shared
    by the generations of one client request; None makes this the only one. The decode loop keeps `progress`
    up to date, if there is one.
    """

    request_id: str
    prompt: Prompt
    target: Target
    sampling: Sampling = Sampling()
    max_tokens: int | None = None
    stop: StopRule = StopRule()
    routing: Routing = Routing()
    message_gap_s: float = 0.0
    session: str = ""
    task: Task | None = None
    cache_salt: str | None = None
    admission: AdmissionContext | None = field(default=None, compare=False)
    progress: Progress | None = field(default=None, compare=False)

    @property
    def has_form(self) -> bool:
        """Whether the answer follows a form that one model has to keep from its first token on: it matches a
        grammar, or may consist of tool calls."""
        options, chat = self.sampling.options, self.prompt.options
        return bool((options and options.grammar) or (chat and chat.tools and chat.tool_choice != "none"))


@dataclass(slots=True)
class ModelUsage:
    """What one model did for an answer. Prompt tokens count for every call, as each prefills the prompt. A
    model that takes over in place counts as called; it prefills a few tokens."""

    num_calls: int = 0
    num_prompt_tokens: int = 0
    num_completion_tokens: int = 0
    num_hidden_tokens: int = 0  # of thoughts, among the completion tokens


@dataclass(frozen=True, slots=True)
class Done:
    """The end of an answer. `num_prompt_tokens` are those of the model that was called first, and
    `num_cached_tokens` those of them that were in its prefix cache. `num_completion_tokens` are those of all
    models, and of all answers of a chain. `author` is the last expert that wrote, or the meta."""

    finish: Finish
    author: str
    num_prompt_tokens: int
    num_cached_tokens: int
    num_completion_tokens: int
    has_tool_calls: bool
    stop_reason: str | int | None  # the stop string, or the token of `stop_token_ids`, that ended it
    spans: list[Span]
    drafts: list[list[Span]]  # earlier answers, each of which another expert wrote anew
    usage_by_model: dict[str, ModelUsage]
    timing: Timing
    decisions: list[Decision]


@dataclass(slots=True)
class GenerationState:
    """The state of one generation; only the decode loop changes it. `writer` is the active model."""

    writer: str
    transcript: Transcript
    deadline_s: float  # on the clock of `now_s`
    admission: AdmissionContext
    num_handoffs: int = 0
    num_prompt_tokens: int = 0
    num_cached_tokens: int = 0
    drafts: list[list[Span]] = field(default_factory=list)
    num_draft_tokens: int = 0  # of the other answers of a chain
    admitted_models: set[str] = field(default_factory=set)  # those that gave it a slot
    masked: set[str] = field(default_factory=set)  # experts that the meta cannot choose any more
    waking_s: float = 0.0  # spent waiting for models to start
    num_failures: int = 0
    # By model, since it last produced a token: the failures, and the replicas that died.
    failures: Counter[str] = field(default_factory=Counter)
    deaths: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    num_answered_before: dict[str, int] = field(default_factory=dict)  # by model: up to the first death
    is_only_suspect: bool = False  # the writer works on no other suspect prompt
    usage: dict[str, ModelUsage] = field(default_factory=dict)
    timing: Timing = field(default_factory=Timing)
    trail: DecisionTrail = field(default_factory=DecisionTrail)
    finish: Finish | None = None  # once the answer is complete
    trace: RequestTrace | None = None

    @property
    def has_begun(self) -> bool:
        """Whether any model has written anything, thoughts included."""
        return self.transcript.num_tokens > 0

    @property
    def author(self) -> str:
        """The last expert that has written; the meta if none has."""
        return next((model for model in reversed(self.transcript.authors) if model != META), META)

    @property
    def num_tokens(self) -> int:
        """Of everything that was written, whether the client gets it or not."""
        return self.num_draft_tokens + self.transcript.num_tokens

    @property
    def has_output(self) -> bool:
        """Whether a refusal would lose work: something is written, or the writer has admitted it before."""
        return self.has_begun or self.writer in self.admitted_models

    @property
    def writer_usage(self) -> ModelUsage:
        return self.usage.setdefault(self.writer, ModelUsage())

    def trace_headers(self) -> dict[str, str]:
        """What the present call passes on of the request's trace."""
        return {} if self.trace is None else self.trace.headers(self.timing.calls[-1].span_id)

    def limit(self, generation: GenerationRequest) -> Finish | None:
        """LENGTH once the token budget is spent."""
        is_spent = generation.max_tokens is not None and self.transcript.num_tokens >= generation.max_tokens
        return Finish.LENGTH if is_spent else None

    def hand_over_to(self, writer: str, probability: float | None = None) -> None:
        self.writer = writer
        self.transcript.begin(writer, probability)

    def hand_over_in_place(self, expert: str, probability: float | None) -> None:
        """The expert writes on within the present call, in its slot."""
        self.trail.handed_over(expert, probability)
        self.num_handoffs += 1
        self.hand_over_to(expert, probability)
        self.admitted_models.add(expert)
        self.writer_usage.num_calls += 1

    def switch_to(self, writer: str, transcript: Transcript) -> None:
        """In a chain: go on with another answer, new or written before."""
        self.num_draft_tokens += self.transcript.num_tokens - transcript.num_tokens
        self.writer, self.transcript = writer, transcript

    def count(self, chunk: ModelChunk) -> None:
        """Count what the writer produced. A token ends a series of failures."""
        usage = self.writer_usage
        usage.num_prompt_tokens += chunk.num_prompt_tokens or 0
        usage.num_completion_tokens += chunk.num_tokens
        if chunk.parts and all(isinstance(part, ReasoningPart) for part in chunk.parts):
            usage.num_hidden_tokens += chunk.num_tokens
        if chunk.routing is not None:
            self.trail.reported(chunk.routing)
        if chunk.num_prompt_tokens and not self.num_prompt_tokens:
            self.num_prompt_tokens = chunk.num_prompt_tokens
            self.num_cached_tokens = chunk.num_cached_tokens
        if chunk.num_tokens:
            self.failures.pop(self.writer, None)
            self.deaths.pop(self.writer, None)

    def report(self, progress: Progress) -> None:
        progress.num_prompt_tokens = self.num_prompt_tokens
        progress.num_cached_tokens = self.num_cached_tokens
        progress.num_completion_tokens = self.num_tokens

    def failed(self, error: RouterError, num_answered: int) -> None:
        """Count a failure of the writer, which has answered `num_answered` calls so far."""
        self.num_failures += 1
        self.failures[self.writer] += 1
        deaths = self.deaths[self.writer]
        # A further death is evidence only if no other suspect prompt was on that replica.
        if isinstance(error, ModelDied) and (not deaths or self.is_only_suspect):
            if not deaths:
                self.num_answered_before[self.writer] = num_answered
            deaths.add(error.replica)

    def done(self, finish: Finish) -> Done:
        self.timing.ended()
        self.finish = finish
        return Done(
            finish=finish,
            author=self.author,
            num_prompt_tokens=self.num_prompt_tokens,
            num_cached_tokens=self.num_cached_tokens,
            num_completion_tokens=self.num_tokens,
            has_tool_calls=self.transcript.has_tool_calls,
            stop_reason=self.transcript.stop_reason,
            spans=self.transcript.spans(),
            drafts=self.drafts,
            usage_by_model=self.usage,
            timing=self.timing,
            decisions=self.trail.decisions,
        )
