"""Grid worlds: styles and modes of an observation, pictures, names of cells."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from verl_agent_env.envs.frozen_lake import FrozenLakeEnv
from verl_agent_env.envs.grid import cell_name
from verl_agent_env.errors import RenderModeError

DESC = ["SFH", "FFG"]
GRID = "P\tF\tH\nF\tF\tG"
COORDINATES = "a1P a2F a3H\nb1F b2F b3G"
OBJECTS = "Objects: goal at b3, hole at a3."
EGOCENTRIC = "From you: goal 1 down 2 right, hole 2 right."
LOCAL = "You are at a1: left edge, right ice, up edge, down ice."


def lake(**kwargs: Any) -> FrozenLakeEnv:
    return FrozenLakeEnv(desc=DESC, include_task_prompt=False, **kwargs)


@pytest.mark.parametrize(
    ("style", "shown"),
    [
        ("grid", GRID),
        ("coordinates", COORDINATES),
        ("objects", OBJECTS),
        ("egocentric", EGOCENTRIC),
        ("local", LOCAL),
        (["local"], LOCAL),
        (["grid", "local"], f"{GRID}\n{LOCAL}"),
        (
            ["local", "coordinates", "objects", "egocentric", "grid"],
            f"{LOCAL}\n{COORDINATES}\n{OBJECTS}\n{EGOCENTRIC}\n{GRID}",
        ),
    ],
)
def test_style_says_how_the_world_is_told(style: Any, shown: str) -> None:
    env = lake(observation_style=style)
    assert env.reset(seed=1)[0] == [{"role": "user", "content": shown}]
    # A move against the edge shows the same again.
    assert env.step("up")[0] == [{"role": "user", "content": shown}]


def test_first_observation_may_have_a_style_of_its_own() -> None:
    env = lake(first_observation_style=["grid", "local"], observation_style="local")
    assert env.reset(seed=1)[0][0]["content"] == f"{GRID}\n{LOCAL}"
    assert env.step("up")[0][0]["content"] == LOCAL
    assert env.first_observation()[0]["content"] == f"{GRID}\n{LOCAL}"


def test_local_style_names_what_is_around() -> None:
    env = lake(observation_style="local")
    env.reset(seed=1)
    assert env.step("right")[0][0]["content"] == "You are at a2: left ice, right hole, up edge, down ice."
    assert env.step("down")[0][0]["content"] == "You are at b2: left ice, right goal, up ice, down edge."


def test_egocentric_style_says_the_way() -> None:
    env = FrozenLakeEnv(desc=["GFF", "FSF", "FHF"], observation_style="egocentric")
    env.reset(seed=1)
    assert env.observe() == "From you: goal 1 up 1 left, hole 1 down."
    env.step("up")
    assert env.observe() == "From you: goal 1 left, hole 2 down."


def picture(part: dict[str, Any]) -> np.ndarray[Any, Any]:
    head, _, data = part["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


@pytest.mark.parametrize(("mode", "kinds"), [("image", ["image_url"]), ("both", ["text", "image_url"])])
def test_mode_says_which_parts_an_observation_has(mode: str, kinds: list[str]) -> None:
    env = lake(observation_mode=mode, tile_px=8)
    for content in (env.reset(seed=1)[0][0]["content"], env.step("up")[0][0]["content"]):
        assert [part["type"] for part in content] == kinds
        assert np.array_equal(picture(content[-1]), env.draw("rgb_array"))
        assert kinds == ["image_url"] or content[0]["text"] == GRID


def test_prompt_comes_before_the_picture() -> None:
    env = FrozenLakeEnv(desc=DESC, observation_mode="image", task_prompt="Go.")
    content = env.reset(seed=1)[0][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"]
    assert content[0]["text"] == "Go.\n"


def test_invalid_action_is_told_beside_the_picture() -> None:
    env = lake(observation_mode="image")
    env.reset(seed=1)
    content = env.step("fly")[0][0]["content"]
    assert "Invalid action" in content[0]["text"]
    assert content[1]["type"] == "image_url"


def test_several_moves_show_one_picture() -> None:
    env = lake(observation_mode="both", max_actions_per_turn=3)
    env.reset(seed=1)
    content = env.step("<answer>right || down</answer>")[0][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url"]


def test_render_draws_in_the_mode_of_the_environment() -> None:
    env = FrozenLakeEnv(render_mode="rgb_array", desc=DESC, tile_px=10)
    env.reset(seed=1)
    frame = env.render()
    assert (frame.shape, frame.dtype) == ((20, 30, 3), np.uint8)
    env.step("down")
    assert not np.array_equal(frame, env.render())
    assert FrozenLakeEnv(render_mode="ansi", desc=DESC).render_mode == "ansi"


def test_svg_is_drawn_whatever_the_mode() -> None:
    env = lake()
    env.reset(seed=1)
    assert env.render() is None
    assert env.draw("svg").startswith("<svg")
    assert env.draw("ansi") == GRID


def test_unknown_render_mode_is_refused() -> None:
    with pytest.raises(RenderModeError) as caught:
        lake(render_mode="human")
    assert caught.value.supported == ["ansi", "rgb_array", "svg"]
    env = lake()
    env.reset(seed=1)
    with pytest.raises(RenderModeError):
        env.draw("human")


@pytest.mark.parametrize(
    ("cell", "name"), [((0, 0), "a1"), ((1, 9), "b10"), ((25, 0), "z1"), ((26, 0), "aa1"), ((701, 2), "zz3")]
)
def test_cells_have_letters_for_rows_and_numbers_for_columns(cell: tuple[int, int], name: str) -> None:
    assert cell_name(*cell) == name
