"""Every error a caller can meet, each with a stable ``code``.

The server answers them as ``application/problem+json`` (RFC 9457), the client raises the same classes again.

::

    VerlAgentEnvError                     code                       status  retryable
    ├── RequestError
    │   ├── MalformedBodyError            malformed_body             400
    │   ├── MalformedHeadError            malformed_head             400
    │   ├── UnauthorizedError             unauthorized               401
    │   ├── InsufficientScopeError        insufficient_scope         403
    │   ├── HostNotAllowedError           host_not_allowed           403
    │   ├── OriginNotAllowedError         origin_not_allowed         403
    │   ├── RouteNotFoundError            not_found                  404
    │   ├── MethodNotAllowedError         method_not_allowed         405
    │   ├── HeaderTimeoutError            header_timeout             408     yes
    │   ├── BodyTimeoutError              body_timeout               408     yes
    │   ├── BodyTooLargeError             body_too_large             413
    │   ├── BodyTooComplexError           body_too_complex           413
    │   ├── BatchTooLargeError            batch_too_large            413
    │   ├── ActionTooLargeError           action_too_large           413
    │   ├── ArgumentsTooLargeError        arguments_too_large        413
    │   ├── AnswerTooLargeError           answer_too_large           413
    │   ├── BatchTooCostlyError           batch_too_costly           413
    │   ├── UrlTooLongError               url_too_long               414
    │   ├── HeadersTooLargeError          headers_too_large          431
    │   ├── ContentTypeNotAllowedError    content_type_not_allowed   415
    │   ├── InvalidRequestError           invalid_request            422
    │   ├── UnknownEnvNameError           unknown_env_name           422
    │   ├── InvalidEnvArgumentsError      invalid_env_arguments      422
    │   ├── RenderModeError               render_mode_unsupported    422
    │   └── IdempotencyKeyReusedError     idempotency_key_reused     422
    ├── EnvironmentStateError
    │   ├── EnvironmentNotFoundError      environment_not_found      404
    │   ├── EnvironmentClosedError        environment_closed         404
    │   ├── EpisodeNotStartedError        episode_not_started        409
    │   ├── EpisodeEndedError             episode_ended              409
    │   ├── SequenceStaleError            sequence_stale             409
    │   ├── SequenceGapError              sequence_gap               409
    │   ├── SequenceConflictError         sequence_conflict          409
    │   ├── HistoryFullError              history_full               413
    │   ├── EnvironmentLostError          environment_lost           410
    │   ├── EnvironmentEndedWorkerError   environment_ended_worker   410
    │   ├── ReplayDivergedError           replay_diverged            410
    │   └── IncompatibleVersionError      incompatible_version       503     yes
    ├── CapacityError
    │   ├── RunQuotaExceededError         run_quota_exceeded         429     yes
    │   ├── TooManyAttemptsError          too_many_attempts          429     yes
    │   ├── AtCapacityError               at_capacity                503     yes
    │   └── ShuttingDownError             shutting_down              503     yes
    ├── ClusterError
    │   ├── StaleTokenError               stale_token                409     yes
    │   ├── WorkerNotAliveError           worker_not_alive           409
    │   ├── NameTakenError                worker_name_taken          409
    │   ├── GenerationChangedError        store_generation_changed   503     yes
    │   ├── StoreUnavailableError         store_unavailable          503     yes
    │   │   ├── StoreFullError            store_full                 503     yes
    │   │   └── RecoveryPendingError      recovery_pending           503     yes
    │   ├── NodeNotFoundError             node_not_found             404
    │   ├── MovedError                    moved                      421     yes
    │   └── WorkerUnreachableError        worker_unreachable         503     yes
    └── ExecutionError
        ├── EnvironmentFailedError        environment_failed         500
        ├── EnvironmentTimeoutError       environment_timeout        504
        └── InternalError                 internal_error             500
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar


@dataclass(eq=False)
class VerlAgentEnvError(Exception):
    """Root of all errors. Fields of a subclass travel in the problem document; ``detail`` is made from them."""

    code: ClassVar[str] = ""
    """Stable name of the error; part of the public contract. Empty for a class that only groups others."""
    status: ClassVar[int] = 500
    """HTTP status that the server answers with."""
    title: ClassVar[str] = "Error"
    """What is wrong, in a few words that never change."""
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed later."""
    retry_after_s: ClassVar[int] = 1
    """How long a client waits before it tries a retryable request again."""

    @property
    def detail(self) -> str:
        """One sentence for a person: what happened and what to do next."""
        return self.title

    def __str__(self) -> str:
        return self.detail

    def fields(self) -> dict[str, Any]:
        """The error's own typed fields."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    def to_problem(self) -> dict[str, Any]:
        """The problem document (RFC 9457) of this error, fields included."""
        return {
            "type": f"urn:verl-agent-env:error:{self.code}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            "code": self.code,
            "retryable": self.retryable,
            **self.fields(),
        }


# --- what is wrong with the request itself -----------------------------------------------------------------


@dataclass(eq=False)
class RequestError(VerlAgentEnvError):
    """The request cannot be served as it is; sending it again will not help."""


@dataclass(eq=False)
class MalformedBodyError(RequestError):
    """The body is not the JSON that the call expects."""

    code = "malformed_body"
    status = 400
    title = "The body is not valid JSON"
    reason: str = "it could not be parsed"

    @property
    def detail(self) -> str:
        return f"The body is not valid JSON: {self.reason}. Send a JSON object encoded as UTF-8."


@dataclass(eq=False)
class MalformedHeadError(RequestError):
    """The request line or a header is not as HTTP wants it."""

    code = "malformed_head"
    status = 400
    title = "The head of the request is malformed"
    reason: str = "it could not be parsed"

    @property
    def detail(self) -> str:
        return (
            f"The head of the request is malformed: {self.reason}. Send it as HTTP/1.1 (RFC 9112) wants it."
        )


@dataclass(eq=False)
class UnauthorizedError(RequestError):
    """No bearer token, or one that the server does not know."""

    code = "unauthorized"
    status = 401
    title = "A valid bearer token is required"

    @property
    def detail(self) -> str:
        return "A valid bearer token is required: send the header 'Authorization: Bearer <token>'."


@dataclass(eq=False)
class InsufficientScopeError(RequestError):
    """The token is known, but does not allow this call."""

    code = "insufficient_scope"
    status = 403
    title = "The token does not allow this call"
    scope: str = ""

    @property
    def detail(self) -> str:
        return f"The call needs a token with the scope '{self.scope}'."


@dataclass(eq=False)
class HostNotAllowedError(RequestError):
    """The server is called by a name that is not one of its own: a web page may have made the name up."""

    code = "host_not_allowed"
    status = 403
    title = "The server is not known by this host"
    host: str = ""

    @property
    def detail(self) -> str:
        return (
            f"The server is not known by the host '{self.host}'; call it by its own name or address, or have the "
            "operator list the host with --allowed-hosts."
        )


@dataclass(eq=False)
class OriginNotAllowedError(RequestError):
    """A browser sent the request for a page of another site."""

    code = "origin_not_allowed"
    status = 403
    title = "Pages of this origin may not use the server"
    origin: str = ""

    @property
    def detail(self) -> str:
        return (
            f"Pages of the origin '{self.origin}' may not use this server; have the operator list the origin with "
            "--allowed-origins."
        )


@dataclass(eq=False)
class RouteNotFoundError(RequestError):
    """No call of this path."""

    code = "not_found"
    status = 404
    title = "There is no such call"
    path: str = ""

    @property
    def detail(self) -> str:
        return f"There is no call at '{self.path}'; '/docs' lists all of them."


@dataclass(eq=False)
class MethodNotAllowedError(RequestError):
    """The path exists, with another method."""

    code = "method_not_allowed"
    status = 405
    title = "The call takes another method"
    method: str = ""
    path: str = ""

    @property
    def detail(self) -> str:
        return f"'{self.path}' does not take {self.method}; '/docs' names the method."


@dataclass(eq=False)
class HeaderTimeoutError(RequestError):
    """The head of the request did not arrive in time."""

    code = "header_timeout"
    status = 408
    title = "The head of the request did not arrive in time"
    retryable = True
    header_timeout_s: float = 0.0

    @property
    def detail(self) -> str:
        return f"The head of the request did not arrive within {self.header_timeout_s:g} s; send the request again."


@dataclass(eq=False)
class BodyTimeoutError(RequestError):
    """The body did not arrive in time."""

    code = "body_timeout"
    status = 408
    title = "The body did not arrive in time"
    retryable = True
    body_timeout_s: float = 0.0

    @property
    def detail(self) -> str:
        return f"The body did not arrive within {self.body_timeout_s:g} s; send the request again."


@dataclass(eq=False)
class BodyTooLargeError(RequestError):
    """The body, or one value in it, is longer than the server reads."""

    code = "body_too_large"
    status = 413
    title = "The body is too large"
    max_body_bytes: int = 0

    @property
    def detail(self) -> str:
        return (
            f"The body, or one value in it, is longer than the {self.max_body_bytes} bytes that are read at once; send "
            "less, split the batch, or raise max_body_bytes."
        )


@dataclass(eq=False)
class BodyTooComplexError(RequestError):
    """The body has more values than the server reads."""

    code = "body_too_complex"
    status = 413
    title = "The body has too many values"
    max_values: int = 0

    @property
    def detail(self) -> str:
        return (
            f"The body has more than {self.max_values} values, or more in one of its parts than are read at once; send "
            "less, or in several requests."
        )


@dataclass(eq=False)
class BatchTooLargeError(RequestError):
    """The batch has more items than the server takes in one call."""

    code = "batch_too_large"
    status = 413
    title = "The batch is too large"
    size: int = 0
    max_batch_size: int = 0

    @property
    def detail(self) -> str:
        return (
            f"The batch has {self.size} items, the limit is {self.max_batch_size}; "
            "split it or raise max_batch_size."
        )


@dataclass(eq=False)
class ActionTooLargeError(RequestError):
    """The action is longer than what is kept of one; it was not applied."""

    code = "action_too_large"
    status = 413
    title = "The action is too large"
    size: int = 0
    """Bytes of its JSON."""
    max_action_bytes: int = 0

    @property
    def detail(self) -> str:
        return (
            f"The action is {self.size} bytes of JSON, the limit is {self.max_action_bytes}; nothing was applied. "
            "Send less text or raise max_action_bytes."
        )


@dataclass(eq=False)
class ArgumentsTooLargeError(RequestError):
    """Keyword arguments or options are longer than what is kept of them; nothing was built or changed."""

    code = "arguments_too_large"
    status = 413
    title = "The arguments are too large"
    size: int = 0
    """Bytes of their JSON."""
    max_arguments_bytes: int = 0

    @property
    def detail(self) -> str:
        return (
            f"The arguments are {self.size} bytes of JSON, the limit is {self.max_arguments_bytes}; nothing was built. "
            "Send less or raise max_arguments_bytes."
        )


@dataclass(eq=False)
class AnswerTooLargeError(RequestError):
    """The answer would be longer than may be, alone or with those of its batch; nothing was done, or it was undone."""

    code = "answer_too_large"
    status = 413
    title = "The answer would be too large"
    max_answer_bytes: int = 0
    size: int = 0
    """Of this answer alone, where it is too long by itself."""

    @property
    def detail(self) -> str:
        if self.size:
            return (
                f"The answer takes {self.size} bytes, the limit is {self.max_answer_bytes}. Nothing has changed, unless the "
                "environment cannot be taken back: then it is lost. Ask for smaller observations, or raise "
                "max_answer_bytes."
            )
        return (
            f"The answers to the other items take the {self.max_answer_bytes} bytes that there are for a batch; nothing "
            "was done for this item. Send it in a batch of its own, or raise max_answer_bytes."
        )


@dataclass(eq=False)
class BatchTooCostlyError(RequestError):
    """The environments of the batch would compute for too long; nothing was done for this item."""

    code = "batch_too_costly"
    status = 413
    title = "The batch would compute for too long"
    max_batch_compute_s: float = 0.0

    @property
    def detail(self) -> str:
        return (
            f"The other items are expected to compute for the {self.max_batch_compute_s:g} s that there are for a batch; "
            "nothing was done for this item. Make fewer of these environments in one call, or raise max_batch_compute_s."
        )


@dataclass(eq=False)
class UrlTooLongError(RequestError):
    """The request's target is longer than the server reads."""

    code = "url_too_long"
    status = 414
    title = "The request's target is too long"
    max_url_bytes: int = 0

    @property
    def detail(self) -> str:
        return f"The request's target is longer than {self.max_url_bytes} bytes; '/docs' lists all calls."


