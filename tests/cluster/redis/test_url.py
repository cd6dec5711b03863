"""URLs of a Redis are read, and what is wrong with them is said without their secrets."""

from __future__ import annotations

from pathlib import Path

import pytest

from verl_agent_env.cluster.redis.client import RedisClient
from verl_agent_env.cluster.redis.limits import RedisLimits
from verl_agent_env.cluster.redis.url import RedisUrl, SentinelGroup, in_order


@pytest.mark.parametrize(
    ("url", "where", "plain"),
    [
        ("redis://host", "redis://host:6379/0", "redis://host"),
        ("redis://u:se%40cret@host:1/2", "redis://host:1/2", "redis://u:se%40cret@host:1/2"),
        ("rediss://[::1]:1/0?ssl_ca_certs=ca", "rediss://::1:1/0", "rediss://[::1]:1/0?ssl_ca_certs=ca"),
        ("unix:///run/redis.sock?db=1&wait=0", "unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("unix:///run/a%20b?db=0", "unix:///run/a b", "unix:///run/a%20b?db=0"),
        ("redis://HOST/7?db=03", "redis://host:6379/3", "redis://HOST/7?db=03"),
    ],
)
def test_one_server(url: str, where: str, plain: str) -> None:
    read = RedisUrl.parse(url)
    assert (read.where, read.plain, read.sentinels, read.replicas) == (where, plain, None, 0)


def test_a_group_of_sentinels_with_passwords_of_their_own() -> None:
    url = (
        "rediss+sentinel://user:se%2Fcret@a:1,b,[::1]:3/environments/2"
        "?ssl_ca_certs=ca.pem&wait=1&sentinel_username=watch&sentinel_password=o%26ther"
    )
    read = RedisUrl.parse(url)
    assert read.where == "rediss+sentinel://a:1,b:26379,[::1]:3/environments/2"
    assert read.plain == "rediss://user:se%2Fcret@a:1/2?ssl_ca_certs=ca.pem"
    addresses = (("a", 1), ("b", 26379), ("::1", 3))
    assert read.sentinels == SentinelGroup(addresses, "environments", "watch", "o&ther")
    assert read.replicas == 1
    assert "o&ther" not in repr(read)
    assert "se%2Fcret" not in repr(read)


def test_user_and_password_are_read_from_files(tmp_path: Path) -> None:
    for name, text in (("user", "trainer"), ("password", "p@ss/word\n"), ("watch", "o&ther\r\n")):
        (tmp_path / name).write_bytes(text.encode())
    files = f"username_file={tmp_path}/user&password_file={tmp_path}/password"
    assert RedisUrl.parse(f"redis://host/1?{files}").plain == "redis://trainer:p%40ss%2Fword@host/1"
    url = f"redis+sentinel://host/service?{files}&sentinel_password_file={tmp_path}/watch"
    read = RedisUrl.parse(url)
    assert read.plain == "redis://trainer:p%40ss%2Fword@host:26379/0"
    assert read.sentinels is not None
    assert read.sentinels.password == "o&ther"
    with pytest.raises(ValueError, match="/none' that the Redis URL names cannot be read: No such file"):
        RedisUrl.parse(f"redis://host?password_file={tmp_path}/none")
    with pytest.raises(ValueError, match="cannot be read: write"):
        RedisUrl.parse(f"redis://:secret@host?{files}")


@pytest.mark.parametrize(("failover", "fails_over"), [("yes", True), ("no", False)])
def test_a_provider_s_primary_may_fail_over(failover: str, fails_over: bool) -> None:
    assert RedisUrl.parse(f"rediss://host?failover={failover}").fails_over is fails_over


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://host",
        "redis://:secret@host:port/0",
        "redis://:secret@host/zero",
        "redis://:secret@host?unknown=1",
        "redis://:secret@host?db=-1",
        "redis://:secret@host/zero?db=1",
        "unix:///secret?db=one",
        "redis://user:12#secret@host/0",
        "redis://:secret@host?ssl_ca_certs=ca.pem",
        "rediss://:secret@host?ssl_cert_reqs=perhaps",
        "rediss://:secret@host?ssl_min_version=1",
        "redis://:secret@host?wait=-1",
        "redis://:secret@host?wait=1&wait=2",
        "redis://:secret@host?sentinel_password=secret",
        "redis://:secret@host?failover=maybe",
        "redis+sentinel://:secret@host",
        "redis+sentinel://:secret@host/",
        "redis+sentinel://:secret@host/a b/0",
        "redis+sentinel://:secret@host,/service",
        "redis+sentinel://:secret@host:0/service",
        "redis+sentinel://:secret@host:99999/service",
        "redis+sentinel://:secret@host/service/zero",
        "redis+sentinel://",
        "http+sentinel://:secret@host/service",
    ],
)
def test_what_is_no_url_is_told_the_forms_and_never_the_password(url: str) -> None:
    with pytest.raises(ValueError, match="cannot be read") as caught:
        RedisClient(url, RedisLimits())
    assert "secret" not in str(caught.value)
    assert "redis+sentinel://" in str(caught.value)


@pytest.mark.parametrize(
    "url", ["redis://log/{}", "redis://log?db={}", "unix:///run/log?db={}", "redis+sentinel://s/log?db={}"]
)
def test_databases_of_one_server_are_as_many_places_however_they_are_given(url: str) -> None:
    urls = [url.format(number) for number in range(12)]
    assert sorted(in_order(urls)) == sorted(urls)
    assert in_order(urls[::-1]) == in_order(urls)
    with pytest.raises(ValueError, match="must be another one"):
        in_order([*urls, url.format("07")])


def test_a_database_is_the_one_that_is_connected_to() -> None:
    for url in ("redis://host/7?db=3", "redis://host/3", "unix:///run/log?db=3"):
        client = RedisClient(url, RedisLimits())
        assert client.redis.connection_pool.connection_kwargs["db"] == 3
        assert client.where in ("redis://host:6379/3", "unix:///run/log?db=3")
    with pytest.raises(ValueError, match="must be another one"):
        in_order(["redis://host/7?db=3", "redis://HOST:6379/3"])


def test_files_of_tls_that_are_of_no_use_are_named(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no certificate")
    for url, words in (
        (
            f"rediss://:secret@host?ssl_ca_certs={tmp_path}/none",
            "/none', which .* cannot be used: No such file",
        ),
        (f"rediss://:secret@host?ssl_ca_certs={tmp_path}/text", "/text', which .* cannot be used: "),
        (
            f"rediss+sentinel://:secret@host/service?ssl_certfile={tmp_path}/none&ssl_keyfile={tmp_path}/text",
            "/none' and '.*/text', which .* cannot be used: No such file",
        ),
    ):
        with pytest.raises(ValueError, match=words) as caught:
            RedisClient(url, RedisLimits())
        assert "secret" not in str(caught.value)
