"""SkyRL: environments on a server as an environment of ``skyrl_gym``.

    register(url="http://127.0.0.1:8000")

in the task in which SkyRL's entry point runs, and ``environment.env_class=verl_agent_env`` in its configuration.
"""

from __future__ import annotations

from typing import Any

from verl_agent_env.integrations.requirements import require
from verl_agent_env.integrations.rollout.options import RolloutOptions

ENV_CLASS = "verl_agent_env"
"""Name among skyrl_gym's environments."""
ENTRY_POINT = "verl_agent_env.integrations.skyrl.text_env:ServerTextEnv"
"""The class, as skyrl_gym names it; the module imports skyrl_gym."""


def register(env_class: str = ENV_CLASS, **options: Any) -> None:
    """Register the environment with ``skyrl_gym``; registering it again replaces the options.

    Args:
        env_class: Name for SkyRL's ``environment.env_class`` or the rows' column ``env_class``.
        **options: Options of :class:`RolloutOptions` for all episodes: ``url``, ``token``, ``deadline_s`` and so on.

    Raises:
        FrameworkVersionError: skyrl_gym is missing, or of another version.
        TrainingSetupError: An option is unknown or out of its range.
    """
    require("skyrl-gym", "skyrl")
    from skyrl_gym.envs.registration import deregister
    from skyrl_gym.envs.registration import register as register_with_gym
    from skyrl_gym.envs.registration import registry

    RolloutOptions.from_mapping(options)
    if env_class in registry:
        deregister(env_class)
    register_with_gym(id=env_class, entry_point=ENTRY_POINT, kwargs={"options": options})
