"""Losses in a cluster, while another project's code plays on it."""

from __future__ import annotations

import os
import signal

import httpx

from tests.pool_process import all_workers, is_running
from tests.waiting import HANG_S, eventually


def kill_a_worker(url: str) -> None:
    """End the worker with the most environments as a crash would."""
    with httpx.Client(base_url=url, timeout=HANG_S) as client:
        worker = max(all_workers(client), key=lambda worker: int(worker["live_envs"]))
    assert worker["live_envs"] > 0
    os.kill(int(worker["pid"]), signal.SIGKILL)
    eventually(lambda: not is_running(int(worker["pid"])), what="the worker's end")
