"""Checker of environments, for their authors: reports every fault that it finds."""

from verl_agent_env.envs.checker.checks import check_environment
from verl_agent_env.envs.checker.report import CheckReport, CheckResult, Figures

__all__ = ["CheckReport", "CheckResult", "Figures", "check_environment"]
