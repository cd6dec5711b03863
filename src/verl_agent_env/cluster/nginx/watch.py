"""Keeps nginx's configuration in step with the workers that there are.

Declared are the planned workers, alive or not, and those that are alive without being planned. nginx refuses to start
while a host of its configuration has no address, and looks it up only then. So a worker whose host has none (its
container is not there yet) is left out, which is the same to the ring as a dead one; and when a host gets another
address, nginx has to read its configuration again.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import ipaddress
import socket
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import NoReturn, Protocol

import orjson

from verl_agent_env.cluster.nginx.config import NginxSettings, is_address, nginx_config, replace_file
from verl_agent_env.cluster.store import ClusterMap
from verl_agent_env.errors import StoreUnavailableError

_RESOLVE_S = 2.0
"""Within which a host's address must be found."""
_MIN_PAUSE_S = 0.1
"""Between two looks, however often the map changes."""


class MembershipSource(Protocol):
    """What is asked of a :class:`~verl_agent_env.cluster.store.Store`."""

    async def read_map(self) -> ClusterMap:
        """Everything, as of one moment."""

    async def wait_for_change(self, version: int, timeout_s: float) -> int:
        """The map's version as soon as it is another than ``version``, or after ``timeout_s``."""


class ReloadError(Exception):
    """nginx did not take the new configuration; the text says why."""


class DebouncedSet:
    """What is there, and what was until ``keep_s`` ago: a short absence is not acted upon."""

    def __init__(self, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._clock = clock
        self._values: dict[str, str] = {}
        self._absent_since: dict[str, float] = {}

    def see(self, present: Mapping[str, str]) -> dict[str, str]:
        """Note who is there now; returns all that count as there, each with its last value.

        The time of an absence counts from the first look that missed it: time without looks is nobody's absence.
        """
        now = self._clock()
        self._values.update(present)
        for name in self._values.keys() - present.keys():
            if now - self._absent_since.setdefault(name, now) >= self._keep_s:
                del self._values[name]
        self._absent_since = {
            name: since
            for name, since in self._absent_since.items()
            if name in self._values and name not in present
        }
        return dict(self._values)


class NginxWatch:
    """Rewrites nginx's configuration whenever it would be another one, and has nginx read it."""

    def __init__(
        self,
        settings: NginxSettings,
        path: Path,
        *,
        members: MembershipSource | None = None,
        targets: Path | None = None,
        reload: Callable[[], None] = lambda: None,
        departed_after_s: float = 60.0,
        poll_s: float = 1.0,
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        """Watch nothing yet.

        Args:
            settings: With the addresses of the planned workers.
            path: Of nginx's configuration.
            members: Who is alive; without it only the planned workers' hosts are followed.
            targets: File for the same workers as a list that Prometheus follows.
            reload: Called after each change of the text, again and again until it raises no :class:`ReloadError`.
            departed_after_s: How long one that is not planned stays declared after its end, and any host after it lost
                its address.
            poll_s: How often is looked at least.
            say: Is given one line for whatever a person should know, and one when it is over.
        """
        self._settings = settings
        self._path = path
        self._members = members
        self._targets = targets
        self._reload = reload
        self._poll_s = poll_s
        self._say = say
        self._joined = DebouncedSet(departed_after_s)
        self._hosts = DebouncedSet(departed_after_s)
        self._unplanned: Collection[str] = ()
        self._version: int | None = None
        self._must_reload = False
        self._troubles: dict[str, str] = {}

    async def run(self) -> NoReturn:
        """Watch until cancelled."""
        while True:
            await self.look()
            await asyncio.gather(asyncio.sleep(min(_MIN_PAUSE_S, self._poll_s)), self._wait())

    async def look(self) -> None:
        """Bring the file up to date once."""
        await self._read_members()
        declared = sorted({*self._settings.addresses, *self._unplanned})
        found = self._hosts.see(await _resolve({_host_of(address) for address in declared}))
        usable = tuple(address for address in declared if _host_of(address) in found)
        if self._may_write(usable):
            notes = {address: found[_host_of(address)] for address in usable}
            self._put(dataclasses.replace(self._settings, addresses=usable, notes=notes))
        if self._must_reload:
            self._try_reload()

    async def _read_members(self) -> None:
        if self._members is None:
            return
        trouble = ""
        try:
            state = await self._members.read_map()
        except StoreUnavailableError as away:
            trouble = f"{away} Until then nginx keeps the workers that it has."
        else:
            self._version = state.version
            alive = {worker.address: "" for worker in state.workers.values() if is_address(worker.address)}
            self._unplanned = self._joined.see(alive).keys() - set(self._settings.addresses)
        self._note("store", trouble, "The store is available again.")

    def _may_write(self, usable: Collection[str]) -> bool:
        if not self._path.exists():
            return True
        # An nginx without workers helps nobody; and before the first look at the members, workers that are not planned
        # stand in a file that is there already.
        return bool(usable) and (self._members is None or self._version is not None)

    def _put(self, settings: NginxSettings) -> None:
        try:
            # Never the same text again: a reload costs connections.
            if _replace_if_other(self._path, nginx_config(settings)):
                self._must_reload = True
                self._say(f"Wrote {self._path}: {len(settings.addresses)} workers.")
            if self._targets is not None:
                _replace_if_other(self._targets, prometheus_targets(settings.addresses))
        except OSError as refused:
            self._note("file", f"Cannot write {refused.filename}: {refused.strerror}. Trying again.", "")
        else:
            self._note("file", "", "Files can be written again.")

    def _try_reload(self) -> None:
        trouble = ""
        try:
            self._reload()
            self._must_reload = False
        except ReloadError as refused:
            trouble = f"nginx did not read its new configuration: {refused} Trying again."
        self._note("reload", trouble, "nginx has read its new configuration.")

    async def _wait(self) -> None:
        if self._members is None or self._version is None or "store" in self._troubles:
            await asyncio.sleep(self._poll_s)
            return
        with contextlib.suppress(StoreUnavailableError):
            await self._members.wait_for_change(self._version, self._poll_s)

    def _note(self, what: str, trouble: str, relief: str) -> None:
        """Say each trouble once, and that it is over."""
        if trouble and what not in self._troubles:
            self._say(trouble)
            self._troubles[what] = trouble
        elif not trouble and self._troubles.pop(what, ""):
            self._say(relief)


def prometheus_targets(addresses: Collection[str]) -> str:
    """The list of targets (``file_sd_configs``) that has Prometheus ask every worker at its own address."""
    targets = [{"targets": [address], "labels": {"node": _host_of(address)}} for address in sorted(addresses)]
    return orjson.dumps(targets, option=orjson.OPT_INDENT_2).decode() + "\n"


def _replace_if_other(path: Path, text: str) -> bool:
    """Put ``text`` in ``path`` unless it is there already; returns whether it was not."""
    if path.exists() and path.read_text("utf-8") == text:
        return False
    replace_file(path, text)
    return True


def _host_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


async def _resolve(hosts: Collection[str]) -> dict[str, str]:
    """What each host's name stands for; nothing for an address, and no entry for a name that stands for nothing."""
    found = await asyncio.gather(*map(_lookup, hosts))
    return {host: text for host, text in zip(hosts, found, strict=True) if text is not None}


async def _lookup(host: str) -> str | None:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return ""
    try:
        async with asyncio.timeout(_RESOLVE_S):
            answers = await asyncio.get_running_loop().getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # TimeoutError is an OSError.
        return None
    return " ".join(sorted({str(answer[4][0]) for answer in answers}))
