"""What the watcher does at each look, with a store that the test fills."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from verl_agent_env.cluster.nginx.config import NginxSettings
from verl_agent_env.cluster.nginx.watch import DebouncedSet, NginxWatch, ReloadError
from verl_agent_env.cluster.store import ClusterMap, WorkerRecord
from verl_agent_env.errors import StoreUnavailableError
from verl_agent_env.types import MANY_SLOTS

NOBODY = "nobody.invalid"


class MembershipSource:
    """A store with these workers."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.away = False
        self.num_slots = 0

    async def read_map(self, known: ClusterMap | None = None) -> ClusterMap:
        if self.away:
            raise StoreUnavailableError("redis://x")
        workers = {
            f"life-{index}": WorkerRecord(f"life-{index}", f"name-{index}", "node", "pool", address, 1)
            for index, address in enumerate(self.addresses)
        }
        return ClusterMap("g", 1, {}, workers, num_slots=self.num_slots)

    async def wait_for_change(self, version: int, timeout_s: float) -> int:
        raise AssertionError("a look does not wait")


class Scene:
    """A watcher, its file, what it said and how often nginx was told."""

    def __init__(
        self, folder: Path, members: MembershipSource | None, *planned: str, departed_after_s: float = 60.0
    ) -> None:
        self.path = folder / "nginx.conf"
        self.said: list[str] = []
        self.reloads = 0
        self.refusal = ""
        self.watch = NginxWatch(
            NginxSettings(planned, folder),
            self.path,
            members=members,
            reload=self._reload,
            departed_after_s=departed_after_s,
            say=self.said.append,
        )

    @property
    def declared(self) -> list[str]:
        """Addresses in the file's first group of workers."""
        group = self.path.read_text("utf-8").partition("upstream env_any_worker")[0]
        return [line.split()[1] for line in group.splitlines() if line.strip().startswith("server ")]

    def _reload(self) -> None:
        if self.refusal:
            raise ReloadError(self.refusal)
        self.reloads += 1


@pytest.fixture
def scene(tmp_path: Path) -> Callable[..., Scene]:
    """Makes a scene in the test's own folder."""
    return lambda *arguments, **options: Scene(tmp_path, *arguments, **options)


async def test_planned_workers_stand_in_the_file_before_they_live(scene: Callable[..., Scene]) -> None:
    seen = scene(MembershipSource(), "127.0.0.1:1", "127.0.0.1:2")
    await seen.watch.look()
    assert seen.declared == ["127.0.0.1:1", "127.0.0.1:2"]
    assert seen.reloads == 1


async def test_an_unplanned_worker_is_added_and_nothing_happens_without_a_change(
    scene: Callable[..., Scene],
) -> None:
    members = MembershipSource("127.0.0.1:1")
    seen = scene(members, "127.0.0.1:1")
    await seen.watch.look()
    members.addresses = ("127.0.0.1:1", "127.0.0.1:9", "no; address:1")
    await seen.watch.look()
    written = seen.path.stat().st_mtime_ns
    for _ in range(3):
        await seen.watch.look()
    assert seen.declared == ["127.0.0.1:1", "127.0.0.1:9"]
    assert (seen.reloads, seen.path.stat().st_mtime_ns) == (2, written)


async def test_slots_are_as_many_as_the_cluster_has(scene: Callable[..., Scene]) -> None:
    members = MembershipSource("127.0.0.1:1")
    seen = scene(members, "127.0.0.1:1")
    # As long as nobody has joined, those of the settings.
    await seen.watch.look()
    assert "[0-9a-f]{3})" in seen.path.read_text("utf-8")
    members.num_slots = MANY_SLOTS
    for _ in range(2):
        await seen.watch.look()
    assert "[0-9a-f]{4})" in seen.path.read_text("utf-8")
    assert seen.reloads == 2
    assert len([line for line in seen.said if str(MANY_SLOTS) in line]) == 1


@pytest.mark.parametrize(("departed_after_s", "left"), [(60.0, 2), (0.0, 1)])
async def test_an_unplanned_worker_that_ended_goes_after_a_while(
    scene: Callable[..., Scene], departed_after_s: float, left: int
) -> None:
    members = MembershipSource("127.0.0.1:9")
    seen = scene(members, "127.0.0.1:1", departed_after_s=departed_after_s)
    await seen.watch.look()
    members.addresses = ()
    await seen.watch.look()
    await seen.watch.look()
    assert len(seen.declared) == left


async def test_while_redis_is_away_the_file_stays_and_one_line_says_so(scene: Callable[..., Scene]) -> None:
    members = MembershipSource("127.0.0.1:9")
    seen = scene(members, "127.0.0.1:1", departed_after_s=0.0)
    await seen.watch.look()
    seen.said.clear()
    members.away = True
    for _ in range(3):
        await seen.watch.look()
    assert len(seen.said) == 1
    assert "redis://x" in seen.said[0]
    assert seen.declared == ["127.0.0.1:1", "127.0.0.1:9"]
    members.away = False
    await seen.watch.look()
    await seen.watch.look()
    assert len(seen.said) == 2
    assert seen.reloads == 1


