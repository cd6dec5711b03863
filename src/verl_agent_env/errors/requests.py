"""Errors of the request itself: HTTP, body, arguments, permissions."""

from __future__ import annotations

from dataclasses import field
from typing import Any

from verl_agent_env.errors.base import VerlAgentEnvError


class RequestError(VerlAgentEnvError):
    """The request cannot be served as it is; sending it again will not help."""


class MalformedBodyError(RequestError, code="malformed_body", status=400):
    """The body is not the JSON that the call expects."""

    title = "The body is not valid JSON"
    detail_format = "The body is not valid JSON: {reason}. Send a JSON object encoded as UTF-8."
    reason: str = "it could not be parsed"


class MalformedHeadError(RequestError, code="malformed_head", status=400):
    """The request line or a header breaks the grammar of HTTP."""

    title = "The head of the request is malformed"
    detail_format = "The head of the request is malformed: {reason}. Send it as HTTP/1.1 (RFC 9112) wants it."
    reason: str = "it could not be parsed"


class UnauthorizedError(RequestError, code="unauthorized", status=401):
    """No bearer token, or one that the server does not know."""

    title = "A valid bearer token is required"
    detail_format = "A valid bearer token is required: send the header 'Authorization: Bearer <token>'."


class InsufficientScopeError(RequestError, code="insufficient_scope", status=403):
    """The token is known, but does not allow this call."""

    title = "The token does not allow this call"
    detail_format = "The call needs a token with the scope '{scope}'."
    scope: str = ""


class HostNotAllowedError(RequestError, code="host_not_allowed", status=403):
    """The ``Host`` header names none of the server's own hosts; DNS rebinding looks like this."""

    title = "The server is not known by this host"
    detail_format = (
        "The server is not known by the host '{host}'; call it by its own name or address, or have the operator list "
        "the host with --allowed-hosts."
    )
    host: str = ""


class OriginNotAllowedError(RequestError, code="origin_not_allowed", status=403):
    """A browser sent the request for a page of another site."""

    title = "Pages of this origin may not use the server"
    detail_format = (
        "Pages of the origin '{origin}' may not use this server; have the operator list the origin with "
        "--allowed-origins."
    )
    origin: str = ""


class RouteNotFoundError(RequestError, code="not_found", status=404):
    """No call has this path."""

    title = "There is no such call"
    detail_format = "There is no call at '{path}'; '/docs' lists all of them."
    path: str = ""


class MethodNotAllowedError(RequestError, code="method_not_allowed", status=405):
    """The call exists under another method."""

    title = "The call takes another method"
    detail_format = "'{path}' does not take {method}; '/docs' names the method."
    method: str = ""
    path: str = ""


class HeaderTimeoutError(RequestError, code="header_timeout", status=408, retryable=True):
    """The head of the request did not arrive in time."""

    title = "The head of the request did not arrive in time"
    detail_format = (
        "The head of the request did not arrive within {header_timeout_s:g} s; send the request again."
    )
    header_timeout_s: float = 0.0


class BodyTimeoutError(RequestError, code="body_timeout", status=408, retryable=True):
    """The body did not arrive in time."""

    title = "The body did not arrive in time"
    detail_format = "The body did not arrive within {body_timeout_s:g} s; send the request again."
    body_timeout_s: float = 0.0


class BodyTooLargeError(RequestError, code="body_too_large", status=413):
    """The body, or one value in it, is longer than the server reads."""

    title = "The body is too large"
    detail_format = (
        "The body, or one value in it, is longer than the {max_body_bytes} bytes that are read at once; send less, "
        "split the batch, or raise max_body_bytes."
    )
    max_body_bytes: int = 0


class BodyTooComplexError(RequestError, code="body_too_complex", status=413):
    """The body has more values than the server reads."""

    title = "The body has too many values"
    detail_format = (
        "The body has more than {max_values} values, or more in one of its parts than are read at once; send less, or "
        "in several requests."
    )
    max_values: int = 0


