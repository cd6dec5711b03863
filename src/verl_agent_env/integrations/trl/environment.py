"""The class that TRL's ``environment_factory`` takes: one method per tool, ``reset`` and ``get_reward``."""

from __future__ import annotations

import copyreg
import functools
import json
import logging
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from verl_agent_env.errors import VerlAgentEnvError
from verl_agent_env.integrations.errors import TrainingSetupError
from verl_agent_env.integrations.rollout.blocking import BlockingEpisode
from verl_agent_env.integrations.rollout.clients import process_client
from verl_agent_env.integrations.rollout.options import RolloutOptions
from verl_agent_env.integrations.rollout.row import EpisodeSpec
from verl_agent_env.integrations.rollout.template_messages import for_template
from verl_agent_env.integrations.trl.methods import method_of
from verl_agent_env.messages.content import well_formed
from verl_agent_env.messages.tools import Tool
from verl_agent_env.types import Action, Observation

logger = logging.getLogger(__name__)

OVER = "The episode is over."
"""Answer to calls after the end: TRL cannot be told of it, and goes on asking the model."""

_CLOSE_DEADLINE_S = 5.0
_ANSWER = Tool(
    "answer",
    "Give your answer.",
    {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "The whole answer, in the form that was asked for."}
        },
        "required": ["text"],
    },
)
"""Of environments without tools, which TRL would never call: the text is the model's message."""

_losses: dict[str, VerlAgentEnvError] = {}
"""The first error of each run in this process. It fails all instances: each of them would wait for the server anew."""


@dataclass(frozen=True)
class Definition:
    """All that makes a class; equal ones are the same class within a process."""

    class_name: str
    env_names: frozenset[str]
    """The environment's full name, and the one that was asked for."""
    env_kwargs: bytes
    """JSON."""
    tools: bytes
    """JSON, in OpenAI's form; none for environments that read text only."""
    options: RolloutOptions

    @property
    def env_name(self) -> str:
        """The environment's full name."""
        return max(self.env_names, key=len)

    @property
    def run_id(self) -> str:
        """Run of all environments of the class, whatever process made them."""
        return self.options.run_id or ""


class EnvironmentClass(type):
    """The class of an environment's classes: what TRL must not find on an instance, where it would be a tool.

    Such a class can be pickled, and used in ``with``, whose end closes all its environments.
    """

    definition: Definition

    def close(cls) -> int:
        """Close all environments of the class on the server, those of other processes as well; return their number.

        Raises:
            VerlAgentEnvError: The server cannot be reached; it closes them itself once their idle time is over.
        """
        return process_client(cls.definition.options).close_run(cls.definition.run_id)

    def __enter__(cls) -> EnvironmentClass:
        return cls

    def __exit__(cls, kind: type[BaseException] | None, *_: object) -> None:
        try:
            cls.close()
        except VerlAgentEnvError as error:
            # The training's own error, or its success, is what counts.
            logger.warning("the environments of %s could not be closed: %s", cls.definition.run_id, error)


