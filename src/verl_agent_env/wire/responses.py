"""Bodies of the responses, as the OpenAPI document describes them. The frequent ones are written by hand in ``results``."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from verl_agent_env.wire.episodes import Ending

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


class KeptEpisodeRow(ResponseBody):
    """Facts about a kept episode by which it is found."""

    id: str
    """``env_id`` and the number of the episode, with a dot between them."""
    env_id: str
    """Its environment."""
    episode: int
    """Number of the episode in its environment, from 0."""
    env_name: str
    """Registered name of the environment."""
    run_id: str | None
    """Name of its training job."""
    group: str
    """The same for all samples of one problem: equal name, arguments and seed."""
    seed: int
    """The episode's seed."""
    worker: str
    """The worker that held the environment at the episode's end."""
    began_at: float
    """Seconds since the epoch."""
    ended_at: float
    """Seconds since the epoch."""
    num_steps: int
    """Number of steps."""
    reward: float
    """Sum of the rewards."""
    success: bool | None
    """``null`` if the environment judges nothing."""
    ending: Ending
    """``success`` or ``failure``, as the environment judged it; ``ended`` where it judges nothing; ``time_limit``; ``unfinished``:
    closed or reset before its end; ``lost``."""
    num_invalid: int
    """Steps with an invalid action."""
    complete: bool
    """False if steps are missing."""
    training_step: int | None = None
    """Training step whose weights wrote the last action; ``null`` if the actions do not say."""
    tokens: int | None = None
    """Sum of the tokens that the model wrote; ``null`` if the actions do not say."""


class EpisodesResponse(ResponseBody):
    """A page of kept episodes."""

    kept: bool
    """False if the server keeps no episodes."""
    episodes: list[KeptEpisodeRow]
    """Those of the page, in order."""
    total: int
    """How many fit the parameters; with a text, how many were found in the time for it."""
    next_offset: int | None
    """Where the next page begins; ``null`` at the end."""
    is_whole: bool
    """False if the time for finding a text was over before all episodes were looked at."""
    endings: dict[str, int]
    """How many there are of each ending, whatever ``ending``, ``success`` and ``invalid`` ask for."""
    invalid: int
    """How many of these have an invalid action."""
    silent_workers: list[str]
    """Workers that did not answer: their episodes are missing here."""


class KeptStepShown(StepResponse):
    """One step of a kept episode."""

    seq: int
    """Its number, from 0."""
    at: float | None
    """Seconds since the epoch; ``null`` if it is not known."""
    action: Any
    """The action, as it was sent."""
    reading: ReadActionResponse | None
    """How the action is read; ``null`` if its environment is not installed."""
    prompt_tokens: int | None
    """Tokens that the model read for the action; ``null`` if the action does not say."""
    tokens: int | None
    """Tokens that it wrote, likewise."""
    drawing: str | None = None
    """The state after the step as SVG, where it was asked for."""


class KeptEpisodeResponse(KeptEpisodeRow):
    """A kept episode."""

    env_kwargs: dict[str, Any]
    """Keyword arguments of the environment."""
    options: dict[str, Any] | None
    """Options of the reset."""
    lost: str | None
    """Reason why the environment was lost, if it was."""
    observation: Observation | None
    """The first observation; ``null`` if it is not known."""
    info: dict[str, Any] | None
    """The info of the reset."""
    drawing: str | None = None
    """The beginning as SVG, where it was asked for; ``null`` if the episode cannot be drawn."""
    steps: list[KeptStepShown]
    """The steps, in order."""


class EpisodeSums(ResponseBody):
    """Sums over some episodes."""

    episodes: int
    """How many there are."""
    judged: int
    """Those whose environment judges them."""
    successes: int
    """Those that were a success."""
    reward: float
    """Sum of their rewards."""
    num_steps: int
    """Sum of their steps."""
    seconds: float
    """Sum of the times that they took."""


class EnvironmentSums(EpisodeSums):
    """Sums over the episodes of one environment."""

    env_name: str
    """Its registered name."""


class CurvePoint(EpisodeSums):
    """Sums over the episodes that ended within ten seconds."""

    at: int
    """Beginning of the ten seconds, in seconds since the epoch."""


class TrainingStepSums(EpisodeSums):
    """Sums over the episodes that were played with the weights of one training step."""

    training_step: int
    """The step."""


class RunShown(ResponseBody):
    """A run, summed up."""

    run_id: str | None
    """Its name; ``null`` for episodes without one."""
    episodes: int
    """Number of kept episodes."""
    judged: int
    """Those whose environment judges them."""
    successes: int
    """Those that were a success."""
    mean_reward: float
    """Mean of their rewards."""
    num_steps: int
    """Sum of their steps."""
    invalid: int
    """Those with an invalid action."""
    began_at: float
    """Beginning of the first one, in seconds since the epoch."""
    ended_at: float
    """End of the last one."""
    endings: dict[str, int]
    """How many there are of each ending."""
    environments: list[EnvironmentSums]
    """By environment."""
    points: list[CurvePoint]
    """By tens of seconds, if one ``run`` was asked for."""
    training_steps: list[TrainingStepSums]
    """By training step, likewise, where the actions say which."""


class RunsResponse(ResponseBody):
    """Runs, the one with the latest episode first."""

    kept: bool
    """False if the server keeps no episodes."""
    runs: list[RunShown]
    """Those of the page."""
    total: int
    """How many there are."""
    silent_workers: list[str]
    """Workers that did not answer: their episodes are missing here."""


class CallCosts(ResponseBody):
    """Processor time of an environment's calls with the default arguments, in milliseconds, as it was measured once."""

    reset_ms: float
    """Of the dearest reset."""
    step_ms: float
    """Of the dearest step."""
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
