"""The trial before a node joins finds every command and right that is missing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis

from tests.cluster.redis_process import RedisProcess
from tests.ports import free_ports
from tests.waiting import eventually
from verl_agent_env.cluster.backends import open_backend
from verl_agent_env.cluster.redis import log_scripts, scripts
from verl_agent_env.cluster.redis.keys import Keys
from verl_agent_env.cluster.redis.limits import RedisLimits
from verl_agent_env.cluster.redis.rehearsal import rehearse
from verl_agent_env.errors import StoreUnavailableError

LIMITS = RedisLimits(call_s=60.0)
TEXTS = [
    value.text
    for module in (scripts, log_scripts)
    for value in vars(module).values()
    if isinstance(value, scripts.Script)
]
COMMANDS = sorted({word.lower() for text in TEXTS for word in re.findall(r"redis\.p?call\(\s*'(\w+)'", text)})
RARE = {"zrangebyscore", "zrem"}
"""Used only when a worker has died; whoever may write a sorted set may do this as well."""


@pytest.fixture
def admin(redis_server: RedisProcess) -> Iterator[redis.Redis]:
    with redis.Redis(port=redis_server.port) as client:
        yield client
        client.acl_deluser("limited")


async def refused(server: RedisProcess, admin: redis.Redis, *rights: str) -> str:
    """Say why a trial with these rights fails; empty if it does not."""
    setuser: Any = admin.execute_command
    setuser("ACL", "SETUSER", "limited", "reset", "on", ">word", *rights)
    try:
        url = f"redis://limited:word@127.0.0.1:{server.port}/0"
        await rehearse(url, Keys().namespace, LIMITS, keeps_episodes=True)
    except StoreUnavailableError as error:
        return error.detail
    return ""


async def test_all_rights_are_enough_and_nothing_stays(
    redis_server: RedisProcess, admin: redis.Redis
) -> None:
    before = set(admin.keys("*:trial-*"))
    assert await refused(redis_server, admin, "~{verl_agent_env}:*", "&{verl_agent_env}:*", "+@all") == ""
    left = set(admin.keys("*:trial-*")) - before
    # These are known for a while, by design.
    assert all(0 < admin.ttl(key) <= 600 for key in left)


@pytest.mark.parametrize("command", [*sorted(set(COMMANDS) - RARE), "eval", "evalsha"])
async def test_a_command_that_is_not_permitted_is_found(
    command: str, redis_server: RedisProcess, admin: redis.Redis
) -> None:
    assert "not permit" in await refused(redis_server, admin, "~*", "&*", "+@all", f"-{command}")


@pytest.mark.parametrize("rights", [["~other:*", "&*", "+@all"], ["~*", "resetchannels", "+@all"]])
async def test_keys_and_channels_that_are_not_permitted_are_found(
    rights: list[str], redis_server: RedisProcess, admin: redis.Redis
) -> None:
    assert "not permit" in await refused(redis_server, admin, *rights)


async def test_a_renamed_command_is_found(tmp_path_factory: pytest.TempPathFactory) -> None:
    server = RedisProcess(tmp_path_factory.mktemp("renamed"), "--rename-command", "HSET", "")
    try:
        with pytest.raises(StoreUnavailableError, match="renamed or disabled"):
            await rehearse(server.url, Keys().namespace, LIMITS)
    finally:
        server.stop()


async def test_a_full_redis_keeps_nobody_away(own_redis: RedisProcess) -> None:
    own_redis.fill()
    await rehearse(own_redis.url, Keys().namespace, LIMITS)


@pytest.mark.parametrize(
    ("url", "words"),
    [("redis://127.0.0.1:{}/99", "no database"), ("redis://u:wrong@127.0.0.1:{}/0", "user or password")],
)
async def test_what_is_wrong_with_the_url_is_said(url: str, words: str, redis_server: RedisProcess) -> None:
    with pytest.raises(StoreUnavailableError, match=words):
        await rehearse(url.format(redis_server.port), Keys().namespace, LIMITS)


async def test_tls_to_a_plain_port_is_named(redis_server: RedisProcess) -> None:
    with pytest.raises(StoreUnavailableError, match="TLS"):
        await rehearse(
            f"rediss://127.0.0.1:{redis_server.port}/0",
            Keys().namespace,
            RedisLimits(connect_s=0.5, call_s=0.5),
        )


async def test_memory_needs_no_rights() -> None:
    backend = open_backend("")
    await backend.rehearse()
    await backend.aclose()


async def test_settings_that_may_lose_data_are_said(own_redis: RedisProcess) -> None:
    with redis.Redis(port=own_redis.port) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
        told = await rehearse(own_redis.url, Keys().namespace, LIMITS)
        assert [sentence.partition(":")[0] for sentence in told] == [
            "Redis deletes environments when it is full"
        ]
        client.config_set("maxmemory-policy", "noeviction")
        assert not await rehearse(own_redis.url, Keys().namespace, LIMITS)
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.acl_setuser("limited", enabled=True, passwords=["+word"], keys=["*"], channels=["*"], categories=["+@all"], commands=["-config"])  # fmt: skip
    told = await rehearse(f"redis://limited:word@127.0.0.1:{own_redis.port}/0", Keys().namespace, LIMITS)
    assert not told


async def test_two_logs_that_are_one_are_found_whatever_they_are_called(redis_server: RedisProcess) -> None:
    spellings = [f"redis://{host}:{redis_server.port}/0" for host in ("127.0.0.1", "localhost", "127.0.0.1")]
    url, *logs = spellings
    with pytest.raises(StoreUnavailableError, match="another --redis-log leads to the same database"):
        await rehearse(url, Keys().namespace, LIMITS, logs)
    # Other databases of one server are others, and the one in which nodes meet may keep a log as well.
    assert not await rehearse(url, Keys().namespace, LIMITS, [url, f"{logs[0][:-1]}1"])


async def test_a_node_of_a_redis_cluster_is_tried_with_the_keys_that_it_has(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    with ExitStack() as stack:
        clients: list[Any] = []
        servers = []
        for bus in free_ports(2):
            options = ("--cluster-enabled", "yes", "--cluster-port", str(bus))
            servers.append(RedisProcess(tmp_path_factory.mktemp("node"), *options))
            stack.callback(servers[-1].stop)
            clients.append(stack.enter_context(redis.Redis(port=servers[-1].port, decode_responses=True)))
        ask, other = (client.execute_command for client in clients)
        has, lacks = (ask("CLUSTER", "KEYSLOT", f"{{{name}}}") for name in ("has", "lacks"))
        assert has != lacks
        ask("CLUSTER", "ADDSLOTS", *(slot for slot in range(16_384) if slot != lacks))
        other("CLUSTER", "ADDSLOTS", lacks)
        ask("CLUSTER", "MEET", "127.0.0.1", servers[1].port, bus)
        eventually(lambda: "cluster_state:ok" in str(ask("CLUSTER", "INFO")), what="the Redis Cluster")
        url = servers[0].url
        await rehearse(url, "has", LIMITS)
        with pytest.raises(StoreUnavailableError, match=rf"another node .* \(127.0.0.1:{servers[1].port}\)"):
            await rehearse(url, "lacks", LIMITS)
        with pytest.raises(StoreUnavailableError, match="whose only database is 0"):
            await rehearse(f"{url[:-1]}1", "has", LIMITS)


async def test_replicas_that_are_not_there_are_named(own_redis: RedisProcess) -> None:
    # Redis knows none of the scripts yet.
    with pytest.raises(StoreUnavailableError, match="0 replicas have the last write, of 2 that must"):
        await rehearse(f"{own_redis.url}?wait=2", Keys().namespace, RedisLimits(call_s=6.0))


async def test_what_a_sentinel_says_instead_of_a_primary_is_passed_on(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisProcess
) -> None:
    guarded = RedisProcess(tmp_path_factory.mktemp("guarded"), "--requirepass", "word")
    try:
        for port, options, words in (
            (guarded.port, "?sentinel_password=wrong", "invalid username-password pair"),
            (redis_server.port, "", "unknown command 'SENTINEL'\\)"),
        ):
            url = f"redis+sentinel://127.0.0.1:{port}/environments{options}"
            with pytest.raises(StoreUnavailableError, match=f"watches 'environments' \\(it says: .*{words}"):
                await rehearse(url, Keys().namespace, LIMITS)
    finally:
        guarded.stop()
