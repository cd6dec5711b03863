"""What verl loads: the data set and the agent loop. Importing it fails with one sentence when verl does not fit."""

from verl_agent_env.integrations.verl.requirements import require_verl

require_verl()
