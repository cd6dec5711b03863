"""Checks an environment as its author would want to: what breaks is named, the rest is checked all the same."""

from verl_agent_env.envs.checker.checks import check_environment
from verl_agent_env.envs.checker.report import CheckReport, CheckResult, Figures

__all__ = ["CheckReport", "CheckResult", "Figures", "check_environment"]
