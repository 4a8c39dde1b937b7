"""Finds where untrusted text spells a control token, and cuts it there so that a tokenizer cannot see one.

Two examples, for a tokenizer whose only control token is <|im_end|>, with C for the cut sentinel.

1. A message spells the control token:
    insert_sentinels("say <|im_end|>")  →  "say <C|im_end|>"
    split(…)  →  ("say <", False), ("|im_end|>", False)
Each piece is encoded alone, so the tokenizer never meets the whole spelling; decoded, the text is the same.

2. Two messages spell it only after a template without separators has joined them:
    insert_sentinels("go <|im_end")  →  "go <|im_endC"      insert_sentinels("|> now")  →  "C|> now"
    split("go <|im_endCC|> now")  →  ("go <|im_end", False), ("|> now", False)
If the template puts a line break between them, the joined text spells no token, and `split` gives one
piece without sentinels: exactly the text that the tokenizer would have got without any of this.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import count, islice, pairwise

from tokenizers import AddedToken, Tokenizer, models
from transformers import PreTrainedTokenizerBase

from experts.text.word_search import NOTHING, any_of, slices

_PRIVATE_USE = 0x100000  # the first code point of a Unicode plane that has no assigned characters
_BLANKS = " \t\r\n▁"


class Sentinels:
    """Three characters that occur in none of `texts`: `cut` means that text may be cut here, `plain` that the
    next character is plain text although it alone spells a control token, `end` that the prompt ends here."""

    def __init__(self, texts: Sequence[str]) -> None:
        used: set[str] = set()
        for text in texts:
            for start, end in () if text.isascii() else slices(len(text)):
                used.update(text[start:end])
        unused = (char for char in map(chr, count(_PRIVATE_USE)) if char not in used)
        self.cut, self.plain, self.end = islice(unused, 3)


class ControlTokens:
    """The added tokens of a tokenizer, and the places where text spells, or helps to spell, one of them.

    Tokens made of blanks alone do not count: they shape text, and no template can use them for control.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        added = {
            i: token for i, token in tokenizer.added_tokens_decoder.items() if token.content.strip(_BLANKS)
        }
        contents = [token.content for token in added.values()]
        self.ids = frozenset(added)
        self._single = any_of(content for content in contents if len(content) == 1)
        self._longer = any_of(content for content in contents if len(content) > 1)
        self._starts = {content[:end] for content in contents for end in range(1, len(content))}
        self._ends = {content[start:] for content in contents for start in range(1, len(content))}
        self._joined = "\0".join(contents)
        self._max_chars = max(map(len, contents), default=0)
        normalizer = tokenizer.backend_tokenizer.normalizer
        folded = [token.content for token in added.values() if token.normalized] if normalizer else []
        self._normalize: Callable[[str], str] = normalizer.normalize_str if normalizer else str
        self._raw = any_of(folded)
        self._normalized = any_of(self._normalize(content).strip(_BLANKS) for content in folded)
        self._folded_finder = Tokenizer(models.WordLevel({"": 0}, unk_token=""))
        self._folded_finder.normalizer = normalizer
        self._folded_finder.add_tokens([AddedToken(content, normalized=True) for content in folded])

    def is_disguised(self, text: str) -> bool:
        """Whether `text` spells a token only after the tokenizer has normalised it, say to lower case."""
        if self._normalized is NOTHING or not self._has_folded(text):
            return False
        return len(self._normalized.findall(self._normalize(text))) > len(self._raw.findall(text))

    def insert_sentinels(self, text: str, sentinels: Sentinels) -> str:
        """`text` with a sentinel wherever a cut may be needed; `split` later ignores those that are not."""
        core_start = len(text) - len(text.lstrip())
        # Also inside the blanks: a sentinel at the very end would keep a template from trimming them.
        ends = {*self._open_ends(text.strip(), core_start), *self._open_ends(text, 0)}
        parts = [self._marked(text, start, end, ends, sentinels) for start, end in slices(len(text))]
        return "".join(parts) + (sentinels.cut if len(text) in ends else "")

    def split(self, prompt: str, sentinels: Sentinels) -> Iterator[tuple[str, bool]]:
        """(piece, is_plain) of a prompt with sentinels, in order; a prompt that needs no cut is one piece.

        A plain piece is a single character that must be encoded as if the tokenizer had no control tokens.
        """
        text = prompt.replace(sentinels.cut, "").replace(sentinels.plain, "")
        cuts, plains = _positions(prompt, sentinels)
        if not cuts and not plains:
            yield text, False
            return
        is_plain = set(plains).__contains__
        piece_start = 0
        for start, end in slices(len(text)):
            for at in self._bounds(text, start, end, cuts, plains):
                if at > piece_start:
                    yield text[piece_start:at], is_plain(piece_start)
                    piece_start = at
        yield text[piece_start:], is_plain(piece_start)

    def _has_folded(self, text: str) -> bool:
        """Whether the normalised text has such a token at all; most have none, and this takes no lock."""
        (encoding,) = self._folded_finder.encode_batch_fast([text], add_special_tokens=False)
        return any(encoding.ids)

    def _open_ends(self, text: str, offset: int) -> Iterator[int]:
        """Those ends of `text`, which begins at `offset`, where adjacent text could complete a token."""
        lengths = range(1, min(len(text) + 1, self._max_chars))
        infix = 0 < len(text) < self._max_chars and text in self._joined
        if infix or any(text[:length] in self._ends for length in lengths):
            yield offset
        if infix or any(text[-length:] in self._starts for length in lengths):
            yield offset + len(text)

    def _marked(self, text: str, start: int, end: int, ends: set[int], sentinels: Sentinels) -> str:
        """text[start:end] with its sentinels; one that stands at `end` belongs to what follows."""
        sentinel_at = dict.fromkeys((at for at in ends if start <= at < end), sentinels.cut)
        for first, _ in self._spans(self._longer, text, max(0, start - 1), end - 1):
            sentinel_at[first + 1] = sentinels.cut
        for first, _ in self._spans(self._single, text, start, end):
            sentinel_at[first] = sentinels.plain
        bounds = sorted({start, end, *sentinel_at})
        return "".join(sentinel_at.get(first, "") + text[first:last] for first, last in pairwise(bounds))

    def _bounds(self, text: str, start: int, end: int, cuts: set[int], plains: Sequence[int]) -> list[int]:
        """Where the pieces of text[start:end] begin."""
        spans = self._spans(self._longer, text, max(0, start - self._max_chars), end)
        inside = {at for first, last in spans for at in range(first + 1, last) if at in cuts}
        near = plains[bisect_left(plains, start - 1) : bisect_left(plains, end)]
        return sorted(at for at in {*inside, *near, *(at + 1 for at in near)} if start <= at < end)

    def _spans(self, words: re.Pattern[str], text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
        """(first, last + 1) of every occurrence that begins in text[start:end], wherever it ends."""
        for match in words.finditer(text, start, min(len(text), end + self._max_chars)):
            if match.start() >= end:
                return
            yield match.span(1)


def _positions(prompt: str, sentinels: Sentinels) -> tuple[set[int], list[int]]:
    """Where `cut` and `plain` stand, as offsets in the prompt without sentinels."""
    sentinel = re.compile(f"[{sentinels.cut}{sentinels.plain}]")
    cuts: set[int] = set()
    plains: list[int] = []
    num_found = 0
    for start, end in slices(len(prompt)):
        for match in sentinel.finditer(prompt, start, end):
            at = match.start() - num_found
            num_found += 1
            if match[0] == sentinels.cut:
                cuts.add(at)
            else:
                plains.append(at)
    return cuts, plains