@dataclass(eq=False)
class HeadersTooLargeError(RequestError):
    """The request has more headers, or longer ones, than the server reads."""

    code = "headers_too_large"
    status = 431
    title = "The headers are too large"
    max_header_bytes: int = 0
    max_headers: int = 0

    @property
    def detail(self) -> str:
        return f"The request has more than {self.max_headers} headers or {self.max_header_bytes} bytes of them; send fewer."


@dataclass(eq=False)
class ContentTypeNotAllowedError(RequestError):
    """A browser sent a body that is not declared as JSON."""

    code = "content_type_not_allowed"
    status = 415
    title = "A browser's request needs a JSON content type"
    content_type: str = ""

    @property
    def detail(self) -> str:
        return (
            f"A browser's request has to declare its body as JSON, and not as '{self.content_type}': send the header "
            "'Content-Type: application/json'."
        )


@dataclass(eq=False)
class InvalidRequestError(RequestError):
    """The body is JSON but breaks the call's schema."""

    code = "invalid_request"
    status = 422
    title = "The request breaks the call's schema"
    errors: list[dict[str, Any]] = field(default_factory=list)
    """``{"loc": [...], "msg": str}`` for each fault."""

    @property
    def detail(self) -> str:
        return f"The request breaks the call's schema: {_join_faults(self.errors)}. '/docs' shows an example."


