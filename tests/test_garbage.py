"""The garbage collector leaves alone what is there, and looks at the rest less often."""

from __future__ import annotations

import gc

from verl_agent_env.garbage import collect_seldom


def test_what_is_there_is_left_alone_and_the_rest_is_looked_at_less_often() -> None:
    before = gc.get_threshold()
    # A server or a trainer that ran in this process has changed them.
    gc.set_threshold(*(thresholds := (700, 10, 10)))
    try:
        present: list[list[int]] = [[]]
        collect_seldom()
        later: list[list[int]] = [[]]
        looked_at = {id(each) for each in gc.get_objects()}
        assert id(present) not in looked_at
        assert id(later) in looked_at
        assert all(new >= old for new, old in zip(gc.get_threshold(), thresholds, strict=True))
        assert gc.get_threshold()[0] > thresholds[0]
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
