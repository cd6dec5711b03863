"""All calls of the API in one table: what serves them and what the OpenAPI page says of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from verl_agent_env import errors as e
from verl_agent_env import waits
from verl_agent_env.engine import Host
from verl_agent_env.engine.episodes.search import SORT_KEYS
from verl_agent_env.server.api.batches import BatchHandlers
from verl_agent_env.server.api.catalogue import DEFAULT_ROWS, MAX_ROWS, CatalogueHandlers
from verl_agent_env.server.api.cluster_events import MAX_SECONDS, ClusterEventHandlers
from verl_agent_env.server.api.environments import EnvironmentHandlers
from verl_agent_env.server.api.episodes import EpisodeHandlers
from verl_agent_env.server.api.runs import RunHandlers
from verl_agent_env.server.api.server import ServerHandlers
from verl_agent_env.server.api.tasks import MAX_TASKS, TaskHandlers
from verl_agent_env.server.http import documented_errors as errors
from verl_agent_env.server.http.types import Route
from verl_agent_env.server.verbs.values import CLOSE, ENVIRONMENT_VERBS
from verl_agent_env.wire import catalogue_responses, episode_responses
from verl_agent_env.wire import responses as a
from verl_agent_env.wire import schemas as r
from verl_agent_env.wire.episodes import ENDINGS

_IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same request under the same key is answered once and for all: makes it safe to send again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 256, "pattern": "^[!-~]+$"},
}
_RENDER_MODE: dict[str, Any] = {
    "name": "mode",
    "in": "query",
    "required": False,
    "description": "How to draw it.",
    "schema": {"type": "string", "enum": ["ansi", "svg", "png"], "default": "ansi"},
}

_DRAWINGS: dict[str, Any] = {
    "name": "render",
    "in": "query",
    "required": False,
    "description": "Adds drawings: of the beginning, and after each step.",
    "schema": {"type": "string", "enum": ["svg"]},
}
_ENV_NAME: dict[str, Any] = {
    "name": "env_name",
    "in": "path",
    "required": True,
    "description": "Registered name, its slash as it is, or a short one such as sokoban.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[0-9A-Za-z_.-]+$"},
}
_TASK_PAGE: tuple[dict[str, Any], ...] = (
    {
        "name": "split",
        "in": "query",
        "required": False,
        "description": "Of which split.",
        "schema": {"type": "string", "default": "train"},
    },
    {
        "name": "offset",
        "in": "query",
        "required": False,
        "description": "Index of the first task.",
        "schema": {"type": "integer", "minimum": 0, "default": 0},
    },
    {
        "name": "limit",
        "in": "query",
        "required": False,
        "description": "How many at most.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_TASKS, "default": 20},
    },
)

_RUN_ID: dict[str, Any] = {
    "name": "run_id",
    "in": "path",
    "required": True,
    "description": "A run of the token's holder.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 128},
}
_CURSOR: dict[str, Any] = {
    "name": "cursor",
    "in": "query",
    "required": False,
    "description": "next_cursor of the page before.",
    "schema": {"type": "string", "pattern": "^[0-9]{1,20}$", "default": "0"},
}

_CATALOGUE_PAGE: tuple[dict[str, Any], ...] = (
    {
        "name": "search",
        "in": "query",
        "required": False,
        "description": "Words that the name, the description or the tags hold.",
        "schema": {"type": "string"},
    },
    {
        "name": "tag",
        "in": "query",
        "required": False,
        "description": "A tag; of several, all.",
        "schema": {"type": "array", "items": {"type": "string"}},
    },
    {
        "name": "max_ms",
        "in": "query",
        "required": False,
        "description": "The longest time that was measured for a call.",
        "schema": {"type": "number", "exclusiveMinimum": 0},
    },
    {
        "name": "offset",
        "in": "query",
        "required": False,
        "description": "Index of the first environment.",
        "schema": {"type": "integer", "minimum": 0, "default": 0},
    },
    {
        "name": "limit",
        "in": "query",
        "required": False,
        "description": "How many at most.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_ROWS, "default": DEFAULT_ROWS},
    },
)


def _parameter(name: str, description: str, **schema: Any) -> dict[str, Any]:
    return {"name": name, "in": "query", "required": False, "description": description, "schema": schema}


_EPISODE_PAGE: tuple[dict[str, Any], ...] = (
    _parameter("run", "Of this run.", type="string"),
    _parameter("env", "Of this environment, by its registered name.", type="string"),
    _parameter("group", "Of this group: samples of one problem.", type="string"),
    _parameter("seed", "With this seed.", type="integer", minimum=0),
    _parameter("training_step", "Played with the weights of this training step.", type="integer", minimum=0),
    _parameter("ending", "That ended so.", type="string", enum=list(ENDINGS)),
    _parameter("success", "That were a success, or not.", type="boolean"),
    _parameter("invalid", "With an invalid action, or without.", type="boolean"),
    _parameter("min_reward", "With this reward in all, at least.", type="number"),
    _parameter("max_reward", "With this reward in all, at most.", type="number"),
    _parameter("text", "In which this was observed or done, capitals or not.", type="string"),
    _parameter("sort", "By what they are sorted.", type="string", enum=list(SORT_KEYS), default="ended_at"),
    _parameter("order", "In which direction.", type="string", enum=["asc", "desc"], default="desc"),
    _parameter("offset", "Index of the first one.", type="integer", minimum=0, default=0),
    _parameter("limit", "How many at most.", type="integer", minimum=1, default=100),
)
_ONE_EPISODE: tuple[dict[str, Any], ...] = (
    {
        "name": "episode_id",
        "in": "path",
        "required": True,
        "description": "Id from the list.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 160, "pattern": "^[0-9A-Za-z_.-]+$"},
    },
    _DRAWINGS,
)
_SEAT: tuple[dict[str, Any], ...] = (
    _parameter("seat", "The seat, from 0.", type="integer", minimum=0, default=0),
    _parameter(
        "wait_s",
        "Seconds to wait until the seat is to act or the episode has ended.",
        type="integer",
        minimum=0,
        maximum=int(waits.SEAT_S),
        default=0,
    ),
)
_ONE = "/api/environment/{env_id}"
_of_one = partial(Route, owned_by="environment")


def environment_routes(host: Host, calls: EnvironmentHandlers) -> list[Route]:
    """The calls on one environment."""
    return [
        Route(
            "POST", "/api/environment/initialize", calls.initialize, "Make an environment and begin its first episode",
            r.InitializeRequest, a.InitializeResponse, (_IDEMPOTENCY_KEY,), (*errors.BODY, *errors.MAKE, *errors.TASK),
            owned_by="key",
        ),
        *(
            _of_one(
                "POST", f"{_ONE}/{verb.name}", verb.single(host),
                verb.one.summary, verb.single_request, verb.one.response_model, (), verb.one.errors,
            )
            for verb in ENVIRONMENT_VERBS
        ),
        _of_one("GET", _ONE, calls.state, "Get the state of an environment", None, a.EnvironmentState, (), errors.LIVE, auth_scope="read"),
        _of_one("GET", f"{_ONE}/action-space", calls.action_space, "JSON Schema of a valid action",
              None, a.ActionSpaceResponse, (), errors.LIVE, auth_scope="read"),
        _of_one("GET", f"{_ONE}/task-prompt", calls.task_prompt, "What the model has to do",
              None, a.TaskPromptResponse, (), errors.LIVE, auth_scope="read"),
        _of_one("GET", f"{_ONE}/allow-parallel-tool-call", calls.allow_parallel_tool_call,
              "Whether one action may hold several tool calls", None, a.AllowParallelToolCallResponse, (), errors.LIVE, auth_scope="read"),
        _of_one("GET", f"{_ONE}/tools-schema-openai", calls.tools_openai, "The tools, as OpenAI's API takes them",
              None, a.ToolsSchemaResponse, (), errors.LIVE, auth_scope="read"),
        _of_one("GET", f"{_ONE}/tools-schema-anthropic", calls.tools_anthropic,
              "The tools, as Anthropic's API takes them", None, a.ToolsSchemaResponse, (), errors.LIVE, auth_scope="read"),
        _of_one("POST", f"{_ONE}/read-action", calls.read_action, "How an action would be read, without carrying it out",
              r.ReadActionRequest, a.ReadActionResponse, (), (*errors.BODY, e.ActionTooLargeError, *errors.LIVE), auth_scope="read"),
        _of_one("POST", f"{_ONE}/propose-action", calls.propose_action, "An action that a policy would take next, without carrying it out",
              r.ProposeActionRequest, a.ProposeActionResponse, (), (*errors.BODY, *errors.LIVE, e.EpisodeEndedError, *errors.RUN)),
        _of_one("GET", f"{_ONE}/seat", calls.seat, "What a seat sees, and whether it is to act",
              None, a.SeatViewResponse, _SEAT, (*errors.LIVE, e.UnknownSeatError, e.InvalidRequestError), auth_scope="read"),
        _of_one("GET", f"{_ONE}/render", calls.render, "A picture of the environment",
              None, None, (_RENDER_MODE,), (*errors.LIVE, e.RenderModeError), media_types=("text/plain", "image/svg+xml", "image/png"), auth_scope="read"),
        _of_one("GET", f"{_ONE}/trajectory", calls.trajectory, "The episode so far",
              None, a.TrajectoryResponse, (_DRAWINGS,), (*errors.LIVE, e.InvalidRequestError, e.RenderModeError), auth_scope="read", is_long=True),
    ]  # fmt: skip


def batch_routes(calls: BatchHandlers) -> list[Route]:
    """The calls on many environments."""
    # It takes a run in place of environments, too.
    own = {CLOSE.name: calls.close}
    return [
        Route(
            "POST", "/api/batch/initialize", calls.initialize, "Make many environments",
            r.BatchInitializeRequest, a.BatchInitializeResponse, (_IDEMPOTENCY_KEY,),
            (*errors.BATCH, e.IdempotencyKeyReusedError, e.UnknownEnvNameError, e.InvalidEnvArgumentsError),
            tags=("batch",), is_long=True, owned_by="key",
        ),
        *(
            Route(
                "POST", f"/api/batch/{verb.name}", own.get(verb.name) or calls.handler(verb),
                verb.many.summary, verb.batch_request, verb.many.response_model, (), verb.many.errors,
                tags=("batch",), is_long=True,
            )
            for verb in ENVIRONMENT_VERBS
        ),
    ]  # fmt: skip


def task_routes(calls: TaskHandlers) -> list[Route]:
    """The calls on the tasks of an environment."""
    return [
        Route("GET", "/api/environments/{env_name}/splits", calls.splits, "Splits of an environment's tasks",
              None, catalogue_responses.SplitsResponse, (_ENV_NAME,), (e.UnknownEnvNameError, *errors.RUN), tags=("server",), auth_scope="read"),
        Route("GET", "/api/environments/{env_name}/tasks", calls.tasks, "Tasks of a split",
              None, catalogue_responses.TasksResponse, (_ENV_NAME, *_TASK_PAGE),
              (e.UnknownEnvNameError, e.InvalidRequestError, e.UnknownSplitError, *errors.RUN), tags=("server",), auth_scope="read"),
    ]  # fmt: skip


def episode_routes(calls: EpisodeHandlers) -> list[Route]:
    """The calls on kept episodes."""
    route = partial(Route, auth_scope="read", tags=("episodes",), is_long=True)
    invalid = (e.InvalidRequestError, e.StoreUnavailableError)
    return [
        route("GET", "/api/episodes", calls.find, "Kept episodes",
              None, episode_responses.EpisodesResponse, _EPISODE_PAGE, invalid),
        route("GET", "/api/episodes/{episode_id}", calls.read, "A kept episode",
              None, episode_responses.KeptEpisodeResponse, _ONE_EPISODE, (e.EpisodeNotFoundError, *invalid)),
        route("GET", "/api/episodes.jsonl", calls.export_lines, "Kept episodes, a line of JSON each",
              None, None, _EPISODE_PAGE, invalid, media_types=("application/jsonl",)),
        route("GET", "/api/episodes.parquet", calls.export_table, "Kept episodes as conversations, in parquet",
              None, None, _EPISODE_PAGE, invalid, media_types=("application/vnd.apache.parquet",)),
        route("GET", "/api/runs", calls.runs, "Kept episodes, summed up by run",
              None, episode_responses.RunsResponse, _EPISODE_PAGE, invalid),
    ]  # fmt: skip


def run_routes(calls: RunHandlers) -> list[Route]:
    """The calls on runs."""
    return [
        Route("GET", "/api/runs/{run_id}/tasks", calls.tasks, "How often each task of a run was tried and solved",
              None, catalogue_responses.RunTasksResponse, (_RUN_ID, _CURSOR), (e.InvalidRequestError, e.StoreUnavailableError), tags=("server",), auth_scope="read"),
    ]  # fmt: skip


_LISTENING: tuple[dict[str, Any], ...] = (
    _parameter("run", "Also how many environments of this run live.", type="string"),
    _parameter(
        "seconds",
        "Seconds after which the response ends.",
        type="integer",
        minimum=1,
        maximum=MAX_SECONDS,
        default=MAX_SECONDS,
    ),
)


def server_routes(
    calls: ServerHandlers, catalogue: CatalogueHandlers, happening: ClusterEventHandlers
) -> list[Route]:
    """The calls on the server itself."""
    return [
        Route("GET", "/api/environments", catalogue.environments, "All registered environments",
              None, catalogue_responses.CatalogueResponse, _CATALOGUE_PAGE, (e.InvalidRequestError,), tags=("server",), auth_scope="read"),
        Route("GET", "/api/environments/{env_name}", catalogue.environment, "A registered environment, in full",
              None, catalogue_responses.EnvironmentKind, (_ENV_NAME,), (e.UnknownEnvNameError, e.ExtraNotInstalledError, e.EnvironmentFailedError),
              tags=("server",), auth_scope="read"),
        Route("GET", "/api/cluster", calls.cluster, "Nodes, workers, and who owns how many slots",
              None, catalogue_responses.ClusterResponse, tags=("server",), auth_scope="read"),
        Route("GET", "/api/cluster/events", happening.events, "What the cluster is doing, as it happens",
              None, None, _LISTENING, (e.InvalidRequestError,), tags=("server",), auth_scope="read", media_types=("text/event-stream",), is_long=True),
        Route("POST", "/api/cluster/drain", calls.drain, "Empty a node, so that it can be stopped",
              r.DrainRequest, catalogue_responses.DrainResponse, (), (*errors.BODY, e.NodeNotFoundError, e.WorkerUnreachableError), auth_scope="admin", tags=("server",)),
        Route("GET", "/healthz", calls.alive, "Whether the process answers",
              None, catalogue_responses.StatusResponse, auth_scope="", tags=("server",)),
        Route("GET", "/readyz", calls.is_ready, "Whether the server takes work",
              None, catalogue_responses.StatusResponse, errors=(e.NotReadyError, e.ShuttingDownError), auth_scope="", tags=("server",)),
        Route("GET", "/metrics", calls.metrics, "All metrics, for Prometheus",
              media_types=("text/plain",), tags=("server",), auth_scope="admin"),
    ]  # fmt: skip
