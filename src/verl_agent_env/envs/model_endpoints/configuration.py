"""Configuration of the model endpoints: the operator's file, with what one request and all of them may take.

The variable ``VERL_AGENT_ENV_MODEL_ENDPOINTS`` names the file, for servers, for each worker of a pool, and for programs that
make environments themselves::

    {"endpoints": {"judge": {"base_url": "https://api.openai.com/v1", "model": "gpt-5-mini", "api_key": "${OPENAI_API_KEY}"}}}
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

from verl_agent_env.envs.operator_files import OperatorFileError, filled, read_entries, shown_faults
from verl_agent_env.envs.strict_model import STRICT_MODEL

ENDPOINTS_VARIABLE = "VERL_AGENT_ENV_MODEL_ENDPOINTS"
"""Variable with the path of the operator's file."""
MAX_NAME_CHARS = 48
_NAME = re.compile(rf"[A-Za-z0-9_-]{{1,{MAX_NAME_CHARS}}}")


class ModelEndpoint(BaseModel):
    """An OpenAI-compatible endpoint, and the limits of its use by one worker."""

    model_config = STRICT_MODEL

    name: str
    """Name of the entry."""
    base_url: str = Field(max_length=2_048, repr=False)
    """Base URL, such as ``https://api.openai.com/v1``."""
    model: str = Field(min_length=1, max_length=256)
    """Name of the model at the endpoint."""
    api_key: SecretStr = SecretStr("")
    """Key, if the endpoint needs one."""
    timeout_s: float = Field(default=20.0, gt=0, le=3_600)
    """Seconds that one request may take, its whole answer included."""
    deadline_s: float = Field(default=25.0, gt=0, le=3_600)
    """Seconds for all attempts and the pauses between them. Keep it below the server's ``--max-step-s`` (30)."""
    max_attempts: int = Field(default=3, ge=1, le=100)
    """Requests for one answer."""
    max_concurrent: int = Field(default=16, ge=1, le=10_000)
    """Requests at a time; others wait for their turn, within their deadline."""
    max_requests: int | None = Field(default=None, ge=0)
    """Budget: requests in all, attempts included, until the worker ends; ``null`` for no limit."""
    max_output_tokens: int = Field(default=1_024, ge=1, le=1_000_000)
    """Tokens of one answer that are asked for at most."""
    json_schema: bool = True
    """Whether requests hold a ``response_format`` with the JSON Schema of the answer; false for endpoints that refuse it."""

    @field_validator("base_url")
    @classmethod
    def _is_url(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http or https URL")
        return url.rstrip("/")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.timeout_s > self.deadline_s:
            raise ValueError("timeout_s must not be above deadline_s")
        return self


def read_endpoints(path: Path, variables: Mapping[str, str]) -> dict[str, ModelEndpoint]:
    """Read the endpoints of a file, by name.

    Args:
        path: A JSON file with ``endpoints``.
        variables: Variables that ``${…}`` refers to.

    Raises:
        OperatorFileError: The file cannot be read, is not of this form, or refers to a variable that is not set.
    """
    endpoints = {}
    for name, value in read_entries(path, "endpoints").items():
        place = f"{path}: endpoints.{name[:MAX_NAME_CHARS]}"
        if not _NAME.fullmatch(name):
            raise OperatorFileError(f"{place}: a name is 1 to {MAX_NAME_CHARS} letters, digits, '_' and '-'")
        entry = filled(value, variables, place, [])
        if not isinstance(entry, dict):
            raise OperatorFileError(f"{place} is not an object")
        try:
            endpoints[name] = ModelEndpoint.model_validate({**entry, "name": name})
        except ValidationError as invalid:
            faults = invalid.errors(include_url=False, include_context=False, include_input=False)
            raise OperatorFileError(f"{place}: {shown_faults(faults)}") from None
    return endpoints


_in_use: Mapping[str, ModelEndpoint] | None = None


def use_endpoints(endpoints: Mapping[str, ModelEndpoint] | None) -> None:
    """Hand in the endpoints of all environments of this process.

    ``None``, as at the start: those of the file that the environment variable names, read on their first use.
    """
    global _in_use
    _in_use = endpoints


def endpoints_in_use() -> Mapping[str, ModelEndpoint]:
    """Return the endpoints of this process by name.

    Raises:
        OperatorFileError: The file cannot be used.
    """
    if _in_use is None:
        path = os.environ.get(ENDPOINTS_VARIABLE, "")
        use_endpoints(read_endpoints(Path(path), os.environ) if path else {})
    return _in_use or {}


def endpoint_named(name: str) -> ModelEndpoint:
    """Return the endpoint of this name.

    Raises:
        LookupError: There is none; the message says which there are.
        OperatorFileError: The file cannot be used.
    """
    known = endpoints_in_use()
    if name not in known:
        listed = ", ".join(known) or f"none; {ENDPOINTS_VARIABLE} names the file that lists them"
        raise LookupError(
            f"no model endpoint is configured as '{name[:MAX_NAME_CHARS]}'; there are: {listed}"
        )
    return known[name]


def _is_configured(name: str) -> str:
    try:
        endpoint_named(name)
    except LookupError as unknown:
        raise ValueError(str(unknown)) from None
    except OperatorFileError as unusable:
        # Not the caller's fault, and not the caller's to read.
        raise RuntimeError("the file of model endpoints cannot be used") from unusable
    return name


EndpointName = Annotated[str, Field(max_length=MAX_NAME_CHARS), AfterValidator(_is_configured)]
"""Argument that names an endpoint of the operator's file."""
