"""Bodies of the requests. The same model validates a body and describes it in the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.config import JsonDict

from verl_agent_env.seeds import MAX_SEED
from verl_agent_env.types import MAX_SPLIT_NAME_LENGTH

T = TypeVar("T")

MAX_TTL_S = 30 * 24 * 3600.0

Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
EnvName = Annotated[str, Field(min_length=1, max_length=128)]
EnvId = Annotated[str, Field(min_length=1, max_length=128)]
MAX_RUN_ID_LENGTH = 128
RunId = Annotated[str, Field(min_length=1, max_length=MAX_RUN_ID_LENGTH)]
Seq = Annotated[int, Field(ge=0)]
TtlS = Annotated[float, Field(gt=0, le=MAX_TTL_S)]
Arguments = Annotated[dict[Annotated[str, Field(max_length=128)], Any], Field(max_length=256)]
"""Keyword arguments or options. Their number is limited, and with it the length of an error about them."""
Column: TypeAlias = Annotated[list[T], Field(fail_fast=True)]
"""A list that is validated only up to the first fault, because a body can hold a hundred million of them."""

FirstActions: TypeAlias = Annotated[list[Any], Field(max_length=1000)]
"""Actions that a request carries out first."""

_TOOL_CALL_ACTION: dict[str, Any] = {
    "role": "assistant",
    "content": "",
    "tool_calls": [
        {"id": "call_1", "type": "function", "function": {"name": "move_right", "arguments": "{}"}},
    ],
}
_EXAMPLE_ENV_ID = "3fa-0123456789abcdef0123456789abcdef"


def _given(name: str, kind: str) -> JsonDict:
    """Return a schema that requires one of several fields, not ``null``."""
    return {"required": [name], "properties": {name: {"type": kind}}}


class RequestBody(BaseModel):
    """Base of all bodies of requests: unknown fields and wrong types are refused."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )


class TaskRequest(RequestBody):
    """Name a task of an environment; ``GET /api/environments/{env_name}/tasks`` lists them."""

    split: Annotated[str, Field(min_length=1, max_length=MAX_SPLIT_NAME_LENGTH)]
    """``train``, ``test``, or another split of the environment."""
    index: Annotated[int, Field(ge=0, le=MAX_SEED)]
    """Position in the split."""


class InitializeRequest(RequestBody):
    """Create one environment and begin its first episode."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"env_name": "verl_env/frozen_lake-v1", "seed": 1, "env_kwargs": {"size": 4}},
                {"env_name": "sokoban", "task": {"split": "train", "index": 7}},
            ]
        }
    )

    env_name: EnvName
    """Registered name, or a short one such as ``sokoban``."""
    seed: Seed | None = None
    """Seed of the first episode; a random one when not given."""
    env_kwargs: Arguments = Field(default_factory=dict)
    """Keyword arguments of the environment; ``GET /api/environments`` has their schema."""
    run_id: RunId | None = None
    """Names the training job, whose environments can be closed together."""
    ttl_s: TtlS | None = None
    """Seconds without a call after which the environment is closed; the server's default when not given."""
    task: TaskRequest | None = None
    """The task to begin with, which names the seed and, in task lists, further arguments; given instead of a seed."""
    actions: FirstActions | None = None
    """Actions to carry out first, all of them or none; only where an episode repeats itself."""

    @model_validator(mode="after")
    def _check_task(self) -> InitializeRequest:
        if self.task is not None and self.seed is not None:
            raise ValueError("give either a seed or a task, which has its own")
        return self


class ResetRequest(RequestBody):
    """Begin another episode."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"seed": 2}]})

    seed: Seed | None = None
    """Seed of the episode. Without it, the first reset begins the first episode, if no step was taken yet; any other the next one."""
    options: Arguments | None = None
    """Options of the environment."""
    actions: FirstActions | None = None
    """Actions to carry out first, all of them or none; only where an episode repeats itself, and with its ``seed``."""

    @model_validator(mode="after")
    def _check_actions(self) -> ResetRequest:
        if self.actions is not None and self.seed is None:
            raise ValueError("actions belong to the episode of one seed: give it")
        return self


class StepRequest(RequestBody):
    """Carry out one action."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"action": _TOOL_CALL_ACTION, "seq": 0}]})

    action: Any = Field(...)
    """An assistant message (OpenAI or Anthropic), a list that holds some, or the model's raw text."""
    seq: Seq | None = None
    """Number of the step within the episode, from 0: makes the step safe to send again."""


class ReadActionRequest(RequestBody):
    """Read an action without carrying it out."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"action": "<think>The goal is there.</think><answer>right</answer>"}]
        }
    )

    action: Any = Field(...)
    """An action, in any form that a step accepts."""


class ProposeActionRequest(RequestBody):
    """Propose the next action without carrying it out."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"policy": "random"}]})

    policy: Literal["random", "solution", "model"]
    """``random``: as a random policy acts; ``solution``: the next action of a known solution; ``model``: what a model says."""
    endpoint: Annotated[str, Field(max_length=64)] | None = None
    """Name of the model endpoint, for ``model``."""


