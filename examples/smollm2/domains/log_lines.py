"""Random log lines in the formats of common programs, with their fields."""

from __future__ import annotations

import datetime
import random
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from examples.smollm2.question import Part

Fields = Mapping[str, str | int]


@dataclass(frozen=True)
class LogWords:
    """What the lines of one part are made of. `#` in a message or path stands for a number."""

    services: tuple[str, ...]
    hosts: tuple[str, ...]
    processes: tuple[str, ...]
    sources: tuple[str, ...]
    messages: tuple[str, ...]
    paths: tuple[str, ...]


def draw_line(rng: random.Random, part: Part) -> tuple[str, Fields]:
    """A log line and its fields, in a fixed order."""
    return rng.choice(_FORMATS)(rng, WORDS[part], _draw_time(rng))


def _app(rng: random.Random, words: LogWords, time: datetime.datetime) -> tuple[str, Fields]:
    fields = _app_fields(rng, words)
    return f"{time:%Y-%m-%dT%H:%M:%SZ} {fields['level']} {fields['service']}: {fields['message']}", fields


def _python(rng: random.Random, words: LogWords, time: datetime.datetime) -> tuple[str, Fields]:
    fields = _app_fields(rng, words)
    stamp = f"{time:%Y-%m-%d %H:%M:%S},{rng.randrange(1000):03}"
    return f"{stamp} - {fields['service']} - {fields['level']} - {fields['message']}", fields


def _bracketed(rng: random.Random, words: LogWords, time: datetime.datetime) -> tuple[str, Fields]:
    fields = _app_fields(rng, words)
    stamp = f"{time:%Y-%m-%d %H:%M:%S}"
    return f"[{stamp}] [{fields['level']}] [{fields['service']}] {fields['message']}", fields


def _logfmt(rng: random.Random, words: LogWords, time: datetime.datetime) -> tuple[str, Fields]:
    fields = _app_fields(rng, words, lower=True)
    stamp = f"{time:%Y-%m-%dT%H:%M:%SZ}"
    return (
        f'time={stamp} level={fields["level"]} service={fields["service"]} msg="{fields["message"]}"',
        fields,
    )


def _nginx(rng: random.Random, words: LogWords, time: datetime.datetime) -> tuple[str, Fields]:
    line, fields = _apache(rng, words, time)
    return f'{line} "-" "{rng.choice(_AGENTS)}"', fields


def _apache(rng: random.Random, words: LogWords, time: datetime.datetime) -> tuple[str, Fields]:
    fields: Fields = {
        "method": rng.choice(_METHODS),
        "path": _numbered(rng.choice(words.paths), rng),
        "status": rng.choice(_STATUSES),
    }
    request = f"{fields['method']} {fields['path']} HTTP/1.1"
    stamp = f"{time:%d}/{_MONTHS[time.month - 1]}/{time:%Y:%H:%M:%S} +0000"
    return f'{_address(rng)} - - [{stamp}] "{request}" {fields["status"]} {rng.randint(100, 99999)}', fields


def _apache_error(rng: random.Random, words: LogWords, time: datetime.datetime) -> tuple[str, Fields]:
    fields = _app_fields(rng, words, lower=True)
    stamp = f"{_MONTHS[time.month - 1]} {time:%d %H:%M:%S}.{rng.randrange(10**6):06} {time.year}"
    where = f"[pid {rng.randint(100, 99999)}] [client {_address(rng)}:{rng.randint(1024, 65535)}]"
    return f"[{stamp}] [{fields['service']}:{fields['level']}] {where} {fields['message']}", fields


def _syslog(rng: random.Random, words: LogWords, time: datetime.datetime) -> tuple[str, Fields]:
    fields = {
        "host": f"{rng.choice(words.hosts)}{rng.randint(1, 40)}",
        "process": rng.choice(words.processes),
        "message": _message(rng, words),
    }
    stamp = f"{_MONTHS[time.month - 1]} {time.day:2} {time:%H:%M:%S}"
    process = f"{fields['process']}[{rng.randint(100, 99999)}]"
    return f"{stamp} {fields['host']} {process}: {fields['message']}", fields


def _klog(rng: random.Random, words: LogWords, time: datetime.datetime) -> tuple[str, Fields]:
    level = rng.choice(("INFO", "WARNING", "ERROR", "FATAL"))
    source = f"{rng.choice(words.sources)}.go:{rng.randint(10, 999)}"
    fields = {"level": level, "source": source, "message": _message(rng, words)}
    stamp = f"{time:%m%d %H:%M:%S}.{rng.randrange(10**6):06}"
    return f"{level[0]}{stamp} {rng.randint(1, 9999):7} {source}] {fields['message']}", fields


_FORMATS: tuple[Callable[[random.Random, LogWords, datetime.datetime], tuple[str, Fields]], ...] = (
    *(_app, _python, _bracketed, _logfmt, _nginx, _apache, _apache_error, _syslog, _klog),
)


def _app_fields(rng: random.Random, words: LogWords, *, lower: bool = False) -> Fields:
    level = rng.choice(("DEBUG", "INFO", "WARN", "ERROR"))
    return {
        "level": level.lower() if lower else level,
        "service": rng.choice(words.services),
        "message": _message(rng, words),
    }


