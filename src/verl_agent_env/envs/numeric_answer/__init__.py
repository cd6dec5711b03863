"""Exact reading of numbers as people and models write them, within fixed bounds.

The whole text has to be one number: a text that holds more is not a number, and never read in part.
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
