"""When the client gives up, and what it says then."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.client.conftest import GATED, LAKE, MakeClient
from tests.conftest import ServerProcess, StartServer
from tests.lossy_proxy import LossyProxy
from tests.pool_process import LASTING
from tests.ports import free_port
from tests.waiting import NEVER_S, eventually, no_hang, until
from verl_agent_env.client import (
    AsyncEnvClient,
    ClientClosedError,
    NoServerError,
    ServerUnreachableError,
    StepUndecidedError,
)
from verl_agent_env.errors import (
    AtCapacityError,
    EpisodeEndedError,
    InvalidEnvArgumentsError,
    RenderModeError,
    UnauthorizedError,
    UnknownEnvNameError,
)

T = TypeVar("T")


async def test_url_without_a_server_is_one_clear_error(make_client: MakeClient) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    client = make_client(url, deadline_s=NEVER_S)
    with pytest.raises(NoServerError) as caught:
        async with no_hang():
            await client.catalogue()
    assert caught.value.url == url
    assert "verl-agent-env serve" in str(caught.value)


@contextlib.asynccontextmanager
async def answering(head: bytes, body: bytes, times: int = 1) -> AsyncIterator[str]:
    """The URL of something that gives each request the same answer, whose body is written so often."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            for _ in range(times):
                writer.write(body)
                await writer.drain()
        writer.close()

    other = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{other.sockets[0].getsockname()[1]}"
    finally:
        other.close()


def with_length(body: bytes, status: bytes = b"200 OK", headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %b\r\n%bContent-Length: %d\r\n\r\n" % (status, headers, len(body))


@pytest.mark.parametrize("answer", [b"<html>", b"[1]"], ids=["html", "list"])
@pytest.mark.parametrize("status", [b"200 OK", b"404 Not Found"])
async def test_something_else_at_the_url_is_one_clear_error(
    make_client: MakeClient, status: bytes, answer: bytes
) -> None:
    async with answering(with_length(answer, status), answer) as url:
        with pytest.raises(NoServerError) as caught:
            await make_client(url).make("sokoban")
        assert caught.value.url == url


@pytest.mark.parametrize(
    "answer",
    [
        b"{}",
        b'{"env_ids":["x"],"observations":[[]],"infos":["text"],"errors":[]}',
        b'{"env_ids":["x"],"observations":[[]],"infos":[null],"errors":[5]}',
        b'{"environments":5,"splits":null,"tasks":5,"next_offset":0,"next_cursor":"0","seq":"x","seed":null}',
    ],
    ids=["empty", "info", "error", "types"],
)
async def test_an_answer_of_another_form_is_one_clear_error(make_client: MakeClient, answer: bytes) -> None:
    async with answering(with_length(answer), answer) as url:
        client = make_client(url)
        calls: list[Callable[[], Awaitable[Any]]] = [
            client.make("sokoban").open,
            client.catalogue,
            lambda: client.splits("sokoban"),
            lambda: client.tasks("sokoban", limit=1),
            lambda: client.task_results("run"),
            lambda: client.attach("000-1"),
        ]
        for call in calls:
            with pytest.raises(NoServerError, match="another form"):
                await call()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: abc\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
    ],
    ids=["SSH", "length", "lengths", "headers"],
)
async def test_what_does_not_speak_http_is_not_asked_until_the_deadline(
    make_client: MakeClient, answer: bytes
) -> None:
    async with answering(answer, b"") as url, no_hang():
        with pytest.raises(NoServerError, match="HTTP"):
            await make_client(url, deadline_s=NEVER_S).catalogue()


@pytest.mark.parametrize("is_compressed", [False, True], ids=["plain", "gzip"])
async def test_an_answer_that_is_too_long_is_not_read_to_its_end(
    make_client: MakeClient, is_compressed: bool
) -> None:
    if is_compressed:
        piece = gzip.compress(b" " * (1 << 24))
        head, times = with_length(piece, headers=b"Content-Encoding: gzip\r\n"), 1
    else:
        piece = b"10000\r\n" + b" " * (1 << 16) + b"\r\n"
        head, times = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", 1 << 20
    async with answering(head, piece, times) as url, no_hang():
        with pytest.raises(NoServerError, match="max_answer_bytes"):
            await make_client(url, deadline_s=NEVER_S, max_answer_bytes=1 << 20).catalogue()


async def test_an_answer_that_never_ends_is_read_until_the_deadline(make_client: MakeClient) -> None:
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    async with answering(head, b"10000\r\n" + b" " * (1 << 16) + b"\r\n", 1 << 30) as url, no_hang():
        with pytest.raises(ServerUnreachableError):
            await make_client(url, deadline_s=0.1, max_answer_bytes=1 << 40).catalogue()


