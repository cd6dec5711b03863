"""The example plays with the official SDK against a server whose "model" always does the same two things."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import orjson
import pytest

from tests.children import ROOT, python

EXAMPLE = ROOT / "examples" / "gpt_play_mcp_chat.py"


class Model(BaseHTTPRequestHandler):
    """Calls the tool first, then answers with what it said; is overloaded at the very first."""

    requests: list[dict[str, Any]]

    def do_POST(self) -> None:
        request = orjson.loads(self.rfile.read(int(self.headers["content-length"])))
        self.requests.append(request)
        if len(self.requests) == 1:
            self._answer(429, {"error": {"message": "slow down"}})
            return
        if request["messages"][-1]["role"] == "tool":
            said: dict[str, Any] = {"role": "assistant", "content": "<answer>19:30</answer>"}
        else:
            arguments = {"source_timezone": "Europe/Berlin", "time": "12:30", "target_timezone": "Asia/Tokyo"}
            function = {"name": "convert_time", "arguments": orjson.dumps(arguments).decode()}
            said = {
                "role": "assistant",
                "tool_calls": [{"id": "c", "type": "function", "function": function}],
            }
        choice = {"index": 0, "finish_reason": "stop", "message": said}
        self._answer(
            200, {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        )

    def _answer(self, status: int, body: dict[str, Any]) -> None:
        encoded = orjson.dumps(body)
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(encoded)))
        self.send_header("retry-after-ms", "1")
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: object) -> None:
        """Says nothing."""


@pytest.fixture
def model() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Model)
    Model.requests = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize("needed", ["openai", "mcp_server_time"])
def test_what_the_example_needs_is_named_in_it(needed: str) -> None:
    assert needed.replace("_", "-") in EXAMPLE.read_text()


def test_example_plays_an_episode(model: HTTPServer) -> None:
    for needed in ("openai", "mcp_server_time"):
        if importlib.util.find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    variables = {"OPENAI_KEY": "k", "OPENAI_BASE_URL": f"http://127.0.0.1:{model.server_port}/v1"}
    played = python(str(EXAMPLE), variables=variables)
    assert played.returncode == 0, played.stderr
    assert [request["messages"][-1]["role"] for request in Model.requests] == ["user", "user", "tool"]
    assert [tool["function"]["name"] for tool in Model.requests[-1]["tools"]] == [
        "get_current_time",
        "convert_time",
    ]
    assert "→ convert_time(" in played.stdout
    assert "after 2 turns, reward 0" in played.stdout
