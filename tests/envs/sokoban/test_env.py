"""The Sokoban environment: gym-sokoban's dynamics in chat messages, given rooms, views, snapshots."""

from __future__ import annotations

import base64
import io
import json
import warnings
from random import Random
from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from PIL import Image

import verl_agent_env  # noqa: F401 - registers the names with Gymnasium
from tests.children import python
from verl_agent_env.envs.sokoban import SokobanEnv
from verl_agent_env.envs.sokoban.generator import generate_level
from verl_agent_env.envs.sokoban.level import Level
from verl_agent_env.errors import InvalidEnvArgumentsError
from verl_agent_env.types import Action, Observation

if TYPE_CHECKING:
    from tests.envs.sokoban.conftest import ArrayGame

TOOLS = ("push_up", "push_down", "push_left", "push_right", "move_up", "move_down", "move_left", "move_right")
GLYPHS = ("#", "_", "O", "√", "X", "P")

CORRIDOR = "#######\n#@ $ .#\n#######"
TWO_BOXES = "######\n#@$ .#\n# *  #\n#    #\n######"

FIXED = [[0, 0, 0, 0, 0], [0, 1, 1, 2, 0], [0, 1, 2, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
STATE = [[0, 0, 0, 0, 0], [0, 1, 4, 3, 0], [0, 1, 5, 1, 0], [0, 1, 1, 1, 0], [0, 0, 0, 0, 0]]


def call(*names: str) -> dict[str, Any]:
    """An assistant message with one call for each name."""
    calls = [
        {"id": f"id_{number}", "type": "function", "function": {"name": name, "arguments": "{}"}}
        for number, name in enumerate(names)
    ]
    return {"role": "assistant", "content": "", "tool_calls": calls}


def started(**kwargs: Any) -> SokobanEnv:
    env = SokobanEnv(include_task_prompt=False, **kwargs)
    env.reset(seed=1)
    return env


def glyph_grid(game: ArrayGame) -> str:
    """What the default observation shows of a room of plain arrays."""
    rows = [[GLYPHS[code] for code in row] for row in game.state]
    row, column = game.player()
    if game.fixed[row][column] == 2:
        rows[row][column] = "S"
    return "\n".join("\t".join(row) for row in rows)


def only_text(observation: Observation) -> str:
    [message] = observation
    assert isinstance(message["content"], str)
    return message["content"]


# --- dynamics -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "columns", "boxes"), [(6, 6, 1), (7, 9, 2), (10, 10, 4)])
def test_episodes_equal_the_array_rules(
    array_game: type[ArrayGame], rows: int, columns: int, boxes: int
) -> None:
    solved = truncated_ones = 0
    for seed in range(25):
        random = Random(seed)
        env = SokobanEnv(dim_room=(rows, columns), num_boxes=boxes, include_task_prompt=False)
        observation, _ = env.reset(seed=seed)
        game = array_game(generate_level(seed, rows, columns, boxes))
        assert only_text(observation) == glyph_grid(game)
        # Half of the episodes follow a solution with detours, so that the end is seen as well.
        script: list[Any] | None = env.solution() if seed % 2 else None
        for number in range(1, 121):
            if script and random.random() < 0.8:
                action = script.pop(0)
            elif script is None:
                action = call(random.choice(TOOLS))
            else:
                # An action that is malformed does nothing.
                action = {"role": "assistant", "content": ""}
            names = [each["function"]["name"] for each in action.get("tool_calls", [])]
            expected = game.step(TOOLS.index(names[0]) + 1 if names else 0)
            observation, reward, terminated, truncated, info = env.step(action)
            [message] = observation
            assert message["content"].endswith(glyph_grid(game))
            assert message["role"] == ("tool" if names else "user")
            assert reward == pytest.approx(expected)
            assert terminated is info["success"] is game.solved()
            assert truncated is (number == 120 and not terminated)
            assert info["num_steps"] == number
            assert info["action_is_valid"] is bool(names)
            if terminated or truncated:
                solved += terminated
                truncated_ones += truncated
                break
    assert solved >= 12
    assert truncated_ones >= 3


def test_the_last_push_ends_the_episode_with_all_parts_of_the_reward() -> None:
    env = started(room=CORRIDOR)
    assert env.step(call("push_right"))[1:4] == (-0.1, False, False)
    assert env.step(call("push_right"))[1:4] == (-0.1, False, False)
    _, reward, terminated, truncated, info = env.step(call("push_right"))
    assert reward == pytest.approx(10.9)
    assert (terminated, truncated, info["success"]) == (True, False, True)


def test_moving_does_not_push() -> None:
    env = started(room=CORRIDOR)
    env.step(call("move_right"))
    observation, reward, terminated, _, info = env.step(call("move_right"))
    assert observation[0]["content"].split("\n")[1] == "#\t_\tP\tX\t_\tO\t#"
    assert (reward, terminated) == (-0.1, False)
    assert info["action_is_valid"] is True
    assert info["action_is_effective"] is False


def test_pushing_off_a_target_costs() -> None:
    env = started(room="######\n#@*. #\n#  $ #\n######")
    assert env.step(call("push_right"))[1] == pytest.approx(-0.1)
    assert env.step(call("push_right"))[1] == pytest.approx(-1.1)


def test_rewards_are_arguments() -> None:
    rewards = {
        "reward_step": -1.0,
        "reward_box_on_target": 2.0,
        "reward_box_off_target": -8.0,
        "reward_solved": 5.0,
    }
    env = started(room=CORRIDOR, **rewards)
    assert [env.step(call("push_right"))[1] for _ in range(3)] == [-1.0, -1.0, 6.0]


@pytest.mark.parametrize(
    "action", ["", "dance", {"role": "assistant", "content": "", "tool_calls": []}, None]
)
def test_an_action_that_cannot_be_read_is_a_step_in_which_nothing_moves(action: Any) -> None:
    env = started(room=CORRIDOR, invalid_action_reward=-0.5)
    before = env.dump_state()
    observation, reward, terminated, truncated, info = env.step(action)
    assert env.dump_state() == before
    assert reward == pytest.approx(-0.6)
    assert (terminated, truncated, info["num_steps"], info["action_is_valid"]) == (False, False, 1, False)
    assert only_text(observation).endswith("#\tP\t_\tX\t_\tO\t#\n#\t#\t#\t#\t#\t#\t#")


def test_an_invalid_action_ends_the_episode_where_arguments_say_so() -> None:
    env = started(
        room=CORRIDOR, invalid_action_ends_episode=True, reward_step=0.0, invalid_action_reward=-0.1
    )
    _, reward, terminated, _, info = env.step("dance")
    assert (reward, terminated, info["success"]) == (-0.1, True, False)


# --- forms of actions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "action",
    [
        call("push_right"),
        [call("push_right")],
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "a", "name": "push_right", "input": {}}],
        },
        '<tool_call>{"name": "push_right", "arguments": {}}</tool_call>',
        "<think>left?</think><answer>Right</answer>",
        "\\boxed{right}",
        "<action>push right</action>",
        "Right.",
        "push_right",
    ],
)
def test_every_form_of_an_action_pushes(action: Action) -> None:
    env = started(room="######\n#@$ .#\n######")
    observation, _, _, _, info = env.step(action)
    assert info["action_is_effective"] is True
    assert observation[0]["content"].split("\n")[1] == "#\t_\tP\tX\tO\t#"


