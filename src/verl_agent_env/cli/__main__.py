"""``python -m verl_agent_env.cli``."""

from verl_agent_env.cli import main

main()
