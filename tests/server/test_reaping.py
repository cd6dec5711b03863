"""Idle environments are closed; nothing keeps that from going on."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from tests.server.conftest import LAKE, MakeClient, Problem, app_of
from tests.waiting import no_hang


async def closed(client: httpx.AsyncClient, env_id: str) -> httpx.Response:
    """The answer about an environment once it is gone; looking does not keep it alive."""
    async with no_hang():
        while (answer := await client.get(f"/api/environment/{env_id}")).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return answer


async def test_an_idle_environment_is_closed_after_its_ttl(
    client: httpx.AsyncClient, initialize: Any, problem: Problem
) -> None:
    kept = await initialize(client)
    # The reaper already sleeps towards the default ttl when a shorter one comes.
    env_id = await initialize(client, ttl_s=0.2)
    found = problem(await closed(client, env_id), 404, "environment_closed")
    assert found["reason"] == "idle"
    assert (await client.get(f"/api/environment/{kept}")).status_code == 200
    assert app_of(client).env_host.env_table.closed[LAKE, "idle"] == 1


async def test_the_servers_own_ttl_holds_where_none_is_given(
    make_client: MakeClient, initialize: Any
) -> None:
    client = await make_client(host={"default_ttl_s": 0.2})
    env_id = await initialize(client)
    assert (await closed(client, env_id)).json()["reason"] == "idle"


async def test_a_tiny_ttl_does_not_keep_the_reaper_busy(client: httpx.AsyncClient, initialize: Any) -> None:
    host = app_of(client).env_host
    await initialize(client, ttl_s=1e-9)
    await asyncio.sleep(0)
    looks = 0
    reap = host.reap

    async def counted() -> int:
        nonlocal looks
        looks += 1
        return await reap()

    # Watched, not replaced.
    host.reap = counted  # type: ignore[method-assign]
    await asyncio.sleep(0.5)
    assert 1 <= looks <= 6


async def test_the_reaper_rests_longer_than_it_works(client: httpx.AsyncClient, initialize: Any) -> None:
    host = app_of(client).env_host
    await initialize(client, ttl_s=0.1)
    looks = 0

    async def slow() -> int:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.1)
        return 0

    host.reap = slow  # type: ignore[method-assign]
    # One look of 0.1 s is followed by a rest of 0.9 s.
    await asyncio.sleep(0.8)
    assert looks == 1


async def test_reaping_goes_on_after_a_failure(
    make_client: MakeClient, initialize: Any, caplog: pytest.LogCaptureFixture
) -> None:
    client = await make_client(host={"default_ttl_s": 0.2})
    host = app_of(client).env_host
    reap, failures = host.reap, [RuntimeError("once")]

    async def failing() -> int:
        if failures:
            raise failures.pop()
        return await reap()

    host.reap = failing  # type: ignore[method-assign]
    env_id = await initialize(client)
    assert (await closed(client, env_id)).json()["reason"] == "idle"
    assert "closing idle environments failed" in caplog.text