def _message(rng: random.Random, words: LogWords) -> str:
    return _numbered(rng.choice(words.messages), rng)


def _numbered(text: str, rng: random.Random) -> str:
    return re.sub("#", lambda _: str(rng.randint(1, 9999)), text)


def _address(rng: random.Random) -> str:
    return ".".join(str(rng.randint(1, 254)) for _ in range(4))


def _draw_time(rng: random.Random) -> datetime.datetime:
    return datetime.datetime(2023, 1, 1) + datetime.timedelta(seconds=rng.randrange(3 * 365 * 86400))


_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_METHODS = ("GET", "GET", "GET", "POST", "POST", "PUT", "DELETE", "PATCH", "HEAD")
_STATUSES = (200, 200, 200, 201, 204, 301, 302, 304, 400, 401, 403, 404, 404, 409, 429, 500, 502, 503, 504)
_AGENTS = (
    "Mozilla/5.0 (X11; Linux x86_64)",
    "curl/8.5.0",
    "Mozilla/5.0",
    "python-requests/2.32",
    "kube-probe/1.29",
)

WORDS: Mapping[Part, LogWords] = {
    "train": LogWords(
        services=(
            *("payments", "checkout", "auth", "users", "search", "billing", "mailer", "inventory", "gateway"),
            *("scheduler", "api", "worker", "cache", "frontend", "orders", "shipping", "notifier", "media"),
            *("uploader", "recommender", "cart", "sessions", "profile", "catalog", "reports", "crawler"),
            *("image-resizer", "event-bus", "rate-limiter", "data-export", "webhooks", "token-service"),
        ),
        hosts=("web-", "db-", "node", "proxy-", "mail", "build-", "edge-", "app", "cache-", "gpu", "lab-"),
        processes=(
            *("sshd", "cron", "systemd", "nginx", "postfix", "dockerd", "kernel", "sudo", "dhclient"),
            *("postgres", "redis", "haproxy", "ntpd", "rsyslogd", "smartd", "kubelet", "named"),
        ),
        sources=(
            *(
                "reflector",
                "server",
                "controller",
                "kubelet",
                "proxier",
                "leaderelection",
                "cache",
                "garbage",
            ),
            *("scheduler", "manager", "handler", "client", "main", "status_manager", "pod_workers"),
        ),
        messages=(
            *(
                "card declined for order #",
                "connection refused by peer",
                "request took # ms",
                "user # logged in",
            ),
            *(
                "retrying in # seconds",
                "cache miss for key user-#",
                "disk usage at # percent",
                "job # finished",
            ),
            *("queue length is #", "invalid token", "failed to open file", "timeout after # ms"),
            *("started on port #", "shutting down", "received signal #", "password changed for user #"),
            *("payment # accepted", "could not send mail to customer #", "out of memory", "backup completed"),
            *("index rebuilt with # documents", "session # expired", "certificate expires in # days"),
            *("rate limit exceeded", "worker # is idle", "lost connection to database", "item # is sold out"),
            *("loaded # records", "schema version # applied", "unexpected end of input", "slow query"),
            *("health check passed", "upload of # bytes failed", "cannot parse header", "batch # skipped"),
            *("new connection from client #", "deleted # old files", "permission denied", "pod # evicted"),
            *("address already in use", "lock held by process #", "configuration reloaded", "empty response"),
            *("order # shipped", "too many open files", "authentication failure", "heartbeat missed # times"),
        ),
        paths=(
            *("/", "/cart", "/api/users/#", "/login", "/index.html", "/images/logo.png", "/api/orders/#"),
            *("/products/#", "/search", "/favicon.ico", "/static/app.js", "/checkout", "/api/v1/items"),
            *("/blog/post-#", "/health", "/admin", "/download/file#.zip", "/api/v2/sessions/#", "/about"),
            *("/css/main.css", "/robots.txt", "/account/settings", "/feed.xml", "/api/payments/#/refund"),
        ),
    ),
    "held_out": LogWords(
        services=(
            *("invoices", "wallet", "geocoder", "translator", "loyalty", "ticketing", "streaming", "pricing"),
            *("fraud-check", "pdf-renderer", "chatbot", "telemetry"),
        ),
        hosts=("backup-", "vpn", "store-", "printer", "core-"),
        processes=("mysqld", "snmpd", "udevd", "dovecot", "chronyd", "squid"),
        sources=("volume_manager", "endpoint", "node_lifecycle", "informer", "eviction"),
        messages=(
            *(
                "voucher # was rejected",
                "socket closed early",
                "rendered page # of the report",
                "no route to host",
            ),
            *("ticket # assigned to agent #", "replica # is behind", "checksum mismatch in block #"),
            *("dropped # packets", "license key is missing", "stream # buffered", "price list updated"),
            *("could not resolve the name", "temperature is # degrees", "retry budget used up"),
            *("exported # rows", "device # went offline", "unknown command", "refund # is pending"),
        ),
        paths=(
            *("/invoices/#", "/help/faq", "/api/tickets/#", "/fonts/roboto.woff2", "/logout", "/maps/tile/#"),
            *("/api/v3/wallets/#/balance", "/pricing", "/docs/guide.pdf", "/stream/#"),
        ),
    ),
}