@pytest.mark.parametrize(
    "url",
    [
        *("127.0.0.1:8000", "ftp://host", "", "http://host?x=1", "http://host#x", "http://[::1", "http://host:99999"),
        *("http://a..b", f"http://{'a' * 300}", "http://\ud800", None, 5, b"http://host"),
    ],
)  # fmt: skip
def test_text_that_is_no_url_is_refused_at_once(url: Any) -> None:
    with pytest.raises(ValueError, match="write http://host:port"):
        AsyncEnvClient(url)


def test_a_password_in_the_url_is_sent_and_not_shown() -> None:
    client = AsyncEnvClient("http://me:secret@host:8000/")
    assert client.url == "http://host:8000"
    assert client._transport._headers["authorization"] == "Basic bWU6c2VjcmV0"


@pytest.mark.parametrize(
    "option",
    [
        *({"timeout_s": 0}, {"max_batch": 0}, {"linger_s": -1.0}, {"max_delay_s": 0}, {"direct": "always"}),
        *({"deadline_s": value} for value in (float("inf"), float("nan"), "4", None)),
        *({"linger_s": float("nan")}, {"max_delay_s": float("inf")}, {"max_batch": 1.5}, {"max_connections": "8"}),
        *({"token": value} for value in ("a\nb", "ü", b"secret", 5)),
    ],
)  # fmt: skip
def test_option_out_of_range_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(option))):
        AsyncEnvClient("http://host", **option)


async def test_token_is_sent_and_a_wrong_one_told(start_server: StartServer, make_client: MakeClient) -> None:
    server = start_server("--auth-token", "secret-1")
    async with make_client(server.url, token="secret-1").make(**LAKE) as env:
        assert (await env.state())["seq"] == 0
    for wrong in (None, "secret-2"):
        with pytest.raises(UnauthorizedError):
            await make_client(server.url, token=wrong).make(**LAKE)


async def patiently(call: Callable[[], Awaitable[T]]) -> T:
    """The answer of a server that is there, which a busy machine may give after the deadline."""
    async with no_hang():
        while True:
            with contextlib.suppress(ServerUnreachableError):
                return await call()


async def test_silent_server_is_given_up_at_the_deadline_and_the_step_is_undecided(
    server: ServerProcess, make_client: MakeClient
) -> None:
    async with LossyProxy(server.port) as proxy:
        client = make_client(proxy.url, deadline_s=0.5, close_deadline_s=0.2)
        env = await patiently(lambda: client.make(**LAKE).open())
        proxy.lose_answers = 1.0
        with pytest.raises(ServerUnreachableError):
            await env.step("right")
        # It may have been taken: no other action can follow before that is known.
        with pytest.raises(StepUndecidedError) as caught:
            await env.step("left")
        assert (caught.value.env_id, caught.value.seq) == (env.env_id, 0)
        proxy.lose_answers = 0.0
        await patiently(lambda: env.step("right"))
        await patiently(lambda: env.step("left"))
        steps = (await patiently(env.trajectory))["steps"]
        assert [s["action"] for s in steps] == ["right", "left"]


async def test_reset_makes_an_end_of_what_is_undecided(
    server: ServerProcess, make_client: MakeClient
) -> None:
    async with LossyProxy(server.port) as proxy:
        client = make_client(proxy.url, deadline_s=0.5, close_deadline_s=0.2)
        env = await patiently(lambda: client.make(**LAKE).open())
        proxy.lose_answers = 1.0
        with pytest.raises(ServerUnreachableError):
            await env.step("right")
        with pytest.raises(ServerUnreachableError):
            await env.reset(seed=9)
        with pytest.raises(StepUndecidedError) as caught:
            await env.step("right")
        assert caught.value.seq == -1
        proxy.lose_answers = 0.0
        await patiently(lambda: env.reset(seed=9))
        await patiently(lambda: env.step("left"))
        assert ((await patiently(env.state))["seed"], env.seq) == (9, 1)


@pytest.mark.parametrize("micro_batching", [True, False], ids=["shared", "plain"])
async def test_cancelled_step_can_be_taken_up_again(
    make_client: MakeClient, tmp_path: Path, micro_batching: bool
) -> None:
    client = make_client(micro_batching=micro_batching)
    action = {"entered": str(tmp_path / "entered"), "gate": str(tmp_path / "gate")}
    async with client.make(GATED) as env:
        step = asyncio.create_task(env.step(action))
        await until((tmp_path / "entered").exists)
        step.cancel()
        with pytest.raises(asyncio.CancelledError):
            await step
        with pytest.raises(StepUndecidedError):
            await env.step("another")
        (tmp_path / "gate").touch()
        result = await env.step(action)
        assert result.reward == 1.0
        assert (await env.state())["seq"] == env.seq == 1