class ToolEnvironment(metaclass=EnvironmentClass):
    """An instance plays one episode after another, as TRL resets it.

    A tool never raises, because TRL would show the error to the model and go on. What went wrong is raised by
    :meth:`get_reward`, which stops the training.
    """

    def __init__(self) -> None:
        self._episode: BlockingEpisode | None = None

    def reset(self, **row: Any) -> str | list[dict[str, Any]]:
        """Begin the episode of a row, and return the first observation, which TRL adds to the prompt.

        Args:
            **row: Columns ``seed`` and ``env_kwargs`` (an object or JSON text), or ``extra_info`` of a curated row.

        Raises:
            TrainingSetupError: The row does not define an episode, or it is of another environment.
            RequestError: The server does not make the environment as the row wants it.
            EpisodeFailedError: The server cannot be reached.
        """
        definition = type(self).definition
        self._leave()
        _losses.pop(definition.run_id, None)
        spec = EpisodeSpec.from_columns(row, definition.env_name, orjson.loads(definition.env_kwargs))
        if spec.env_name not in definition.env_names:
            raise TrainingSetupError(
                f"A row is of '{spec.env_name}', and this class is of '{definition.env_name}': give GRPOTrainer a "
                "dictionary with a class for each, and the rows a column 'environment' with its key."
            )
        episode = BlockingEpisode(spec, definition.options)
        observation = episode.begin()
        self._episode = episode
        return shown(observation)

    def get_reward(self) -> float:
        """Return the sum of the episode's rewards.

        Raises:
            VerlAgentEnvError: The server, or an environment of this class in this process, was lost.
        """
        loss = _losses.get(type(self).definition.run_id)
        if loss is not None:
            raise loss
        return 0.0 if self._episode is None else self._episode.reward

    def _act(self, action: Action) -> str | list[dict[str, Any]]:
        run_id = type(self).definition.run_id
        episode = self._episode
        if episode is None or episode.is_over or run_id in _losses:
            return OVER
        try:
            result = episode.step(action)
        except VerlAgentEnvError as error:
            _losses.setdefault(run_id, error)
            return OVER
        if result.is_over:
            # It would be idle until the next reset.
            episode.close()
        return shown(result.observation)

    def _leave(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None and not episode.is_over and type(self).definition.run_id not in _losses:
            episode.close()


def environment(
    env_name: str,
    *,
    url: str = "http://127.0.0.1:8000",
    token: str | None = None,
    name: str | None = None,
    deadline_s: float = 30.0,
    ttl_s: float | None = None,
    env_kwargs: Mapping[str, Any] | None = None,
    **more_kwargs: Any,
) -> EnvironmentClass:
    """Make the class of an environment on a server, for TRL's ``environment_factory``.

    Creates one environment, from which the tools are read, and closes it again.

    Args:
        env_name: Registered name, or a short one such as ``sokoban``.
        url: URL of the server, or of the cluster behind nginx.
        token: Bearer token, if the server asks for one.
        name: Name of the class, under which TRL logs its rewards; made of ``env_name`` if not given.
        deadline_s: Seconds of retries of one call. TRL calls one environment after another, so all of them wait.
        ttl_s: Seconds without a call after which the server closes an environment; the server's own if not given.
        env_kwargs: Keyword arguments of the environment; those of a row come on top.
        **more_kwargs: More of them.

    Raises:
        UnknownEnvNameError, InvalidEnvArgumentsError: The server has no such environment.
        ServerUnreachableError: There is no server at the URL.
        TrainingSetupError: A tool has a name that no method of TRL can have.
    """
    options = RolloutOptions(
        url=url,
        token=token,
        run_id=f"trl-{uuid.uuid4().hex}",
        deadline_s=deadline_s,
        timeout_s=min(deadline_s, RolloutOptions.timeout_s),
        close_deadline_s=min(deadline_s, _CLOSE_DEADLINE_S),
        ttl_s=ttl_s,
    )
    arguments = {**(env_kwargs or {}), **more_kwargs}
    with process_client(options).make(
        env_name, env_kwargs=arguments, run_id=options.run_id, ttl_s=ttl_s
    ) as probe:
        tools, full_name = probe.tools(), str(probe.state()["env_name"])
    return _class_of(
        Definition(
            name or class_name_of(full_name),
            frozenset((env_name, full_name)),
            orjson.dumps(arguments),
            orjson.dumps(tools),
            options,
        )
    )


def class_name_of(env_name: str) -> str:
    """Return the name of an environment as that of a class: ``FrozenLake`` for ``verl_env/frozen_lake-v1``."""
    base = re.sub(r"-v\d+$", "", env_name.rpartition("/")[2])
    return "".join(word[:1].upper() + word[1:] for word in re.split(r"\W+|_", base) if word) or "Environment"


def shown(observation: Observation) -> str | list[dict[str, Any]]:
    """Return the content of all messages: text, or parts with opened pictures, as TRL takes a tool's result."""
    contents = [for_template(message)["content"] for message in observation]
    if all(isinstance(content, str) for content in contents):
        return "\n".join(contents)
    parts: list[dict[str, Any]] = []
    for content in contents:
        parts += [{"type": "text", "text": content}] if isinstance(content, str) else content
    return parts


@functools.cache
def _class_of(definition: Definition) -> EnvironmentClass:
    tools = [Tool.from_openai(schema) for schema in orjson.loads(definition.tools)]
    members: dict[str, Any] = {
        "__doc__": f"The environment '{definition.env_name}' of {definition.options.url}.",
        "__module__": __name__,
        "definition": definition,
    }
    for tool in tools:
        members[tool.name] = method_of(tool, _call_tool)
    if not tools:
        members[_ANSWER.name] = method_of(_ANSWER, _answer)
    return EnvironmentClass(definition.class_name, (ToolEnvironment,), members)


def _call_tool(instance: ToolEnvironment, name: str, arguments: dict[str, Any]) -> str | list[dict[str, Any]]:
    function = {"name": name, "arguments": json.dumps(arguments)}
    call = {"id": "call_0", "type": "function", "function": function}
    return instance._act({"role": "assistant", "content": "", "tool_calls": [call]})  # noqa: SLF001


def _answer(instance: ToolEnvironment, _: str, arguments: dict[str, Any]) -> str | list[dict[str, Any]]:
    return instance._act(well_formed(str(arguments.get("text", ""))))  # noqa: SLF001


def _reduced(cls: EnvironmentClass) -> Any:
    """Pickle a class that :func:`environment` made as its definition: it stands in no module. Subclasses do."""
    definition = getattr(cls, "definition", None)
    made_here = definition is not None and cls is _class_of(definition)
    return (_class_of, (definition,)) if made_here else cls.__qualname__


copyreg.pickle(EnvironmentClass, _reduced)
