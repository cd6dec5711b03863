"""Hosts that share one log."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.engine.persistence.hosts import Cluster


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    several = Cluster()
    yield several
    await several.aclose()
