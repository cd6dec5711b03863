"""Options of a rollout; with verl they are in ``data.env``, or in the YAML entry of an agent loop."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.ray import url_for_job

DATA_KEY = "env"
"""Key of the options in verl's ``data`` configuration: ``++data.env.url=http://…``."""


@dataclass(frozen=True)
class RolloutOptions:
    """Options of playing episodes."""

    url: str = "http://127.0.0.1:8000"
    """URL of the server, or of the cluster behind nginx."""
    cluster: Literal["none", "ray"] = "none"
    """``ray`` to start servers on the machines of the training's Ray cluster, in place of those at ``url``."""
    nodes: int | None = None
    """Number of machines for these servers; all if not given."""
    workers_per_node: int | None = None
    """Number of their processes on each machine; 2 if not given."""
    token: str | None = None
    """Bearer token, if the server asks for one."""
    run_id: str | None = None
    """Name of the training's environments on the server; each process has its own if not given."""
    max_turns: int | None = None
    """Largest number of answers in an episode; verl's ``multi_turn.max_assistant_turns`` applies as well."""
    max_tokens_per_turn: int | None = None
    """Largest number of tokens in one answer; the response budget alone if not given."""
    min_tokens_per_turn: int = 16
    """Tokens that must be left in the response budget to begin a turn."""
    action_format: Literal["auto", "text"] = "auto"
    """``auto``: the prompt has the tools, and an answer is a tool call if it is read as one, else text; ``text``: the prompt has
    no tools, and the answer is text (``<answer>Up || Left</answer>``)."""
    tool_format: str | None = None
    """Name of verl's parser, which defines the tokens that end an answer. It reads the answers only if environments do not
    know its format. ``rollout.multi_turn.format`` if not given, which the data set cannot check."""
    system_prompt: str | None = None
    """System prompt for rows without one."""
    max_attempts: int = 3
    """Number of times that a lost environment is recreated before the sample is dropped."""
    deadline_s: float = 600.0
    """Seconds of retries of one call."""
    timeout_s: float = 60.0
    """Seconds that the server may be silent during one attempt."""
    close_deadline_s: float = 30.0
    """Seconds of retries when closing."""
    ttl_s: float | None = None
    """Seconds without a call after which the server closes an environment; the server's own if not given."""
    micro_batching: bool = True
    """True to let the steps of all episodes of a process share requests."""
    direct: Literal["auto", "never"] = "auto"
    """``auto`` to send steps directly to the workers of a cluster, if they can be reached."""
    curriculum: Literal["none", "pass_rate"] = "none"
    """``pass_rate`` to have the data set prefer rows that are neither nearly always nor hardly ever solved, by the results of the
    run on the server; needs a ``run_id``, and ``data.dataloader_num_workers=0``."""
    reward_parts: tuple[str, ...] = ()
    """Names of parts of the reward that are logged with the other metrics (``part/NAME``, summed over an episode)."""
    check_server: bool = True
    """True to have the data set create one environment of each kind before the training starts, as a check."""

    def __post_init__(self) -> None:
        for field, without in (
            ("max_turns", "no limit"),
            ("max_tokens_per_turn", "no limit"),
            ("nodes", "all machines"),
            ("workers_per_node", "2"),
        ):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise TrainingSetupError(
                    f"The option '{field}' must be at least 1; leave it out for {without}."
                )
        if self.min_tokens_per_turn < 1 or self.max_attempts < 1:
            raise TrainingSetupError("'min_tokens_per_turn' and 'max_attempts' must be at least 1.")
        if isinstance(self.reward_parts, str) or not all(isinstance(each, str) for each in self.reward_parts):
            raise TrainingSetupError(
                "The option 'reward_parts' is a list of names, such as ++data.env.reward_parts=[task,length]."
            )
        object.__setattr__(self, "reward_parts", tuple(self.reward_parts))
        choices = {
            "cluster": ("none", "ray"),
            "action_format": ("auto", "text"),
            "direct": ("auto", "never"),
            "curriculum": ("none", "pass_rate"),
        }
        for field, known in choices.items():
            if getattr(self, field) not in known:
                raise TrainingSetupError(f"The option '{field}' must be {' or '.join(known)}.")

        if self.curriculum == "pass_rate" and not self.run_id:
            raise TrainingSetupError(
                "The option 'curriculum' needs 'run_id': the results of a run are read from the server."
            )

    def located(self) -> RolloutOptions:
        """Return options whose ``url`` leads to the servers, which are started on Ray if ``cluster`` says so.

        Raises:
            TrainingSetupError: They cannot be started; as :func:`verl_agent_env.integrations.ray.start`.
        """
        if self.cluster == "none":
            return self
        url = url_for_job(self.nodes, self.workers_per_node, self.token)
        return dataclasses.replace(self, url=url, cluster="none")

    def parser_name(self, otherwise: str | None = None) -> str | None:
        """Return the name of the parser of tool calls, ``otherwise`` if it is not set; None if answers are only text."""
        return (self.tool_format or otherwise) if self.action_format == "auto" else None

    def connection(self) -> dict[str, Any]:
        """Return the arguments of a client, the URL among them."""
        names = ("url", "token", "timeout_s", "deadline_s", "close_deadline_s", "micro_batching", "direct")
        return {name: getattr(self, name) for name in names}

    @classmethod
    def from_mapping(cls, *given: Mapping[str, Any] | None) -> RolloutOptions:
        """Merge options from several sources; later ones take precedence.

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
