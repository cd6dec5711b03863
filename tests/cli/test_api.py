"""Calls of the command line to a server: what is asked, and what is said of those that are none."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import click
import pytest

from verl_agent_env.cli.api import call
from verl_agent_env.wire.catalogue_responses import ClusterResponse


@contextmanager
def answering(status: int, location: str = "", body: bytes = b"{}") -> Iterator[tuple[str, list[str]]]:
    """The URL of something that answers every request so, and the tokens that it was shown."""
    shown: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            shown.append(self.headers["authorization"])
            self.send_response(status)
            self.send_header("location", location)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as its base class says it
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", shown
        finally:
            server.shutdown()
            thread.join()


def test_a_token_does_not_follow_a_redirect() -> None:
    with answering(200) as (elsewhere, shown), answering(302, f"{elsewhere}/") as (url, first):
        with pytest.raises(click.ClickException, match="302"):
            call(url, "/api/cluster", ClusterResponse, token="secret")
        assert (first, shown) == (["Bearer secret"], [])


@pytest.mark.parametrize(
    "url", ["", "here", "ftp://host", "http://[::1", "http://host:99999", "http://host?x=1"]
)
def test_text_that_is_no_url_is_one_sentence(url: str) -> None:
    with pytest.raises(click.ClickException, match="write http://host:port"):
        call(url, "/api/cluster", ClusterResponse)


def test_a_password_in_the_url_is_sent_and_not_shown() -> None:
    with answering(404) as (url, shown):
        with pytest.raises(click.ClickException) as caught:
            call(url.replace("//", "//me:secret@"), "/api/cluster", ClusterResponse)
        assert shown == ["Basic bWU6c2VjcmV0"]
        assert "secret" not in caught.value.message


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b'{"nodes": null}',
        b'{"map_version": 1, "num_slots": 4096, "nodes": 7}',
        b'{"map_version": 1, "num_slots": 4096, "nodes": ["a"]}',
        b'{"map_version": 1, "num_slots": 4096, "nodes": [{"name": "a", "workers": [{"name": "w"}]}]}',
    ],
)
def test_an_answer_of_another_form_is_one_sentence(body: bytes) -> None:
    with (
        answering(200, body=body) as (url, _),
        pytest.raises(click.ClickException, match="its answer has another form"),
    ):
        call(url, "/api/cluster", ClusterResponse)
