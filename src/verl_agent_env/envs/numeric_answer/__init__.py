"""Reads numbers as people and models write them, exactly, within fixed bounds, and whole: a text that says more than
one number is none, and never a piece of it.
"""

from verl_agent_env.envs.numeric_answer.grammar import Quantity
from verl_agent_env.envs.numeric_answer.reading import (
    PercentRule,
    read_number,
    read_quantity,
    values_of,
    without_labels,
)

__all__ = ["PercentRule", "Quantity", "read_number", "read_quantity", "values_of", "without_labels"]
