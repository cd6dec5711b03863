"""A watcher that keeps nginx's configuration in step with the workers.

The configuration has all planned workers, alive or not, and live workers that were not planned. nginx resolves host names
only when it reads its configuration, and refuses to start while one of them has no address. So a worker whose host cannot
be resolved (its container does not exist yet) is left out, which to the ring is the same as a dead one; and when a host
gets another address, nginx has to reload.
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
"""Seconds within which a host name must be resolved."""
_MIN_PAUSE_S = 0.1
"""Seconds between two updates, however often the map changes."""


class MembershipSource(Protocol):
    """The part of :class:`~verl_agent_env.cluster.store.Store` that tells which workers are alive."""

    async def read_map(self, known: ClusterMap | None = None) -> ClusterMap:
        """Return the map, as of one moment; of one that is known already only what has changed is transferred."""

    async def wait_for_change(self, version: int, timeout_s: float) -> int:
        """Return the map's version as soon as it differs from ``version``, or after ``timeout_s``."""


class ReloadError(Exception):
    """nginx did not load the new configuration, for the reason in the text."""


class DebouncedSet:
    """A mapping whose entries stay for ``keep_s`` after their removal, so that short absences have no effect."""

    def __init__(self, keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._keep_s = keep_s
        self._clock = clock
        self._values: dict[str, str] = {}
        self._absent_since: dict[str, float] = {}

    def see(self, present: Mapping[str, str]) -> dict[str, str]:
        """Update with the present entries; return all entries that are present or were so recently, with their last values.

        An absence counts from the first update without the entry, so time without updates is no absence.
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
    """Rewrites nginx's configuration whenever the workers change, and reloads nginx."""

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
        """Create a watcher; :meth:`run` starts it.

        Args:
            settings: Settings with the addresses of the planned workers.
            path: File of nginx's configuration.
            members: Source of the live workers; without one, only the addresses of planned workers' hosts are followed.
            targets: File for the same workers in Prometheus' ``file_sd_configs`` format.
            reload: Called after each change of the text, and again until it raises no :class:`ReloadError`.
            departed_after_s: How long an unplanned worker stays in the configuration after its end, and any host after
                it has lost its address.
            poll_s: Longest time between two updates.
            say: Gets one line for each problem, and one when it is solved.
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
        self._map: ClusterMap | None = None
        self._must_reload = False
        self._troubles: dict[str, str] = {}

    async def run(self) -> NoReturn:
        """Update the file until cancelled."""
        while True:
            await self.look()
            await asyncio.gather(asyncio.sleep(min(_MIN_PAUSE_S, self._poll_s)), self._wait())

    async def look(self) -> None:
        """Update the file once."""
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
            state = await self._members.read_map(self._map)
        except StoreUnavailableError as away:
            trouble = f"{away} Until then nginx keeps its present workers."
        else:
            self._map = state
            if state.num_slots and state.num_slots != self._settings.num_slots:
                self._settings = dataclasses.replace(self._settings, num_slots=state.num_slots)
                self._say(f"The cluster has {state.num_slots} slots.")
            alive = {worker.address: "" for worker in state.workers.values() if is_address(worker.address)}
            self._unplanned = self._joined.see(alive).keys() - set(self._settings.addresses)
        self._note("store", trouble, "The store is available again.")

    def _may_write(self, usable: Collection[str]) -> bool:
        if not self._path.exists():
            return True
        # Not without workers; and before the map was read once, an existing file may have workers that are not planned.
        return bool(usable) and (self._members is None or self._map is not None)

    def _put(self, settings: NginxSettings) -> None:
        try:
            # Not if the text is the same: a reload costs connections.
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
        if self._members is None or self._map is None or "store" in self._troubles:
            await asyncio.sleep(self._poll_s)
            return
        with contextlib.suppress(StoreUnavailableError):
            await self._members.wait_for_change(self._map.version, self._poll_s)

    def _note(self, what: str, trouble: str, relief: str) -> None:
        """Report each problem once, and once that it is solved."""
        if trouble and what not in self._troubles:
            self._say(trouble)
            self._troubles[what] = trouble
        elif not trouble and self._troubles.pop(what, ""):
            self._say(relief)


def prometheus_targets(addresses: Collection[str]) -> str:
    """Return the list of targets (``file_sd_configs``) with which Prometheus reads every worker at its own address."""
    targets = [{"targets": [address], "labels": {"node": _host_of(address)}} for address in sorted(addresses)]
    return orjson.dumps(targets, option=orjson.OPT_INDENT_2).decode() + "\n"


def _replace_if_other(path: Path, text: str) -> bool:
    """Write ``text`` to ``path``; return False if the file had that text already."""
    if path.exists() and path.read_text("utf-8") == text:
        return False
    replace_file(path, text)
    return True


def _host_of(address: str) -> str:
    return address.rpartition(":")[0].strip("[]")


async def _resolve(hosts: Collection[str]) -> dict[str, str]:
    """Resolve host names to addresses: an empty text for an address, no entry for a name without an address."""
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
