"""The native target on tiny random models, on every instruction set that the processor has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from outpace import _native
from outpace.files.open import open_model
from outpace.targets.native import NativeTarget
from tests.fake_models import write_gguf

INSTRUCTION_SETS = _native.instruction_sets()


@contextmanager
def instruction_set(name: str) -> Iterator[None]:
    """Forces the kernels that are chosen when a target is made."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_ISA", name)
        yield


def open_target(source: Path, cache: Path, *, quantize: str | None = None, **options: Any) -> NativeTarget:
    """A target from a file or folder, packed into the cache folder given."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(cache))
        model = open_model(source, quantize=quantize)
    return NativeTarget(model.config, model.weights, **options)


def gguf_target(
    folder: Path, family: str = "llama", tensor_type: str = "Q4_1", **options: Any
) -> NativeTarget:
    """A target from a GGUF file that is written for it; options beyond the target's own change the model."""
    own = {"threads", "context_length", "kv", "cache_tokens", "taps", "eos_ids"}
    path = folder / f"{family}-{tensor_type}.gguf"
    write_gguf(path, family, tensor_type=tensor_type, **{k: v for k, v in options.items() if k not in own})
    return open_target(path, folder / "cache", **{k: v for k, v in options.items() if k in own})
