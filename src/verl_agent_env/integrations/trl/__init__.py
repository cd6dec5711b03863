"""TRL's ``environment_factory``: environments on a server, played by ``GRPOTrainer``.

    with environment("sokoban", url="http://127.0.0.1:8000") as Sokoban:
        GRPOTrainer(..., environment_factory=Sokoban).train()

Nothing here imports TRL, which looks at the class alone.
"""

from verl_agent_env.integrations.trl.environment import EnvironmentClass, ToolEnvironment, environment

__all__ = ["EnvironmentClass", "ToolEnvironment", "environment"]
