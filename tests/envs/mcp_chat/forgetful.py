"""A small MCP server over streamable HTTP that forgets its sessions when it is told to, as others do in their own words."""

from __future__ import annotations

import contextlib
import json
import threading
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

_ECHO = {
    "name": "echo",
    "inputSchema": {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
}


class ForgetfulServer:
    """Serves one tool, ``echo``, with sessions."""

    def __init__(self, port: int = 0) -> None:
        self.sessions: set[str] = set()
        self.status = 404
        self.refusal: dict[str, Any] | None = None
        """Body of the answer to an unknown session; plain text when not given."""
        self.calls: list[str] = []
        """What was echoed."""
        self.tools: list[dict[str, Any]] = [_ECHO]
        self.streams = False
        """Whether answers are events of a stream."""
        self.refuses_calls = False
        """Whether calls are answered as those of an unknown session, and nothing else is."""
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                server.answer(self, json.loads(self.rfile.read(int(self.headers["content-length"]))))

            def do_GET(self) -> None:
                self.send(405, b"")

            def do_DELETE(self) -> None:
                self.send(200, b"")

            def send(self, status: int, body: bytes, kind: str = "text/plain", **headers: str) -> None:
                self.send_response(status)
                for name, value in {
                    "content-type": kind,
                    "content-length": str(len(body)),
                    **headers,
                }.items():
                    self.send_header(name.replace("_", "-"), value)
                # A client that ends its session does not wait for the answer.
                with contextlib.suppress(ConnectionError):
                    self.end_headers()
                    self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.port = self._http.server_address[1]
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def forget(self, status: int, refusal: dict[str, Any] | None = None) -> None:
        """Forget all sessions; say so with this status and body."""
        self.status, self.refusal = status, refusal
        self.sessions.clear()

    def close(self) -> None:
        """Stop listening."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, handler: Any, message: dict[str, Any]) -> None:
        """Answer one message."""
        method, session = message.get("method"), handler.headers.get("mcp-session-id")
        is_unknown = session is not None and session not in self.sessions
        if is_unknown or (self.refuses_calls and method == "tools/call"):
            refusal = self.refusal
            body = (
                b"gone"
                if refusal is None
                else json.dumps({"jsonrpc": "2.0", "id": message.get("id"), "error": refusal}).encode()
            )
            handler.send(self.status, body, "text/plain" if refusal is None else "application/json")
            return
        if "id" not in message:
            handler.send(202, b"")
            return
        headers: dict[str, str] = {}
        result: dict[str, Any] = {}
        if method == "initialize":
            headers["mcp_session_id"] = uuid.uuid4().hex
            self.sessions.add(headers["mcp_session_id"])
            result = {
                "protocolVersion": message["params"]["protocolVersion"],
                "capabilities": {"tools": {}},
                "serverInfo": {"name": "forgetful", "version": "1"},
            }
        elif method == "tools/list":
            result = {"tools": self.tools}
        elif method == "tools/call":
            text = message["params"]["arguments"]["text"]
            self.calls.append(text)
            result = {"content": [{"type": "text", "text": text}]}
        body = json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": result}).encode()
        if self.streams:
            handler.send(200, b"data: " + body + b"\n\n", "text/event-stream", **headers)
        else:
            handler.send(200, body, "application/json", **headers)