@dataclass(eq=False)
class UnknownEnvNameError(RequestError):
    """No environment is registered under this name."""

    code = "unknown_env_name"
    status = 422
    title = "No environment has this name"
    env_name: str = ""
    suggestions: list[str] = field(default_factory=list)

    @property
    def detail(self) -> str:
        hint = f" Did you mean {' or '.join(repr(s) for s in self.suggestions)}?" if self.suggestions else ""
        return f"No environment is registered as '{self.env_name}'.{hint} 'GET /api/environments' lists all."


@dataclass(eq=False)
class InvalidEnvArgumentsError(RequestError, ValueError):
    """The keyword arguments do not fit the environment; nothing was built."""

    code = "invalid_env_arguments"
    status = 422
    title = "The environment does not take these arguments"
    env_name: str = ""
    errors: list[dict[str, Any]] = field(default_factory=list)
    """``{"loc": [...], "msg": str}`` for each fault."""

    @property
    def detail(self) -> str:
        return f"'{self.env_name}' does not take these arguments: {_join_faults(self.errors)}."


@dataclass(eq=False)
class RenderModeError(RequestError):
    """The environment cannot draw itself in this way."""

    code = "render_mode_unsupported"
    status = 422
    title = "The environment has no such render mode"
    mode: str = ""
    supported: list[str] = field(default_factory=list)

    @property
    def detail(self) -> str:
        known = ", ".join(self.supported) or "none"
        return f"This environment does not render as '{self.mode}'; it renders as: {known}."


