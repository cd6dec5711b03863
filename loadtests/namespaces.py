"""Machines of their own, as far as the network goes: namespaces on one switch, made and removed again."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import uuid
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_NOBODY = "02:00:00:00:00:00"


def can_make_namespaces() -> bool:
    """Whether this account may make network namespaces."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        return False
    name = f"probe-{uuid.uuid4().hex[:6]}"
    made = subprocess.run(["ip", "netns", "add", name], check=False, capture_output=True).returncode == 0
    if made:
        _ip("netns", "del", name)
    return made


class Network:
    """A switch, and machines on it with addresses 10.77.0.1, 10.77.0.2, …"""

    def __init__(self, machines: Sequence[str]) -> None:
        self._prefix = uuid.uuid4().hex[:6]
        self._switch = f"{self._prefix}-switch"
        self._names: list[str] = []
        self.addresses = {name: f"10.77.0.{number}" for number, name in enumerate(machines, start=1)}
        try:
            self._add(self._switch)
            _ip("-n", self._switch, "link", "add", "bridge", "type", "bridge")
            _ip("-n", self._switch, "link", "set", "bridge", "up")
            for number, (name, address) in enumerate(self.addresses.items()):
                self._connect(name, address, f"p{number}")
        except BaseException:
            self.close()
            raise

    def command(self, machine: str, *words: str) -> list[str]:
        """A command that runs on a machine."""
        return [*self.enter(machine), *words]

    def enter(self, machine: str) -> tuple[str, ...]:
        """What stands before a command so that it runs on a machine."""
        return ("ip", "netns", "exec", self._namespace(machine))

    def move_here(self, machine: str) -> None:
        """Have this thread, and those that it starts from now on, be on a machine."""
        descriptor = os.open(Path("/run/netns") / self._namespace(machine), os.O_RDONLY)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(descriptor, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
        finally:
            os.close(descriptor)

    def tune(self, machine: str, settings: Mapping[str, int]) -> None:
        """Set what a machine's kernel does."""
        for name, value in settings.items():
            write = f"echo {value} > /proc/sys/{name.replace('.', '/')}"
            subprocess.run(self.command(machine, "sh", "-c", write), check=True, capture_output=True)

    def cut(self, machine: str) -> None:
        """Take a machine off the net; its processes go on."""
        self._set(machine, "down")

    def mend(self, machine: str) -> None:
        """Put it back."""
        self._set(machine, "up")

    def part(self, one: str, other: str) -> None:
        """Let nothing pass between two machines, and nothing be refused; both reach all others."""
        for here, there in ((one, other), (other, one)):
            # Frames for a hardware address that nobody has: connections stay open, and new ones get no answer.
            self._neighbour(here, "replace", self.addresses[there], "lladdr", _NOBODY, "nud", "permanent")

    def rejoin(self, one: str, other: str) -> None:
        """Let them reach each other again."""
        for here, there in ((one, other), (other, one)):
            self._neighbour(here, "del", self.addresses[there])

    def on(self, machine: str, call: Callable[[], T]) -> T:
        """What ``call`` gives when it runs on a machine, in a thread of its own."""

        def moved() -> T:
            self.move_here(machine)
            return call()

        # The thread ends with the pool: no other one is touched by its namespace.
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(moved).result()

    def close(self) -> None:
        """Take everything away; processes on it must have ended."""
        for name in self._names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def _connect(self, machine: str, address: str, port: str) -> None:
        namespace = self._namespace(machine)
        self._add(namespace)
        _ip("link", "add", f"{port}{self._prefix}", "netns", self._switch, "type", "veth", "peer", "name", "eth0", "netns", namespace)  # fmt: skip
        _ip("-n", self._switch, "link", "set", f"{port}{self._prefix}", "master", "bridge", "up")
        _ip("-n", namespace, "addr", "add", f"{address}/24", "dev", "eth0")
        _ip("-n", namespace, "link", "set", "eth0", "up")
        _ip("-n", namespace, "link", "set", "lo", "up")

    def _set(self, machine: str, state: str) -> None:
        port = f"p{list(self.addresses).index(machine)}{self._prefix}"
        _ip("-n", self._switch, "link", "set", port, state)

    def _neighbour(self, machine: str, verb: str, address: str, *words: str) -> None:
        _ip("-n", self._namespace(machine), "neigh", verb, address, "dev", "eth0", *words)

    def _namespace(self, machine: str) -> str:
        return f"{self._prefix}-{machine}"

    def _add(self, namespace: str) -> None:
        _ip("netns", "add", namespace)
        self._names.append(namespace)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
