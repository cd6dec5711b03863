"""A worker without memory says so: a typed 503 that may be tried again, and one line in the log."""

from __future__ import annotations

import logging

import pytest

from verl_agent_env.errors import MemoryExhaustedError
from verl_agent_env.server.http.dispatcher import error_of


def test_what_was_raised_for_want_of_memory_is_one_line_and_no_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR):
        error = error_of(MemoryError())
    assert isinstance(error, MemoryExhaustedError)
    assert (error.status, error.retryable, error.retry_after_s) == (503, True, 5)
    (record,) = caplog.records
    assert record.exc_info is None
    assert "out of memory" in record.getMessage()
