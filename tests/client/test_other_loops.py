"""A client after a fork, in a second event loop, and closed while other threads wait for answers."""

from __future__ import annotations

import asyncio
import copy
import gc
import os
import pickle
import socket
import threading
import traceback
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from tests.client.conftest import GATED, LAKE
from tests.client.test_leaks import live_envs
from tests.conftest import ServerProcess
from tests.ports import free_port
from tests.waiting import HANG_S, NEVER_S, eventually
from verl_agent_env.client import (
    AsyncEnvClient,
    ClientClosedError,
    ClientLoopError,
    EnvClient,
    ServerUnreachableError,
    sync_client,
    transport,
)
from verl_agent_env.client.dispatch import Dispatch, Settings
from verl_agent_env.client.remote_env import RemoteEnv
from verl_agent_env.client.remote_vector_env import RemoteVectorEnv


def in_a_fork(run: Callable[[], None]) -> None:
    """Call ``run`` in a forked process; fails if that raises, or hangs."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run()
            code = 0
        except BaseException:  # noqa: BLE001 - the parent is told
            traceback.print_exc()
        finally:
            os._exit(code)
    ended: list[int] = []

    def is_over() -> bool:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            ended.append(os.waitstatus_to_exitcode(status))
        return bool(done)

    eventually(is_over)
    assert ended == [0]


# --- fork ----------------------------------------------------------------------------------------------------


def test_client_works_in_a_forked_process_and_leaves_the_parents_environments_alone(
    server: ServerProcess,
) -> None:
    with EnvClient(server.url) as client:
        mine = client.make(**LAKE, seed=1)
        mine.step("right")
        run_id = client.run_id

        def child() -> None:
            assert client.run_id != run_id
            with client:
                # The parent's, which has its number, and one of its own.
                assert mine.step("left").reward == 0
                own = client.make(**LAKE, seed=2)
                own.step("right")

        in_a_fork(child)
        # What the child did with it is known to the server.
        assert mine.state()["seq"] == 2
        own = client.make(**LAKE, seed=3)
        own.step("right")
        assert client.run_id == run_id


def test_fork_while_another_thread_waits_for_an_answer(server: ServerProcess, tmp_path: Path) -> None:
    with EnvClient(server.url) as client:
        gated, free = client.make(GATED), client.make(**LAKE, seed=1)
        action = {"entered": str(tmp_path / "entered"), "gate": str(tmp_path / "gate")}
        waiting = threading.Thread(target=gated.step, args=(action,))
        waiting.start()
        eventually((tmp_path / "entered").exists)

        def child() -> None:
            free.step("right")
            client.close()

        in_a_fork(child)
        (tmp_path / "gate").touch()
        waiting.join(HANG_S)
        assert not waiting.is_alive()
        assert gated.seq == 1


def test_forked_twice_and_closed_in_the_parent(server: ServerProcess) -> None:
    client = EnvClient(server.url)
    client.make(**LAKE, seed=1)
    client.close()

    def child() -> None:
        with pytest.raises(ClientClosedError):
            client.make(**LAKE)
        with EnvClient(server.url) as another:
            another.make(**LAKE)
            in_a_fork(lambda: another.make(**LAKE).close())
            another.make(**LAKE)

    in_a_fork(child)
    assert live_envs(server, client.run_id) == 0


# --- event loops ---------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("error")
def test_client_goes_on_in_the_next_event_loop(server: ServerProcess) -> None:
    client = AsyncEnvClient(server.url)

    async def begin() -> str:
        env = await client.make(**LAKE, seed=1)
        await env.step("right")
        return env.env_id

    async def go_on(env_id: str) -> None:
        env = await client.attach(env_id)
        assert env.seq == 1
        await env.step("left")
        await client.close()

    env_id = asyncio.run(begin())
    asyncio.run(go_on(env_id))
    assert live_envs(server, client.run_id) == 0


def close_by_hand(call: Coroutine[Any, Any, Any]) -> None:
    """Run a coroutine in an event loop that does not end its asynchronous generators."""
    loop = asyncio.new_event_loop()
    loop.run_until_complete(call)
    loop.close()


BY_HAND = pytest.param(
    # asyncio tells of the transports that the loop's owner left, to those who ask for such warnings.
    close_by_hand,
    marks=pytest.mark.filterwarnings("ignore:unclosed transport:ResourceWarning"),
)


@pytest.mark.parametrize("run", [asyncio.run, BY_HAND])
def test_closed_event_loops_leave_no_connection_and_nothing_in_memory(
    server: ServerProcess, run: Callable[[Coroutine[Any, Any, Any]], None], caplog: pytest.LogCaptureFixture
) -> None:
    client = AsyncEnvClient(server.url)
    kept = len(transport._ABANDONED)
    sessions: list[Callable[[], object]] = []

    async def call() -> None:
        await asyncio.gather(*(client.catalogue() for _ in range(3)))
        session = client._dispatch._transport._session
        assert session is not None
        sessions.append(weakref.ref(session))

    for _ in range(3):
        run(call())
    asyncio.run(client.close())
    gc.collect()
    assert [session() for session in sessions] == [None] * 3
    assert len(transport._ABANDONED) == kept
    # aiohttp tells of what nobody closed by the handler of the event loop, which logs.
    assert not caplog.records


@pytest.mark.filterwarnings("error")
def test_connections_end_with_their_event_loop(server: ServerProcess) -> None:
    client = AsyncEnvClient(server.url)
    asyncio.run(client.catalogue())
    sockets = client._dispatch._transport._sockets
    assert [connected.fileno() for connected in sockets] == [-1] * len(sockets)
    asyncio.run(client.close())
    gc.collect()


def test_parents_session_is_kept_in_a_fork(server: ServerProcess) -> None:
    with EnvClient(server.url) as ended, EnvClient(server.url) as client:
        client.catalogue()
        ended.catalogue()
        ended.close()
        used, loop = client.remote._dispatch._transport, client._loop
        session, closer = used._session, used._closer
        kept, loops = len(transport._ABANDONED), len(sync_client._ABANDONED)

        def child() -> None:
            client.catalogue()
            gc.collect()
            assert transport._ABANDONED[kept:] == [(session, closer)]
            assert session is not None
            assert not session.closed
            # That of a closed client is closed.
            assert sync_client._ABANDONED[loops:] == [loop]

        in_a_fork(child)
        client.catalogue()
        assert used._session is session


@pytest.mark.parametrize("micro_batching", [True, False], ids=["shared", "plain"])
async def test_second_event_loop_beside_the_first_is_told_what_to_do(
    server: ServerProcess, micro_batching: bool
) -> None:
    async with AsyncEnvClient(server.url, micro_batching=micro_batching) as client:
        env = await client.make(**LAKE, seed=1)

        def elsewhere() -> None:
            for call in (client.make(**LAKE).open, lambda: env.step("right"), client.catalogue):
                with pytest.raises(ClientLoopError, match="make a client in each event loop"):
                    asyncio.run(call())

        await asyncio.to_thread(elsewhere)
        assert (await env.step("right")).reward == 0


async def test_a_blocking_call_within_its_own_loop_is_told_what_to_do(server: ServerProcess) -> None:
    client = EnvClient(server.url)

    async def call() -> None:
        for blocking in (client.catalogue, lambda: client.make(**LAKE), client.close):
            with pytest.raises(ClientLoopError, match=r"client\.remote"):
                blocking()
        await client.remote.catalogue()

    await asyncio.to_thread(client.wait, call())
    await asyncio.to_thread(client.close)


# --- copies --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda client: pickle.loads(pickle.dumps(client))],  # noqa: S301 - its own
)
def test_a_copy_of_a_client_has_environments_of_its_own(
    server: ServerProcess, copied: Callable[[EnvClient], EnvClient]
) -> None:
    with EnvClient(server.url, token="secret", max_batch=7) as client:
        env = client.make(**LAKE, seed=1)
        with copied(client) as another:
            assert another.remote._dispatch.settings == client.remote._dispatch.settings
            assert another.remote._transport._headers == client.remote._transport._headers
            another.make(**LAKE)
            assert another.run_id != client.run_id
        assert env.state()["seq"] == 0


def test_environments_are_not_copied(server: ServerProcess) -> None:
    remote = RemoteEnv(server.url, "frozen_lake")
    vector = RemoteVectorEnv(server.url, "frozen_lake", 2)
    for env in (remote, remote._env.remote, vector):
        for copied in (copy.deepcopy, pickle.dumps):
            with pytest.raises(TypeError, match="attach"):
                copied(env)
    remote.close()
    vector.close()


# --- closing -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batching", [True, False], ids=["shared", "plain"])
def test_closing_ends_the_calls_of_other_threads(
    server: ServerProcess, tmp_path: Path, micro_batching: bool
) -> None:
    client = EnvClient(server.url, micro_batching=micro_batching)
    env = client.make(GATED)
    action = {"entered": str(tmp_path / "entered"), "gate": str(tmp_path / "gate")}
    errors: list[BaseException] = []

    def step() -> None:
        try:
            env.step(action)
        except BaseException as error:  # noqa: BLE001 - it is what is looked at
            errors.append(error)

    waiting = threading.Thread(target=step)
    waiting.start()
    eventually((tmp_path / "entered").exists)
    closing = threading.Thread(target=client.close)
    closing.start()
    waiting.join(HANG_S)
    (tmp_path / "gate").touch()
    closing.join(HANG_S)
    assert not waiting.is_alive()
    assert not closing.is_alive()
    assert [type(error) for error in errors] == [ClientClosedError]


def test_closing_ends_what_plays(server: ServerProcess) -> None:
    client = EnvClient(server.url)
    is_asked = threading.Event()
    errors: list[BaseException] = []

    async def think_forever(*_: object, **__: object) -> str:
        is_asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    def play() -> None:
        try:
            client.play(think_forever, "frozen_lake")
        except BaseException as error:  # noqa: BLE001 - it is what is looked at
            errors.append(error)

    playing = threading.Thread(target=play)
    playing.start()
    assert is_asked.wait(HANG_S)
    client.close()
    playing.join(HANG_S)
    assert not playing.is_alive()
    assert [type(error) for error in errors] == [ClientClosedError]


def test_nothing_is_closed_at_a_server_that_never_was_there() -> None:
    port = free_port()
    client = EnvClient(f"http://127.0.0.1:{port}", deadline_s=0.5, close_deadline_s=1.0)
    with pytest.raises(ServerUnreachableError):
        client.make(**LAKE)
    with socket.create_server(("127.0.0.1", port)) as listener:
        client.close()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.accept()


def test_a_server_that_never_answered_is_not_waited_for_when_closing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        client = EnvClient(f"http://127.0.0.1:{port}", deadline_s=0.5, close_deadline_s=NEVER_S)
        with pytest.raises(ServerUnreachableError):
            client.make(**LAKE)
        closing = threading.Thread(target=client.close, daemon=True)
        closing.start()
        closing.join(HANG_S)
        assert not closing.is_alive()


@pytest.mark.parametrize(
    ("given", "close_deadline_s"),
    [({}, 10), ({"deadline_s": 4}, 4), ({"deadline_s": 4, "close_deadline_s": 7}, 7)],
)
def test_closing_takes_no_longer_than_a_call_unless_it_is_told_to(
    given: dict[str, Any], close_deadline_s: float
) -> None:
    way = transport.Transport("http://127.0.0.1:1", None, 1.0, 1, 1)
    assert Dispatch(way, Settings(**given)).close_deadline_s == close_deadline_s
