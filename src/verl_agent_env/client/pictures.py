"""Pictures of environments on a server, in Gymnasium's render modes."""

from __future__ import annotations

import io
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from verl_agent_env.client.sync_client import Env

RENDER_MODES = ("ansi", "rgb_array", "svg")
Picture: TypeAlias = str | npt.NDArray[np.uint8]


def render_mode_of(mode: str | None) -> str | None:
    """Return a render mode.

    Raises:
        ValueError: There is no such mode.
    """
    if mode is not None and mode not in RENDER_MODES:
        raise ValueError(f"render_mode must be one of {list(RENDER_MODES)}, not {mode!r}")
    return mode


def picture_of(env: Env, mode: str) -> Picture:
    """Draw an environment: text for ``ansi`` and ``svg``, an array (height, width, 3) of uint8 for ``rgb_array``.

    Raises:
        RenderModeError: The environment has no such mode.
    """
    if mode != "rgb_array":
        return str(env.render(mode))  # type: ignore[arg-type]
    from PIL import Image

    png = env.render("png")
    with Image.open(io.BytesIO(png if isinstance(png, bytes) else b"")) as image:
        return np.array(image.convert("RGB"))
