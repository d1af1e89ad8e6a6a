"""Foreign heads, checked against a model and written as a folder of ours: every weight keeps its bits."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from outpace.core.contracts import Embedded, Tapped, Target
from outpace.core.errors import FormatError, OutpaceError
from outpace.files.raw import RawTensors
from outpace.files.safetensors_writer import TensorBytes, bytes_of, write_safetensors
from outpace.files.whole import write_whole
from outpace.heads import medusa
from outpace.heads.folder import CONFIG, VERSION, WEIGHTS
from outpace.heads.foreign.doctor import all_faults, taps_for, unfit
from outpace.heads.foreign.layout import Layout, Wanted, brief_faults
from outpace.heads.foreign.recognise import recognise
from outpace.progress import Progress


def take_in(
    folder: str | Path,
    target: Target,
    model: str,
    output: Path,
    *,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> Layout:
    """Write a folder of ours from one of others; FormatError where it is damaged, or is another model's.

    model   what the target is called, for error messages.
    output  a new folder, or an empty one.
    """
    found = recognise(folder, allow_pickle=allow_pickle)
    if found.method:
        raise FormatError(f"{found.folder} is a folder of Outpace already, its method is {found.method}")
    if found.other:
        raise found.refusal
    if found.weights is None:
        raise FormatError(found.unread)
    assert found.parse is not None, "heads of another project"
    layout = found.parse(found.weights)
    if faults := all_faults(layout, found.weights) or unfit(layout, target):
        raise FormatError(f"{found.folder}: {brief_faults(faults)}")
    is_medusa = layout.method == medusa.METHOD
    needed, shows = (Tapped, "hidden states") if is_medusa else (Embedded, "input embedding")
    if not isinstance(target, needed):
        raise OutpaceError(f"the model {model} shows no {shows}, accepted are native and transformers models")
    check_new(output)
    taken = {name: _taken(one, found.weights) for name, one in layout.wanted.items()}
    made: dict[str, Any] = {"target": target.fingerprint(), "model": model}
    fields = {"method": layout.method, "version": VERSION}
    if is_medusa:
        fields |= {"model_type": medusa.METHOD}
        if layout.ids is not None:
            taken["token_map"] = bytes_of(layout.ids, "I64")
    else:
        made |= {"taps": taps_for(layout, target), "vocab_size": layout.vocab_size}
        if layout.ids is not None:
            taken["token_ids"] = bytes_of(layout.ids.astype(np.int32), "I32")
    write_heads(output, fields | asdict(replace(layout.config, **made)), taken, progress)
    return layout


def write_heads(
    output: Path, config: dict[str, Any], tensors: dict[str, TensorBytes], progress: Progress | None
) -> None:
    """Write config.json and model.safetensors, each whole or not at all."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutpaceError(f"cannot write {output}: {error.strerror or error}") from error
    write_safetensors(output / WEIGHTS, tensors, progress)
    write_whole(output / CONFIG, (json.dumps(config, indent=1) + "\n").encode())


def check_new(output: Path) -> None:
    """Refuses a folder with something in it."""
    if os.path.lexists(output) and not (output.is_dir() and not any(output.iterdir())):
        raise OutpaceError(f"{output} exists, accepted is a new folder or an empty one")


def _taken(wanted: Wanted, weights: RawTensors) -> TensorBytes:
    tensor = weights.tensors[wanted.name]
    rows = weights.rows(tensor)
    if wanted.rows is None:
        return TensorBytes(tensor.type_name, tensor.shape, rows)
    return TensorBytes(tensor.type_name, (len(wanted.rows), *tensor.shape[1:]), rows[wanted.rows])
