"""Models for the tests with real clients: what they write depends on the request alone.

The meta hands questions about roman numerals to `roman` and those about Morse code to `morse`, answers other
questions itself, and knows a few sentences by heart: it ends its turn where they end.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import chain, repeat

from experts.errors import ContextLengthExceeded as PromptTooLong
from router.errors import ContextLengthExceeded
from router.model_port import Finish, ModelChunk, ModelRequest
from router.parts import Alternative, Part, ReasoningPart, TextPart, TokenLogprobs, ToolCallPart
from router.sampling import SamplingOptions
from tests.fakes.models import STOP, FakeGateway, FakeModel, Item, Script, to
from tests.tiny.tokenizers import byte_level

WINDOWS = {"meta": 512, "morse": 24}  # in tokens, which are the words of messages
SENTENCES = (
    "The capital of France is Paris",
    "The capital of Italy is Rome",
    "The capital of Spain is Lisbon",
)
NUMERALS = {"8": "VIII", "9": "IX"}
KNOWN, UNKNOWN = -0.125, -4.0  # log-probabilities of tokens that the meta expects, and of those it does not

tokenizer = byte_level(added=())


def gateway() -> FakeGateway:
    scripts = {"meta": meta, "roman": roman, "morse": morse}
    models = {name: FakeModel(_within_window(name, script)) for name, script in scripts.items()}
    return FakeGateway(models, max_body_bytes=1_000_000)


def meta(ask: ModelRequest) -> Iterator[Item]:
    question = _question(ask)
    for expert, topic in (("roman", "roman numeral"), ("morse", "Morse code")):
        if topic in question and expert in ask.allowed:
            return iter([_prompt(ask), to(expert)])
    [*continuations] = (known.removeprefix(question) for known in SENTENCES if known.startswith(question))
    return _write(ask, continuations[0] if continuations else "I am fine , thank you")


def roman(ask: ModelRequest) -> Iterator[Item]:
    """Converts each number of the question by a tool, if there is one, and the first result to Morse code."""
    messages, options = ask.prompt.messages or (), ask.prompt.options
    numbers = [word.strip("?,.") for word in _question(ask).split() if word.strip("?,.") in NUMERALS]
    answer = json.dumps({"number": int(numbers[0]), "numeral": NUMERALS[numbers[0]]})
    if ask.sampling.options and ask.sampling.options.grammar:
        return _write(ask, answer)
    if not (options and options.tools) or options.tool_choice == "none":
        return _write(ask, f"{NUMERALS[numbers[0]]}\nas the Romans wrote", thoughts=f"{numbers[0]} is small")
    if options.tool_choice != "auto":
        first = options.tools[0]["function"]["name"]
        return _call(ask, (first if options.tool_choice == "required" else options.tool_choice, answer))
    results = [message.content for message in messages if message.role == "tool"]
    if not results:
        return _call(ask, *(("to_roman", json.dumps({"number": int(number)})) for number in numbers))
    if len(results) == len(numbers):
        return _call(ask, ("to_morse", json.dumps({"text": results[0]})))
    return _write(ask, f"{results[0]} is {results[-1]}")


def morse(ask: ModelRequest) -> Iterator[Item]:
    return _write(ask, "... --- ...")


def _within_window(name: str, script: Script) -> Script:
    """The script, with the error of the engines where a prompt is too long."""

    def limited(ask: ModelRequest) -> Iterable[Item]:
        num_tokens, window = _num_prompt_tokens(ask), WINDOWS.get(name)
        if window is None or num_tokens < window:
            return script(ask)
        return [ContextLengthExceeded(PromptTooLong(num_tokens, window - 1).message, "messages")]

    return limited


def _question(ask: ModelRequest) -> str:
    """The last message of the user, or the raw prompt."""
    if ask.prompt.ids is not None:
        return str(tokenizer.decode(list(ask.prompt.ids)))
    if ask.prompt.text is not None:
        return ask.prompt.text
    return [message.content for message in ask.prompt.messages or () if message.role == "user"][-1]


def _write(ask: ModelRequest, answer: str, thoughts: str = "") -> Iterator[Item]:
    """Think and answer, a token for each word, as far as the request allows; `ignore_eos` asks for more."""
    options = ask.sampling.options or SamplingOptions()
    parts: Iterator[Part] = chain(map(ReasoningPart, _words(thoughts)), map(TextPart, _words(answer)))
    if options.ignore_eos:
        parts = chain(parts, repeat(TextPart(" more")))
    yield _prompt(ask)
    for num_tokens, part in enumerate(parts):
        if num_tokens == ask.max_tokens:
            yield ModelChunk(finish=Finish.LENGTH)
            return
        assert not isinstance(part, ToolCallPart)
        yield _token(part, part.text, options)
    yield STOP


def _call(ask: ModelRequest, *calls: tuple[str, str]) -> Iterator[Item]:
    """Call each tool, with its arguments in pieces."""
    yield _prompt(ask)
    for index, (name, arguments) in enumerate(calls):
        yield _token(ToolCallPart(index, name), f"<call>{name}", SamplingOptions())
        for piece in _words(arguments):
            yield _token(ToolCallPart(index, arguments=piece), piece, SamplingOptions())
    yield STOP


def _words(text: str) -> list[str]:
    """The words of the text, each but the first with the space before it."""
    return re.findall(r" ?[^ ]+", text)


def _token(part: Part, text: str, options: SamplingOptions) -> ModelChunk:
    logprobs = () if options.num_logprobs is None else (_expected(text, options.num_logprobs),)
    return ModelChunk(text, num_tokens=1, parts=(part,), logprobs=logprobs)


def _expected(text: str, num_alternatives: int) -> TokenLogprobs:
    alternatives = (Alternative(text, text.encode(), KNOWN), Alternative("?", b"?", UNKNOWN))
    return TokenLogprobs(text, text.encode(), KNOWN, alternatives[:num_alternatives])


def _prompt(ask: ModelRequest) -> ModelChunk:
    """The first chunk: what the model found in the prompt."""
    options = ask.sampling.options
    num_alternatives = options.num_prompt_logprobs if options else None
    logprobs = () if num_alternatives is None else tuple(_scores(_question(ask), num_alternatives))
    return ModelChunk(num_prompt_tokens=_num_prompt_tokens(ask), prompt_logprobs=logprobs)


def _num_prompt_tokens(ask: ModelRequest) -> int:
    prompt = ask.prompt
    if prompt.ids is not None:
        return len(prompt.ids)
    if prompt.text is not None:
        return len(tokenizer.encode(prompt.text))
    return sum(len(message.content.split()) for message in prompt.messages or ())


def _scores(prompt: str, num_alternatives: int) -> Iterator[TokenLogprobs]:
    """The tokens of the prompt. Those of the known sentences are expected; a question mark is, elsewhere."""
    text = ""
    for position, id in enumerate(tokenizer.encode(prompt)):
        token = str(tokenizer.decode([id]))
        text += token
        is_known = any(known.startswith(text) for known in SENTENCES)
        top = _expected(token if is_known else "?", num_alternatives).top
        logprob = KNOWN if is_known else UNKNOWN
        yield TokenLogprobs(token, token.encode(), logprob if position else None, top if position else (), id)
