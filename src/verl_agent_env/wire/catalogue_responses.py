"""Bodies of the responses about what can be played, and about who serves it, as the OpenAPI document describes them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from verl_agent_env.wire.responses import ResponseBody


class SplitShown(ResponseBody):
    """A split of an environment's tasks."""

    name: str
    """``train``, ``test``, or a name of its own."""
    type: Literal["train", "validation", "test"]
    """Purpose of the split."""
    num_tasks: int
    """Number of tasks."""
    infinite: bool
    """True if its tasks are all seeds; ``num_tasks`` then bounds their index."""


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


class TaskResultsShown(ResponseBody):
    """Statistics of one task in one run."""

    task: str
    """Full name of the environment, ``@`` and the seed, with keyword arguments also ``-`` and a digest of them."""
    tries: int
    """Episodes that came to their end."""
    successes: int
    """Episodes that succeeded."""
    mean_reward: float
    """Mean of the sums of the episodes' rewards."""


class RunTasksResponse(ResponseBody):
    """Statistics of some tasks of a run."""

    run_id: str
    """The run."""
    tasks: list[TaskResultsShown]
    """Some of its tasks, in no order."""
    next_cursor: str | None
    """Where to go on; ``null`` after the last task."""


class CallCosts(ResponseBody):
    """Processor time of an environment's calls with the default arguments, in milliseconds, as it was measured once."""

    reset_ms: float
    """Of the most expensive reset."""
    step_ms: float
    """Of the most expensive step."""
    load_ms: float
    """Of data that a process reads once, at its first reset."""


class CatalogueRow(ResponseBody):
    """Facts about an environment that are known before its code is imported."""

    name: str
    """Its name."""
    description: str
    """Description in one sentence."""
    tags: list[str]
    """Words to filter by."""
    costs: CallCosts | None
    """None where nobody measured."""
    extra: str | None
    """The extra of this project that installs its package; None for environments of this project and of entry points."""
    installed: bool = True
    """True if the package is installed at this worker."""
    family: str
    """The environment of which it is a preset; its own name if it is not a preset."""
    preset_of: str | None
    """The environment of which it is a preset; ``null`` if it is none."""
    presets: dict[str, Any]
    """Keyword arguments whose defaults differ from that environment's."""


class ArgumentGroup(ResponseBody):
    """Keyword arguments that belong together."""

    title: str
    """What they are."""
    arguments: list[str]
    """Their names."""


class EnvironmentKind(CatalogueRow):
    """A registered environment."""

    execution: str
    """Kind of execution: ``inline``, ``thread`` or ``async``."""
    deterministic: bool
    """True if seed and actions determine the episode."""
    kwargs_schema: dict[str, Any]
    """JSON Schema (Draft 2020-12) of its keyword arguments."""
    tools: list[dict[str, Any]] = Field(default_factory=list)
    """Its tools, in OpenAI's form."""
    argument_groups: list[ArgumentGroup]
    """Names of the keyword arguments in groups, the environment's own first; those of all environments last."""
    task_prompt: str | None
    """Task prompt with the default arguments, with which the first observation begins; ``null`` if it needs arguments."""
    render_modes: list[str]
    """What ``render`` takes as ``mode``."""


class CatalogueResponse(ResponseBody):
    """All environments of this project and of entry points; with a query, a page of all that are known."""

    environments: list[EnvironmentKind | CatalogueRow]
    """By name; rows in a page."""
    total: int | None = None
    """Of a page: how many fit the query."""
    next_offset: int | None = None
    """Of a page: where the next one begins; None at the end."""


class WorkerStatus(ResponseBody):
    """One server process."""

    name: str
    """``node:port``; outlives the process."""
    address: str
    """Address of this worker alone, ``host:port``."""
    pid: int
    """Process id on its machine."""
    state: str
    """``starting``, ``ready`` or ``draining``."""
    slots: int
    """Number of slots that it owns."""
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
    """Nodes and workers, with the number of slots that they own."""

    map_version: int
    """Differs after every change."""
    num_slots: int
    """Number of slots in all."""
    nodes: list[NodeStatus]
    """By name."""


class DrainResponse(ResponseBody):
    """A node was drained, or takes environments again."""

    message: str
    """Result, in words."""
    workers: int
    """Number of its workers."""


class StatusResponse(ResponseBody):
    """State of the server."""

    status: str
    """``running``, ``ok`` or ``ready``."""
