"""The generations that one request needs: a choice each, for the model that has to write it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from router.api.cache_salt import cache_salt
from router.api.fields.sampling import TOKEN_ID_FIELDS
from router.api.requests import AnswerRequest
from router.decoding.generation import GenerationRequest, Progress
from router.decoding.policy import Routing, Target, admission_context, readers, reads, resolve
from router.decoding.transcript import StopRule, author_of_call
from router.errors import InvalidRequest
from router.prompt import Prompt
from router.table import META, RouteTable

# How long models may hold back text of an answer that is sent as a whole: a message costs as much as a token.
UNSTREAMED_MESSAGE_GAP_S = 0.25
MAX_NAMED = 8  # models in an error
_PLURALS: Mapping[str, str] = {"image": "pictures", "audio": "recordings", "file": "files"}


def generations(
    request: AnswerRequest, table: RouteTable, answer_id: str, key: str = ""
) -> list[GenerationRequest]:
    """One generation per choice: `n` for the first prompt, then `n` for the next.

    `key` is the name of the request's API key, empty without keys.

    Raises UnknownModel, or InvalidRequest if a routing option names an unknown expert or has no effect, or if
    no model that may answer can read a prompt.
    """
    routing = request.routing.to_routing() if request.routing else Routing()
    target = resolve(table, request.model, routing)
    if request.routing is None and not request.routed_by_default:
        routing = Routing(experts=())
    prompts = request.prompts()
    if target.routed and routing.experts != ():
        request.refuse_prompt_ids()
    targets = [_readable(prompt, target, routing, table) for prompt in prompts]
    admission, stop = admission_context(table, key, request.priority), _stop_rule(request)
    return [
        GenerationRequest(
            request_id=f"{answer_id}-{index}",
            prompt=prompts[index // request.n],
            target=targets[index // request.n],
            sampling=request.sampling(index % request.n),
            max_tokens=1 if request.writes_nothing else request.token_limit(),  # no engine writes none
            stop=stop,
            message_gap_s=_message_gap_s(request),
            routing=routing,
            cache_salt=cache_salt(table, key, request.cache_salt),
            admission=admission,
            progress=Progress() if request.stream_options.is_continuous else None,
        )
        for index in range(len(prompts) * request.n)
    ]


def _readable(prompt: Prompt, target: Target, routing: Routing, table: RouteTable) -> Target:
    """The target of one prompt. Raises InvalidRequest if no model that may answer can read the prompt."""
    found = _with_results(target, routing, prompt, table)
    _require_reader(prompt, found, routing, table)
    return found


def require_one_vocabulary(
    request: AnswerRequest,
    generations: Iterable[GenerationRequest],
    table: RouteTable,
    vocabulary_of: Callable[[str], str | None],
) -> None:
    """Raises InvalidRequest if a field holds token ids and models that may answer disagree about them.

    A model that no router has seen yet, or that is behind a URL, has no known vocabulary, so it disagrees.
    """
    name = next((name for name in TOKEN_ID_FIELDS if getattr(request, name)), None)
    if name is None:  # nearly always
        return
    reachable = dict.fromkeys(expert for each in generations for expert in _reachable(each, table))
    shared = vocabulary_of(META)
    others = [expert for expert in reachable if shared is None or vocabulary_of(expert) != shared]
    if others:
        named = ", ".join(others[:MAX_NAMED]) + (", …" if len(others) > MAX_NAMED else "")
        raise InvalidRequest(
            f"{name}: token ids differ between models. Those of {named} are not known to be those of {META}: "
            "leave these experts out with routing.exclude, or address one model by `model`",
            name,
        )


def _reachable(generation: GenerationRequest, table: RouteTable) -> list[str]:
    """The experts to which the generation may be handed over."""
    if not generation.target.routed:
        return []
    routing = generation.routing
    wanted = table.experts if routing.experts is None else routing.experts
    return [expert for expert in wanted if expert not in routing.exclude]


def _message_gap_s(request: AnswerRequest) -> float:
    # With stop strings the text is needed at once: a model that goes on after one does needless work.
    return 0.0 if request.stream or request.stop else UNSTREAMED_MESSAGE_GAP_S


def _with_results(target: Target, routing: Routing, prompt: Prompt, table: RouteTable) -> Target:
    """The results of tool calls go back to the model that made the calls, if the request may reach it.

    A text of the user with a `tool_call_id` was sent together with results, so it does not end the loop.
    """
    messages = prompt.messages or ()
    if not target.routed or not messages or messages[-1].role not in ("tool", "user"):
        return target
    author = author_of_call(messages[-1].tool_call_id or "")
    if author == META and reads(table.meta, prompt.modalities):
        return Target(META, routed=False)
    may_answer = author in readers(table, routing, prompt.modalities)
    return Target(author, routed=True) if author is not None and may_answer else target


def _require_reader(prompt: Prompt, target: Target, routing: Routing, table: RouteTable) -> None:
    """Raises InvalidRequest if no model that may answer can read the prompt."""
    modalities = prompt.modalities
    if reads(table.entry(target.writer), modalities):  # nearly always
        return
    if target.routed and table.max_handoffs and readers(table, routing, modalities):
        return
    able = [f"{table.name}/{n}" for n in (META, *table.experts) if reads(table.entry(n), modalities)]
    kinds = " and ".join(sorted(_PLURALS[modality] for modality in modalities))
    who = (
        "no model that may answer takes" if target.routed else f"'{table.name}/{target.writer}' does not take"
    )
    remedy = f"models that do: {', '.join(able[:MAX_NAMED])}" if able else "no model here does"
    raise InvalidRequest(f"messages: {who} {kinds}; {remedy}", "messages", "unsupported_modality")


def _stop_rule(request: AnswerRequest) -> StopRule:
    options = request.sampling(0).options
    min_tokens = options.min_tokens if options else 0
    return StopRule(tuple(request.stop), request.include_stop_str_in_output, min_tokens)
