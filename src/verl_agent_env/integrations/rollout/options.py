"""Options of a rollout; with verl they stand in ``data.env``, or in the YAML entry of one agent loop."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from verl_agent_env.integrations.errors import TrainingSetupError

DATA_KEY = "env"
"""Key of the options in verl's ``data`` configuration: ``++data.env.url=http://…``."""


@dataclass(frozen=True)
class RolloutOptions:
    """How episodes are played."""

    url: str = "http://127.0.0.1:8000"
    """Of the server, or of the cluster behind nginx."""
    token: str | None = None
    """Bearer token, if the server asks for one."""
    run_id: str | None = None
    """Name of the training's environments on the server; each process has its own if not given."""
    max_turns: int | None = None
    """Answers of the model after which an episode is left; verl's ``multi_turn.max_assistant_turns`` counts as well."""
    max_tokens_per_turn: int | None = None
    """Length of one answer at most; else only the response budget bounds it."""
    min_tokens_per_turn: int = 16
    """With fewer tokens left in the response budget, no further turn is begun."""
    action_format: Literal["auto", "text"] = "auto"
    """``auto``: the tools stand in the prompt, and calls of them are read as environments read text, else the text is the
    action; ``text``: no tools in the prompt, the text is the action (``<answer>Up || Left</answer>``)."""
    tool_format: str | None = None
    """Name of verl's parser, which says what tokens end an answer; it reads the answers only if environments do not know its
    format. ``rollout.multi_turn.format`` if not given, which the data set cannot see and check."""
    system_prompt: str | None = None
    """First message of a conversation whose row brings none."""
    max_attempts: int = 3
    """How often an environment that got lost is made anew before the sample is given up."""
    deadline_s: float = 600.0
    """Seconds that one call waits for a server that is away."""
    timeout_s: float = 60.0
    """Seconds that the server may be silent during one attempt."""
    close_deadline_s: float = 30.0
    """Seconds that closing waits for a server that is away."""
    ttl_s: float | None = None
    """Seconds without a call after which the server closes an environment; the server's own if not given."""
    micro_batching: bool = True
    """Whether the steps of all episodes of a process share requests."""
    direct: Literal["auto", "never"] = "never"
    """``auto`` sends steps straight to the workers of a cluster, where they can be reached."""
    check_server: bool = True
    """Whether the data set asks the server for one environment of each kind before the training starts."""

    def __post_init__(self) -> None:
        for field in ("max_turns", "max_tokens_per_turn"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise TrainingSetupError(
                    f"The option '{field}' must be at least 1; leave it out for no limit."
                )
        if self.min_tokens_per_turn < 1 or self.max_attempts < 1:
            raise TrainingSetupError("'min_tokens_per_turn' and 'max_attempts' must be at least 1.")
        for field, known in (("action_format", ("auto", "text")), ("direct", ("auto", "never"))):
            if getattr(self, field) not in known:
                raise TrainingSetupError(f"The option '{field}' must be {' or '.join(known)}.")

    def parser_name(self, otherwise: str | None = None) -> str | None:
        """The parser of tool calls, ``otherwise`` if none is named here; none where text alone is an action."""
        return (self.tool_format or otherwise) if self.action_format == "auto" else None

    @classmethod
    def from_mapping(cls, *given: Mapping[str, Any] | None) -> RolloutOptions:
        """Options from several places; the later ones win.

        Raises:
            TrainingSetupError: An option is unknown or out of its range.
        """
        merged: dict[str, Any] = {}
        for options in given:
            merged |= dict(options or {})
        known = [field.name for field in dataclasses.fields(cls)]
        for name in merged:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"known are {', '.join(known)}."
                raise TrainingSetupError(f"There is no option '{name}' of the environments' rollout; {hint}")
        return cls(**merged)
