"""Checks of the contract: Gymnasium's own, schemas, spaces, refusals, truncation, tool messages."""

from __future__ import annotations

import copy
import re
import warnings
from typing import Any, cast

import gymnasium
from gymnasium.utils.env_checker import check_env

from verl_agent_env.envs.base import ChatEnv
from verl_agent_env.envs.checker.report import CheckFailedError, CheckSkippedError, require
from verl_agent_env.envs.checker.subject import Env, Subject
from verl_agent_env.envs.spaces import ActionSpace
from verl_agent_env.errors import (
    EpisodeEndedError,
    EpisodeNotStartedError,
    InvalidEnvArgumentsError,
    VerlAgentEnvError,
)

_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_NUM_SAMPLES = 50
_SHORT_EPISODE = 4
_PARALLEL_CALLS = 3


def gymnasium_contract(subject: Subject) -> str:
    """Run Gymnasium's ``check_env`` on the result of ``gymnasium.make``; its warnings are faults."""
    require(
        subject.spec.name in gymnasium.registry,
        f"gymnasium.make does not know '{subject.spec.name}'; register it with Registry.register or an entry point",
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        # The full name: its short name may resolve to a newer version.
        warnings.filterwarnings("ignore", message=".*is out of date")
        # Of files and sockets that anybody left to the collector, which happens to run now.
        warnings.simplefilter("ignore", ResourceWarning)
        made = gymnasium.make(subject.spec.name, disable_env_checker=True, **subject.kwargs)
        try:
            check_env(made.unwrapped)
        except AssertionError as broken:
            raise CheckFailedError(str(broken)) from broken
        finally:
            made.close()
    # Gymnasium writes its warnings in colour.
    said = [_COLOUR.sub("", str(warning.message)) for warning in caught[:3]]
    require(not caught, f"Gymnasium warns: {'; '.join(said)}")
    return "no fault and no warning"


def json_schemas(subject: Subject) -> str:
    """Check that arguments, actions and tools have valid JSON Schemas (Draft 2020-12) that samples fit."""
    try:
        from jsonschema import Draft202012Validator
        from jsonschema.exceptions import SchemaError
    except ImportError:
        raise CheckFailedError(
            "jsonschema is not installed; install it with: pip install 'verl-agent-env[dev]'"
        ) from None
    chat_class = subject.chat_class()
    env = cast(ChatEnv, subject.build())
    space = _chat_space(env)
    schemas = {"the arguments": subject.kind.arguments_schema(), "an action": space.json_schema()}
    schemas |= {f"the tool '{tool.name}'": tool.parameters for tool in env.tools}
    for owner, schema in schemas.items():
        try:
            Draft202012Validator.check_schema(schema)
        except SchemaError as broken:
            raise CheckFailedError(f"the schema of {owner} is invalid: {broken.message}") from broken
    _require_tools(env)
    own = copy.deepcopy(space)
    own.seed(0)
    validator = Draft202012Validator(schemas["an action"])
    for _ in range(_NUM_SAMPLES):
        action = own.sample()
        require(
            space.contains(action), f"action_space.sample() gave {action}, which the space does not contain"
        )
        fault = next(validator.iter_errors(action), None)
        require(fault is None, f"the sampled action {action} breaks the action schema")
    try:
        chat_class.validate_arguments({**subject.kwargs, "no_such_argument_": 1})
    except InvalidEnvArgumentsError:
        return f"{len(schemas)} schemas valid, {_NUM_SAMPLES} sampled actions fit"
    raise CheckFailedError("an unknown argument is accepted; derive Arguments from EnvArguments")


def spaces_built_once(subject: Subject) -> str:
    """Check that all instances share one action space and one observation space."""
    subject.chat_class()
    one, other = subject.build(), subject.build()
    require(
        one.action_space is other.action_space,
        "two instances have two action spaces; build it once per class",
    )
    require(
        one.observation_space is other.observation_space,
        "two instances have two observation spaces; build it once per class",
    )
    return "two instances share both spaces"


def refusals(subject: Subject) -> str:
    """Check that steps outside an episode and impossible seeds raise typed errors and change nothing."""
    subject.chat_class()
    env = cast(ChatEnv, subject.build())
    # A policy may look at the episode, and there is none yet.
    _require_refusal(env, "", EpisodeNotStartedError, "a step before the first reset")
    env.reset(seed=subject.seeds[0])
    policy = subject.policy(env, 0)
    for impossible in (-1, 1 << 63):
        before = env.episode_seed, env.num_steps, env.ended
        try:
            env.reset(seed=impossible)
        except InvalidEnvArgumentsError:
            require(
                (env.episode_seed, env.num_steps, env.ended) == before,
                "a refused reset changed the running episode",
            )
        else:
            raise CheckFailedError(f"the seed {impossible} is accepted")
    ended = _play_to_end(subject, env, policy)
    if ended is None:
        return f"refused before reset; no episode ended within {10 * subject.num_steps} steps to try it afterwards"
    _require_refusal(env, policy(), EpisodeEndedError, "a step after the end of the episode")
    env.reset()
    require(not env.ended and env.num_steps == 0, "a reset after the end does not begin a new episode")
    env.close()
    return "refused before reset, after the end, and for impossible seeds"


def truncation(subject: Subject) -> str:
    """Check that an episode is truncated exactly after ``max_steps`` moves, unless it ended before."""
    subject.chat_class()
    try:
        arguments = subject.kind.validate({**subject.kwargs, "max_steps": _SHORT_EPISODE})
    except InvalidEnvArgumentsError as refused:
        raise CheckSkippedError(f"max_steps={_SHORT_EPISODE} is refused: {refused}") from None
    num_truncated = 0
    for seed in subject.seeds:
        for idle in (False, True):
            env = cast(ChatEnv, subject.build(arguments))
            policy = subject.policy(env, seed)
            env.reset(seed=seed)
            for number in range(1, _SHORT_EPISODE + 1):
                _, _, terminated, truncated, _ = env.step("" if idle else policy())
                require(not (terminated and truncated), f"step {number} is both terminated and truncated")
                require(
                    terminated or truncated is (env.num_steps >= _SHORT_EPISODE),
                    f"with max_steps={_SHORT_EPISODE}, after {env.num_steps} moves truncated is {truncated}",
                )
                if terminated or truncated:
                    num_truncated += truncated
                    break
            env.close()
    if not num_truncated:
        raise CheckSkippedError(f"every episode terminated in fewer than {_SHORT_EPISODE} moves")
    return f"{num_truncated} episodes truncated after {_SHORT_EPISODE} moves exactly"


def tool_messages(subject: Subject) -> str:
    """Check that each tool call of an action gets one tool message with its id, in order."""
    subject.chat_class()
    env = cast(ChatEnv, subject.build())
    if not env.tools:
        raise CheckSkippedError("the environment has no tools")
    space = copy.deepcopy(_chat_space(env))
    space.seed(0)
    for seed in subject.seeds:
        env.reset(seed=seed)
        samples = [cast("dict[str, Any]", space.sample()) for _ in range(_PARALLEL_CALLS)]
        calls = [{**sample["tool_calls"][0], "id": f"id_{number}"} for number, sample in enumerate(samples)]
        action = {"role": "assistant", "content": "", "tool_calls": calls}
        observation = env.step(action)[0]
        got = [message.get("tool_call_id") for message in observation if message.get("role") == "tool"]
        wanted = [call["id"] for call in calls]
        require(got == wanted, f"the calls {wanted} are answered by tool messages of {got}")
    env.close()
    return f"{_PARALLEL_CALLS} calls, {_PARALLEL_CALLS} answers, in order"


def _chat_space(env: Env) -> ActionSpace:
    space = env.action_space
    require(
        isinstance(space, ActionSpace), f"the action space is a {type(space).__name__}, not an ActionSpace"
    )
    return cast(ActionSpace, space)


def _require_tools(env: ChatEnv) -> None:
    names = [tool.name for tool in env.tools]
    require(len(set(names)) == len(names), f"two tools have one name: {names}")
    for tool in env.tools:
        require(
            _TOOL_NAME.fullmatch(tool.name) is not None,
            f"'{tool.name}' is no tool name: use up to 64 letters, digits, underscores and hyphens",
        )
        require(bool(tool.description.strip()), f"the tool '{tool.name}' has no description")
        require(
            tool.parameters.get("type") == "object",
            f"the parameters of the tool '{tool.name}' are not of type object",
        )


def _require_refusal(env: Env, action: Any, expected: type[VerlAgentEnvError], when: str) -> None:
    try:
        env.step(action)
    except expected:
        return
    except Exception as other:
        raise CheckFailedError(f"{when} raises {type(other).__name__}, not {expected.__name__}") from other
    raise CheckFailedError(f"{when} is accepted; it must raise {expected.__name__}")


def _play_to_end(subject: Subject, env: Env, policy: Any) -> int | None:
    for number in range(10 * subject.num_steps):
        _, _, terminated, truncated, _ = env.step(policy())
        if terminated or truncated:
            return number
    return None
