"""The page that shows the cluster in a browser: static files, which may load nothing from other hosts."""

from __future__ import annotations

import hashlib
import mimetypes
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from router.errors import RouterError
from router.table import RouteTable

FOLDER = Path(__file__).resolve().parents[1] / "web"
START = "index.html"  # answers `/`; every other file lies below PREFIX
PREFIX = "/page/"

# Scripts, styles and requests of this origin alone; no inline code, forms or frames.
CONTENT_SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        "img-src 'self' data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
)
HEADERS = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    # Browsers ask every time whether a file has changed, so that a new version is used at once.
    "cache-control": "no-cache",
}


@dataclass(frozen=True, slots=True)
class PageFile:
    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, path: Path) -> PageFile:
        content = path.read_bytes()
        media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        return cls(content, media_type, f'"{hashlib.sha256(content).hexdigest()[:32]}"')

    def response(self, headers: Headers, *, is_head: bool) -> Response:
        """The file, or a 304 if the browser has it already."""
        own = {**HEADERS, "etag": self.etag}
        if self.etag in headers.get("if-none-match", ""):
            return Response(status_code=304, headers=own)
        sized = {**own, "content-length": str(len(self.content))}
        return Response(b"" if is_head else self.content, headers=sized, media_type=self.media_type)


class Page:
    """Answers requests for the page's files, without an API key, and passes all other requests on."""

    def __init__(self, app: ASGIApp, table_of: Callable[[], RouteTable]) -> None:
        self._app = app
        self._table_of = table_of
        self._files = page_files(FOLDER)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        file = self._file(scope)
        app = self._app if file is None else file.response(Headers(scope=scope), is_head=_is_head(scope))
        await app(scope, receive, send)

    def _file(self, scope: Scope) -> PageFile | None:
        if scope["type"] != "http" or scope["method"] not in ("GET", "HEAD"):
            return None
        file = self._files.get(scope["path"])
        return file if file and self._is_on() else None

    def _is_on(self) -> bool:
        try:
            return self._table_of().page
        except RouterError:  # no table yet: the request gets this error further inside
            return False


def page_files(folder: Path) -> Mapping[str, PageFile]:
    """Every file of the folder by the path of its URL. No other path leads to a file."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {PREFIX + path.relative_to(folder).as_posix(): PageFile.read(path) for path in paths}
    return {"/": files.pop(PREFIX + START), **files}


def _is_head(scope: Scope) -> bool:
    method: str = scope["method"]
    return method == "HEAD"
