"""The calls that can be sent alone or in a batch: encoding of their requests, decoding of the responses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar

import orjson

from verl_agent_env.client.transport import read_object
from verl_agent_env.errors import VerlAgentEnvError, error_from_problem
from verl_agent_env.messages.content import well_formed
from verl_agent_env.seeds import MAX_SEED
from verl_agent_env.types import Info, Observation, StepResult


class ResetResult(NamedTuple):
    """Gymnasium's two returns of ``reset``."""

    observation: Observation
    info: Info


class FirstResults(NamedTuple):
    """Results of a call that begins an episode: of the reset, and of the actions that it carried out first."""

    first: ResetResult
    steps: list[StepResult]


class Initialized(NamedTuple):
    """A new environment."""

    env_id: str
    beginning: FirstResults


@dataclass(frozen=True, slots=True)
class TaskName:
    """Name of a task: an episode that the server lists for an environment."""

    split: str
    """``train``, ``test``, or another split of the environment."""
    index: int
    """Position in the split, from 0."""

    @classmethod
    def of(cls, given: TaskLike, seed: int | None = None) -> TaskName:
        """Read a task as callers give it.

        Args:
            given: ``(split, index)``, or a row of the server's list.
            seed: What else was given as the episode's seed.

        Raises:
            ValueError: It names no task, or there is a seed as well.
        """
        if seed is not None:
            raise ValueError("give either a seed or a task, which has its own")
        try:
            split, index = (given["split"], given["index"]) if isinstance(given, Mapping) else given
        except (KeyError, TypeError, ValueError):
            split = index = None
        if isinstance(index, Integral) and not isinstance(index, bool):
            index = int(index)
        if (
            not (isinstance(split, str) and well_formed(split) == split)
            or type(index) is not int
            or not 0 <= index <= MAX_SEED
        ):
            raise ValueError(f"a task is (split, index), such as ('train', 7), not {given!r:.80}")
        return cls(split, index)

    def fields(self) -> dict[str, str | int]:
        """Return it as the API takes it."""
        return {"split": self.split, "index": self.index}


TaskLike: TypeAlias = tuple[str, int] | Mapping[str, Any]
"""A task as ``(split, index)``, or as a row of ``GET /api/environments/{env_name}/tasks``."""


@dataclass(slots=True)
class InitializeItem:
    """Make an environment."""

    env_name: str
    seed: int | None
    env_kwargs: bytes
    """JSON."""
    run_id: str
    ttl_s: float | None
    deadline: float = 0.0
    sent: bool = False
    retries: int = 0
    key: str = ""
    """Idempotency-Key when it is sent alone."""
    task: TaskName | None = None
    """What the first episode is, in place of a seed."""
    actions: Sequence[bytes] = ()
    """Actions to carry out first, JSON. Only a call that is sent alone takes them."""


@dataclass(slots=True)
class ResetItem:
    """Begin an episode."""

    env_id: str
    seed: int | None
    options: bytes
    """JSON."""
    deadline: float = 0.0
    sent: bool = False
    retries: int = 0
    actions: Sequence[bytes] = ()
    """Actions to carry out first, JSON. Only a call that is sent alone takes them."""


@dataclass(slots=True)
class StepItem:
    """Carry out an action."""

    env_id: str
    action: bytes
    """JSON."""
    seq: int
    deadline: float = 0.0
    sent: bool = False
    retries: int = 0


@dataclass(slots=True)
class CloseItem:
    """Close an environment."""

    env_id: str
    deadline: float = 0.0
    sent: bool = False
    retries: int = 0


AnyItem = InitializeItem | ResetItem | StepItem | CloseItem
ItemT = TypeVar("ItemT", bound=AnyItem)
ResultT = TypeVar("ResultT")


@dataclass(frozen=True, slots=True)
class ClientVerb(Generic[ItemT, ResultT]):
    """One kind of call."""

    name: str
    single_path: Callable[[ItemT], str]
    single_body: Callable[[ItemT], bytes]
    read_single: Callable[[dict[str, Any]], ResultT]
    """Decodes a response; raises KeyError or TypeError for one of another form."""
    batch_body: Callable[[Sequence[ItemT]], bytes]
    read_batch: Callable[[dict[str, Any], int], list[Any]]
    """Decodes a response with this number of items; the values of failed items are undefined."""

    def decode_single(self, origin: str, payload: bytes) -> ResultT:
        """Decode the response to a single call.

        Raises:
            NoServerError: The response has another form.
        """
        return read_object(origin, payload, self.read_single)

    def decode_batch(self, origin: str, payload: bytes, size: int) -> list[ResultT | VerlAgentEnvError]:
        """Decode the response to a batch: a result or an error for each item.

        Raises:
            NoServerError: The response has another form.
        """

        def read(document: dict[str, Any]) -> list[ResultT | VerlAgentEnvError]:
            results = self.read_batch(document, size)
            for problem in document["errors"]:
                results[problem["index"]] = error_from_problem(problem)
            if len(results) != size:
                raise ValueError
            return results

        return read_object(origin, payload, read)