def test_words_with_move_do_not_push() -> None:
    env = started(room="######\n#@$ .#\n######")
    assert env.step("move right")[4]["action_is_effective"] is False
    assert env.step("push right")[4]["action_is_effective"] is True


def test_an_answer_with_several_moves_is_carried_out_up_to_the_end_of_the_episode() -> None:
    env = started(room=CORRIDOR, max_actions_per_turn=5)
    observation, reward, terminated, _, info = env.step(
        "<answer>Right || Right || Right || Left || Left</answer>"
    )
    assert reward == pytest.approx(-0.1 - 0.1 + 10.9)
    assert terminated is True
    assert info["num_steps"] == 3
    assert "#\t_\t_\t_\tP\t√\t#" in only_text(observation)


def test_of_several_calls_only_the_first_counts_by_default() -> None:
    env = started(room=CORRIDOR)
    observation, reward, *_ = env.step(call("push_right", "push_right"))
    assert [message["tool_call_id"] for message in observation] == ["id_0", "id_1"]
    assert env.num_steps == 1
    assert reward == pytest.approx(-0.1)


def test_parallel_calls_get_one_view_each() -> None:
    env = started(room=CORRIDOR, max_actions_per_turn=2)
    observation, *_ = env.step(call("push_right", "push_right"))
    rows = [message["content"].split("\n")[1] for message in observation]
    assert rows == ["#\t_\tP\tX\t_\tO\t#", "#\t_\t_\tP\tX\tO\t#"]


