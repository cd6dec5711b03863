"""The tokens that verl does not know between two turns: what is inserted after an answer, and after one that was cut off."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("verl", reason="verl is not installed: pip install 'verl-agent-env[verl]'")
pytestmark = pytest.mark.usefixtures("verl")

ASKED = [{"role": "user", "content": "0"}]
TURN_ENDS = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def inserted(tokenizer: Any, answer: str) -> str:
    """What a builder inserts behind an answer, before the message that follows it."""
    from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder

    from verl_agent_env.integrations.verl.rollout.rendering import remembering

    builder = remembering(ContinuousTokenBuilder(tokenizer))
    prompt = builder.build_initial_tokens(ASKED)
    written = tokenizer.encode(answer, add_special_tokens=False)
    said = [*ASKED, {"role": "assistant", "content": "1"}]
    merged = builder.merge_context_tokens(
        said, [*said, {"role": "user", "content": "2"}], [*prompt, *written]
    )
    assert merged.token_ids[: len(prompt) + len(written)] == [*prompt, *written]
    return str(tokenizer.decode(merged.inserted_token_ids))


@pytest.fixture
def ending_in_a_line_break(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A tokenizer whose template has a line break after each turn."""
    monkeypatch.setattr(tokenizer, "chat_template", TURN_ENDS)
    return tokenizer


@pytest.mark.parametrize(
    ("answer", "gap"),
    [
        ("1<|im_end|>", "\n"),
        # Cut off at a token that no rendering has: nothing is known of what follows it.
        ("move z", ""),
        # Cut off at tokens that the template has elsewhere, before the answer or after it.
        ("s", ""),
        ("<|im_start|>", ""),
        ("1\n", ""),
        ("1", ""),
        ("2", ""),
    ],
)
def test_what_the_template_has_after_a_turn_is_inserted_and_nothing_else(
    ending_in_a_line_break: Any, answer: str, gap: str
) -> None:
    assert inserted(ending_in_a_line_break, answer) == gap
