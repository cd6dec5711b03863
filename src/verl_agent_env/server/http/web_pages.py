"""Serves the web page: files of the package, each read once, with headers that let the page load nothing from elsewhere."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from fastapi import FastAPI, Request
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response

FOLDER = Path(__file__).parents[2] / "web"

CONTENT_SECURITY_POLICY = (
    "default-src 'self'; img-src 'self' blob: data:; object-src 'none'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)
"""``blob:`` is for drawings of environments, which must not run scripts; ``data:`` for observations that are pictures."""

_INDEX = "index.html"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".LICENSE": "text/plain; charset=utf-8",
}
_SECURITY = {
    "content-security-policy": CONTENT_SECURITY_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class _File(NamedTuple):
    """A file as it is sent."""

    media_type: str
    content: bytes
    compressed: bytes
    etag: str


class WebPages:
    """The files of the web page, by their path below ``/web/``; nothing is read before the first request."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._files: dict[str, _File] = {}

    def add_to(self, app: FastAPI) -> None:
        """Add the routes of the page, and those that lead to it.

        All of them are relative, so that they hold below any path that a proxy puts before the server's own.
        """
        app.add_route("/", self._front)
        app.add_route("/web", self._folder_of_page)
        app.add_route("/web/{path:path}", self._file)
        app.add_route("/docs", self._reference)

    @cached_property
    def paths(self) -> Mapping[str, Path]:
        """All files there are. What is asked for is looked up here: no path of a request ever reaches the disk."""
        found = (path for path in self._folder.rglob("*") if path.suffix in _MEDIA_TYPES)
        return {path.relative_to(self._folder).as_posix(): path for path in found}

    async def _front(self, request: Request) -> Response:
        """Send a browser to the page, and tell anything else that the server runs."""
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse("web/", headers={"vary": "Accept"})
        return Response(b'{"status":"running"}', media_type="application/json", headers={"vary": "Accept"})

    async def _folder_of_page(self, request: Request) -> Response:
        return RedirectResponse("web/")

    async def _reference(self, request: Request) -> Response:
        return RedirectResponse("web/#/api")

    async def _file(self, request: Request) -> Response:
        """Send one file, or nothing of it to a browser that has it already."""
        file = self._read(request.path_params["path"] or _INDEX)
        # A browser asks each time, and gets 304: after an upgrade no file is older than another.
        headers = {**_SECURITY, "cache-control": "no-cache", "etag": file.etag, "vary": "Accept-Encoding"}
        if file.etag in request.headers.get("if-none-match", ""):
            return Response(status_code=304, headers=headers)
        content = file.content
        if "gzip" in request.headers.get("accept-encoding", ""):
            content = file.compressed
            headers["content-encoding"] = "gzip"
        headers["content-length"] = str(len(content))
        headers["content-type"] = file.media_type
        return Response(b"" if request.method == "HEAD" else content, headers=headers)

    def _read(self, path: str) -> _File:
        file = self._files.get(path)
        if file is None:
            found = self.paths.get(path)
            if found is None:
                raise HTTPException(404)
            content = found.read_bytes()
            # Weak: the same file compressed has the same tag.
            etag = f'W/"{hashlib.blake2b(content, digest_size=12).hexdigest()}"'
            file = _File(_MEDIA_TYPES[found.suffix], content, gzip.compress(content, mtime=0), etag)
            self._files[path] = file
        return file