def _initialize_single(item: InitializeItem) -> bytes:
    task = {} if item.task is None else {"task": item.task.fields()}
    return orjson.dumps(
        {
            "env_name": item.env_name,
            "seed": item.seed,
            "env_kwargs": orjson.Fragment(item.env_kwargs),
            "run_id": item.run_id,
            "ttl_s": item.ttl_s,
            **task,
            **_first_actions(item),
        }
    )


def _first_actions(item: InitializeItem | ResetItem) -> dict[str, Any]:
    return {"actions": list(map(orjson.Fragment, item.actions))} if item.actions else {}


def _initialize_batch(items: Sequence[InitializeItem]) -> bytes:
    first = items[0]
    body: dict[str, Any] = {"run_id": first.run_id, "ttl_s": first.ttl_s}
    if all(item.env_name == first.env_name for item in items):
        body["env_name"] = first.env_name
    else:
        body["env_names"] = [item.env_name for item in items]
    body["seeds"] = [item.seed for item in items]
    if all(item.env_kwargs == first.env_kwargs for item in items):
        # Sent and checked once.
        body["env_kwargs"] = orjson.Fragment(first.env_kwargs)
    else:
        body["env_kwargs"] = [orjson.Fragment(item.env_kwargs) for item in items]
    if any(item.task is not None for item in items):
        body["tasks"] = [None if item.task is None else item.task.fields() for item in items]
    return orjson.dumps(body)


def _reset_batch(items: Sequence[ResetItem]) -> bytes:
    body: dict[str, Any] = {
        "env_ids": [item.env_id for item in items],
        "seeds": [item.seed for item in items],
    }
    if any(item.options != b"null" for item in items):
        body["options"] = [orjson.Fragment(item.options) for item in items]
    return orjson.dumps(body)


def _step_batch(items: Sequence[StepItem]) -> bytes:
    return orjson.dumps(
        {
            "env_ids": [item.env_id for item in items],
            "actions": [orjson.Fragment(item.action) for item in items],
            "seqs": [item.seq for item in items],
        }
    )


def _reset_single(item: ResetItem) -> bytes:
    return orjson.dumps({"seed": item.seed, "options": orjson.Fragment(item.options), **_first_actions(item)})


def _read_beginning(answer: dict[str, Any]) -> FirstResults:
    first = _first_of(answer["observation"], answer["info"])
    return FirstResults(first, list(map(_read_step, answer.get("steps", ()))))


def _read_beginnings(answer: dict[str, Any], _: int = 0) -> list[Any]:
    return [FirstResults(first, []) for first in map(_first_of, answer["observations"], answer["infos"])]


def _first_of(observation: Observation, info: Any) -> ResetResult:
    # Of an item that failed there is none.
    if info is not None and not isinstance(info, dict):
        raise TypeError
    return ResetResult(observation, info or {})


def _read_step(answer: dict[str, Any]) -> StepResult:
    return StepResult(
        answer["observation"], answer["reward"], answer["terminated"], answer["truncated"], answer["info"]
    )


def _read_steps(answer: dict[str, Any], _: int) -> list[Any]:
    columns = ("observations", "rewards", "terminations", "truncations", "infos")
    return list(map(StepResult, *(answer[column] for column in columns)))


INITIALIZE: ClientVerb[InitializeItem, Initialized] = ClientVerb(
    "initialize",
    lambda _: "/api/environment/initialize",
    _initialize_single,
    lambda answer: Initialized(answer["env_id"], _read_beginning(answer)),
    _initialize_batch,
    lambda answer, _: list(map(Initialized, answer["env_ids"], _read_beginnings(answer))),
)

RESET: ClientVerb[ResetItem, FirstResults] = ClientVerb(
    "reset",
    lambda item: path_of(item.env_id, "reset"),
    _reset_single,
    _read_beginning,
    _reset_batch,
    _read_beginnings,
)

STEP: ClientVerb[StepItem, StepResult] = ClientVerb(
    "step",
    lambda item: path_of(item.env_id, "step"),
    lambda item: b'{"action":%b,"seq":%d}' % (item.action, item.seq),
    _read_step,
    _step_batch,
    _read_steps,
)

CLOSE: ClientVerb[CloseItem, None] = ClientVerb(
    "close",
    lambda item: path_of(item.env_id, "close"),
    lambda _: b"",
    lambda _: None,
    lambda items: orjson.dumps({"env_ids": [item.env_id for item in items]}),
    lambda _, size: [None] * size,
)


def path_of(env_id: str, call: str = "") -> str:
    """Return the path of a call on one environment; ids come from the server and need no quoting."""
    return f"/api/environment/{env_id}/{call}" if call else f"/api/environment/{env_id}"
