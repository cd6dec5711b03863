"""Curation: data sets of episodes, generated from the environments themselves."""

from verl_agent_env.integrations.datasets.curate import Curated, curate
from verl_agent_env.integrations.datasets.plan import Component, CurationPlan

__all__ = ["Component", "Curated", "CurationPlan", "curate"]
