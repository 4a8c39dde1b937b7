"""Token healing: a prompt that ends in the middle of a word, or after a blank, goes on as if it did not.

The tokens of such an end are not those that the model would have written there: it knows " Paris", and hardly
what follows " Par". So the last word is left out of the prompt, and the model writes it again, with more.
"""

from __future__ import annotations

from collections.abc import Sequence

from experts.text.decoder import TokenDecoder

MAX_TOKENS = 8


def unhealed_end(ids: Sequence[int], text: str, decoder: TokenDecoder) -> tuple[int, str]:
    """The last tokens of `ids` that the model should write again: how many, and their text.

    They go back to the blank before the last word, but not before `text`, with which `ids` ends.
    """
    num_found, found, data = 0, "", b""
    for num, token_id in enumerate(reversed(ids[-MAX_TOKENS:]), 1):
        piece = decoder.inner_bytes(token_id)
        data = piece + data
        if not piece or not text.encode().endswith(data):
            break
        if not _begins_inside_character(data):
            num_found, found = num, data.decode()
        if data[:1].isspace():
            break
    return num_found, found


def _begins_inside_character(data: bytes) -> bool:
    return data[0] & 0xC0 == 0x80
