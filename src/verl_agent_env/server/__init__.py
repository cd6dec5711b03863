"""The HTTP server of one worker."""

from verl_agent_env.server.app import EnvServer, create_app

__all__ = ["EnvServer", "create_app"]
