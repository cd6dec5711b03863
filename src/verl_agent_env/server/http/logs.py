"""Logs: one JSON object a line, with whatever fields a message carries."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

ONCE_IN_S = "once_in_s"
"""Field of a warning of what lasts and is met by many requests, such as a shortage: seconds between two lines of it."""
SHORTAGE = {ONCE_IN_S: 60.0}
"""Extra field of the warnings of a shortage: one line in a minute."""
_BURST_S = 3.0
_MAX_KINDS = 512

_STANDARD_FIELDS = frozenset(vars(logging.makeLogRecord({}))) | {
    "message",
    "asctime",
    "taskName",
    "color_message",
    "once_in_s",
}


current_request_id: ContextVar[bytes] = ContextVar("current_request_id", default=b"")
"""Id of the request at work; every line that is logged for it carries it."""


class JsonFormatter(logging.Formatter):
    """Writes a record as a JSON object: time, level, logger, message, extra fields, traceback."""

    def format(self, record: logging.LogRecord) -> str:
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra_fields(record),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        try:
            return orjson.dumps(entry, default=str).decode()
        except TypeError:
            # An endless number or half a character: no reason to lose the line.
            return json.dumps(entry, default=str)


class TextFormatter(logging.Formatter):
    """Writes a record as a line for a person, extra fields as ``key=value``."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        fields = " ".join(f"{key}={_one_line(value)}" for key, value in _extra_fields(record).items())
        return f"{super().formatMessage(record)} {fields}".rstrip()


class RepeatFilter(logging.Filter):
    """Lets so many warnings of one kind pass in a second; the next one that passes says how many did not.

    A kind is a logger, a level and a message without its values. A warning that carries :data:`ONCE_IN_S` passes once in so
    many seconds. What is asked for at lower levels, such as the access log, is written in full.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._per_s = per_s
        # Several seconds' worth at once: what belongs to one event often comes together.
        self._burst = max(1.0, _BURST_S * per_s)
        self._clock = clock
        self._kinds: OrderedDict[tuple[str, int, object], _Repeats] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Tell whether the record is written."""
        if record.levelno < logging.WARNING:
            return True
        now, kind = self._clock(), (
            record.name,
            record.levelno,
            record.msg if isinstance(record.msg, str) else "",
        )
        once_in_s: float | None = getattr(record, ONCE_IN_S, None)
        per_s, burst = (self._per_s, self._burst) if once_in_s is None else (1 / once_in_s, 1.0)
        repeats = self._kinds.get(kind)
        if repeats is None:
            repeats = self._kinds[kind] = _Repeats(burst, now)
            if len(self._kinds) > _MAX_KINDS:
                self._kinds.popitem(last=False)
        repeats.allowed = min(burst, repeats.allowed + (now - repeats.at) * per_s)
        repeats.at = now
        if repeats.allowed < 1:
            repeats.suppressed += 1
            return False
        repeats.allowed -= 1
        if repeats.suppressed:
            record.suppressed = repeats.suppressed
            repeats.suppressed = 0
        return True


@dataclass(slots=True)
class _Repeats:
    """Count of the records of one kind."""

    allowed: float
    at: float
    suppressed: int = 0


def configure_logging(level: str, log_format: str, max_lines_per_s: float) -> None:
    """Send the logs of this process to standard error.

    Args:
        level: The lowest that is written.
        log_format: ``json`` or ``text``.
        max_lines_per_s: Warnings of one kind in a second.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RepeatFilter(max_lines_per_s))
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # uvicorn's own access log writes a line for every request; the dispatcher logs those that failed.
    logging.getLogger("uvicorn.access").disabled = True
    for name in ("uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True


def _extra_fields(record: logging.LogRecord) -> dict[str, Any]:
    request_id = current_request_id.get()
    found = {"request_id": request_id.decode("latin-1")} if request_id else {}
    found.update(
        (key, value)
        for key, value in vars(record).items()
        if key not in _STANDARD_FIELDS and value is not None
    )
    return found


def _one_line(value: Any) -> str:
    """``value`` as text that cannot pass for a line of its own: a path can hold anything."""
    text = str(value)
    return text if text.isprintable() else repr(text)
