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
        # A worker tells the others every second or so how many it has.
        eventually(lambda: any(worker["live_envs"] for worker in all_workers(client)), what="environments")
        worker = max(all_workers(client), key=lambda worker: int(worker["live_envs"]))
    os.kill(int(worker["pid"]), signal.SIGKILL)
    eventually(lambda: not is_running(int(worker["pid"])), what="the worker's end")
