"""Errors of the client itself; errors of the server are raised as the classes of :mod:`verl_agent_env.errors`.

::

    VerlAgentEnvError
    ├── ServerUnreachableError       no answer came until the deadline
    │   └── NoServerError            the URL is not that of a server of environments
    ├── StepUndecidedError           an earlier step may or may not have been carried out: send it again first
    ├── ClientLoopError              the client belongs to another event loop, which still runs, or waits within its own
    └── ClientClosedError            the client or the environment was closed here
"""

from __future__ import annotations

from dataclasses import dataclass

from verl_agent_env.errors import VerlAgentEnvError


@dataclass(eq=False)
class ServerUnreachableError(VerlAgentEnvError):
    """No answer came; the call may have been carried out nevertheless."""

    status = 503
    title = "The server cannot be reached"
    retryable = True
    url: str = ""
    reason: str = "it does not answer"
    may_have_run: bool = True
    """True if the call may have been carried out nevertheless."""

    @property
    def detail(self) -> str:
        return f"The server at '{self.url}' cannot be reached: {self.reason}."


@dataclass(eq=False)
class NoServerError(ServerUnreachableError):
    """No server of environments is at this URL."""

    title = "There is no server of environments"
    retryable = False

    @property
    def detail(self) -> str:
        return (
            f"No server of environments at '{self.url}': {self.reason}. "
            "Is 'verl-agent-env serve' running there, and is the URL right?"
        )


@dataclass(eq=False)
class StepUndecidedError(VerlAgentEnvError):
    """An earlier call on the environment may or may not have been carried out; this one was not sent."""

    status = 409
    title = "An earlier call is undecided"
    env_id: str = ""
    seq: int = 0
    """The step whose answer never came; -1 when it was a reset."""

    @property
    def detail(self) -> str:
        if self.seq < 0:
            return f"The answer to the last reset of '{self.env_id}' never came; reset again."
        return (
            f"The answer to step {self.seq} of '{self.env_id}' never came: call step with the same action to get it, "
            "or reset."
        )


@dataclass(eq=False)
class ClientLoopError(VerlAgentEnvError):
    """The client is used in a second event loop while the first one is open, or waits for itself within its own."""

    status = 409
    title = "The client belongs to another event loop"
    is_own: bool = False
    """True for a blocking call within the event loop of the client itself, such as by a function that it calls."""

    @property
    def detail(self) -> str:
        if self.is_own:
            return (
                "This blocking call is made within the client's own event loop, which would wait for itself: await the same "
                "call of 'client.remote' there, or use another client."
            )
        return (
            "This client belongs to another event loop, which is still open: make a client in each event loop, or use "
            "EnvClient, which may be used from several threads."
        )


@dataclass(eq=False)
class ClientClosedError(VerlAgentEnvError):
    """The client, or the environment, was closed by this program."""

    status = 409
    title = "It was closed"
    what: str = "client"

    @property
    def detail(self) -> str:
        return f"The {self.what} was closed; make a new one."
