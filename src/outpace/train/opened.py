"""Folders of transformers models, as trainings open them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from outpace.core.errors import OutpaceError


def is_seq2seq(source: str) -> bool:
    """Whether a name is the folder of an encoder-decoder model."""
    from outpace.files.json_files import json_file

    config = Path(os.path.expanduser(source)) / "config.json"
    return config.is_file() and bool(json_file(config).get("is_encoder_decoder"))


def open_transformers(source: str, *, seq2seq: bool) -> tuple[Any, Any]:
    """The model in a folder, in f32, and the tokenizer of an encoder-decoder model, else None."""
    import torch
    import transformers
    from safetensors import SafetensorError

    folder = os.path.expanduser(source)
    if not os.path.isdir(folder):
        raise OutpaceError(f"{source} is no folder of a transformers model, which finetuning needs")
    kind = transformers.AutoModelForSeq2SeqLM if seq2seq else transformers.AutoModelForCausalLM
    try:
        model = kind.from_pretrained(folder, dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder) if seq2seq else None
    except (OSError, ValueError, SafetensorError) as error:
        raise OutpaceError(f"{source} cannot be loaded by transformers: {error}") from error
    return model, tokenizer
