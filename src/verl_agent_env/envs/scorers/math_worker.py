"""Script that compares expressions with math-verify in a separate process, started by :mod:`.math_pool`.

Requests on standard input and responses on standard output are lines of JSON. SymPy can take unbounded time and memory for a
text of a few characters, also inside C code, so the kernel limits both: an exceeded limit ends the process, and its parent
starts another one. Nothing of the package is imported here.
"""

from __future__ import annotations

import json
import resource
import signal
import sys
from typing import Any

MEMORY_BYTES = 2 << 30
_DIGITS = 30
READY = {"ready": True}
TOO_LARGE = {"too_large": True}


def main() -> None:
    """Answer requests until the end of standard input."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # The default action ends the process inside any code.
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    comparison = Comparison()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    _answer(READY)
    for line in sys.stdin.buffer:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, request["cpu_s"])
        try:
            answer: dict[str, Any] = comparison.answer(request)
        except MemoryError:
            answer = TOO_LARGE
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        _answer(answer)
        if answer is TOO_LARGE:
            return


class Comparison:
    """math-verify, imported once and without its own time limits, which need the main thread and do not interrupt C code."""

    def __init__(self) -> None:
        import logging

        import math_verify

        logging.disable(logging.CRITICAL)
        self._library = math_verify
        # Read a box as a whole: the patterns for bare numbers would match a part of a text that is no expression.
        self._extraction = [math_verify.LatexExtractionConfig(boxed_match_priority=0)]

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return true if one of ``references`` equals ``answer``; without an answer, true if each can be read."""
        references = [self._read(text) for text in request["references"]]
        if "answer" not in request:
            return {"readable": all(map(_is_expression, references))}
        given = self._read(request["answer"])
        if not given:
            return {"equal": False}
        return {"equal": any(self._equal(reference, given, request["rounding"]) for reference in references)}

    def _read(self, text: str) -> list[Any]:
        try:
            found: list[Any] = self._library.parse(
                f"\\boxed{{{text}}}",
                extraction_config=self._extraction,
                fallback_mode="first_match",
                parsing_timeout=0,
            )
        except MemoryError:
            raise
        # SymPy may raise anything for a model's text.
        except Exception:  # noqa: BLE001
            return []
        return found

    def _equal(self, reference: list[Any], given: list[Any], rounding: int) -> bool:
        try:
            is_equal = bool(
                self._library.verify(reference, given, float_rounding=rounding, timeout_seconds=0)
            )
            return is_equal and not _differ(reference[0], given[0], rounding)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001
            return False


def _differ(reference: Any, given: Any, rounding: int) -> bool:
    """Return true if two numbers differ: the library rounds to decimal places, so that small ones are all equal to it."""
    if not (getattr(reference, "is_number", False) and getattr(given, "is_number", False)):
        return False
    one, other = reference.evalf(_DIGITS), given.evalf(_DIGITS)
    if not (one.is_Number and other.is_Number and one.is_finite and other.is_finite):
        return False
    place = 10.0**-rounding
    return bool(abs(one - other) > (place / 2 if abs(one) > place else abs(one) / 1000))


def _is_expression(found: list[Any]) -> bool:
    return any(not isinstance(each, str) for each in found)


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
