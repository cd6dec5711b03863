"""A worker that has calls and falls silent is given up; one that answers is waited for as long as it takes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator

import pytest

from tests.sim.virtual_loop import VirtualLoop
from verl_agent_env import waits
from verl_agent_env.server.cluster.peer_watch import ANSWER_S, PeerWatch


class Peer:
    """A worker at made-up times."""

    def __init__(self, loop: VirtualLoop) -> None:
        self.loop = loop
        self.is_silent = False
        self.questions = 0

    async def is_there(self) -> bool:
        self.questions += 1
        is_silent = self.is_silent
        await asyncio.sleep(ANSWER_S if is_silent else 0.01)
        return not is_silent

    async def call(self, watch: PeerWatch, takes_s: float) -> float:
        """How long a call took; raises TimeoutError when it was given up."""
        began = self.loop.time()
        async with asyncio.timeout(None) as limit:
            with watch.during(limit):
                await asyncio.sleep(takes_s)
        return self.loop.time() - began

    def run(self, play: Callable[[PeerWatch], Awaitable[None]]) -> None:
        async def whole() -> None:
            watch = PeerWatch(self.is_there)
            watching = asyncio.create_task(watch.run())
            await play(watch)
            watching.cancel()

        self.loop.run_until_complete(whole())


@pytest.fixture
def peer() -> Iterator[Peer]:
    loop = VirtualLoop()
    yield Peer(loop)
    loop.end()


def test_worker_that_is_there_is_waited_for(peer: Peer) -> None:
    async def play(watch: PeerWatch) -> None:
        assert await peer.call(watch, 3600.0) == 3600.0
        assert watch.heard_at == peer.loop.time()

    peer.run(play)
    assert peer.questions > 1000


def test_worker_that_falls_silent_is_given_up_with_all_its_calls(peer: Peer) -> None:
    async def play(watch: PeerWatch) -> None:
        calls = [asyncio.create_task(peer.call(watch, 3600.0)) for _ in range(5)]
        await asyncio.sleep(60.0)
        peer.is_silent = True
        silent_at = peer.loop.time()
        await asyncio.wait(calls)
        assert peer.loop.time() - silent_at <= waits.PEER_SILENCE_S
        assert watch.heard_at is not None
        assert watch.heard_at <= silent_at + 0.1
        for call in calls:
            assert isinstance(call.exception(), TimeoutError)

    peer.run(play)


def test_worker_that_was_silent_from_the_first_is_given_up_in_time(peer: Peer) -> None:
    async def play(watch: PeerWatch) -> None:
        peer.is_silent = True
        began = peer.loop.time()
        with pytest.raises(TimeoutError):
            await peer.call(watch, 3600.0)
        assert peer.loop.time() - began <= waits.PEER_SILENCE_S
        assert watch.heard_at is None

    peer.run(play)


def test_call_that_began_after_the_question_is_not_given_up_by_it(peer: Peer) -> None:
    async def play(watch: PeerWatch) -> None:
        peer.is_silent = True
        first = asyncio.create_task(peer.call(watch, 3600.0))
        await asyncio.sleep(waits.PEER_SILENCE_S - 0.5)
        peer.is_silent = False
        second = await peer.call(watch, 60.0)
        assert second == 60.0
        assert isinstance(first.exception(), TimeoutError)

    peer.run(play)


def test_call_that_ends_slowly_when_it_is_given_up_does_not_end_the_watch(peer: Peer) -> None:
    async def slow_end(watch: PeerWatch) -> None:
        async with asyncio.timeout(None) as limit:
            with watch.during(limit):
                try:
                    await asyncio.sleep(3600.0)
                finally:
                    await asyncio.sleep(5 * waits.PEER_SILENCE_S)

    async def play(watch: PeerWatch) -> None:
        peer.is_silent = True
        slow = asyncio.create_task(slow_end(watch))
        await asyncio.sleep(2 * waits.PEER_SILENCE_S)
        with pytest.raises(TimeoutError):
            await peer.call(watch, 3600.0)
        with pytest.raises(TimeoutError):
            await slow

    peer.run(play)


def test_short_calls_ask_for_nothing(peer: Peer) -> None:
    async def play(watch: PeerWatch) -> None:
        for _ in range(100):
            await peer.call(watch, waits.PEER_LOOK_S / 2)

    peer.run(play)
    assert peer.questions == 0


def test_worker_that_is_not_called_any_more_is_not_watched_any_more(peer: Peer) -> None:
    async def play(_: PeerWatch) -> None:
        watch = PeerWatch(peer.is_there)
        async with asyncio.timeout(120.0):
            await watch.run()

    peer.run(play)
