"""A kept episode says how it ended, also where steps are left out or come later."""

from __future__ import annotations

from tests.contract.test_episodes import kept_episode
from verl_agent_env.wire.episodes import KeptEpisode
from verl_agent_env.wire.results import EncodedReset, EncodedStep

SUCCESS = EncodedStep(b"[]", 1.0, True, False, b'{"success":true}')
FAILURE = EncodedStep(b"[]", 1.0, True, False, b'{"success":false}')
NOTHING = EncodedStep(b"[]", 0.0, False, False, b"{}")


def test_a_step_that_is_left_out_still_ends_the_episode() -> None:
    episode = kept_episode(0)
    before = episode.size
    endings = [episode.row.ending]
    assert episode.add(b'"lose"', FAILURE, 3.0, max_bytes=before) == 0
    assert (len(episode.steps), episode.size) == (2, before)
    endings.append(episode.row.ending)
    episode.prepend(EncodedReset(b"[]", b"{}"), [b'"first"'], [NOTHING])
    assert episode.steps[0].action == b'"first"'
    endings.append(episode.row.ending)
    assert endings == ["success", "failure", "failure"]


def test_steps_that_come_before_none_end_it_as_they_do() -> None:
    episode = kept_episode(0)
    episode.steps, episode.last_answer = [], NOTHING
    episode.prepend(EncodedReset(b"[]", b"{}"), [b'"win"'], [SUCCESS])
    assert episode.row.ending == "success"


def test_what_is_written_is_read_as_it_was() -> None:
    episode = kept_episode(3)
    episode.last_answer = SUCCESS
    again = KeptEpisode.from_bytes(episode.to_bytes())
    assert (again.row, again.to_json(), again.size) == (episode.row, episode.to_json(), episode.size)
