"""Whose branches are traced, and while what runs: a test that is traced takes about twice its time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_MEASURED = tuple(f"tests/{folder}/" for folder in ("cluster", "contract", "engine", "envs"))
"""Whose tests are those of the packages whose coverage of branches is shown."""
_IN_PROCESSES = {"server", "start_server"}
"""Fixtures of tests that look at other processes, which are not traced."""


def is_measured(item: pytest.Item) -> bool:
    """Whether a test is one of those that the coverage of its package is measured by."""
    used: set[str] = set(getattr(item, "fixturenames", ()))
    is_marked = item.get_closest_marker("unmeasured") is not None
    return item.nodeid.startswith(_MEASURED) and not is_marked and not used & _IN_PROCESSES


def stop(config: pytest.Config) -> None:
    """Trace nothing until :func:`while_running`: what runs from here on is not what is measured."""
    measuring = _controller(config)
    if measuring is not None:
        measuring.pause()


@contextmanager
def while_running(item: pytest.Item) -> Iterator[None]:
    """Trace what runs meanwhile, if the test is a measured one."""
    measuring = _controller(item.config)
    if measuring is None or not is_measured(item):
        yield
        return
    measuring.resume()
    try:
        yield
    finally:
        measuring.pause()


def _controller(config: pytest.Config) -> Any:
    """What pytest-cov starts and stops coverage.py with; None without ``--cov``."""
    plugin: Any = config.pluginmanager.getplugin("_cov")
    return None if plugin is None else plugin.cov_controller
