"""Bodies of the answers, as the OpenAPI page documents them. The hot calls write them by hand, see ``codec``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Observation = list[dict[str, Any]]


class ResponseBody(BaseModel):
    """What all bodies share."""

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
    """Whether the same request may succeed later."""


class ItemProblem(ProblemDetails):
    """The error of one item of a batch."""

    index: int
    """Position in the request."""


class MessageResponse(ResponseBody):
    """A success without more to say."""

    message: str
    """What was done."""


class InitializeResponse(ResponseBody):
    """A new environment and the beginning of its first episode."""

    message: str
    """What was done."""
    env_id: str
    """The environment's id, for all later calls."""
    observation: Observation
    """Chat messages."""
    info: dict[str, Any]
    """Diagnostics; ``seed`` is the episode's."""


class ResetResponse(ResponseBody):
    """The beginning of an episode."""

    observation: Observation
    """Chat messages."""
    info: dict[str, Any]
    """Diagnostics; ``seed`` is the episode's."""


class StepResponse(ResponseBody):
    """What an action led to."""

    observation: Observation
    """Chat messages: a tool message for each tool call, else one user message."""
    reward: float
    """Reward of this action."""
    done: bool
    """As ``terminated``."""
    terminated: bool
    """The episode came to its end."""
    truncated: bool
    """The episode ran out of steps."""
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
    """What failed."""


class BatchResetResponse(ResponseBody):
    """Beginnings of episodes, in request order."""

    observations: list[Observation | None]
    """First observations; ``null`` where it failed."""
    infos: list[dict[str, Any] | None]
    """Diagnostics."""
    errors: list[ItemProblem]
    """What failed."""


class BatchStepResponse(ResponseBody):
    """What the actions led to, in request order; a failed position holds ``null`` in every column."""

    observations: list[Observation | None]
    """Chat messages."""
    rewards: list[float | None]
    """Rewards."""
    terminations: list[bool | None]
    """Whether the episode came to its end."""
    truncations: list[bool | None]
    """Whether the episode ran out of steps."""
    infos: list[dict[str, Any] | None]
    """Diagnostics."""
    errors: list[ItemProblem]
    """What failed."""


class BatchCloseResponse(ResponseBody):
    """How the closing went."""

    closed: int
    """How many of them are closed now."""
    errors: list[ItemProblem]
    """What failed."""


class SplitShown(ResponseBody):
    """One of the divisions of an environment's tasks."""

    name: str
    """``train``, ``test``, or a name of its own."""
    type: Literal["train", "validation", "test"]
    """What it is for."""
    num_tasks: int
    """How many tasks it has."""
    infinite: bool
    """Whether its tasks are seeds without end; ``num_tasks`` then bounds their index."""


class SplitsResponse(ResponseBody):
    """The splits of an environment."""

    env_name: str
    """Its registered name."""
    splits: list[SplitShown]
    """Train and test never have a layout in common, as far as their tasks are seeds."""


class TaskShown(ResponseBody):
    """An episode to play: ``initialize`` takes its ``split`` and ``index`` as ``task``."""

    split: str
    """The split."""
    index: int
    """Position in it."""
    id: str
    """The task's own name in its list."""
    seed: int
    """Seed of the episode."""
    env_kwargs: dict[str, Any]
    """Keyword arguments of the environment."""


class TasksResponse(ResponseBody):
    """Consecutive tasks of a split."""

    env_name: str
    """The environment's registered name."""
    split: SplitShown
    """The split."""
    tasks: list[TaskShown]
    """The tasks; fewer than asked for where finding more would take long."""
    next_offset: int | None
    """Where to go on; ``null`` after the last task."""


class EnvironmentState(ResponseBody):
    """Where an environment stands."""

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
    """Whether the episode has ended."""
    lost: str | None
    """Why it cannot go on, if so."""
    run_id: str | None
    """The training job it belongs to."""
    age_s: float
    """Seconds since it was made."""
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
    """What the model has to do and how it acts."""


class ReadCall(ResponseBody):
    """A tool call that an action asks for."""

    name: str
    """The tool's name; empty where the call could not be read."""
    arguments: dict[str, Any]
    """The arguments, as the tool's schema types them."""
    fault: str | None
    """Why it cannot be carried out."""


class ReadActionResponse(ResponseBody):
    """Reading of an action."""

    form: str
    """What it is read as: a format of text (``hermes``, ``answer``, …) or a form of message (``tool_calls``, …)."""
    thought: str
    """The thoughts in it."""
    calls: list[ReadCall]
    """The calls that a step would carry out."""
    valid: bool
    """Whether each call has a tool and arguments that fit it; what the environment's rules say of them, only a step tells."""
    place: tuple[int, int] | None
    """Where the action stands in a text, in characters, from and to; ``null`` for a structured call."""


class AllowParallelToolCallResponse(ResponseBody):
    """Whether one action may hold several tool calls."""

    allow_parallel_tool_call: bool
    """Whether it may."""


class ToolsSchemaResponse(ResponseBody):
    """The tools."""

    tools_schema: list[dict[str, Any]]
    """In the form that the API of that name takes."""


class TrajectoryStep(StepResponse):
    """One step of an episode."""

    seq: int
    """Its number, from 0."""
    action: Any
    """The action, as it was sent."""


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
    """Whether all steps are there: an environment that took more actions than the server keeps has none to show."""
    observation: Observation | None
    """The first observation."""
    info: dict[str, Any] | None
    """The info of the reset."""
    steps: list[TrajectoryStep]
    """The steps, in order."""


class EnvironmentKind(ResponseBody):
    """A registered environment."""

    name: str
    """Its name."""
    description: str
    """What it is, in one sentence."""
    execution: str
    """How it runs: ``inline``, ``thread`` or ``async``."""
    deterministic: bool
    """Whether seed and actions determine the episode."""
    kwargs_schema: dict[str, Any]
    """JSON Schema (Draft 2020-12) of its keyword arguments."""
    tools: list[dict[str, Any]] = Field(default_factory=list)
    """Its tools, in OpenAI's form."""
    family: str
    """The environment that it is a preset of; its own name where it is none."""
    render_modes: list[str]
    """What ``render`` takes as ``mode``."""


class CatalogueResponse(ResponseBody):
    """All registered environments."""

    environments: list[EnvironmentKind]
    """By name."""


class WorkerStatus(ResponseBody):
    """One server process."""

    name: str
    """``node:port``; outlives the process."""
    address: str
    """Where it listens, itself alone."""
    pid: int
    """Its process on its machine."""
    state: str
    """``starting``, ``ready`` or ``draining``."""
    slots: int
    """How many slots it owns."""
    live_envs: int
    """Its live environments, as of its last heartbeat."""
    incarnation: str
    """Random id of this process's life."""
    started_at: float
    """Seconds since the epoch."""


class NodeStatus(ResponseBody):
    """One machine's pool of workers."""

    name: str
    """Its name."""
    workers: list[WorkerStatus]
    """By name."""


class ClusterResponse(ResponseBody):
    """Who is there, and who owns how much."""

    map_version: int
    """Differs after every change."""
    num_slots: int
    """Slices of the hash space, shared out among the workers."""
    nodes: list[NodeStatus]
    """By name."""


class DrainResponse(ResponseBody):
    """A node was drained, or takes environments again."""

    message: str
    """Which of the two."""
    workers: int
    """How many workers it has."""


class StatusResponse(ResponseBody):
    """The server's state in a word."""

    status: str
    """``running``, ``ok`` or ``ready``."""