def test_without_moves_there_are_only_the_pushing_tools() -> None:
    env = started(room=CORRIDOR, allow_moves=False)
    assert [tool.name for tool in env.tools] == list(TOOLS[:4])
    assert env.action_space.tools == env.tools
    assert "move_" not in env.task_prompt()
    assert env.step(call("move_right"))[4]["action_is_valid"] is False
    assert env.step("move right")[4]["action_is_valid"] is False
    assert env.step(call("push_right"))[4]["action_is_effective"] is True
    # Other instances keep theirs.
    assert [tool.name for tool in started().tools] == list(TOOLS)
    assert started(allow_moves=False, max_actions_per_turn=2).action_space.parallel is True


# --- given rooms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "room_setup",
    [
        {"room_fixed": FIXED, "room_state": STATE},
        {"room_fixed": FIXED, "room_state": STATE, "box_mapping": {"(1, 3)": [1, 3], "(2, 2)": [1, 2]}},
        {"room_fixed": np.array(FIXED), "room_state": np.array(STATE), "box_mapping": {(2, 2): (1, 2)}},
        {"room_fixed": tuple(map(tuple, FIXED)), "room_state": STATE, "box_mapping": None},
        json.loads(json.dumps(Level.from_arrays(FIXED, STATE).to_room_setup())),
    ],
)
def test_room_setups_of_data_sets_load_as_argument_and_as_option(room_setup: dict[str, Any]) -> None:
    shown = "#\t#\t#\t#\t#\n#\t_\tX\t√\t#\n#\t_\tS\t_\t#\n#\t_\t_\t_\t#\n#\t#\t#\t#\t#"
    env = SokobanEnv(room_setup=room_setup, include_task_prompt=False)
    # What is said of generated rooms does nothing.
    assert env.arguments.dim_room == (10, 10)
    assert only_text(env.reset(seed=5)[0]) == shown
    other = SokobanEnv(include_task_prompt=False)
    assert only_text(other.reset(seed=5, options={"room_setup": room_setup})[0]) == shown


def test_an_option_counts_for_one_episode() -> None:
    env = SokobanEnv(dim_room=(6, 6), num_boxes=1, include_task_prompt=False)
    generated = env.reset(seed=3)[0]
    assert only_text(env.reset(seed=3, options={"room": CORRIDOR})[0]).count("\n") == 2
    assert env.reset(seed=3)[0] == generated


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"level": 1}, ["options", "level"]),
        ({"room": CORRIDOR, "room_setup": {}}, ["options"]),
        ({"room": "###"}, ["options", "room"]),
        ({"room": 5}, ["options", "room"]),
        ({"room_setup": {"room_fixed": FIXED}}, ["options", "room_setup"]),
        ({"room_setup": None}, ["options", "room_setup"]),
    ],
)
def test_a_bad_option_is_refused_and_the_episode_goes_on(options: dict[str, Any], place: list[str]) -> None:
    env = started(room=CORRIDOR)
    env.step(call("push_right"))
    before = env.snapshot()
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        env.reset(seed=2, options=options)
    assert caught.value.errors[0]["loc"] == place
    assert env.snapshot() == before
    env.step(call("push_right"))