class BatchTooLargeError(RequestError, code="batch_too_large", status=413):
    """The batch has more items than the server takes in one call."""

    title = "The batch is too large"
    detail_format = (
        "The batch has {size} items, the limit is {max_batch_size}; split it or raise max_batch_size."
    )
    size: int = 0
    max_batch_size: int = 0


class ActionTooLargeError(RequestError, code="action_too_large", status=413):
    """The action is longer than ``max_action_bytes``; it was not applied."""

    title = "The action is too large"
    detail_format = (
        "The action is {size} bytes of JSON, the limit is {max_action_bytes}; nothing was applied. Send less text or "
        "raise max_action_bytes."
    )
    size: int = 0
    """Bytes of its JSON."""
    max_action_bytes: int = 0


class ArgumentsTooLargeError(RequestError, code="arguments_too_large", status=413):
    """Keyword arguments or options are longer than ``max_arguments_bytes``; nothing was built or changed."""

    title = "The arguments are too large"
    detail_format = (
        "The arguments are {size} bytes of JSON, the limit is {max_arguments_bytes}; nothing was built. Send less or "
        "raise max_arguments_bytes."
    )
    size: int = 0
    """Bytes of their JSON."""
    max_arguments_bytes: int = 0


class AnswerTooLargeError(RequestError, code="answer_too_large", status=413):
    """The answer would exceed ``max_answer_bytes``, alone or with the others of its batch; the call was not applied, or was undone."""

    title = "The answer would be too large"
    max_answer_bytes: int = 0
    size: int = 0
    """Bytes of this answer if it alone exceeds the limit, else 0."""

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


class BatchTooCostlyError(RequestError, code="batch_too_costly", status=413):
    """The items of the batch would compute for longer than ``max_batch_compute_s``; this item was not carried out."""

    title = "The batch would compute for too long"
    detail_format = (
        "The other items are expected to compute for the {max_batch_compute_s:g} s that there are for a batch; "
        "nothing was done for this item. Make fewer of these environments in one call, or raise max_batch_compute_s."
    )
    max_batch_compute_s: float = 0.0


class UrlTooLongError(RequestError, code="url_too_long", status=414):
    """The request's target is longer than the server reads."""

    title = "The request's target is too long"
    detail_format = "The request's target is longer than {max_url_bytes} bytes; '/docs' lists all calls."
    max_url_bytes: int = 0


class HeadersTooLargeError(RequestError, code="headers_too_large", status=431):
    """The request has more headers, or longer ones, than the server reads."""

    title = "The headers are too large"
    detail_format = (
        "The request has more than {max_headers} headers or {max_header_bytes} bytes of them; send fewer."
    )
    max_header_bytes: int = 0
    max_headers: int = 0


class ContentTypeNotAllowedError(RequestError, code="content_type_not_allowed", status=415):
    """A browser sent a body that is not declared as JSON."""

    title = "A browser's request needs a JSON content type"
    detail_format = (
        "A browser's request has to declare its body as JSON, and not as '{content_type}': send the header "
        "'Content-Type: application/json'."
    )
    content_type: str = ""


class ContentEncodingNotSupportedError(RequestError, code="content_encoding_not_supported", status=415):
    """The body is compressed."""

    title = "Compressed bodies are not read"
    detail_format = (
        "Bodies that are compressed ('{content_encoding}') are not read: send the JSON as it is, without the header "
        "'Content-Encoding'."
    )
    content_encoding: str = ""


class InvalidRequestError(RequestError, code="invalid_request", status=422):
    """The body is JSON but breaks the call's schema."""

    title = "The request breaks the call's schema"
    errors: list[dict[str, Any]] = field(default_factory=list)
    """``{"loc": [...], "msg": str}`` for each fault."""

    @property
    def detail(self) -> str:
        return f"The request breaks the call's schema: {_join_faults(self.errors)}. '/docs' shows an example."