@dataclass(eq=False)
class IdempotencyKeyReusedError(RequestError):
    """The ``Idempotency-Key`` came before, with another body or on another call."""

    code = "idempotency_key_reused"
    status = 422
    title = "The Idempotency-Key was used for another request"

    @property
    def detail(self) -> str:
        return "The Idempotency-Key was used before for another request; take a new key for a new one."


# --- where the environment stands --------------------------------------------------------------------------


@dataclass(eq=False)
class EnvironmentStateError(VerlAgentEnvError):
    """The environment is not in a state that allows the call; nothing was changed."""

    status = 409
    env_id: str = ""


@dataclass(eq=False)
class EnvironmentNotFoundError(EnvironmentStateError):
    """No environment has this id."""

    code = "environment_not_found"
    status = 404
    title = "No environment has this id"

    @property
    def detail(self) -> str:
        return f"No environment has the id '{self.env_id}'; initialize one first."


@dataclass(eq=False)
class EnvironmentClosedError(EnvironmentStateError):
    """The environment existed and was closed, or reaped because nobody used it."""

    code = "environment_closed"
    status = 404
    title = "The environment is closed"
    reason: str = "closed"
    """``closed`` by a call, or ``idle`` for longer than its ttl."""

    @property
    def detail(self) -> str:
        why = "was closed" if self.reason == "closed" else "was reaped after being idle for its whole ttl"
        return f"The environment '{self.env_id}' {why}; initialize a new one."


