"""Ways to damage a JSON body: encodings, cut bytes, odd numbers, great depth and great size."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from random import Random

Mutation = Callable[[bytes, Random], bytes]

DEPTH = 100_000
NUM_MESSAGES = 100_000
ODD_VALUES = (
    b"1e400",
    b"-0",
    b"-0.0",
    b"1e-400",
    b"1" + b"0" * 400,
    b"-9223372036854775809",
    b"18446744073709551616",
    b"NaN",
    b"Infinity",
    b"0x10",
    b"01",
    b"1.",
    b"4.0",
    b"true",
    b'"4"',
    b"[]",
    b"{}",
    b'"\\ud800"',
    b'"\\u0000"',
    b'"\xed\xa0\x80"',
    b'"\xc0\x80"',
    b'"\xff\xfe"',
    b'"\x00"',
    b'"\x7f\x1b[2J"',
    b'"\xe2\x80\xa8\xef\xbb\xbf\xf0\x9f\x92\xa9"',
)
FIELDS = (b"n", b"model", b"messages", b"prompt", b"stop", b"seed", b"top_k", b"top_p", b"routing", b"stream")


def mutate(raw: bytes, random: Random) -> bytes:
    """Apply a random mutation. Huge ones are rare, because they mostly measure the network."""
    weights = [1 if name in HUGE else 20 for name in MUTATIONS]
    return MUTATIONS[random.choices(list(MUTATIONS), weights)[0]](raw, random)


def _recoded(encoding: str) -> Mutation:
    return lambda raw, random: raw.decode("utf-8", "replace").encode(encoding, "replace")


def _odd_value(raw: bytes, random: Random) -> bytes:
    """Adds a value for a field that may be there already; the last value should count."""
    field = b'"%b":%b' % (random.choice(FIELDS), random.choice(ODD_VALUES))
    return b"{" + field + b"," + raw[1:] if random.random() < 0.5 else raw[:-1] + b"," + field + b"}"


def _flipped(raw: bytes, random: Random) -> bytes:
    flipped = bytearray(raw)
    for _ in range(random.randint(1, 4)):
        flipped[random.randrange(len(flipped))] = random.randrange(256)
    return bytes(flipped)


def _truncated(raw: bytes, random: Random) -> bytes:
    return raw[: random.randrange(len(raw))]


def _nested(opening: bytes, closing: bytes) -> Mutation:
    def nest(raw: bytes, random: Random) -> bytes:
        depth = random.choice((10, 200, DEPTH))
        closed = closing * random.choice((0, depth))
        return raw[:-1] + b',"messages":' + opening * depth + closed + b"}"

    return nest


def _many_messages(raw: bytes, random: Random) -> bytes:
    return b'{"max_tokens":1,"messages":[%b]}' % b",".join([b'{"role":"user","content":"a"}'] * NUM_MESSAGES)


def _long_text(raw: bytes, random: Random) -> bytes:
    text = b"long " * 100_000
    return b'{"max_tokens":1,"messages":[{"role":"user","content":"%b"}],"prompt":"%b"}' % (text, text)


def _many_fields(raw: bytes, random: Random) -> bytes:
    return b"{%b," % b",".join(b'"x%d":%d' % (i, i) for i in range(20_000)) + raw[1:]


HUGE = ("many messages", "long text", "many fields")
MUTATIONS: dict[str, Mutation] = {
    "nothing": lambda raw, random: b"",
    "noise": lambda raw, random: random.randbytes(random.randint(1, 300)),
    "latin-1": _recoded("latin-1"),
    "utf-16": _recoded("utf-16"),
    "utf-32": _recoded("utf-32"),
    "utf-7": _recoded("utf-7"),
    "byte order mark": lambda raw, random: b"\xef\xbb\xbf" + raw,
    "gzip": lambda raw, random: gzip.compress(raw, mtime=0),
    "NUL at the end": lambda raw, random: raw + b"\x00",
    "two documents": lambda raw, random: raw + raw,
    "spaces": lambda raw, random: b" \r\n\t" * 1000 + raw,
    "form": lambda raw, random: b"messages=" + raw,
    "in a list": lambda raw, random: b"[" + raw + b"]",
    "odd value": _odd_value,
    "flipped": _flipped,
    "truncated": _truncated,
    "deep lists": _nested(b"[", b"]"),
    "deep objects": _nested(b'{"a":', b"}"),
    "many messages": _many_messages,
    "long text": _long_text,
    "many fields": _many_fields,
}
