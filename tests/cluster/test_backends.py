"""Which back end a URL opens, and that all its parts use one data set."""

from __future__ import annotations

import uuid

import pytest

from tests.cluster.redis_process import RedisProcess
from tests.cluster.workers import worker
from verl_agent_env.cluster.backends import BackendOptions, open_backend
from verl_agent_env.cluster.idempotency import IdempotencyRecord
from verl_agent_env.cluster.memory.store import MemoryStore
from verl_agent_env.cluster.redis.store import RedisStore
from verl_agent_env.types import slot_of
from verl_agent_env.wire.records import Write

ENV_ID = f"00a-{'0' * 32}"


@pytest.mark.parametrize("kind", ["memory", "redis"])
async def test_store_log_and_keys_of_a_backend_are_one_data_set(
    kind: str, redis_server: RedisProcess
) -> None:
    url = "" if kind == "memory" else redis_server.url
    backend = open_backend(url, BackendOptions(uuid.uuid4().hex))
    try:
        record = worker()
        beat = await backend.store.heartbeat(record, 60.0)
        tokens = await backend.store.claim(record.incarnation, [slot_of(ENV_ID)])
        write = Write("create", ENV_ID, slot_of(ENV_ID), 0, 0, b"header")
        assert await backend.logs[0].log.commit(beat.generation, tokens, [write]) == []
        assert await backend.log.env_ids([slot_of(ENV_ID)]) == [ENV_ID]
        kept = IdempotencyRecord("fingerprint", "nonce")
        assert await backend.idempotency.claim("key", kept) == kept
    finally:
        await backend.aclose()


async def test_namespaces_of_one_url_are_different_data_sets(redis_server: RedisProcess) -> None:
    one, other = (open_backend(redis_server.url, BackendOptions(uuid.uuid4().hex)) for _ in range(2))
    try:
        await one.store.heartbeat(worker(), 60.0)
        assert (await one.store.read_map()).workers
        assert not (await other.store.read_map()).workers
    finally:
        await one.aclose()
        await other.aclose()


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("", MemoryStore),
        ("redis://somewhere:6379/0", RedisStore),
        ("rediss://somewhere", RedisStore),
        ("unix:///run/redis.sock", RedisStore),
    ],
)
async def test_the_scheme_of_the_url_chooses(url: str, kind: type) -> None:
    assert isinstance(open_backend(url).store, kind)


@pytest.mark.parametrize("url", ["ftp://user:hidden@somewhere", "somewhere:6379", "redis://"])
def test_another_url_is_one_sentence_without_its_password(url: str) -> None:
    with pytest.raises(ValueError, match=r"redis://\[user:password@\]host:port/0") as caught:
        open_backend(url)
    assert "hidden" not in str(caught.value)