class UnknownEnvNameError(RequestError, code="unknown_env_name", status=422):
    """No environment is registered under this name."""

    title = "No environment has this name"
    env_name: str = ""
    suggestions: list[str] = field(default_factory=list)

    @property
    def detail(self) -> str:
        hint = f" Did you mean {' or '.join(repr(s) for s in self.suggestions)}?" if self.suggestions else ""
        return f"No environment is registered as '{self.env_name}'.{hint} 'GET /api/environments' lists all."


class ExtraNotInstalledError(RequestError, ImportError, code="extra_not_installed", status=422):
    """The environment is known, but the package that holds it is not installed, or in another version."""

    title = "The environment's package is not installed"
    env_name: str = ""
    extra: str = ""
    """Of this project; it installs what is missing."""
    needed: str = ""
    """The package and its version."""
    found: str = ""
    """The version that is installed; empty if there is none."""

    @property
    def detail(self) -> str:
        found = f", and {self.found} is installed" if self.found else ""
        return (
            f"'{self.env_name}' needs {self.needed}{found}. Run pip install 'verl-agent-env[{self.extra}]' where the "
            "environments run."
        )


class InvalidEnvArgumentsError(RequestError, ValueError, code="invalid_env_arguments", status=422):
    """The keyword arguments do not fit the environment; nothing was built."""

    title = "The environment does not take these arguments"
    env_name: str = ""
    errors: list[dict[str, Any]] = field(default_factory=list)
    """``{"loc": [...], "msg": str}`` for each fault."""

    @property
    def detail(self) -> str:
        return f"'{self.env_name}' does not take these arguments: {_join_faults(self.errors)}."


class RenderModeError(RequestError, code="render_mode_unsupported", status=422):
    """The environment does not support this render mode."""

    title = "The environment has no such render mode"
    mode: str = ""
    supported: list[str] = field(default_factory=list)

    @property
    def detail(self) -> str:
        known = ", ".join(self.supported) or "none"
        return f"This environment does not render as '{self.mode}'; it renders as: {known}."


class UnknownSplitError(RequestError, code="unknown_split", status=404):
    """The environment's tasks have no such split."""

    title = "The environment has no such split"
    env_name: str = ""
    split: str = ""
    splits: list[str] = field(default_factory=list)
    """Those that it has."""

    @property
    def detail(self) -> str:
        return f"The tasks of '{self.env_name}' have no split '{self.split}'; there are: {', '.join(self.splits)}."


class TaskNotFoundError(RequestError, code="task_not_found", status=404):
    """The split has no task of this index."""

    title = "There is no such task"
    env_name: str = ""
    split: str = ""
    task_index: int = 0
    """Its index; ``index`` is the position of an error in a batch."""
    num_tasks: int = 0
    """How many tasks the split has."""

    @property
    def detail(self) -> str:
        reason = (
            "no seed of its range has a layout for the split; take another index"
            if self.task_index < self.num_tasks
            else f"the split has {self.num_tasks} tasks, numbered from 0"
        )
        return f"'{self.env_name}' has no task {self.task_index} in the split '{self.split}': {reason}."


class EpisodeNotFoundError(RequestError, code="episode_not_found", status=404):
    """No kept episode has this id."""

    title = "There is no such kept episode"
    detail_format = (
        "No episode '{episode_id}' is kept: it was deleted for later ones, is not over yet, or the server keeps none "
        "(--keep-trajectories). '/api/episodes' lists those that are."
    )
    episode_id: str = ""


class IdempotencyKeyReusedError(RequestError, code="idempotency_key_reused", status=422):
    """The ``Idempotency-Key`` was used before, with another body or for another call."""

    title = "The Idempotency-Key was used for another request"
    detail_format = "The Idempotency-Key was used before for another request; take a new key for a new one."


def _join_faults(errors: list[dict[str, Any]]) -> str:
    shown = [f"{'.'.join(str(part) for part in e['loc']) or 'it'}: {e['msg']}" for e in errors[:3]]
    more = f" (and {len(errors) - 3} more)" if len(errors) > 3 else ""
    return "; ".join(shown) + more
