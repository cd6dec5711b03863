"""A primary, two replicas and three Sentinels on free ports of the loopback, ended by their process ids."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import redis

from tests.cluster.redis_process import RedisProcess, binary
from tests.ports import free_ports
from tests.waiting import eventually

SERVICE = "environments"
_DOWN_AFTER_MS = 1000


def sentinel_lines(host: str, port: int, primary: str, primary_port: int, folder: Path) -> list[str]:
    """The configuration of a Sentinel that watches a primary."""
    return [
        f"port {port}",
        f"bind {host}",
        f"dir {folder}",
        f"logfile {folder}/sentinel.log",
        "protected-mode no",
        f"sentinel monitor {SERVICE} {primary} {primary_port} 2",
        f"sentinel down-after-milliseconds {SERVICE} {_DOWN_AFTER_MS}",
        f"sentinel failover-timeout {SERVICE} 6000",
    ]


class Sentinel:
    """One Sentinel, which rewrites its file."""

    def __init__(self, folder: Path, port: int, primary_port: int) -> None:
        folder.mkdir()
        self.port = port
        config = folder / "sentinel.conf"
        lines = sentinel_lines("127.0.0.1", port, "127.0.0.1", primary_port, folder)
        config.write_text("\n".join(lines) + "\n", "utf-8")
        self._process = subprocess.Popen(
            [binary("redis-server"), str(config), "--sentinel"], stdout=subprocess.DEVNULL
        )

    def knows(self) -> dict[str, Any]:
        """Return what it says of the primary; empty as long as it does not answer."""
        try:
            with redis.Redis(port=self.port, decode_responses=True) as client:
                asked: Any = client.execute_command("SENTINEL", "MASTER", SERVICE)
        except redis.RedisError:
            return {}
        return asked if isinstance(asked, dict) else dict(zip(asked[::2], asked[1::2], strict=True))

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()


class RedisGroup:
    """All of them; the first server is the primary in the beginning."""

    def __init__(self, servers: list[RedisProcess], sentinels: list[Sentinel]) -> None:
        self.servers = servers
        self.sentinels = sentinels
        hosts = ",".join(f"127.0.0.1:{sentinel.port}" for sentinel in sentinels)
        self.url = f"redis+sentinel://{hosts}/{SERVICE}/0"

    @property
    def primary(self) -> RedisProcess:
        """The server that is the primary in the beginning."""
        return self.servers[0]

    def unlink(self) -> None:
        """Have the replicas lose their primary: what is written from now on is nowhere else."""
        for replica in self.servers[1:]:
            with redis.Redis(port=replica.port) as client:
                # The primary has no password, and refuses whoever shows one.
                client.config_set("masterauth", "none-is-asked-for")
        with redis.Redis(port=self.primary.port) as client:
            ask: Any = client.execute_command
            ask("CLIENT", "KILL", "TYPE", "replica")
            found: Any = client.info
            eventually(lambda: not found("replication")["connected_slaves"], what="the end of the links")

    def elected(self) -> int:
        """Return the port of the primary that the Sentinels agree on; 0 if they do not."""
        ports = {int(sentinel.knows().get("port", 0)) for sentinel in self.sentinels}
        return ports.pop() if len(ports) == 1 else 0

    def await_election(self) -> int:
        """Return the port of another primary as soon as one was elected."""
        elected: list[int] = []

        def is_elected() -> bool:
            elected.append(self.elected())
            return elected[-1] not in (0, self.primary.port)

        eventually(is_elected, what="the election of a primary")
        return elected[-1]


@contextmanager
def redis_group(folder: Path) -> Iterator[RedisGroup]:
    """Start all of them, with their files in ``folder``, and return when each knows the others."""
    with ExitStack() as stack:

        def server(name: str, *options: str) -> RedisProcess:
            home = folder / name
            home.mkdir(parents=True)
            process = RedisProcess(home, "--repl-diskless-sync-delay", "0", *options)
            stack.callback(process.stop)
            return process

        primary = server("primary")
        followed = ("--replicaof", f"127.0.0.1 {primary.port}")
        replicas = [server(f"replica-{number}", *followed) for number in range(2)]
        eventually(lambda: all(map(_is_linked, replicas)), what="the replicas' links")
        sentinels = []
        for number, port in enumerate(free_ports(3)):
            sentinel = Sentinel(folder / f"sentinel-{number}", port, primary.port)
            stack.callback(sentinel.stop)
            sentinels.append(sentinel)

        def know_each_other() -> bool:
            known = [sentinel.knows() for sentinel in sentinels]
            return all(
                int(one.get("num-other-sentinels", 0)) == 2 and int(one.get("num-slaves", 0)) == 2
                for one in known
            )

        eventually(know_each_other, what="the Sentinels' knowledge of each other")
        yield RedisGroup([primary, *replicas], sentinels)


def _is_linked(replica: RedisProcess) -> bool:
    with redis.Redis(port=replica.port) as client:
        found: Any = client.info("replication")
    return bool(found["master_link_status"] == "up")
