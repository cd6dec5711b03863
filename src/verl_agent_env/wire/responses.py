"""Bodies of the responses about live environments, as the OpenAPI document describes them.

The frequent ones are written by hand in :mod:`~verl_agent_env.wire.results`.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

Observation = list[dict[str, Any]]


class ResponseBody(BaseModel):
    """Base of all bodies of responses."""

    model_config = ConfigDict(use_attribute_docstrings=True)


class ProblemDetails(ResponseBody):
    """An error (RFC 9457), with the fields of its code."""

    model_config = ConfigDict(extra="allow")

    type: str
    """``urn:verl-agent-env:error:<code>``."""
    title: str
    """What is wrong, in a few words."""
    status: int
    """The HTTP status."""
    detail: str
    """What happened, and what to do next."""
    code: str
    """Stable name of the error."""
    retryable: bool
    """True if the same request may succeed later."""


class ItemProblem(ProblemDetails):
    """The error of one item of a batch."""

    index: int
    """Position in the request."""


class MessageResponse(ResponseBody):
    """A success without further data."""

    message: str
    """Result, in words."""


class InitializeResponse(ResponseBody):
    """A new environment and the beginning of its first episode."""

    message: str
    """Result, in words."""
    env_id: str
    """The environment's id, for all later calls."""
    observation: Observation
    """Chat messages."""
    info: dict[str, Any]
    """Diagnostics; ``seed`` is the episode's."""
    steps: list[StepResponse] | None = None
    """Results of the actions that were to be carried out first; missing if there were none."""


class ResetResponse(ResponseBody):
    """The beginning of an episode."""

    observation: Observation
    """Chat messages."""
    info: dict[str, Any]
    """Diagnostics; ``seed`` is the episode's."""
    steps: list[StepResponse] | None = None
    """Results of the actions that were to be carried out first; missing if there were none."""


class StepResponse(ResponseBody):
    """The result of an action."""

    observation: Observation
    """Chat messages: a tool message for each tool call, else one user message."""
    reward: float
    """Reward of this action."""
    done: bool
    """Equals ``terminated``."""
    terminated: bool
    """True if the episode came to its end."""
    truncated: bool
    """True if the episode ran out of steps."""
    info: dict[str, Any]
    """``num_steps``, ``action_is_valid``, ``action_is_effective``, ``success``, and what the environment adds."""


class BatchInitializeResponse(ResponseBody):
    """New environments, in request order."""

    env_ids: list[str | None]
    """Ids; ``null`` where it failed."""
    observations: list[Observation | None]
    """First observations."""
    infos: list[dict[str, Any] | None]
    """Diagnostics."""
    errors: list[ItemProblem]
    """Errors of the failed items."""


class BatchResetResponse(ResponseBody):
    """Beginnings of episodes, in request order."""

    observations: list[Observation | None]
    """First observations; ``null`` where it failed."""
    infos: list[dict[str, Any] | None]
    """Diagnostics."""
    errors: list[ItemProblem]
    """Errors of the failed items."""


class BatchStepResponse(ResponseBody):
    """Results of actions, in request order; ``null`` in every column of a failed item."""

    observations: list[Observation | None]
    """Chat messages."""
    rewards: list[float | None]
    """Rewards."""
    terminations: list[bool | None]
    """True if the episode came to its end."""
    truncations: list[bool | None]
    """True if the episode ran out of steps."""
    infos: list[dict[str, Any] | None]
    """Diagnostics."""
    errors: list[ItemProblem]
    """Errors of the failed items."""


class BatchCloseResponse(ResponseBody):
    """Result of closing environments."""

    closed: int
    """Number of environments that are closed now."""
    errors: list[ItemProblem]
    """Errors of the failed items."""


class EnvironmentState(ResponseBody):
    """State of an environment."""

    env_id: str
    """Its id."""
    env_name: str
    """Its registered name."""
    owner: str
    """The worker that holds it."""
    episode: int
    """Number of the episode, from 0."""
    seed: int
    """The episode's seed."""
    seq: int
    """Number of the next step."""
    ended: bool
    """True if the episode has ended."""
    lost: str | None
    """Reason why the environment is lost, if it is."""
    run_id: str | None
    """Name of its training job."""
    age_s: float
    """Seconds since it was created."""
    idle_s: float
    """Seconds since it was last used."""
    ttl_s: float
    """Idle seconds after which it is closed."""


class ActionSpaceResponse(ResponseBody):
    """The action space."""

    action_space: dict[str, Any]
    """JSON Schema (Draft 2020-12) of a valid action."""


class TaskPromptResponse(ResponseBody):
    """The task prompt."""

    task_prompt: str
    """The task, and how to act."""


class ReadCall(ResponseBody):
    """A tool call that an action asks for."""

    name: str
    """The tool's name; empty where the call could not be read."""
    arguments: dict[str, Any]
    """The arguments, as the tool's schema types them."""
    fault: str | None
    """Reason why the call cannot be carried out."""


class ReadActionResponse(ResponseBody):
    """Reading of an action."""

    form: str
    """Form of the action: a format of text (``hermes``, ``answer``, …) or a form of message (``tool_calls``, …)."""
    thought: str
    """Thoughts in the action."""
    calls: list[ReadCall]
    """The calls that a step would carry out."""
    valid: bool
    """True if each call has a tool and arguments that match its schema; the environment's rules are checked only by a step."""
    problem: str | None
    """Why it is not valid: the first fault; ``null`` if it is."""
    place: tuple[int, int] | None
    """Start and end of the action in a text, in characters; ``null`` for a structured call."""


class ProposeActionResponse(ResponseBody):
    """Proposal of an action."""

    action: Any
    """The action, as a step takes it; ``null`` where the environment knows none."""


class AllowParallelToolCallResponse(ResponseBody):
    """Permission of several tool calls in one action."""

    allow_parallel_tool_call: bool
    """True if one action may hold several tool calls."""


class ToolsSchemaResponse(ResponseBody):
    """The tools."""

    tools_schema: list[dict[str, Any]]
    """Tools in the schema of the named API."""


class TrajectoryStep(StepResponse):
    """One step of an episode."""

    seq: int
    """Its number, from 0."""
    action: Any
    """The action, as it was sent."""
    drawing: str | None = None
    """The state after the step as SVG, where it was asked for."""


class TrajectoryResponse(ResponseBody):
    """The episode so far."""

    env_id: str
    """The environment's id."""
    env_name: str
    """Its registered name."""
    episode: int
    """Number of the episode, from 0."""
    seed: int
    """The episode's seed."""
    complete: bool
    """True if all steps are present. There are none if the history is longer than the server keeps."""
    observation: Observation | None
    """The first observation."""
    info: dict[str, Any] | None
    """The info of the reset."""
    drawing: str | None = None
    """The beginning as SVG, where it was asked for."""
    steps: list[TrajectoryStep]
    """The steps, in order."""


class SeatViewResponse(ResponseBody):
    """View of a seat; the same until somebody acts."""

    seat: int
    """The seat."""
    num_seats: int
    """Number of seats."""
    turn: list[int]
    """Seats that are to act; none when the episode has ended."""
    observation: list[dict[str, Any]]
    """What the seat sees, as messages; with the task prompt until the seat has acted."""
    reward: float
    """Sum of the seat's rewards in this episode."""
    num_steps: int
    """Moves of all seats."""
    ended: bool
    """True if the episode has ended."""
    episode: int
    """Number of the episode."""
    seq: int
    """Number of the next step."""
