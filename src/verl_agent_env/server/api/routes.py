"""All calls of the API in one table: what serves them and what the OpenAPI page says of them."""

from __future__ import annotations

from functools import partial
from typing import Any

from verl_agent_env import errors as e
from verl_agent_env.server.api.batches import BatchHandlers
from verl_agent_env.server.api.catalogue import DEFAULT_ROWS, MAX_ROWS, CatalogueHandlers
from verl_agent_env.server.api.environments import EnvironmentHandlers
from verl_agent_env.server.api.server import ServerHandlers
from verl_agent_env.server.api.tasks import MAX_TASKS, TaskHandlers
from verl_agent_env.server.http.types import Route
from verl_agent_env.wire import responses as a
from verl_agent_env.wire import schemas as r

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
        "description": "What the dearest call was measured to take at most.",
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

_BODY = (e.MalformedBodyError, e.BodyTimeoutError, e.BodyTooLargeError, e.InvalidRequestError)
_BATCH = (*_BODY, e.BatchTooLargeError)
_TASK = (e.UnknownSplitError, e.TaskNotFoundError)
_LIVE = (
    e.EnvironmentNotFoundError,
    e.EnvironmentClosedError,
    e.EnvironmentLostError,
    e.EnvironmentEndedWorkerError,
    e.IncompatibleVersionError,
)
_RUN = (e.EnvironmentFailedError, e.EnvironmentTimeoutError, e.AtCapacityError)
_MAKE = (
    e.UnknownEnvNameError,
    e.InvalidEnvArgumentsError,
    e.ArgumentsTooLargeError,
    e.RunQuotaExceededError,
    e.IdempotencyKeyReusedError,
    e.EnvironmentEndedWorkerError,
    *_RUN,
)
_SEQUENCE = (
    e.SequenceStaleError,
    e.SequenceGapError,
    e.SequenceConflictError,
    e.EpisodeEndedError,
    e.HistoryFullError,
)

_ONE = "/api/environment/{env_id}"
_of_one = partial(Route, owned_by="environment")


def environment_routes(calls: EnvironmentHandlers) -> list[Route]:
    """The calls on one environment."""
    return [
        Route(
            "POST", "/api/environment/initialize", calls.initialize, "Make an environment and begin its first episode",
            r.InitializeRequest, a.InitializeResponse, (_IDEMPOTENCY_KEY,), (*_BODY, *_MAKE, *_TASK),
            owned_by="key",
        ),
        _of_one(
            "POST", f"{_ONE}/reset", calls.reset, "Begin another episode",
            r.ResetRequest, a.ResetResponse, (), (*_BODY, *_LIVE, e.InvalidEnvArgumentsError, e.ArgumentsTooLargeError, e.SequenceStaleError, *_RUN),
        ),
        _of_one(
            "POST", f"{_ONE}/step", calls.step, "Carry out one action",
            r.StepRequest, a.StepResponse, (), (*_BODY, e.ActionTooLargeError, *_LIVE, *_SEQUENCE, *_RUN),
        ),
        _of_one("POST", f"{_ONE}/close", calls.close, "Close the environment; closing twice is a success",
              None, a.MessageResponse, (), (e.EnvironmentNotFoundError,)),
        _of_one("GET", _ONE, calls.state, "Get the state of an environment", None, a.EnvironmentState, (), _LIVE, auth_scope="read"),
        _of_one("GET", f"{_ONE}/action-space", calls.action_space, "JSON Schema of a valid action",
              None, a.ActionSpaceResponse, (), _LIVE, auth_scope="read"),
        _of_one("GET", f"{_ONE}/task-prompt", calls.task_prompt, "What the model has to do",
              None, a.TaskPromptResponse, (), _LIVE, auth_scope="read"),
        _of_one("GET", f"{_ONE}/allow-parallel-tool-call", calls.allow_parallel_tool_call,
              "Whether one action may hold several tool calls", None, a.AllowParallelToolCallResponse, (), _LIVE, auth_scope="read"),
        _of_one("GET", f"{_ONE}/tools-schema-openai", calls.tools_openai, "The tools, as OpenAI's API takes them",
              None, a.ToolsSchemaResponse, (), _LIVE, auth_scope="read"),
        _of_one("GET", f"{_ONE}/tools-schema-anthropic", calls.tools_anthropic,
              "The tools, as Anthropic's API takes them", None, a.ToolsSchemaResponse, (), _LIVE, auth_scope="read"),
        _of_one("POST", f"{_ONE}/read-action", calls.read_action, "How an action would be read, without carrying it out",
              r.ReadActionRequest, a.ReadActionResponse, (), (*_BODY, e.ActionTooLargeError, *_LIVE), auth_scope="read"),
        _of_one("GET", f"{_ONE}/render", calls.render, "A picture of the environment",
              None, None, (_RENDER_MODE,), (*_LIVE, e.RenderModeError), media_types=("text/plain", "image/svg+xml", "image/png"), auth_scope="read"),
        _of_one("GET", f"{_ONE}/trajectory", calls.trajectory, "The episode so far",
              None, a.TrajectoryResponse, (), _LIVE, auth_scope="read", is_long=True),
    ]  # fmt: skip


