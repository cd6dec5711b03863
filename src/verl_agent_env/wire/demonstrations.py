"""Tables of conversations for supervised fine-tuning, as verl's data set reads them."""

from __future__ import annotations

from typing import Any


def demonstration_schema(arrow: Any) -> Any:
    """Return the schema of a table of conversations, one a row.

    Args:
        arrow: The module ``pyarrow``, which is an extra.
    """
    message = arrow.struct([("role", arrow.string()), ("content", arrow.string())])
    return arrow.schema(
        [
            ("messages", arrow.list_(message)),
            # Text, because the schemas of tools differ; under a name that verl's own data set ignores.
            ("tools_json", arrow.string()),
            ("reward", arrow.float64()),
            ("success", arrow.bool_()),
        ]
    )