@dataclass(eq=False)
class EpisodeNotStartedError(EnvironmentStateError):
    """A step before the first reset."""

    code = "episode_not_started"
    title = "No episode has begun"

    @property
    def detail(self) -> str:
        return "No episode has begun; call reset before step."


@dataclass(eq=False)
class EpisodeEndedError(EnvironmentStateError):
    """A step after ``terminated`` or ``truncated``."""

    code = "episode_ended"
    title = "The episode has ended"

    @property
    def detail(self) -> str:
        return "The episode has ended; call reset to begin another, or close the environment."


@dataclass(eq=False)
class SequenceStaleError(EnvironmentStateError):
    """The step's number lies before the last one that was applied; its answer is no longer kept."""

    code = "sequence_stale"
    title = "The step was applied long ago"
    seq: int = 0
    expected_seq: int = 0

    @property
    def detail(self) -> str:
        return f"Step {self.seq} was applied before; the next one is {self.expected_seq}."


@dataclass(eq=False)
class SequenceGapError(EnvironmentStateError):
    """The step's number lies beyond the next one; steps in between are missing."""

    code = "sequence_gap"
    title = "Steps before this one are missing"
    seq: int = 0
    expected_seq: int = 0

    @property
    def detail(self) -> str:
        return f"Step {self.seq} cannot be applied yet: send step {self.expected_seq} first."


@dataclass(eq=False)
class SequenceConflictError(EnvironmentStateError):
    """The step's number was used already, with another action."""

    code = "sequence_conflict"
    title = "The step's number was used with another action"
    seq: int = 0
    expected_seq: int = 0

    @property
    def detail(self) -> str:
        return f"Step {self.seq} was applied with another action; the next one is {self.expected_seq}."


@dataclass(eq=False)
class HistoryFullError(EnvironmentStateError):
    """The episode's actions take all the room that an episode may have; the action was not applied."""

    code = "history_full"
    status = 413
    title = "The episode's history is full"
    max_kept_bytes: int = 0

    @property
    def detail(self) -> str:
        return (
            f"The actions of this episode of '{self.env_id}' take {self.max_kept_bytes} bytes, and its kind has no state to "
            "begin anew from; nothing was applied. Reset it, or raise max_kept_bytes."
        )


