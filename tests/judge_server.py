"""A judge as a local endpoint that speaks as OpenAI's does: honest, or failing in a way that is chosen."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson

from verl_agent_env.envs.model_endpoints import ModelEndpoint, use_endpoints
from verl_agent_env.envs.model_endpoints.client import requests_spent

Judging = Callable[[dict[str, Any]], str]
"""From the question (ticket, criteria, answer, …) to the text that the judge writes."""


def scores_of(question: dict[str, Any], **scores: float) -> str:
    """What an honest judge writes."""
    return orjson.dumps({"ticket": question["ticket"], "scores": scores}).decode()


def ten_for_all(question: dict[str, Any]) -> str:
    """The best score for every criterion."""
    return scores_of(question, **dict.fromkeys(question["criteria"], 10))


class JudgeServer(ThreadingHTTPServer):
    """Judges as ``judging`` does; ``trouble`` says how it fails: a status, ``silent``, ``endless``, ``breaks``, or none."""

    daemon_threads = True
    # Python's own is 5: of more that connect at once, some are told nothing for seconds.
    request_queue_size = 512

    def __init__(self, judging: Judging = ten_for_all) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.judging = judging
        self.trouble: int | str | None = None
        self.troubles: list[int | str] = []
        """Troubles of the next requests, before ``trouble``."""
        self.requests: list[dict[str, Any]] = []
        self.release = threading.Event()
        """Ends what a silent judge waits for."""

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def questions(self) -> list[dict[str, Any]]:
        """What it was asked, as it read it."""
        return [orjson.loads(request["messages"][-1]["content"]) for request in self.requests]

    def write_file(self, path: Path, **limits: Any) -> Path:
        """Write an operator's file in which it is the endpoint ``judge``."""
        entry = {"base_url": self.base_url, "model": "m", **limits}
        path.write_bytes(orjson.dumps({"endpoints": {"judge": entry}}))
        return path

    def use(self, **limits: Any) -> None:
        """Make it the endpoint ``judge`` of this process, with a budget that no other test has spent from."""
        if limits.get("max_requests") is not None:
            limits["max_requests"] += requests_spent("judge")
        limits = {"timeout_s": 60, "deadline_s": 100, **limits}
        use_endpoints({"judge": ModelEndpoint(name="judge", base_url=self.base_url, model="m", **limits)})


def _question_in(content: str) -> dict[str, Any]:
    """Return what a judge is asked; of a model that plays, the text."""
    return orjson.loads(content) if content.startswith("{") else {"text": content}


class _Handler(BaseHTTPRequestHandler):
    server: JudgeServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        request = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append(request)
        troubles = self.server.troubles
        trouble = troubles.pop(0) if troubles else self.server.trouble
        if trouble == "breaks":
            self.close_connection = True
        elif trouble == "silent":
            self.server.release.wait()
        elif trouble == "endless":
            self.send_response(200)
            self.send_header("transfer-encoding", "chunked")
            self.end_headers()
            try:
                while not self.server.release.is_set():
                    self.wfile.write(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
            except OSError:
                self.close_connection = True
        elif trouble is not None:
            self._send(int(trouble), {"error": {"message": "no"}})
        else:
            said = self.server.judging(_question_in(request["messages"][-1]["content"]))
            choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": said}}
            self._send(200, {"id": "x", "object": "chat.completion", "choices": [choice]})

    def _send(self, status: int, body: dict[str, Any]) -> None:
        encoded = orjson.dumps(body)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(encoded)))
        if status in (301, 302, 307, 308):
            self.send_header("location", self.server.base_url + "/elsewhere")
        self.end_headers()
        self.wfile.write(encoded)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        """Write nothing."""


@contextmanager
def serving_judge(judging: Judging = ten_for_all) -> Iterator[JudgeServer]:
    """A judge, until the block ends."""
    with JudgeServer(judging) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.release.set()
            server.shutdown()
            thread.join(60)
