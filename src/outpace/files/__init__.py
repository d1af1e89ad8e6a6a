"""Model files: readers, the packed form, tokenizers and the catalog. `open_model` is the way in."""

from __future__ import annotations

from outpace.files.config import ModelConfig
from outpace.files.open import LoadedModel, open_model
from outpace.files.packed import PackedFile, PackedTensor, unpack

__all__ = ["LoadedModel", "ModelConfig", "PackedFile", "PackedTensor", "open_model", "unpack"]
