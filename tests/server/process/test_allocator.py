"""What large requests took is the system's again afterwards."""

from __future__ import annotations

import asyncio
import ctypes
import sys

import pytest

from tests.children import run
from tests.waiting import no_hang
from verl_agent_env.server.process.allocator import MemoryReturn, keep_little

HAS_GLIBC = hasattr(ctypes.CDLL(None), "mallinfo2")
PROGRAM = """
import ctypes
from verl_agent_env.server.process.allocator import keep_little

class Mallinfo(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]

library = ctypes.CDLL(None)
library.mallinfo2.restype = Mallinfo

def heap():
    return library.mallinfo2().arena

keep_little()
before, kept = heap(), []
for _ in range(3):
    blocks = [b"x" * (4 << 20) for _ in range(25)]
    # Lies behind them, if they are on the heap.
    kept.append(b"y" * (256 << 10))
    del blocks
print(heap() - before)
"""


@pytest.mark.skipif(not HAS_GLIBC, reason="another C library, which keeps nothing back in this way")
def test_large_buffers_are_given_back_when_they_are_freed() -> None:
    assert int(run(sys.executable, "-c", PROGRAM).stdout) < 20 << 20


async def test_memory_is_given_back_soon_after_it_was_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    trimmed = asyncio.Event()
    loop = asyncio.get_running_loop()

    class Library:
        """A C library that tells when it is asked to give memory back."""

        def malloc_trim(self, _: int) -> None:
            loop.call_soon_threadsafe(trimmed.set)

    monkeypatch.setattr(ctypes, "CDLL", lambda _: Library())
    memory_return = MemoryReturn()
    task = asyncio.create_task(memory_return.run())
    memory_return.soon()
    async with no_hang():
        await trimmed.wait()
    task.cancel()


async def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes, "CDLL", lambda _: object())
    keep_little()
    task = asyncio.create_task(MemoryReturn().run())
    await asyncio.sleep(0)
    assert not task.done()
    task.cancel()
