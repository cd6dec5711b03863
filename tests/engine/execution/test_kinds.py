"""Kinds are imported off the event loop, once, and what is wrong with them is said by who asks for them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests import batch_calls
from tests.waiting import HANG_S, no_hang, until
from verl_agent_env.engine import CreateRequest, Host, await_maybe
from verl_agent_env.engine.execution.kinds import KindLoader
from verl_agent_env.envs.registry import Registry
from verl_agent_env.errors import EnvironmentFailedError, UnknownEnvNameError


class Elsewhere:
    """Calls functions in threads, as soon as it may; notes which."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.calls: list[tuple[Any, ...]] = []

    async def __call__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.calls.append(arguments)
        await asyncio.to_thread(self.may.wait, HANG_S)
        await asyncio.to_thread(call, *arguments)


async def test_a_kind_is_loaded_once_by_all_who_ask_for_it(registry: Registry) -> None:
    elsewhere = Elsewhere()
    loader = KindLoader(registry, elsewhere)
    asking = [asyncio.create_task(loader.load(["probe/inline-v0", "probe/thread-v0"])) for _ in range(3)]
    async with no_hang():
        await until(lambda: bool(elsewhere.calls))
        assert not registry.is_loaded("probe/inline-v0")
        elsewhere.may.set()
        await asyncio.gather(*asking)
        await loader.load(["probe/inline-v0", "thread"])
    assert elsewhere.calls == [("probe/inline-v0",), ("probe/thread-v0",)]
    assert registry.is_loaded("inline")


async def test_who_stops_waiting_stops_nobody_else(registry: Registry) -> None:
    elsewhere = Elsewhere()
    loader = KindLoader(registry, elsewhere)
    leaving, staying = (asyncio.create_task(loader.load(["probe/inline-v0"])) for _ in range(2))
    async with no_hang():
        await until(lambda: bool(elsewhere.calls))
        leaving.cancel()
        elsewhere.may.set()
        await staying
    assert registry.is_loaded("probe/inline-v0")


@pytest.mark.parametrize(
    ("name", "error"), [("none", UnknownEnvNameError), ("probe/missing-v0", EnvironmentFailedError)]
)
async def test_what_is_wrong_with_a_kind_is_said_by_who_makes_environments(
    make_host: Callable[..., Host], name: str, error: type[Exception]
) -> None:
    host = make_host()
    with pytest.raises(error):
        await await_maybe(host.create(CreateRequest(name, 1)))
    (result,) = await batch_calls.create(host, [CreateRequest(name, 1)])
    assert isinstance(result, error)


async def test_environments_are_made_of_kinds_that_were_loaded_off_the_loop(
    make_host: Callable[..., Host], registry: Registry
) -> None:
    loop_thread = threading.get_ident()
    imported_in: list[int] = []

    class Watched(Registry):
        """Notes in which thread a kind is imported."""

        def kind(self, name: str) -> Any:
            if not self.is_loaded(name):
                imported_in.append(threading.get_ident())
            return super().kind(name)

    host = Host(Watched({spec.name: spec for spec in registry.specs()}), make_host().limits)
    await await_maybe(host.create(CreateRequest("probe/inline-v0", 1)))
    await batch_calls.create(host, [CreateRequest("probe/live_inline-v0", 1)] * 3)
    assert imported_in
    assert loop_thread not in imported_in
    await host.stop()
