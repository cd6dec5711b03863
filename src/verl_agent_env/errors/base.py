"""Root of all errors, and their form in JSON."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Self, dataclass_transform


@dataclass_transform(eq_default=False)
@dataclass(eq=False)
class VerlAgentEnvError(Exception):
    """Root of all errors. A subclass is a dataclass; its fields travel in the problem document and fill ``detail``."""

    code: ClassVar[str] = ""
    """Stable name of the error; part of the public contract. Empty for a class that only groups others."""
    status: ClassVar[int] = 500
    """HTTP status of the response."""
    title: ClassVar[str] = "Error"
    """Constant summary in a few words."""
    detail_format: ClassVar[str] = ""
    """Format string of :attr:`detail` over the fields; empty where ``detail`` is the title or computed."""
    retryable: ClassVar[bool] = False
    """True if the same request may succeed later."""
    retry_after_s: ClassVar[int] = 1
    """Seconds that a client waits before it sends a retryable request again."""

    def __init_subclass__(
        cls, *, code: str | None = None, status: int | None = None, retryable: bool | None = None, **rest: Any
    ) -> None:
        super().__init_subclass__(**rest)
        if code is not None:
            cls.code = code
        if status is not None:
            cls.status = status
        if retryable is not None:
            cls.retryable = retryable
        # Without equality by value: an exception is equal to itself only, and hashable.
        dataclass(eq=False)(cls)

    @property
    def detail(self) -> str:
        """One sentence for a person: what happened and what to do next."""
        return self.detail_format.format_map(vars(self)) or self.title

    def __str__(self) -> str:
        return self.detail

    def as_result(self) -> Self:
        """Return this error as the result of one of many items: without its traceback and its cause.

        These keep the frames that they went through, the frames keep all other results, and among them this error: a cycle that
        only the garbage collector ends.
        """
        self.__cause__ = self.__context__ = None
        return self.with_traceback(None)

    def fields(self) -> dict[str, Any]:
        """Return the error's own typed fields."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def to_problem(self) -> dict[str, Any]:
        """Return the problem document (RFC 9457) of this error, fields included."""
        return {
            "type": f"urn:verl-agent-env:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "retryable": self.retryable,
            **self.fields(),
        }