class BatchInitializeRequest(RequestBody):
    """Create many environments; lists are columns of one length."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"env_name": "sokoban", "seeds": [1, 2], "env_kwargs": {"dim_room": [6, 6]}},
                {"env_name": "sokoban", "tasks": [{"split": "train", "index": i} for i in range(2)]},
            ],
            "oneOf": [_given("env_names", "array"), _given("env_name", "string")],
        }
    )

    env_names: Column[EnvName] | None = None
    """A name for each environment."""
    env_name: EnvName | None = None
    """One name for all of them."""
    num_envs: int | None = Field(default=None, ge=0)
    """Number of environments, if no list gives it."""
    seeds: Column[Seed | None] | None = None
    """A seed for each environment."""
    env_kwargs: Arguments | Column[Arguments] | None = None
    """Keyword arguments: the same for all, or a list."""
    run_id: RunId | None = None
    """Names the training job, whose environments can be closed together."""
    ttl_s: TtlS | None = None
    """Seconds without a call after which an environment is closed; the server's default when not given."""
    tasks: Column[TaskRequest | None] | None = None
    """A task for each environment, which names its seed and, in task lists, further arguments; given instead of a seed."""

    @model_validator(mode="after")
    def _check_columns(self) -> BatchInitializeRequest:
        if (self.env_names is None) == (self.env_name is None):
            raise ValueError("give either env_names or env_name")
        lengths = {
            "env_names": None if self.env_names is None else len(self.env_names),
            "seeds": None if self.seeds is None else len(self.seeds),
            "env_kwargs": len(self.env_kwargs) if isinstance(self.env_kwargs, list) else None,
            "tasks": None if self.tasks is None else len(self.tasks),
            "num_envs": self.num_envs,
        }
        known = {name: length for name, length in lengths.items() if length is not None}
        if not known:
            raise ValueError("say how many: with env_names, seeds, tasks, a list of env_kwargs, or num_envs")
        if len(set(known.values())) > 1:
            raise ValueError(f"columns differ in length: {known}")
        for index, (task, seed) in enumerate(zip(self.tasks or (), self.seeds or (), strict=False)):
            if task is not None and seed is not None:
                raise ValueError(f"item {index} has a seed and a task, which has its own: give either")
        return self

    @property
    def size(self) -> int:
        """Number of environments asked for."""
        for column in (self.env_names, self.seeds, self.env_kwargs, self.tasks):
            if isinstance(column, list):
                return len(column)
        return self.num_envs or 0


class BatchResetRequest(RequestBody):
    """Begin another episode in many environments."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"env_ids": [_EXAMPLE_ENV_ID], "seeds": [5]}]})

    env_ids: Column[EnvId]
    """The environments."""
    seeds: Column[Seed | None] | None = None
    """A seed for each of them."""
    options: Arguments | Column[Arguments | None] | None = None
    """Options: the same for all, or a list."""

    @model_validator(mode="after")
    def _check_columns(self) -> BatchResetRequest:
        _require_length(self.env_ids, seeds=self.seeds, options=self.options)
        return self


class BatchStepRequest(RequestBody):
    """Carry out one action in each of many environments."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"env_ids": [_EXAMPLE_ENV_ID], "actions": [_TOOL_CALL_ACTION], "seqs": [0]}],
        }
    )

    env_ids: Column[EnvId]
    """The environments; one that is listed twice takes its actions in order."""
    actions: list[Any]
    """An action for each of them."""
    seqs: Column[Seq | None] | None = None
    """Numbers of the steps within their episodes."""

    @model_validator(mode="after")
    def _check_columns(self) -> BatchStepRequest:
        _require_length(self.env_ids, actions=self.actions, seqs=self.seqs)
        return self


class BatchCloseRequest(RequestBody):
    """Close many environments, by id or all of a run."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"run_id": "run-7"}],
            "oneOf": [_given("env_ids", "array"), _given("run_id", "string")],
        }
    )

    env_ids: Column[EnvId] | None = None
    """The environments."""
    run_id: RunId | None = None
    """The training job whose environments are all closed."""

    @model_validator(mode="after")
    def _check_choice(self) -> BatchCloseRequest:
        if (self.env_ids is None) == (self.run_id is None):
            raise ValueError("give either env_ids or run_id")
        return self


class InternalCloseRunRequest(RequestBody):
    """Close environments of a run on another worker."""

    run_id: RunId
    tag: str | None = None
    """Tag of the holder whose environments are closed; those of all holders if not given."""


class InternalInitializeRequest(BatchInitializeRequest):
    """Create a part of a batch on another worker, with these ids."""

    env_ids: Column[EnvId]
    """Their ids."""


class WithOperations(RequestBody):
    """Part of a batch whose items are recognized by their operation ids."""

    operations: str | Column[str] | None = None
    """The ids: one if no environment is listed twice; None if something else identifies the items."""


class InternalResetRequest(BatchResetRequest, WithOperations):
    """Reset a part of a batch on another worker."""


class InternalStepRequest(BatchStepRequest, WithOperations):
    """Step a part of a batch on another worker."""


class InternalDrainRequest(RequestBody):
    """Hand all environments over to other workers."""

    undo: bool = False
    """True to accept environments again instead."""


class DrainRequest(RequestBody):
    """Empty a node, so that it can be stopped."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"node": "node-2"}]})

    node: Annotated[str, Field(min_length=1, max_length=253)]
    """Its name."""
    undo: bool = False
    """True to have it accept environments again."""


def _require_length(env_ids: list[str], **columns: object) -> None:
    for name, column in columns.items():
        if isinstance(column, list) and len(column) != len(env_ids):
            raise ValueError(f"{name} has {len(column)} items for {len(env_ids)} env_ids")
