"""Encoder-decoders of Hugging Face folders, opened by transformers."""

from __future__ import annotations

from logging import ERROR
from pathlib import Path
from typing import Any

from outpace.core.errors import OutpaceError, one_line
from outpace.files.json_files import json_file


def has_encoder(folder: Path) -> bool:
    """Whether it is the folder of an encoder-decoder. A FormatError where its config.json is none."""
    config = folder / "config.json"
    return config.exists() and json_file(config).get("is_encoder_decoder") is True


def open_seq2seq(folder: Path) -> tuple[Any, Any]:
    """The model, in eval mode, and its tokenizer or None.

    An OutpaceError for weights that are not those of config.json, such as another number of layers.
    """
    try:
        from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, logging

        import outpace.targets.hf_looped_marian  # noqa: F401
    except ImportError as error:
        raise OutpaceError(
            f"{folder} is an encoder-decoder, accepted with outpace[torch]: {error}"
        ) from error
    level = logging.get_verbosity()
    logging.set_verbosity(ERROR)  # its table of weights that do not fit is our error
    try:
        model, found = AutoModelForSeq2SeqLM.from_pretrained(folder, output_loading_info=True)
        named = any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json"))
        tokenizer = AutoTokenizer.from_pretrained(folder) if named else None
    except OutpaceError:
        raise
    except Exception as error:  # files of strangers, read by another library
        raise OutpaceError(f"{folder} cannot be read: {one_line(str(error)):.300}") from error
    finally:
        logging.set_verbosity(level)
    for kind, why in (("missing_keys", "lacks"), ("unexpected_keys", "has")):
        if names := sorted(found[kind]):
            more = f" and {len(names) - 1} more" if names[1:] else ""
            loops = f" of num_loops={model.config.num_loops}" if hasattr(model.config, "num_loops") else ""
            raise OutpaceError(
                f"{folder} {why} {names[0]}{more}, accepted are the weights that its config.json tells of: "
                f"decoder_layers={getattr(model.config, 'decoder_layers', '-')}{loops}"
            )
    return model.eval(), tokenizer