@dataclass(eq=False)
class EnvironmentLostError(EnvironmentStateError):
    """The environment is gone and cannot come back; a new episode can."""

    code = "environment_lost"
    status = 410
    title = "The environment is lost"
    reason: str = ""

    @property
    def detail(self) -> str:
        return (
            f"The environment '{self.env_id}' is lost ({self.reason}); initialize a new one and play again."
        )


@dataclass(eq=False)
class EnvironmentEndedWorkerError(EnvironmentStateError):
    """A call on the environment ended the worker process that carried it out; none of its code is run again."""

    code = "environment_ended_worker"
    status = 410
    title = "The environment has ended a worker"
    episode: int = 0
    seq: int = 0
    """Number of the step; -1 for a reset or the making of the environment, -2 for bringing it back."""
    cause: str = ""
    """How the worker ended."""

    @property
    def detail(self) -> str:
        calls = {-1: f"the beginning of episode {self.episode}", -2: "bringing it back"}
        call = calls.get(self.seq, f"step {self.seq} of episode {self.episode}")
        cause = f" ({self.cause})" if self.cause else ""
        return (
            f"A call on the environment '{self.env_id}' ended its worker process: {call}{cause}. It is not run again; "
            "close the environment, and repair its code or leave out what it was asked before you make another one."
        )


@dataclass(eq=False)
class ReplayDivergedError(EnvironmentStateError):
    """The environment cannot come back: played again, its steps gave other results than they did."""

    code = "replay_diverged"
    status = 410
    title = "The environment does not replay"
    seq: int = 0
    """The first step that gave another result."""

    @property
    def detail(self) -> str:
        return (
            f"The environment '{self.env_id}' cannot come back: played again, step {self.seq} gave another result than "
            "it did. Its kind is not deterministic, or its code has changed; initialize a new one and play again."
        )


@dataclass(eq=False)
class IncompatibleVersionError(EnvironmentStateError):
    """The environment's state was written by another version of its kind, which this worker does not have.

    Nothing is lost: it goes on at a worker of that version, and moves there if one is alive.
    """

    code = "incompatible_version"
    status = 503
    title = "No version of the environment's kind here reads its state"
    retryable = True
    env_name: str = ""
    written_as: str = ""
    """Format of the state, or what else is missing here."""
    readable: str = ""
    """Format that this worker's kind reads."""

    @property
    def detail(self) -> str:
        return (
            f"The environment '{self.env_id}' was written by another version of '{self.env_name}' (state {self.written_as}; "
            f"this worker reads {self.readable}). Keep or start a worker of that version, or close the environment."
        )


# --- what the server has no room for -----------------------------------------------------------------------


@dataclass(eq=False)
class CapacityError(VerlAgentEnvError):
    """The server has no room at present; try again after ``Retry-After`` seconds."""

    status = 503
    retryable = True


@dataclass(eq=False)
class RunQuotaExceededError(CapacityError):
    """The run has as many environments as one run may have."""

    code = "run_quota_exceeded"
    status = 429
    title = "The run has too many environments"
    run_id: str = ""
    max_envs_per_run: int = 0

    @property
    def detail(self) -> str:
        return (
            f"The run '{self.run_id}' would have more than {self.max_envs_per_run} environments; "
            "close some or raise max_envs_per_run."
        )


@dataclass(eq=False)
class TooManyAttemptsError(CapacityError):
    """Too many unknown tokens came from the address; a token that was not used here before is not looked at for now."""

    code = "too_many_attempts"
    status = 429
    title = "Too many unknown tokens came from this address"
    retry_after_s = 5

    @property
    def detail(self) -> str:
        return "Too many unknown tokens came from this address; try again in a few seconds, with a token that is known."


@dataclass(eq=False)
class AtCapacityError(CapacityError):
    """The worker holds as many environments as it may, or all its threads are stuck."""

    code = "at_capacity"
    title = "The server is full"
    resource: str = "environments"
    limit: int = 0

    @property
    def detail(self) -> str:
        return f"The server is full: the limit is {self.limit} {self.resource}; close some or add workers."


