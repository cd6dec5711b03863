"""A service that speaks as OpenAI's and Anthropic's do, and whose model says what it was given to say."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import orjson

from verl_agent_env.messages import to_anthropic


class ModelServer(ThreadingHTTPServer):
    """Answers with these assistant messages (OpenAI's form) in turn; troubles come before the first of them.

    An answer that has ``choices`` is a whole body; one that has a ``status`` is a refusal with its ``body``.
    """

    def __init__(self, answers: Iterable[dict[str, Any]], troubles: Iterable[int | None] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers = iter(answers)
        self.troubles = iter(troubles)
        """Statuses to answer with at first; None breaks the connection."""
        self.requests: list[tuple[str, dict[str, Any]]] = []
        """Paths and bodies."""
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: ModelServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.server.lock:
            self.server.requests.append((self.path, request))
            status = next(self.server.troubles, 200)
            said = next(self.server.answers) if status == 200 else {}
        if status is None:
            self.close_connection = True
            return
        if status != 200:
            self._send(status, {"type": "error", "error": {"type": "overloaded", "message": "slow down"}})
        elif "status" in said:
            self._send(said["status"], said["body"])
        elif "choices" in said:
            self._send(200, said)
        elif request.get("stream"):
            self._stream(said)
        elif self.path.endswith("/chat/completions"):
            choice = {"index": 0, "finish_reason": "stop", "message": said}
            usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
            self._send(
                200,
                {
                    "id": "x",
                    "object": "chat.completion",
                    "created": 0,
                    "model": "m",
                    "choices": [choice],
                    "usage": usage,
                },
            )
        else:
            turns = to_anthropic([said]).messages
            content = turns[0]["content"] if turns else []
            usage = {"input_tokens": 10, "output_tokens": 2}
            self._send(
                200,
                {
                    "id": "x",
                    "type": "message",
                    "role": "assistant",
                    "model": "m",
                    "content": content,
                    "stop_reason": "end_turn",
                    "stop_sequence": None,
                    "usage": usage,
                },
            )

    def _stream(self, said: dict[str, Any]) -> None:
        """Send a message in OpenAI's form as a stream of one piece."""
        chunk = {"id": "x", "object": "chat.completion.chunk", "created": 0, "model": "m"}
        usage = {"prompt_tokens": 10, "completion_tokens": 2, "total_tokens": 12}
        pieces: list[dict[str, Any]] = [
            {**chunk, "choices": [{"index": 0, "delta": said, "finish_reason": None}]},
            {**chunk, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]},
            {**chunk, "choices": [], "usage": usage},
        ]
        events = b"".join(b"data: %b\n\n" % orjson.dumps(piece) for piece in pieces) + b"data: [DONE]\n\n"
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("content-length", str(len(events)))
        self.end_headers()
        self.wfile.write(events)

    def _send(self, status: int, body: dict[str, Any]) -> None:
        encoded = orjson.dumps(body)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(encoded)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@contextmanager
def serving_model(
    answers: Iterable[dict[str, Any]], troubles: Iterable[int | None] = ()
) -> Iterator[ModelServer]:
    """The service, in a thread."""
    server = ModelServer(answers, troubles)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
