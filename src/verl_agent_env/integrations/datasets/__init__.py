"""Curation: data sets of episodes for verl, made of the environments themselves."""

from verl_agent_env.integrations.datasets.curate import Curated, curate
from verl_agent_env.integrations.datasets.plan import Component, CurationPlan

__all__ = ["Component", "Curated", "CurationPlan", "curate"]