@dataclass(eq=False)
class ShuttingDownError(CapacityError):
    """The server is stopping and takes no new work."""

    code = "shutting_down"
    title = "The server is shutting down"

    @property
    def detail(self) -> str:
        return "The server is shutting down; retry, another worker will answer."


# --- who owns what in the cluster --------------------------------------------------------------------------


@dataclass(eq=False)
class ClusterError(VerlAgentEnvError):
    """The workers' shared picture of the cluster does not allow the call; nothing was changed."""

    status = 409


@dataclass(eq=False)
class StaleTokenError(ClusterError):
    """The call was made under an ownership that has ended."""

    code = "stale_token"
    title = "The slot has another owner"
    retryable = True
    slot: int = 0

    @property
    def detail(self) -> str:
        return f"Slot {self.slot} has another owner by now; read the map again and retry there."


@dataclass(eq=False)
class WorkerNotAliveError(ClusterError):
    """The worker's lease has run out, or it left or was reported dead."""

    code = "worker_not_alive"
    title = "The worker is not alive"
    incarnation: str = ""
    reason: str = "expired"
    """``expired``: a heartbeat brings it back; ``ended``: it left or was reported dead, and stays so."""

    @property
    def detail(self) -> str:
        if self.reason == "ended":
            return f"The worker '{self.incarnation}' left or was reported dead; start it anew under another incarnation."
        return f"The worker '{self.incarnation}' has no live lease; it must send a heartbeat first."


@dataclass(eq=False)
class NameTakenError(ClusterError):
    """Another node runs a live worker of this name."""

    code = "worker_name_taken"
    title = "The worker's name is taken"
    name: str = ""
    address: str = ""
    """Where the worker that has the name listens."""

    @property
    def detail(self) -> str:
        return (
            f"The worker name '{self.name}' is taken by a live worker at '{self.address}'; give this node another "
            "name, or wait for one lease if it was just restarted."
        )


@dataclass(eq=False)
class GenerationChangedError(ClusterError):
    """The store was emptied or replaced since the worker last looked."""

    code = "store_generation_changed"
    status = 503
    title = "The store holds another data set"
    retryable = True
    expected: str = ""
    found: str = ""

    @property
    def detail(self) -> str:
        return f"The store was emptied or replaced: expected generation '{self.expected}', found '{self.found}'; retry."


@dataclass(eq=False)
class StoreUnavailableError(ClusterError):
    """The store cannot be reached, or does not take writes."""

    code = "store_unavailable"
    status = 503
    title = "The store is not available"
    retryable = True
    store: str = ""
    """Where it should be; never with its password."""
    reason: str = "it does not answer"
    may_have_run: bool = False
    """Whether the call may have been carried out all the same."""

    @property
    def detail(self) -> str:
        where = f" at '{self.store}'" if self.store else ""
        return f"The store{where} is not available: {self.reason}; check that Redis runs there, then retry."


@dataclass(eq=False)
class StoreFullError(StoreUnavailableError):
    """The store has no room for more; closing environments makes some."""

    code = "store_full"
    title = "The store is full"
    retry_after_s = 5
    reason: str = "it is out of memory"

    @property
    def detail(self) -> str:
        where = f" at '{self.store}'" if self.store else ""
        return (
            f"The store{where} is full: {self.reason}; raise the limit of Redis ('maxmemory') or close environments,"
            " then retry."
        )


@dataclass(eq=False)
class RecoveryPendingError(StoreUnavailableError):
    """The environment is still being brought back from what its last worker left; that goes on meanwhile."""

    code = "recovery_pending"
    title = "The environment is being brought back"
    waited_s: float = 0.0

    @property
    def detail(self) -> str:
        return f"The environment is still being brought back after {self.waited_s:g} s, which goes on; retry."


