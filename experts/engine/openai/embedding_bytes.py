"""A vector as a server of the OpenAI API sends it, as the 32-bit floats that the router passes on."""

from __future__ import annotations

import binascii
import sys
from array import array
from base64 import b64decode
from math import isfinite


def embedding_bytes(embedding: object) -> bytes:
    """Little-endian, from a list of numbers or from their base64. Raises ValueError if it is neither."""
    numbers = array("f")
    match embedding:
        case str():
            numbers.frombytes(_decoded(embedding))
            _swap_if_big_endian(numbers)
        case list() if all(type(number) in (int, float) for number in embedding):
            numbers.extend(embedding)
        case _:
            raise ValueError("neither a list of numbers nor base64")
    if not numbers or not all(map(isfinite, numbers)):
        raise ValueError("not a vector of finite numbers")
    _swap_if_big_endian(numbers)
    return numbers.tobytes()


def _decoded(text: str) -> bytes:
    try:
        return b64decode(text, validate=True)
    except binascii.Error as error:
        raise ValueError("not valid base64") from error


def _swap_if_big_endian(numbers: array[float]) -> None:
    if sys.byteorder == "big":
        numbers.byteswap()
