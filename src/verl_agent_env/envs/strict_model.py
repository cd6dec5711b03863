"""The configuration of models of arguments: unknown names are errors, which never show what was given."""

from __future__ import annotations

from pydantic import ConfigDict

STRICT_MODEL = ConfigDict(
    frozen=True,
    extra="forbid",
    use_attribute_docstrings=True,
    allow_inf_nan=False,
    hide_input_in_errors=True,
)