async def test_a_watcher_that_starts_while_redis_is_away_leaves_the_file_alone(
    scene: Callable[..., Scene],
) -> None:
    members = MembershipSource("127.0.0.1:9")
    await scene(members, "127.0.0.1:1").watch.look()
    members.away = True
    again = scene(members, "127.0.0.1:1")
    await again.watch.look()
    assert (again.declared, again.reloads) == (["127.0.0.1:1", "127.0.0.1:9"], 0)


async def test_the_first_file_is_written_without_redis(scene: Callable[..., Scene]) -> None:
    members = MembershipSource()
    members.away = True
    seen = scene(members, "127.0.0.1:1")
    await seen.watch.look()
    assert seen.declared == ["127.0.0.1:1"]


async def test_a_host_without_an_address_is_left_out(scene: Callable[..., Scene]) -> None:
    seen = scene(None, f"{NOBODY}:1", "localhost:1", "127.0.0.1:1")
    await seen.watch.look()
    assert seen.declared == ["127.0.0.1:1", "localhost:1"]
    assert "# 127.0.0.1" in seen.path.read_text("utf-8")


async def test_another_address_of_a_host_is_a_change(
    scene: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    addresses = ["10.0.0.1"]

    def lookup(host: str, *_: Any, **__: Any) -> list[Any]:
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (found, 0)) for found in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", lookup)
    seen = scene(None, "node-1:8001", departed_after_s=60.0)
    await seen.watch.look()
    # Away for a moment, as while its container starts again: nginx need not know.
    addresses.clear()
    await seen.watch.look()
    assert (seen.declared, seen.reloads) == (["node-1:8001"], 1)
    addresses.append("10.0.0.2")
    await seen.watch.look()
    assert seen.reloads == 2
    assert "10.0.0.2" in seen.path.read_text("utf-8")


async def test_the_last_workers_are_never_taken_out(scene: Callable[..., Scene]) -> None:
    members = MembershipSource("127.0.0.1:9")
    seen = scene(members, departed_after_s=0.0)
    await seen.watch.look()
    members.addresses = ()
    await seen.watch.look()
    assert (seen.declared, seen.reloads) == (["127.0.0.1:9"], 1)


async def test_nothing_known_yet_is_a_file_that_nginx_can_start_with(scene: Callable[..., Scene]) -> None:
    members = MembershipSource()
    seen = scene(members, f"{NOBODY}:1")
    await seen.watch.look()
    assert "down;" in seen.path.read_text("utf-8")
    members.addresses = ("127.0.0.1:9",)
    await seen.watch.look()
    assert seen.declared == ["127.0.0.1:9"]


async def test_a_reload_that_failed_is_tried_again_and_said_once(scene: Callable[..., Scene]) -> None:
    seen = scene(None, "127.0.0.1:1")
    seen.refusal = "no such process."
    for _ in range(3):
        await seen.watch.look()
    assert len([line for line in seen.said if "no such process" in line]) == 1
    seen.refusal = ""
    await seen.watch.look()
    await seen.watch.look()
    assert seen.reloads == 1


async def test_prometheus_gets_the_same_workers(tmp_path: Path) -> None:
    targets = tmp_path / "targets.json"
    members = MembershipSource("127.0.0.1:9")
    settings = NginxSettings(("127.0.0.1:1",), tmp_path)
    watch = NginxWatch(settings, tmp_path / "nginx.conf", members=members, targets=targets)
    await watch.look()
    listed = orjson.loads(targets.read_bytes())
    assert [target for entry in listed for target in entry["targets"]] == ["127.0.0.1:1", "127.0.0.1:9"]
    assert {entry["labels"]["node"] for entry in listed} == {"127.0.0.1"}


async def test_a_file_that_cannot_be_written_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    said: list[str] = []
    watch = NginxWatch(
        NginxSettings(("127.0.0.1:1",), tmp_path), tmp_path / "file" / "nginx.conf", say=said.append
    )
    await watch.look()
    await watch.look()
    (line,) = said
    assert "Cannot write" in line


def test_who_is_back_in_time_was_never_away() -> None:
    now = 0.0
    there = DebouncedSet(10.0, lambda: now)
    assert there.see({"a": "1", "b": "1"}) == {"a": "1", "b": "1"}
    now = 100.0
    # The time before this look was nobody's absence.
    assert there.see({"a": "2"}) == {"a": "2", "b": "1"}
    now = 109.0
    assert there.see({"a": "2", "b": "3"}) == {"a": "2", "b": "3"}
    now = 118.0
    assert there.see({"a": "2"}) == {"a": "2", "b": "3"}
    now = 128.0
    assert there.see({"a": "2"}) == {"a": "2"}
