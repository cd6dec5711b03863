"""MCP chat: a conversation with the tools of MCP servers."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Mapping
from typing import Any, ClassVar

from verl_agent_env.envs.base import Durability, EnvArguments
from verl_agent_env.envs.mcp_chat.arguments import McpChatArguments
from verl_agent_env.envs.mcp_chat.configuration import CONFIG_VARIABLE, configuration_in_use
from verl_agent_env.envs.mcp_chat.definition import ServerDefinition
from verl_agent_env.envs.mcp_chat.errors import ServerLostError
from verl_agent_env.envs.mcp_chat.pool import Pool, pool_here
from verl_agent_env.envs.mcp_chat.session import CallResult, HttpSession, McpSession
from verl_agent_env.envs.mcp_chat.tools import Listing, Offer, listing_of, offer_of
from verl_agent_env.envs.tool_dialogue import ToolDialogueEnv
from verl_agent_env.envs.turn import Outcome
from verl_agent_env.errors import InvalidEnvArgumentsError
from verl_agent_env.messages import ToolCall
from verl_agent_env.types import Action, Info, Observation

EXTRA = "pip install 'verl-agent-env[mcp]'"


class McpChatEnv(ToolDialogueEnv):
    """Answer a conversation with the help of tools that MCP servers offer.

    The servers are those of the operator's configuration (see ``docs/mcp.md``); the arguments name them. Each episode
    has its own sessions, from its reset to its end; only servers configured as ``shared`` are used by several episodes
    at a time.

    ## Action Space

    The allowed tools of the servers. A name that several servers use is prefixed with the server's name in all of them:
    ``time_now`` and ``clock_now``. The calls of one message run concurrently. A message without a call is the answer.

    ## Observation

    At first the system prompt, the chat history and the task prompt as a message of the user, as far as they are
    given. Then the results of the tools: text, or content parts if there are pictures or sounds. A tool that fails, times
    out or whose server ended gives an error message; the server is restarted.

    ## Rewards

    The score of the answer by the ``scorer``; 0 without one, and if the episode is truncated. ``tool_error_reward`` for
    each call whose result is an error.

    ## Episode End

    Terminated by a message without a tool call (``success`` in the info when the reward is that of a right answer).
    One without text is an invalid action, scored as an empty answer. Truncated after ``max_steps`` calls.

    The info of a step also holds ``tool_errors``, calls of this step whose result is an error, and ``server_failures``,
    calls of this episode whose server ended, hung or was restarted. Side effects of tools cannot be replayed: the
    environment is lost with its worker (durability ``none``), unless all of its servers are ``stateless`` or ``resumable``.

    ## Arguments

    See :class:`McpChatArguments`.
    """

    env_name = "verl_env/mcp_chat-v0"
    Arguments: ClassVar[type[EnvArguments]] = McpChatArguments
    durability: ClassVar[Durability | None] = "none"
    arguments: McpChatArguments

    __slots__ = (
        "_failures",
        "_http_sessions",
        "_listing",
        "_offered",
        "_opening",
        "_pool",
        "_resumable",
        "_sessions",
    )

    def __init__(self, render_mode: str | None = None, **kwargs: Any) -> None:
        super().__init__(render_mode, **kwargs)
        self._pool: Pool | None = None
        self._sessions: dict[str, McpSession] = {}
        self._resumable: dict[str, ServerDefinition] = {}
        self._http_sessions: dict[str, HttpSession] = {}
        """Session of each resumable server in which the episode goes on, wherever that is."""
        self._opening = asyncio.Lock()
        self._listing: Listing = []
        self._offered = Offer((), {})
        self._failures = 0

    @classmethod
    def validate_arguments(cls, kwargs: Mapping[str, Any]) -> EnvArguments:
        """Validate keyword arguments; the servers must be configured, and the SDK must be installed."""
        if importlib.util.find_spec("mcp") is None:
            raise cls.invalid_arguments(([], f"MCP needs an extra that is not installed here; {EXTRA} does"))
        arguments = super().validate_arguments(kwargs)
        if isinstance(arguments, McpChatArguments):
            cls._definitions(arguments)
        return arguments

    @classmethod
    def records_effects(cls, arguments: EnvArguments) -> bool:
        """Return true if all servers are stateless or resumable: an episode can then go on on another worker."""
        return isinstance(arguments, McpChatArguments) and all(
            each.is_recorded for each in cls._definitions(arguments)
        )

    @classmethod
    def has_whole_state(cls, arguments: EnvArguments) -> bool:
        """Return false if a server has a state of its own, which no other session begins with."""
        return isinstance(arguments, McpChatArguments) and all(
            each.stateless for each in cls._definitions(arguments)
        )

    # --- hooks ----------------------------------------------------------------------------------------------

    async def begin_dialogue(self) -> None:
        definitions = self._definitions(self.arguments)
        await self.close_async()
        # No episode runs until the new one has begun: the sessions of the former one are closed.
        self._ended = True
        self._pool = pool_here()
        self._resumable = {each.name: each for each in definitions if each.resumable}

        async def listing() -> Listing:
            await self._open_sessions()
            return listing_of([(each, self._sessions[each.name].tools) for each in definitions])

        self._offer_tools(await self.outcome_of(listing))
        self._failures = 0
        if self._resumable:
            await self._note_http_sessions()

    async def act_async(self, call: ToolCall) -> Outcome:
        target = self._offered.targets[call.name]

        async def answered() -> list[Any]:
            await self._open_sessions()
            session = self._sessions[target.server]
            return list(await session.call(target.tool, call.arguments, self.arguments.max_result_chars))

        reply = CallResult(*await self.outcome_of(answered))
        if reply.has_failed:
            self._failures += 1
            if self.arguments.raise_on_server_failure:
                raise ServerLostError(f"The MCP server '{target.server}' failed.")
        return self.failed_call(reply.content) if reply.is_error else Outcome(reply.content)

    async def astep(self, action: Action) -> tuple[Observation, float, bool, bool, Info]:
        """Carry out the calls of a message, or score the answer, as :meth:`ChatEnv.step`.

        Raises:
            EpisodeNotStartedError, EpisodeEndedError: No episode is running.
            ServerLostError: A server is gone and cannot be restarted.
            ScorerError: A registered callable failed; the episode continues.
        """
        result = await super().astep(action)
        result[4]["server_failures"] = self._failures
        if self._resumable:
            await self._note_http_sessions()
        if self._ended:
            self._release()
        return result

    def dump_state(self) -> Any:
        return [self.dialogue(), self._failures, self._listing]

    def load_state(self, state: Any) -> None:
        conversation, self._failures, listing = state
        self.load_dialogue(conversation)
        self._offer_tools(listing)

    async def close_async(self) -> None:
        """End the sessions; a closed environment can be reset."""
        await self._release_all()
        pool = pool_here()
        await asyncio.gather(*(pool.end(*ending) for ending in self._http_sessions_to_end()))

    async def ahand_over(self) -> None:
        """Close the connections; sessions of resumable servers stay, for whoever goes on with the episode."""
        if self.records_effects(self.arguments):
            await self._release_all()
        else:
            await self.close_async()

    # --- inner workings -------------------------------------------------------------------------------------

    async def _open_sessions(self) -> None:
        """Open the episode's sessions, unless they are: after a replay the first call needs them."""
        async with self._opening:
            if not self._sessions:
                self._pool = self._pool or pool_here()
                self._sessions = await _acquire(
                    self._pool, self._definitions(self.arguments), self._http_sessions
                )

    async def _note_http_sessions(self) -> None:
        """Record in which sessions of resumable servers the episode goes on, where these are others than before."""

        async def changed() -> dict[str, list[str]]:
            held = {name: session.http_session for name, session in self._sessions.items()}
            return {
                name: list(session)
                for name, session in held.items()
                if session is not None and session != self._http_sessions.get(name)
            }

        for name, session in (await self.outcome_of(changed)).items():
            self._http_sessions[name] = HttpSession(*session)

    def _http_sessions_to_end(self) -> list[tuple[ServerDefinition, HttpSession]]:
        """Forget the sessions of resumable servers, and return them."""
        ending, self._http_sessions = self._http_sessions, {}
        return [(self._resumable[name], session) for name, session in ending.items()]

    def _offer_tools(self, listing: Listing) -> None:
        self._listing = listing
        self._offered = offer_of(listing)
        self._set_tools(self._offered.tools)

    async def _release_all(self) -> None:
        """Release the sessions."""
        pool, sessions = self._pool, list(self._sessions.values())
        self._sessions = {}
        if pool is not None and sessions:
            await asyncio.gather(*(pool.release(session) for session in sessions))

    def _release(self) -> None:
        """Release and end the sessions without waiting for their end; a replay, which calls nobody, has none to release."""
        pool = self._pool or pool_here()
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            pool.release_soon(session)
        if not self.is_replaying:
            for ending in self._http_sessions_to_end():
                pool.end_soon(*ending)

    @classmethod
    def _definitions(cls, arguments: McpChatArguments) -> list[ServerDefinition]:
        """Return the definitions of the servers of these arguments.

        Raises:
            InvalidEnvArgumentsError: A server is unknown, or may not be defined by arguments.
            ConfigurationError: The operator's configuration cannot be used.
        """
        configuration = configuration_in_use()
        if arguments.servers is None:
            return list(configuration.servers.values())
        found = []
        for place, server in enumerate(arguments.servers):
            if isinstance(server, ServerDefinition):
                if not configuration.commands_allowed:
                    raise cls._refused(
                        place, "must be a name: this server takes no definitions from arguments"
                    )
                if server.name in configuration.servers:
                    raise cls._refused(place, "has the name of a configured server")
                found.append(server)
            elif server in configuration.servers:
                found.append(configuration.servers[server])
            else:
                known = (
                    ", ".join(configuration.servers)
                    or f"none; {CONFIG_VARIABLE} names the file that lists them"
                )
                raise cls._refused(place, f"no MCP server is configured as '{server}'; there are: {known}")
        return found

    @classmethod
    def _refused(cls, place: int, message: str) -> InvalidEnvArgumentsError:
        return cls.invalid_arguments((["servers", place], message))


async def _acquire(
    pool: Pool, definitions: list[ServerDefinition], http_sessions: Mapping[str, HttpSession]
) -> dict[str, McpSession]:
    """Open a session with each server, or go on with those that there are, concurrently; none if one of them fails."""
    tasks = [
        asyncio.create_task(pool.acquire(definition, http_sessions.get(definition.name)))
        for definition in definitions
    ]
    try:
        sessions = await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, McpSession):
                pool.release_soon(outcome)
                if outcome.http_session is not None and not http_sessions:
                    pool.end_soon(outcome.definition, outcome.http_session)
        raise
    return {definition.name: session for definition, session in zip(definitions, sessions, strict=True)}
