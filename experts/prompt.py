"""From a conversation to token ids: chat template, open assistant turn, no smuggled control tokens."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import accumulate, count, islice, pairwise
from typing import Any

import jinja2
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from experts.errors import InvalidPrompt, TemplateError

ROLES = ("system", "developer", "user", "assistant", "tool")
_PRIVATE_USE = 0x100000
_SURROGATE = re.compile("[\ud800-\udfff]")
_BLANKS = " \t\r\n▁"
_NOTHING = re.compile("(?!)()")


class PromptRenderer:
    """Renders prompts for one model.

    Text from outside never becomes a control token: where it spells one, it is encoded in pieces that
    still decode to the same text. All other text is encoded exactly as the tokenizer itself would.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer
        self._spellings = _Spellings(tokenizer)

    def chat(self, messages: Sequence[Mapping[str, str]], written: str = "") -> list[int]:
        """Ids of `messages` in the chat template, followed by `written` in the open assistant turn.

        Each message has a `role` (one of ROLES; developer counts as system) and a `content`, both str.
        Raises InvalidPrompt, or TemplateError if the model has no chat template.
        """
        conversation = [self._message(message) for message in messages]
        if not conversation:
            raise InvalidPrompt("messages", "there must be at least one message")
        if not self.accepts_system and any(message["role"] == "system" for message in conversation):
            raise InvalidPrompt(
                "messages", "this model's chat template takes no system message; use a user message"
            )
        marks = _Marks([*(message["content"] for message in conversation), written])
        for message in conversation:
            message["content"] = self._guard(message["content"], marks, "messages")
        marked = self._render(conversation) + self._guard(written, marks, "written")
        return self._encode(marked, marks, add_special_tokens=False)

    def text(self, prompt: str, written: str = "") -> list[int]:
        """Ids of a raw prompt and the text `written` since, in the tokenizer's own frame (such as a bos)."""
        marks = _Marks([prompt, written])
        marked = self._guard(prompt, marks, "prompt") + self._guard(written, marks, "written")
        return self._encode(marked, marks, add_special_tokens=True)

    def self_test(self) -> None:
        """Raises TemplateError unless the chat template can hold a conversation and leave a turn open."""
        turns = [("user", "first question"), ("assistant", "first answer"), ("user", "second question")]
        messages = [{"role": role, "content": content} for role, content in turns]
        try:
            opened, closed = self._render(messages), self._render(messages, add_generation_prompt=False)
        except InvalidPrompt as error:
            raise self._unfit(f"refuses user and assistant messages ({error.reason})") from error
        if missing := [content for _, content in turns if content not in opened]:
            raise self._unfit(f"leaves out or changes message text such as '{missing[0]}'")
        if not opened.startswith(closed) or opened == closed:
            raise self._unfit("does not open an assistant turn when add_generation_prompt is set")

    @cached_property
    def accepts_system(self) -> bool:
        """Whether a system message reaches the prompt; some templates refuse it and some drop it."""
        messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "question"}]
        try:
            return "be brief" in self._render(messages)
        except InvalidPrompt:
            return False

    def _message(self, message: Mapping[str, str]) -> dict[str, str]:
        role, content = message.get("role"), message.get("content")
        if role not in ROLES:
            raise InvalidPrompt("messages", f"role {role!r} is unknown; use one of {', '.join(ROLES)}")
        if not isinstance(content, str):
            raise InvalidPrompt("messages", f"the {role} message has no text content")
        return {"role": "system" if role == "developer" else str(role), "content": content}

    def _guard(self, text: str, marks: "_Marks", param: str) -> str:
        if _SURROGATE.search(text):
            raise InvalidPrompt(param, "half of a surrogate pair is not text; send valid Unicode")
        if self._spellings.disguised(text):
            raise InvalidPrompt(param, "spells a control token of this model in another form; reword it")
        return self._spellings.mark(text, marks)

    def _render(self, messages: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        if not self.tokenizer.chat_template:
            raise self._unfit("is missing")
        try:
            template = self.tokenizer.apply_chat_template
            return str(template(messages, tokenize=False, add_generation_prompt=add_generation_prompt))
        except jinja2.TemplateError as error:
            raise InvalidPrompt("messages", f"this model's chat template refuses them: {error}") from error

    def _unfit(self, problem: str) -> TemplateError:
        folder = self.tokenizer.name_or_path or "this model"
        return TemplateError(f"{folder}: the chat template {problem}; correct its chat_template.jinja")

    def _encode(self, marked: str, marks: "_Marks", add_special_tokens: bool) -> list[int]:
        pieces = list(self._spellings.pieces(marked, marks))
        if len(pieces) == 1 and not pieces[0][1]:
            return _ids(self.tokenizer(pieces[0][0], add_special_tokens=add_special_tokens))
        ids = self._encode_piece(*pieces[0], encode=self._tokenize)
        for piece, plain in pieces[1:]:
            ids += self._encode_piece(piece, plain, encode=self._tokenize_on)
        return self._framed(ids) if add_special_tokens else ids

    def _encode_piece(self, piece: str, plain: bool, encode: Callable[[str], list[int]]) -> list[int]:
        ids = self._tokenize_plain(piece) if plain else encode(piece)
        if plain and (not ids or not self._spellings.ids.isdisjoint(ids)):
            raise InvalidPrompt("messages", f"{piece!r} is a control token here and cannot be plain text")
        return ids

    def _framed(self, ids: list[int]) -> list[int]:
        frame, inner = _ids(self.tokenizer("x")), self._tokenize("x")
        start = next(i for i in range(len(frame)) if frame[i : i + len(inner)] == inner)
        return frame[:start] + ids + frame[start + len(inner) :]

    def _tokenize(self, text: str) -> list[int]:
        return _ids(self.tokenizer(text, add_special_tokens=False))

    @cached_property
    def _tokenize_on(self) -> Callable[[str], list[int]]:
        return _without_space(self.tokenizer, keep_added_tokens=True) or self._tokenize

    @cached_property
    def _tokenize_plain(self) -> Callable[[str], list[int]]:
        return _without_space(self.tokenizer, keep_added_tokens=False) or self._tokenize


class _Marks:
    """Two characters that stand in none of `texts`: cut here; the next character is plain text."""

    def __init__(self, texts: Sequence[str]) -> None:
        used = set().union(*texts)
        self.cut, self.plain = islice((char for char in map(chr, count(_PRIVATE_USE)) if char not in used), 2)


class _Spellings:
    """Where texts spell, or could help to spell, the added tokens of a tokenizer.

    Tokens made of blanks alone are left out: they shape text, and no template can use them for control.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = {
            i: token for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip(_BLANKS)
        }
        contents = [token.content for token in added.values()]
        self.ids = frozenset(added)
        self._single = _any_of([content for content in contents if len(content) == 1])
        self._longer = _any_of([content for content in contents if len(content) > 1])
        self._starts = {content[:end] for content in contents for end in range(1, len(content))}
        self._ends = {content[start:] for content in contents for start in range(1, len(content))}
        self._joined = "\0".join(contents)
        self._max_chars = max(map(len, contents), default=0)
        normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
        folded = [token.content for token in added.values() if token.normalized] if normalizer else []
        self._normalize: Callable[[str], str] = normalizer.normalize_str if normalizer else str
        self._raw = _any_of(folded)
        self._normalized = _any_of([self._normalize(content).strip(_BLANKS) for content in folded])

    def disguised(self, text: str) -> bool:
        """Whether `text` spells a token only once the tokenizer has normalised it (such as to lower case)."""
        if self._normalized is _NOTHING:
            return False
        return len(self._normalized.findall(self._normalize(text))) > len(self._raw.findall(text))

    def mark(self, text: str, marks: _Marks) -> str:
        """`text` with marks wherever a cut may be needed; `pieces` later drops those that cut nothing."""
        core = text.strip()
        # Beside the blanks, not only at the rim: a mark at the rim would keep a template from trimming.
        core_start = text.index(core)
        rims = [*self._rims(core, core_start), *self._rims(text, 0)]
        cuts = [*rims, *(match.start() + 1 for match in self._longer.finditer(text))]
        marked_at = dict.fromkeys(cuts, marks.cut)
        marked_at |= {match.start(): marks.plain for match in self._single.finditer(text)}
        bounds = sorted({0, len(text), *marked_at})
        parts = [marked_at.get(start, "") + text[start:end] for start, end in pairwise(bounds)]
        return "".join(parts) + marked_at.get(len(text), "")

    def pieces(self, marked: str, marks: _Marks) -> Iterator[tuple[str, bool]]:
        """(piece, is_plain) of a marked prompt, in order; a prompt that needs no cut is one piece."""
        parts = re.split(f"([{marks.cut}{marks.plain}])", marked)
        text = "".join(parts[::2])
        places = list(zip(parts[1::2], accumulate(map(len, parts[::2])), strict=False))
        cuts = {at for mark, at in places if mark == marks.cut}
        plains = {at for mark, at in places if mark == marks.plain}
        spans = (match.span(1) for match in self._longer.finditer(text))
        inside = {at for start, end in spans for at in range(start + 1, end) if at in cuts}
        bounds = sorted({0, len(text), *inside, *plains, *(at + 1 for at in plains)})
        for start, end in pairwise(bounds) if text else [(0, 0)]:
            yield text[start:end], start in plains

    def _rims(self, text: str, offset: int) -> Iterator[int]:
        """Ends of `text`, placed at `offset`, that could be part of a token begun or ended by other text."""
        lengths = range(1, min(len(text) + 1, self._max_chars))
        infix = 0 < len(text) < self._max_chars and text in self._joined
        if infix or any(text[:length] in self._ends for length in lengths):
            yield offset
        if infix or any(text[-length:] in self._starts for length in lengths):
            yield offset + len(text)


def _any_of(contents: Sequence[str]) -> re.Pattern[str]:
    """Finds all occurrences, also overlapping ones, as group 1; the longest at each place."""
    longest_first = sorted(filter(None, contents), key=len, reverse=True)
    return re.compile(f"(?=({'|'.join(map(re.escape, longest_first))}))") if longest_first else _NOTHING


def _without_space(
    tokenizer: PreTrainedTokenizerBase, keep_added_tokens: bool
) -> Callable[[str], list[int]] | None:
    """An encoder for text that follows other text; made from a copy, for the tokenizer is shared."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    spec = json.loads(backend.to_str())
    spec["truncation"] = spec["padding"] = None
    for stage in ("normalizer", "pre_tokenizer"):
        spec[stage] = _without_leading_space(spec[stage])
    if not keep_added_tokens:
        spec["added_tokens"] = []
    edited = Tokenizer.from_str(json.dumps(spec))
    return lambda text: list(edited.encode(text, add_special_tokens=False).ids)


def _without_leading_space(stage: Any) -> Any:
    if stage is None or stage["type"] == "Prepend":
        return None
    off = {"prepend_scheme": "never", "add_prefix_space": False}
    edited = {key: off.get(key, value) for key, value in stage.items()}
    for key in {"normalizers", "pretokenizers"} & stage.keys():
        edited[key] = [kept for step in stage[key] if (kept := _without_leading_space(step)) is not None]
    return edited


def _ids(encoding: Mapping[str, Any]) -> list[int]:
    return [int(token_id) for token_id in encoding["input_ids"]]