@pytest.mark.parametrize(
    ("kwargs", "place"),
    [
        ({"dim_room": (1_000_000, 1_000_000)}, ["dim_room", 0]),
        ({"dim_room": (10, 2)}, ["dim_room", 1]),
        ({"dim_room": 10}, ["dim_room"]),
        ({"num_boxes": 0}, ["num_boxes"]),
        ({"num_boxes": 21}, ["num_boxes"]),
        ({"dim_room": (4, 4), "num_boxes": 2}, []),
        ({"difficulty": 1.5}, ["difficulty", "constrained-float"]),
        ({"search_budget": 10**9}, ["search_budget"]),
        ({"dim_room": (40, 40), "num_boxes": 20, "search_budget": 2_000}, []),
        ({"dim_room": (40, 40), "num_boxes": 20, "search_budget": 300, "min_pushes": 5}, []),
        ({"num_gen_steps": 0}, ["num_gen_steps"]),
        ({"min_pushes": -1}, ["min_pushes"]),
        ({"room_setup": {"room_fixed": FIXED, "room_state": FIXED}}, ["room_setup"]),
        ({"room_setup": {"room_fixed": [[0] * 100] * 100, "room_state": STATE}}, ["room_setup"]),
        ({"room_setup": [FIXED, STATE]}, ["room_setup"]),
        ({"room": "#####\n#@*##\n#####"}, ["room"]),
        ({"room": "\n" * 1_000_000}, ["room"]),
        ({"room": CORRIDOR, "room_setup": {"room_fixed": FIXED, "room_state": STATE}}, []),
        ({"glyphs": {"wall": ""}}, ["glyphs", "wall"]),
        ({"reward_step": float("nan")}, ["reward_step"]),
        ({"colour": "red"}, ["colour"]),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_built(kwargs: dict[str, Any], place: list[Any]) -> None:
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        SokobanEnv.validate_arguments(kwargs)
    assert place in [error["loc"] for error in caught.value.errors]


def test_a_room_that_cannot_be_generated_is_refused_by_reset() -> None:
    env = SokobanEnv(dim_room=(6, 6), num_boxes=1, min_pushes=10_000)
    with pytest.raises(InvalidEnvArgumentsError) as caught:
        env.reset(seed=1)
    assert "min_pushes" in caught.value.errors[0]["msg"]


def test_arguments_survive_their_own_dump() -> None:
    arguments = SokobanEnv.validate_arguments({"room_setup": {"room_fixed": FIXED, "room_state": STATE}})
    assert SokobanEnv.validate_arguments(json.loads(arguments.model_dump_json())) == arguments


# --- views --------------------------------------------------------------------------------------------------


def test_styles_name_cells_and_surroundings() -> None:
    env = started(room=TWO_BOXES, observation_style=["coordinates", "local"])
    rows = only_text(env.first_observation()).split("\n")
    assert rows[1] == "b1# b2P b3X b4_ b5O b6#"
    assert rows[2] == "c1# c2_ c3√ c4_ c5_ c6#"
    assert rows[-1] == "You are at b2: left wall, right box, up wall, down floor."
    env.step(call("push_down"))
    assert str(env.observe()).endswith("right box on target, up floor, down floor.")


def test_the_local_style_names_targets() -> None:
    assert started(room="######\n#$@. #\n######", observation_style="local").observe() == (
        "You are at b3: left box, right target, up wall, down wall."
    )


def test_the_style_of_objects_knows_what_the_player_stands_on() -> None:
    env = started(room="######\n#+$* #\n######", observation_style="objects")
    assert env.observe() == "Objects: box at b3, box on target at b4, target at b2."
    env = started(room="######\n#+$* #\n######", observation_style="egocentric")
    assert env.observe() == "From you: box 1 right, box on target 2 right, target here."


@pytest.mark.parametrize("separator", ["", " ", "\t", ", "])
def test_text_is_patched_at_the_right_cells_for_every_separator(separator: str) -> None:
    random = Random(4)
    env = started(dim_room=(7, 8), num_boxes=3, cell_separator=separator)
    for _ in range(60):
        env.step(call(random.choice(TOOLS)))
        if env.ended:
            env.reset()
        assert env.grid_text() == "\n".join(separator.join(row) for row in env.glyph_rows())


def test_glyphs_may_be_words() -> None:
    env = started(room=TWO_BOXES, cell_separator=" ", glyphs={"wall": "wall", "player": "me", "box": "[]"})
    assert only_text(env.first_observation()).split("\n")[1] == "wall me [] _ O wall"
    assert "a wall is wall" in env.task_prompt()


def test_pictures_are_content_parts_of_the_right_size() -> None:
    env = started(room=TWO_BOXES, observation_mode="both", tile_px=8)
    content = env.observe()
    assert isinstance(content, list)
    text, picture = content
    assert text["text"] == env.grid_text()
    data = base64.b64decode(picture["image_url"]["url"].partition(",")[2])
    with Image.open(io.BytesIO(data)) as image:
        assert image.size == (6 * 8, 5 * 8)
    alone = started(room=TWO_BOXES, observation_mode="image").first_observation()[0]["content"]
    assert [part["type"] for part in alone] == ["image_url"]


def test_pictures_show_what_changed() -> None:
    env = SokobanEnv(room=TWO_BOXES, render_mode="rgb_array")
    env.reset(seed=0)
    before = env.render()
    assert (before.shape, before.dtype) == ((5 * 16, 6 * 16, 3), np.uint8)
    env.step(call("push_right"))
    changed = (before != env.render()).any(axis=2)
    cells = changed.reshape(5, 16, 6, 16).any(axis=(1, 3))
    assert sorted(map(tuple, np.argwhere(cells).tolist())) == [(1, 1), (1, 2), (1, 3)]


def test_tiles_tell_all_kinds_of_cells_apart() -> None:
    env = started(room="########\n#+$* .$#\n########")
    tiles = ["wall", "player_on_target", "box", "box_on_target", "floor", "target", "box", "wall"]
    assert env.tile_rows()[1] == tiles
    assert env.draw("svg").startswith("<svg")
    assert env.draw("ansi").replace("\t", "") == "########\n#SX√_OX#\n########"


# --- randomness, snapshots, solutions -----------------------------------------------------------------------


def test_equal_seeds_give_equal_rooms_and_share_one_level() -> None:
    first, second, third = started(), started(), SokobanEnv(include_task_prompt=False)
    third.reset(seed=2)
    assert first.first_observation() == second.first_observation() != third.first_observation()
    assert first._level is second._level
    for action in first.solution() or []:
        first.step(action)
    assert first.ended
    assert second.observe() == second.first_observation()[0]["content"] != first.observe()


def test_a_seed_gives_the_same_room_in_another_process() -> None:
    program = (
        "from verl_agent_env.envs.sokoban import SokobanEnv\n"
        "print(ascii(SokobanEnv(dim_room=[8, 8], num_boxes=2, difficulty='hard').reset(seed=77)[0]))"
    )
    done = [python("-c", program, variables={"PYTHONHASHSEED": seed}) for seed in ("1", "2")]
    env = SokobanEnv(dim_room=[8, 8], num_boxes=2, difficulty="hard")
    shown = ascii(env.reset(seed=77)[0])
    assert [(each.stdout.strip(), each.returncode) for each in done] == [(shown, 0)] * 2


def test_min_pushes_is_honoured() -> None:
    env = started(dim_room=(8, 8), num_boxes=2, min_pushes=12)
    pushes = 0
    for action in env.solution() or []:
        boxes = env._boxes
        env.step(action)
        pushes += boxes != env._boxes
    assert env.ended
    assert pushes >= 12


def test_a_snapshot_stands_for_the_episode_at_every_step() -> None:
    random = Random(8)
    env = started(dim_room=(8, 8), num_boxes=2, max_steps=40)
    while not env.ended:
        snapshot = env.snapshot()
        copy = SokobanEnv(arguments=env.arguments)
        copy.restore(snapshot)
        assert copy.snapshot() == snapshot
        action = call(random.choice(TOOLS))
        assert env.step(action) == copy.step(action)
        assert copy.grid_text() == env.grid_text()
    assert len(env.snapshot()) < 200


def test_a_snapshot_holds_the_room_and_not_how_it_was_made() -> None:
    env = started(dim_room=(8, 8), num_boxes=2)
    # Another room would come of these arguments.
    other = SokobanEnv(include_task_prompt=False)
    other.restore(env.snapshot())
    assert other.grid_text() == env.grid_text()


def test_the_solution_solves_from_wherever_the_room_stands() -> None:
    for seed in range(10):
        env = SokobanEnv(dim_room=(7, 7), num_boxes=2)
        env.reset(seed=seed)
        env.step(call("move_up"))
        info: dict[str, Any] = {}
        for action in env.solution() or []:
            *_, info = env.step(action)
        assert info["success"] is True
        assert env.solution() == []


def test_a_dead_room_has_no_solution() -> None:
    env = started(room="######\n#@$  #\n#   .#\n######")
    for name in ("push_right", "push_right"):
        env.step(call(name))
    assert env.solution() is None


def test_nothing_shown_or_told_holds_the_solution() -> None:
    env = SokobanEnv(dim_room=(6, 6), num_boxes=1)
    _, info = env.reset(seed=1)
    assert set(info) == {"seed"}
    *_, info = env.step(call("push_up"))
    assert set(info) == {"num_steps", "action_is_valid", "action_is_effective", "success"}


@pytest.mark.parametrize(
    "kwargs", [{}, {"observation_mode": "both", "allow_moves": False}, {"room": CORRIDOR}]
)
def test_gymnasium_accepts_it(kwargs: dict[str, Any]) -> None:
    env = gymnasium.make("verl_env/sokoban-v0", **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(env.unwrapped)
