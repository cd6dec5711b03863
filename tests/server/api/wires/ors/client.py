"""A light client of ORS: what its own client sends, and no more."""

from __future__ import annotations

from typing import Any

import httpx
import orjson

_RETRIED = (429, 502, 503, 504)


def events_in(text: str) -> list[tuple[str, str]]:
    """Read server-sent events: names and data."""
    found = []
    for block in text.split("\n\n"):
        lines = [line.partition(": ")[::2] for line in block.splitlines() if not line.startswith(":")]
        if lines:
            fields = dict(lines)
            found.append((fields["event"], fields.get("data", fields.get("data:", ""))))
    return found


class OrsSession:
    """One session."""

    def __init__(self, http: httpx.Client, env_name: str, **headers: str) -> None:
        self._http = http
        self.headers = {"X-Deployment": env_name, **headers}
        answer = http.post("/create_session", headers=self.headers)
        assert answer.status_code == 200, answer.text
        (kind, self.sid), (end, _) = events_in(answer.text)
        assert (kind, end) == ("task_id", "end")
        self.headers["X-Session-ID"] = self.sid

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """Make a call that succeeds, and give its answer."""
        answer = self.send(method, path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def send(self, method: str, path: str, body: Any = None) -> httpx.Response:
        """Make a call."""
        return self._http.request(method, path, headers=self.headers, json=body)

    def create(self, **body: Any) -> None:
        """Begin the episode of a task."""
        assert self.ask("POST", "/create", body) == {"sid": self.sid}

    def call(self, tool: str, task_id: str | None = None, **arguments: Any) -> tuple[str, dict[str, Any]]:
        """Call a tool; gives the call's id, and what it gave."""
        body = {"name": tool, "input": arguments, **({} if task_id is None else {"task_id": task_id})}
        answer = self.send("POST", "/call", body)
        while task_id is not None and answer.status_code in _RETRIED:
            # As its own client does: who has a call's id may ask again.
            answer = self.send("POST", "/call", body)
        assert answer.status_code == 200, answer.text
        (kind, call_id), (end, data) = events_in(answer.text)
        assert (kind, end) == ("task_id", "end"), answer.text
        given: dict[str, Any] = orjson.loads(data)
        return call_id, given