def batch_routes(calls: BatchHandlers) -> list[Route]:
    """The calls on many environments."""
    return [
        Route(
            "POST", "/api/batch/initialize", calls.initialize, "Make many environments",
            r.BatchInitializeRequest, a.BatchInitializeResponse, (_IDEMPOTENCY_KEY,),
            (*_BATCH, e.IdempotencyKeyReusedError, e.UnknownEnvNameError, e.InvalidEnvArgumentsError),
            tags=("batch",), is_long=True, owned_by="key",
        ),
        Route(
            "POST", "/api/batch/reset", calls.reset, "Begin another episode in many environments",
            r.BatchResetRequest, a.BatchResetResponse, (), _BATCH, tags=("batch",), is_long=True,
        ),
        Route(
            "POST", "/api/batch/step", calls.step, "Carry out one action in each of many environments",
            r.BatchStepRequest, a.BatchStepResponse, (), _BATCH, tags=("batch",), is_long=True,
        ),
        Route(
            "POST", "/api/batch/close", calls.close, "Close many environments, by id or all of a run",
            r.BatchCloseRequest, a.BatchCloseResponse, (), _BATCH, tags=("batch",), is_long=True,
        ),
    ]  # fmt: skip


def task_routes(calls: TaskHandlers) -> list[Route]:
    """The calls on the tasks of an environment."""
    return [
        Route("GET", "/api/environments/{env_name}/splits", calls.splits, "Splits of an environment's tasks",
              None, a.SplitsResponse, (_ENV_NAME,), (e.UnknownEnvNameError, *_RUN), tags=("server",), auth_scope="read"),
        Route("GET", "/api/environments/{env_name}/tasks", calls.tasks, "Tasks of a split",
              None, a.TasksResponse, (_ENV_NAME, *_TASK_PAGE),
              (e.UnknownEnvNameError, e.InvalidRequestError, e.UnknownSplitError, *_RUN), tags=("server",), auth_scope="read"),
    ]  # fmt: skip


def server_routes(calls: ServerHandlers, catalogue: CatalogueHandlers) -> list[Route]:
    """The calls on the server itself."""
    return [
        Route("GET", "/api/environments", catalogue.environments, "All registered environments",
              None, a.CatalogueResponse, _CATALOGUE_PAGE, (e.InvalidRequestError,), tags=("server",), auth_scope="read"),
        Route("GET", "/api/cluster", calls.cluster, "Nodes, workers, and who owns how many slots",
              None, a.ClusterResponse, tags=("server",), auth_scope="read"),
        Route("POST", "/api/cluster/drain", calls.drain, "Empty a node, so that it can be stopped",
              r.DrainRequest, a.DrainResponse, (), (*_BODY, e.NodeNotFoundError, e.WorkerUnreachableError), auth_scope="admin", tags=("server",)),
        Route("GET", "/healthz", calls.alive, "Whether the process answers",
              None, a.StatusResponse, auth_scope="", tags=("server",)),
        Route("GET", "/readyz", calls.is_ready, "Whether the server takes work",
              None, a.StatusResponse, errors=(e.ShuttingDownError,), auth_scope="", tags=("server",)),
        Route("GET", "/metrics", calls.metrics, "All metrics, for Prometheus",
              media_types=("text/plain",), tags=("server",), auth_scope="admin"),
    ]  # fmt: skip
