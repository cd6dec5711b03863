"""What the tests of the bridges share: the other projects' own code, with their warnings of their own affairs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from verl_agent_env.integrations.rollout.clients import close_process_clients


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "tests/bridges" in item.nodeid:
            item.add_marker(pytest.mark.filterwarnings("ignore"))


@pytest.fixture(autouse=True)
def _clients() -> Iterator[None]:
    """Close the clients of this process after each test."""
    yield
    close_process_clients()