@dataclass(eq=False)
class NodeNotFoundError(ClusterError):
    """No node has this name."""

    code = "node_not_found"
    status = 404
    title = "There is no such node"
    node: str = ""
    nodes: list[str] = field(default_factory=list)
    """Those that there are."""

    @property
    def detail(self) -> str:
        return f"No node is called '{self.node}'; there are {', '.join(self.nodes) or 'none'}."


@dataclass(eq=False)
class MovedError(ClusterError):
    """A worker forwarded the call to another one, which does not own the slot either."""

    code = "moved"
    status = 421
    title = "The slot lives elsewhere"
    retryable = True
    slot: int = 0

    @property
    def detail(self) -> str:
        return f"Slot {self.slot} lives on another worker; read the map again and retry there."


@dataclass(eq=False)
class WorkerUnreachableError(ClusterError):
    """The worker that owns the environment did not answer."""

    code = "worker_unreachable"
    status = 503
    title = "The worker cannot be reached"
    retryable = True
    address: str = ""
    reason: str = "it did not answer"
    may_have_run: bool = True
    """Whether the call may have been carried out all the same."""

    @property
    def detail(self) -> str:
        where = f" at '{self.address}'" if self.address else ""
        advice = "retry with the same 'seq'" if self.may_have_run else "nothing was done; retry"
        return f"The worker{where} that owns the environment cannot be reached: {self.reason}; {advice}."


# --- what went wrong while the environment ran -------------------------------------------------------------


@dataclass(eq=False)
class ExecutionError(VerlAgentEnvError):
    """The call was accepted but could not be carried out."""


@dataclass(eq=False)
class EnvironmentFailedError(ExecutionError):
    """The environment's own code raised; its state is what it was before the call."""

    code = "environment_failed"
    title = "The environment raised an error"
    env_id: str = ""
    error: str = ""
    """Type of the exception; its text stays in the server's log."""

    @property
    def detail(self) -> str:
        return f"The environment raised {self.error}; the call was not applied. The server's log has the traceback."


@dataclass(eq=False)
class EnvironmentTimeoutError(ExecutionError):
    """The environment took longer than it may; its state is what it was before the call."""

    code = "environment_timeout"
    status = 504
    title = "The environment took too long"
    env_id: str = ""
    max_step_s: float = 0.0

    @property
    def detail(self) -> str:
        return f"The environment took longer than {self.max_step_s:g} s; the call was not applied."


@dataclass(eq=False)
class InternalError(ExecutionError):
    """A defect of the server itself."""

    code = "internal_error"
    title = "The server failed"

    @property
    def detail(self) -> str:
        return "The server failed; its log has the traceback under this request's id."


def all_errors() -> Iterator[type[VerlAgentEnvError]]:
    """Every concrete error class of the tree above, depth first."""
    pending: list[type[VerlAgentEnvError]] = [VerlAgentEnvError]
    while pending:
        cls = pending.pop()
        if cls.code:
            yield cls
        pending.extend(reversed(cls.__subclasses__()))


def error_from_problem(problem: Mapping[str, Any]) -> VerlAgentEnvError:
    """The error that a problem document stands for; an unknown code becomes :class:`InternalError`."""
    cls, names = _class_and_fields(str(problem.get("code", "")))
    return cls(**{name: problem[name] for name in names if name in problem})


# A batch can fail in each of its items: looking for the class is what takes the time.
@functools.lru_cache(maxsize=256)
def _class_and_fields(code: str) -> tuple[type[VerlAgentEnvError], tuple[str, ...]]:
    cls = next((cls for cls in all_errors() if cls.code == code), InternalError)
    return cls, tuple(field.name for field in dataclasses.fields(cls))


def _join_faults(errors: list[dict[str, Any]]) -> str:
    shown = [f"{'.'.join(str(part) for part in e['loc']) or 'it'}: {e['msg']}" for e in errors[:3]]
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    return "; ".join(shown) + more
