"""Which project a folder of trained heads is from, by its config.json and the names of its tensors."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outpace.core.errors import FormatError
from outpace.files.config import brief
from outpace.files.json_files import json_file
from outpace.files.raw import RawTensors
from outpace.files.safetensors import FolderWeights
from outpace.heads.folder import CONFIG, WEIGHTS
from outpace.heads.foreign import dflash, eagle, medusa
from outpace.heads.foreign.fields import Fields
from outpace.heads.foreign.hf_pickle import PickledWeights
from outpace.heads.foreign.layout import Layout

MEDUSA_WEIGHTS = "medusa_lm_head.safetensors"
PICKLES = ("medusa_lm_head.pt", "pytorch_model.bin")
ACCEPTED = (
    "folders of Medusa (FasterDecoding's, vLLM's), EAGLE-1, 2 and 3, DFlash and DSpark (their authors', "
    "speculators') and of `outpace train`"
)
RUN = ("eagle3", "dflash", "dspark")  # of speculators
OTHERS = {
    "dflash2": "DFlash2 layers",
    "peagle": "a P-EAGLE layer",
    "eagle": "an EAGLE layer in speculators' older layout",
}
DOMINO = "Domino layers"
BY_ARCHITECTURE = {
    "dflash2": OTHERS["dflash2"], "domino": DOMINO, "peagle": OTHERS["peagle"], "eagle4": "an EAGLE-4 layer",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Found:
    """A folder whose config.json was read.

    method   of our own heads; "" for heads of other projects.
    other    what it is, where no drafter here runs it; else "".
    parse    of other projects' heads: from the weights, or None, what they are. May raise FormatError.
    weights  None where they cannot be read.
    unread   why.
    """

    folder: Path
    fields: Fields
    method: str = ""
    other: str = ""
    parse: Callable[[RawTensors | None], Layout] | None = None
    weights: RawTensors | None = None
    unread: str = ""

    @property
    def refusal(self) -> FormatError:
        """What to say of heads that no drafter here runs."""
        return FormatError(
            f"{self.folder} holds {self.other}, which no drafter of Outpace runs; accepted are {ACCEPTED}"
        )


def recognise(folder: str | Path, *, allow_pickle: bool = False) -> Found:
    """What a folder is; FormatError where it is none, has no config.json, or is of no known kind."""
    folder = Path(os.path.expanduser(folder))
    if not os.path.isdir(folder):
        what = f"{folder} is no folder" if os.path.lexists(folder) else f"there is no folder {folder}"
        raise FormatError(f"{what}, accepted are {ACCEPTED}")
    if not os.path.lexists(folder / CONFIG):
        raise FormatError(f"{folder} has no {CONFIG}, accepted are {ACCEPTED}")
    fields = Fields(folder / CONFIG, json_file(folder / CONFIG))
    if fields.get("method") is not None:
        return Found(folder, fields, method=fields.text("method"))
    if other := _other(fields):
        return Found(folder, fields, other=other)
    is_medusa = fields.get("medusa_num_heads") is not None
    weights, unread = _weights(folder, MEDUSA_WEIGHTS if is_medusa else WEIGHTS, allow_pickle)
    parse: Callable[[Fields, RawTensors | None], Layout]
    kind = fields.get("speculators_model_type")
    is_dflash = kind in ("dflash", "dspark") or (kind is None and dflash.is_original(fields))
    if is_dflash and (other := dflash.newer(weights)):
        return Found(folder, fields, other=other)
    if is_dflash:
        parse = dflash.original if kind is None else dflash.speculators
    elif kind is not None:
        parse = eagle.speculators
    elif is_medusa:
        parse = medusa.original
    elif fields.get("model_type") == "medusa":
        parse = medusa.vllm
    elif eagle.is_original(fields, weights):
        parse = eagle.original
    else:
        raise FormatError(f"{folder} holds no trained heads that are known here; accepted are {ACCEPTED}")
    return Found(folder, fields, parse=lambda weights: parse(fields, weights), weights=weights, unread=unread)


def _other(fields: Fields) -> str:
    """What it is, if it is known and not run."""
    kind: Any = fields.get("speculators_model_type")
    if kind is not None and kind not in RUN:
        return OTHERS.get(kind, f"speculators' {brief(kind)}") if isinstance(kind, str) else brief(kind)
    if fields.get("projector_type") == "domino":
        return DOMINO
    names = [name.lower() for name in fields.texts("architectures")]
    return next((what for mark, what in BY_ARCHITECTURE.items() if any(mark in name for name in names)), "")


def _weights(folder: Path, single: str, allow_pickle: bool) -> tuple[RawTensors | None, str]:
    """(the tensors, why there are none)."""
    pickle = next((folder / name for name in PICKLES if os.path.isfile(folder / name)), None)
    plain = [folder / name for name in (single, WEIGHTS, f"{WEIGHTS}.index.json")]
    try:
        if pickle is None or any(map(os.path.isfile, plain)):
            has_single = os.path.isfile(folder / single)
            return FolderWeights(folder, single if has_single else WEIGHTS), ""
        if allow_pickle:
            return PickledWeights(pickle), ""
    except FormatError as error:
        return None, str(error)
    return None, f"{pickle} is a pickle, which may hold a program; accepted is {single}, or --allow-pickle"
