"""Tokens of conversations: those between two turns that verl does not know, and pieces that are tokenized once."""

from __future__ import annotations

from typing import Any

import pytest

tokenizers = pytest.importorskip("tokenizers", reason="verl is not installed: make verl-test")
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


def told(number: int) -> list[dict[str, Any]]:
    """A conversation with another observation for each number, with blanks where pieces meet."""
    return [
        {"role": "system", "content": " Rules. "},
        {"role": "user", "content": f"\n{number} "},
        {"role": "assistant", "content": f" {number}"},
        {"role": "user", "content": f"x{number}\n"},
    ]


def prepending(tokenizer: Any) -> None:
    tokenizer.backend_tokenizer.normalizer = tokenizers.normalizers.Prepend("_")


def with_a_space_before(tokenizer: Any) -> None:
    before = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=True, use_regex=False)
    tokenizer.backend_tokenizer.pre_tokenizer = before


def taking_blanks_before(tokenizer: Any) -> None:
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [tokenizers.AddedToken("<|im_start|>", lstrip=True)]}
    )


def reaching_into_the_next_turn(tokenizer: Any) -> None:
    tokenizer.add_tokens(["\n<|im_start|>user"])


CHANGES = [
    lambda _: None,
    prepending,
    with_a_space_before,
    taking_blanks_before,
    reaching_into_the_next_turn,
]


@pytest.mark.parametrize("change", CHANGES)
def test_pieces_have_the_tokens_of_the_whole_text(change: Any) -> None:
    from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder

    from tests.integrations.verl.fakes import byte_tokenizer
    from verl_agent_env.integrations.verl.rollout.rendering import remembering

    tokenizer = byte_tokenizer()
    tokenizer.chat_template = TURN_ENDS
    change(tokenizer)
    own = ContinuousTokenBuilder(tokenizer)
    ours = remembering(own)
    for number in range(20):
        messages = told(number)
        assert ours.build_initial_tokens(messages) == own.build_initial_tokens(messages)
        assert added(ours, messages) == added(own, messages)


def added(builder: Any, messages: list[dict[str, Any]]) -> list[int] | str:
    """The tokens of the last message, or why there are none: a token before which blanks are lost."""
    try:
        return list(builder.tokenize_context_incremental_messages(messages[:3], messages))
    except ValueError as refused:
        return str(refused)


def test_a_text_is_cut_before_tokens_that_nothing_reaches_into(tokenizer: Any) -> None:
    from tests.integrations.verl.fakes import byte_tokenizer
    from verl_agent_env.integrations.verl.rollout.rendering import pieces_of

    text = "<|im_start|>a<|im_end|>\n<|im_start|>b"
    cuts, reaching = pieces_of(tokenizer), pieces_of(byte_tokenizer(["\n<|im_start|>b"]))
    assert cuts is not None
    assert reaching is not None
    assert cuts.split(text)[1:] == ["<|im_start|>a", "<|im_end|>\n", "<|im_start|>b"]
    assert reaching.split(text)[1:] == ["<|im_end|>\n<|im_start|>b"]


def test_a_piece_is_tokenized_once(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder

    from verl_agent_env.integrations.verl.rollout.rendering import remembering

    builder = remembering(ContinuousTokenBuilder(tokenizer))
    for number in range(10):
        builder.build_initial_tokens(told(number))
    encoded: list[str] = []
    encode = tokenizer.encode

    def noted(text: str, **named: Any) -> Any:
        encoded.append(text)
        return encode(text, **named)

    monkeypatch.setattr(tokenizer, "encode", noted)
    builder.build_initial_tokens(told(11))
    assert sorted(encoded) == [
        "<|im_start|>assistant\n 11",
        "<|im_start|>user\n\n11 ",
        "<|im_start|>user\nx11\n",
    ]


def test_pieces_whose_tokens_are_others_are_not_used(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from verl.utils.tokenizer.continuous_token import ContinuousTokenBuilder

    from verl_agent_env.integrations.verl.rollout.rendering import remembering

    own = ContinuousTokenBuilder(tokenizer)
    whole = [own.build_initial_tokens(told(number)) for number in range(20)]
    encode = tokenizer.encode
    # As a tokenizer that begins each text with a blank of its own.
    monkeypatch.setattr(tokenizer, "encode", lambda text, **named: encode(" " + text, **named))
    ours = remembering(own)
    assert [ours.build_initial_tokens(told(number)) for number in range(20)] == whole
