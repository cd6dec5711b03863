"""The data set and the agent loop that verl loads. The import raises :class:`VerlVersionError` for unsupported versions."""

from verl_agent_env.integrations.verl.requirements import require_verl

require_verl()
