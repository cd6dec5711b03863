"""verifiers: a taskset of seeds and an environment that plays them on a server, as the plugin ``verl-agent-env``.

    vf-eval verl-agent-env --env.taskset.env-name sokoban --env.url http://127.0.0.1:8000

verifiers finds a plugin by the name of a top-level module, which is why :mod:`verl_agent_env` has these two classes.
"""

from __future__ import annotations

from typing import Any

from verl_agent_env.integrations.requirements import require


def plugin_class(name: str) -> Any:
    """Return a class of :mod:`verl_agent_env.integrations.verifiers.plugin`; imports verifiers.

    Raises:
        FrameworkVersionError: verifiers is missing, or of another version.
    """
    require("verifiers", "verifiers")
    from verl_agent_env.integrations.verifiers import plugin

    return getattr(plugin, name)
