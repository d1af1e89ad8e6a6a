"""A GGUF file as a Hugging Face folder, which is what vLLM reads: its weights in float32, and a tokenizer."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import torch
import transformers

from outpace.core.errors import OutpaceError


def target_folder(source: Path, folder: Path) -> Path:
    """The folder, written unless it is there. transformers takes the weights apart, independently of us."""
    if (folder / "config.json").exists():
        return folder
    partial = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    transformers.utils.logging.disable_progress_bar()
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(
            source.parent, gguf_file=source.name, dtype=torch.float32
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    except (ImportError, OSError, ValueError) as error:
        raise OutpaceError(f"transformers cannot read {source}: {error}") from error
    # It still says that it is a GGUF model, which transformers does not write.
    model.hf_quantizer = None
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    os.replace(partial, folder)
    return folder
