"""What may happen to hosts and to the links between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass

from benchmarks.hosts.node import ADDRESSES
from benchmarks.hosts.switch import Link
from benchmarks.hosts.world import CLIENTS, World, link_of

CLOCK_OFFSET_S = 90
RATE = "256kbit"
LOST_PERCENT = 5

Fault = Callable[[World], AbstractContextManager[object]]


@dataclass(frozen=True)
class Place:
    """A link between two hosts, `host` itself, and whose links get little bandwidth."""

    peer: str
    host: str
    thin: str


PLACES = {
    "router - expert": Place(peer="front", host="expert", thin="expert"),
    "router - meta": Place(peer="front", host="meta", thin="meta"),
    "worker - head": Place(peer="expert", host="head", thin="head"),
    "client - router": Place(peer=CLIENTS, host="front", thin=CLIENTS),
}


def faults_at(place: Place) -> dict[str, Fault]:
    peer, host = place.peer, place.host
    return {
        "cut": cut((peer, host)),
        "cut to the second": cut_one_way(peer, host),
        "cut to the first": cut_one_way(host, peer),
        f"{LOST_PERCENT} % lost": lossy(peer, host, LOST_PERCENT),
        RATE: lambda world: world.switch.thin(place.thin, RATE),
        "100 ms": slow(host, peer, 100),
        "300 ms": slow(host, peer, 300),
        "frozen": lambda world: world.hosts[host].frozen(),
        "disk full": lambda world: world.hosts[host].full_disk(),
    }


def clock_off(name: str) -> Fault:
    """The time of day jumps on this host, and jumps back at the end."""
    return lambda world: world.hosts[name].clock_off(CLOCK_OFFSET_S)


def cut(*pairs: tuple[str, str]) -> Fault:
    """The links swallow everything, in both directions: neither side sees an error."""
    return lambda world: world.switch.lossy(*(link for pair in pairs for link in both_ways(*pair)))


def cut_one_way(source: str, target: str) -> Fault:
    return lambda world: world.switch.lossy(link_of(source, target))


def lossy(first: str, second: str, percent: int) -> Fault:
    return lambda world: world.switch.lossy(*both_ways(first, second), percent=percent)


def slow(source: str, target: str, delay_ms: int) -> Fault:
    """Half of the delay is jitter."""
    link, half_ms = link_of(source, target), delay_ms // 2
    return lambda world: world.switch.slow(source, link, half_ms, half_ms)


def alone(name: str) -> Fault:
    """The host reaches nothing, and nothing reaches it."""
    return cut(*((name, other) for other in (*ADDRESSES, CLIENTS) if other != name))


def both_ways(first: str, second: str) -> Sequence[Link]:
    link = link_of(first, second)
    return (link, Link(link.target, link.source))


def _crash(world: World, name: str) -> ExitStack:
    world.hosts[name].crash()
    return ExitStack()


FAULTS: dict[str, Fault] = {
    **{
        f"{where}: {what}": fault
        for where, place in PLACES.items()
        for what, fault in faults_at(place).items()
    },
    "router - head: cut": cut(("front", "head")),
    "head: alone": alone("head"),
    "expert: alone": alone("expert"),
    "expert: restarted": lambda world: _crash(world, "expert"),
}
# These need a cluster whose hosts have clocks of their own.
CLOCK_FAULTS: dict[str, Fault] = {
    f"{where}: clock {CLOCK_OFFSET_S} s off": clock_off(place.host) for where, place in PLACES.items()
}