async def test_step_that_never_went_out_was_never_taken(make_client: MakeClient) -> None:
    client = make_client(linger_s=NEVER_S)
    env = await client.make(**LAKE).open(micro_batching=False)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05):
            await env.step("right")
    await env.step("left", micro_batching=False)
    assert [s["action"] for s in (await env.trajectory())["steps"]] == ["left"]
    await env.close(micro_batching=False)


async def test_slow_environment_does_not_hold_up_the_others(client: AsyncEnvClient, tmp_path: Path) -> None:
    action = {"entered": str(tmp_path / "entered"), "gate": str(tmp_path / "gate")}
    async with client.make(GATED) as slow, client.make(**LAKE) as quick:
        waiting = asyncio.create_task(slow.step(action))
        await until((tmp_path / "entered").exists)
        async with no_hang():
            await quick.step("right")
        assert not waiting.done()
        (tmp_path / "gate").touch()
        assert (await waiting).reward == 1.0


async def test_full_server_is_tried_again_until_there_is_room(
    start_server: StartServer, make_client: MakeClient
) -> None:
    client = make_client(start_server("--max-envs", "1").url)
    first = await client.make(**LAKE)
    second = asyncio.create_task(client.make(**LAKE).open())
    await asyncio.sleep(0.2)
    assert not second.done()
    await first.close()
    assert (await second).env_id
    impatient = make_client(client.url, deadline_s=0.2)
    with pytest.raises(AtCapacityError) as caught:
        await impatient.make(**LAKE)
    assert caught.value.limit == 1


async def test_errors_of_the_server_come_as_their_own_classes(client: AsyncEnvClient) -> None:
    with pytest.raises(UnknownEnvNameError) as unknown:
        await client.make("sokobna")
    assert "verl_env/sokoban-v0" in unknown.value.suggestions
    with pytest.raises(InvalidEnvArgumentsError):
        await client.make("sokoban", num_boxes=-1)
    async with client.make(**{**LAKE, "env_kwargs": {"max_steps": 1}}) as env:
        await env.step("right")
        with pytest.raises(EpisodeEndedError):
            await env.step("right")
        with pytest.raises(RenderModeError):
            await env.render("gif")  # type: ignore[arg-type]


async def test_item_that_spoils_a_batch_fails_alone(client: AsyncEnvClient) -> None:
    envs = [
        client.make(name, env_kwargs=LASTING, seed=1)
        for name in ("frozen_lake", "", "frozen_lake", "frozen_lake")
    ]
    made = await client.initialize_batch(envs)
    assert [isinstance(env, Exception) for env in made] == [False, True, False, False]
    assert await envs[3].step("right")


async def test_closed_client_and_environment_refuse_calls(make_client: MakeClient) -> None:
    client = make_client()
    env = await client.make(**LAKE)
    await env.close()
    await env.close()
    with pytest.raises(ClientClosedError):
        await env.step("right")
    await client.close()
    await client.close()
    with pytest.raises(ClientClosedError):
        await client.make(**LAKE)
    with pytest.raises(ClientClosedError):
        await client.catalogue()


@pytest.fixture
def busy_url() -> Iterator[str]:
    """A server whose queue of connections is full, and which accepts none."""
    with socket.create_server(("127.0.0.1", free_port()), backlog=0) as listener, socket.socket() as waiting:
        waiting.connect(listener.getsockname())
        eventually(lambda: _queued(listener) == 1)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def _queued(listener: socket.socket) -> int:
    """How many connections nobody has accepted yet: what Linux calls unacked, for a socket that listens."""
    return int(
        struct.unpack_from("=8xIIIII", listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32))[4]
    )


@pytest.mark.parametrize("deadline_s", [0.001, 0.1, 7.0])
async def test_server_that_is_too_busy_to_accept_is_waited_for_until_the_deadline(
    busy_url: str, deadline_s: float
) -> None:
    async with AsyncEnvClient(busy_url, deadline_s=deadline_s) as client:
        with pytest.raises(ServerUnreachableError) as caught:
            await client.make("frozen_lake")
    assert type(caught.value) is ServerUnreachableError
    assert not caught.value.may_have_run


async def test_call_whose_client_was_busy_beyond_the_deadline_has_not_run(busy_url: str) -> None:
    async with AsyncEnvClient(busy_url, deadline_s=0.1) as client:
        call = asyncio.ensure_future(client.make("frozen_lake"))
        # All timers are late, and due together.
        asyncio.get_running_loop().call_later(0.01, time.sleep, 0.3)
        with pytest.raises(ServerUnreachableError) as caught:
            await call
    assert not caught.value.may_have_run
