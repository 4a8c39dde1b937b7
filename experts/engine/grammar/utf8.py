"""Which tokens keep a text valid UTF-8. A grammar of the library lets any bytes continue a character."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

# Bytes that are no text, and surrogates, overlong forms and numbers above the last character, by RFC 3629.
_INVALID = re.compile(rb"[\xc0\xc1\xf5-\xff]|\xe0[\x80-\x9f]|\xed[\xa0-\xbf]|\xf0[\x80-\x8f]|\xf4[\x90-\xbf]")
# The same for a character that begins at the end of one token: its first byte, and what may not follow it.
_NOT_AFTER = {0xE0: (0x80, 0x9F), 0xED: (0xA0, 0xBF), 0xF0: (0x80, 0x8F), 0xF4: (0x90, 0xBF)}


class Utf8Rules:
    """`words`: by id, the bytes of each token. `valid`: bool [tokens], which tokens may be in a text."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self.valid: npt.NDArray[np.bool_] = np.array([not _INVALID.search(word) for word in words])
        first = np.array([word[0] if word else 0 for word in words], dtype=np.uint8)
        self._may_follow = {byte: (first < low) | (first > high) for byte, (low, high) in _NOT_AFTER.items()}

    def after(self, data: bytes) -> npt.NDArray[np.bool_] | None:
        """bool [tokens]: which tokens may follow these bytes; None: any that is valid."""
        return self._may_follow.get(data[-1]) if data else None
