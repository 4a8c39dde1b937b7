"""Message text that spells no control token to a tokenizer, but still does to a chat template."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, SupportsIndex


class GuardedText(str):
    """A text with sentinels, in which a template finds a control token that the text spells.

    Templates look for some of them to drop old thoughts: content.split('</think>')[-1]. Here `guard` puts the
    same sentinels into what they look for, so that they find it. What they keep has its sentinels still.
    Methods that are not here see the sentinels and find nothing, which is safe.
    """

    _guard: Callable[[str], str]

    def __new__(cls, text: str, guard: Callable[[str], str]) -> GuardedText:
        """`text` has its sentinels already; `guard` returns a control token with the sentinel inside it."""
        guarded = super().__new__(cls, text)
        guarded._guard = guard
        return guarded

    def __contains__(self, key: Any) -> bool:
        return super().__contains__(self._guard(key))

    def __getitem__(self, key: SupportsIndex | slice) -> GuardedText:
        return self._like(super().__getitem__(key))

    def __add__(self, other: str) -> GuardedText:
        return self._like(super().__add__(other))

    def __radd__(self, other: str) -> GuardedText:
        return self._like(other + str(self))

    def strip(self, chars: str | None = None) -> GuardedText:
        return self._like(super().strip(chars))

    def lstrip(self, chars: str | None = None) -> GuardedText:
        return self._like(super().lstrip(chars))

    def rstrip(self, chars: str | None = None) -> GuardedText:
        return self._like(super().rstrip(chars))

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> GuardedText:
        return self._like(super().replace(self._guard(old), new, count))

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        return [self._like(part) for part in super().split(sep and self._guard(sep), maxsplit)]

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[Any]:
        return [self._like(part) for part in super().rsplit(sep and self._guard(sep), maxsplit)]

    def partition(self, sep: str) -> tuple[Any, Any, Any]:
        head, found, tail = super().partition(self._guard(sep))
        return self._like(head), self._like(found), self._like(tail)

    def rpartition(self, sep: str) -> tuple[Any, Any, Any]:
        head, found, tail = super().rpartition(self._guard(sep))
        return self._like(head), self._like(found), self._like(tail)

    def _like(self, text: str) -> GuardedText:
        return GuardedText(text, self._guard)
