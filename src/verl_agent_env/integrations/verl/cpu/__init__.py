"""verl on a machine without an accelerator: a platform and a rollout backend, for tests and small experiments.

verl loads :mod:`~verl_agent_env.integrations.verl.cpu.plugin` through its entry points; nothing changes unless the
variable ``VERL_PLATFORM`` is ``cpu``.
"""
