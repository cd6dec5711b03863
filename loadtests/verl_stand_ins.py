"""What stands around an agent loop of verl, without a model: a tokenizer of bytes, and the configuration it looks at.

The measurements and the tests use it; it needs verl to be installed.
"""

from __future__ import annotations

from typing import Any

from omegaconf import OmegaConf
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast
from verl.experimental.agent_loop.agent_loop import DictConfigWrap

from verl_agent_env.integrations.verl.rollout.agent_loop import EnvAgentLoop

CHAT_TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string %}{{ content }}{% else %}{% for part in content %}
{%- if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}
{%- endfor %}{% endif -%}
{%- endmacro -%}
{%- if tools %}<|im_start|>system
{% if messages[0].role == 'system' %}{{ text(messages[0].content) }}
{% endif %}<tools>{% for tool in tools %}
{{ tool | tojson }}{% endfor %}
</tools><|im_end|>
{% elif messages[0].role == 'system' %}<|im_start|>system
{{ text(messages[0].content) }}<|im_end|>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}<|im_start|>{{ message.role }}
{{ text(message.content) }}<|im_end|>
{% elif message.role == 'assistant' %}<|im_start|>assistant
{{ text(message.content) }}{% for call in message.tool_calls or [] %}<tool_call>
{{ call.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% elif message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}<|im_start|>user
{% endif %}<tool_response>
{{ text(message.content) }}
</tool_response>
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}<|im_end|>
{% endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""

SPECIAL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
)


def make_tokenizer() -> Any:
    """One token for each byte, and one for each of :data:`SPECIAL`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={sign: i for i, sign in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|im_end|>",  # noqa: S106 - a token of text
        pad_token="<|endoftext|>",  # noqa: S106
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def trainer_config(**overrides: Any) -> DictConfigWrap:
    """The part of verl's configuration that agent loops look at; ``overrides`` are those of the rollout."""
    rollout = {
        "prompt_length": 8192,
        "response_length": 8192,
        "full_determinism": False,
        "multi_turn": {"format": "hermes", "max_assistant_turns": None},
        **overrides,
    }
    return DictConfigWrap(OmegaConf.create({"actor_rollout_ref": {"rollout": rollout}}))


def data_config(options: dict[str, Any]) -> DictConfigWrap:
    """verl's configuration of the data, with these options of the rollout."""
    return DictConfigWrap(OmegaConf.create({"env": options, "apply_chat_template_kwargs": {}}))


def agent_loop(
    model: Any,
    tokenizer: Any,
    trainer: DictConfigWrap,
    data: DictConfigWrap,
    *,
    processor: Any = None,
    hf_model_type: str = "qwen2",
    loop_class: type[EnvAgentLoop] = EnvAgentLoop,
) -> EnvAgentLoop:
    """An agent loop as verl's worker makes one for each sample."""
    return loop_class(
        trainer_config=trainer,
        server_manager=model,
        tokenizer=tokenizer,
        processor=processor,
        dataset_cls=None,
        data_config=data,
        hf_model_type=hf_model_type,
    )
