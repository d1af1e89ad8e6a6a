"""What a folder of trained heads is, whether it is whole, and whether it fits a model."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from outpace.core.contracts import Tapped, Target
from outpace.core.errors import FormatError, OutpaceError
from outpace.files.raw import RawTensor, RawTensors
from outpace.files.safetensors import FolderWeights
from outpace.heads import c2t, dflash, eagle, early, exit_adapter, file, hydra, markov_heads, medusa
from outpace.heads.folder import HeadConfig
from outpace.heads.foreign.eagle import USUAL_LAYERS, usual_taps
from outpace.heads.foreign.layout import Fault, Layout, said, tensor_faults, value_faults
from outpace.heads.foreign.recognise import Found, recognise


class OwnConfig(Protocol):
    """What the configs of all our own heads have."""

    def shapes(self) -> Mapping[str, tuple[int, ...]]: ...


@dataclass(frozen=True, slots=True)
class OwnHeads:
    """Heads of this package: what they are, how they are read, and tensors that may stand beside theirs."""

    what: str
    config: Callable[[HeadConfig], OwnConfig]
    read: Callable[[Path], object]
    beside: tuple[str, ...] = ()


OWN = {
    "blockwise": OwnHeads("blockwise heads", file.read_config, file.read_heads, ("token_ids",)),
    "markov_heads": OwnHeads(
        "Markov heads", markov_heads.read_config, markov_heads.read_markov, ("token_ids",)
    ),
    "early": OwnHeads("an early head of a looped model", early.read_config, early.read_early),
    "c2t": OwnHeads("a classifier of trees (c2t)", c2t.read_config, c2t.read_c2t),
    "medusa": OwnHeads("Medusa heads", medusa.read_config, medusa.read_medusa, ("token_map", medusa.SHARED)),
    "hydra": OwnHeads("Hydra heads", hydra.read_config, hydra.read_hydra, ("token_ids",)),
    "eagle": OwnHeads("an EAGLE layer", eagle.read_config, eagle.read_eagle, ("token_ids",)),
    "dflash": OwnHeads("DFlash layers", dflash.read_config, dflash.read_dflash, ("token_ids",)),
    "early_exit": OwnHeads(
        "an adapter of an early exit", exit_adapter.read_config, exit_adapter.read_adapter, ("token_ids",)
    ),
}
OF_ATTENTION = ("dflash", "eagle", "early_exit")  # what their num_heads are


@dataclass(slots=True)
class Report:
    """What there is to say of a folder.

    unfit  what keeps it from a model; None where no model was given.
    """

    facts: list[tuple[str, str]] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    unfit: list[Fault] | None = None

    @property
    def is_well(self) -> bool:
        """Whether our drafters can run it, or import it, for the model that was asked for."""
        return not self.faults and not self.unfit


def examine(folder: str | Path, target: Target | None = None, *, allow_pickle: bool = False) -> Report:
    """A report of a folder, and of whether it fits a model; FormatError for what is no folder of heads."""
    found = recognise(folder, allow_pickle=allow_pickle)
    if found.method:
        return _own(found, target)
    report = Report()
    if found.other:
        report.facts.append(("what", found.other))
        report.faults.append(("not run", "no drafter of Outpace runs it"))
        return report
    assert found.parse is not None, "heads of another project"
    try:
        layout = found.parse(found.weights)
    except FormatError as error:
        report.facts.append(("what", "heads of another project"))
        report.faults += [("wrong", str(error))] if found.weights is not None else []
        report.faults += [("weights", found.unread)] if found.unread else []
        return report
    report.facts += _foreign_facts(layout)
    if found.weights is None:
        report.faults.append(("weights", found.unread))
    else:
        report.facts.append(("weights", _sizes(_read_tensors(layout, found.weights))))
        report.faults += all_faults(layout, found.weights)
    report.facts += [("note", note) for note in layout.notes]
    if target is not None:
        report.unfit = unfit(layout, target)
    return report


def all_faults(layout: Layout, weights: RawTensors) -> list[Fault]:
    """Of fields, tokens, tensors, and where all these are well, of values."""
    faults = [*layout.faults, *tensor_faults(layout, weights)]
    return faults or value_faults(layout, weights)


def unfit(layout: Layout, target: Target) -> list[Fault]:
    """What keeps foreign heads from a model."""
    faults = _width(layout.config.hidden_size, target)
    if layout.vocab_size != target.vocab_size:
        text = f"a vocabulary of {layout.vocab_size} tokens, the model has {target.vocab_size}"
        faults.append(("does not fit", text))
    try:
        taps_for(layout, target)
    except OutpaceError as error:
        faults.append(("does not fit", str(error)))
    return faults


def taps_for(layout: Layout, target: Target) -> tuple[str, ...]:
    """Those that are read of this model; OutpaceError where it has too few layers, or shows none."""
    if layout.taps == ("final",):
        return layout.taps
    num_layers = getattr(target, "num_layers", None)
    if type(num_layers) is not int:
        raise OutpaceError(f"{type(target).__name__} does not say how many layers it has")
    taps = layout.taps if all(layout.taps) else usual_taps(num_layers)
    far = [tap for tap in taps if tap != "final" and int(tap) >= num_layers]
    if far:
        raise OutpaceError(
            f"it reads the output of layer {far[0]}, the model has the layers 0 to {num_layers - 1}"
        )
    return taps


def own_faults(found: Found) -> tuple[OwnConfig, FolderWeights, list[Fault]]:
    """Config, weights and faults of a folder of ours; FormatError where config.json is wrong already."""
    own = _kind(found)
    config = own.config(HeadConfig(found.folder, found.method, f"outpace train {found.method}"))
    weights = FolderWeights(found.folder)
    faults: list[Fault] = []
    for name, shape in config.shapes().items():
        tensor = weights.tensors.get(name)
        if tensor is None:
            faults.append(("missing", f"{name}, floats {list(shape)}"))
        elif tensor.shape != shape:
            faults.append(("wrong shape", f"{said(tensor)}, expected floats {list(shape)}"))
    read = {*config.shapes(), *own.beside}
    faults += [("nobody reads", said(tensor)) for name, tensor in weights.tensors.items() if name not in read]
    if not any(kind != "nobody reads" for kind, _ in faults):
        try:
            own.read(found.folder)
        except FormatError as error:
            faults.append(("wrong tensor", str(error)))
    return config, weights, faults


def _own(found: Found, target: Target | None) -> Report:
    report = Report([("what", f"{_kind(found).what}, made for Outpace")])
    try:
        config, weights, report.faults = own_faults(found)
    except FormatError as error:
        report.faults.append(("wrong", str(error)))
        return report
    named: Any = config
    report.facts.append(("target", getattr(named, "model", "") or "not named"))
    marks = tuple(getattr(named, "targets", ())) or tuple(filter(None, [getattr(named, "target", "")]))
    if marks:
        report.facts.append(("fingerprint", ", ".join(marks)))
    if hasattr(named, "hidden_size"):
        report.facts.append(("width", str(named.hidden_size)))
    if taps := getattr(named, "taps", ()):
        report.facts.append(("taps", ", ".join(taps)))
    num_heads = 0 if found.method in OF_ATTENTION else getattr(named, "num_heads", 0)
    if isinstance(config, dflash.DFlashConfig):
        report.facts += _block_facts(config)
    elif depth := getattr(named, "length", 0) or num_heads:
        report.facts.append(("heads", str(depth)))
    count = getattr(named, "num_tokens", 0) or getattr(named, "truncated_vocab_size", 0)
    ids = weights.tensors.get("token_ids")
    count = count or (ids.shape[0] if ids is not None and ids.shape else 0)
    if found.method not in ("early", "c2t"):
        report.facts.append(("drafted tokens", str(count) if count else "all"))
    read = [weights.tensors[name] for name in config.shapes() if name in weights.tensors]
    report.facts.append(("weights", _sizes(read)))
    if target is not None:
        report.unfit = _width(named.hidden_size, target) if hasattr(named, "hidden_size") else []
        if marks and not (isinstance(target, Tapped) and target.fingerprint() in marks):
            report.unfit.append(("does not fit", "trained on another model, by its fingerprint"))
    return report


def _kind(found: Found) -> OwnHeads:
    if found.method not in OWN:
        raise found.fields.fault("method", f"are {', '.join(OWN)}")
    return OWN[found.method]


def _foreign_facts(layout: Layout) -> Iterable[tuple[str, str]]:
    config = layout.config
    yield "what", layout.what
    yield "target", layout.target or "not named"
    yield "width", str(config.hidden_size)
    yield "vocabulary", f"{layout.vocab_size} tokens"
    if isinstance(config, eagle.EagleConfig):
        if config.is_third:
            ids = ", ".join(str(int(tap) + 1) for tap in config.taps) if all(config.taps) else USUAL_LAYERS
            yield "states", f"those that the layers {ids} read"
        else:
            yield "states", "the last"
        yield "drafted tokens", str(config.num_tokens or "all")
    elif isinstance(config, dflash.DFlashConfig):
        yield "states", f"the outputs of the layers {', '.join(config.taps)}, the first 0"
        yield from _block_facts(config)
        yield "drafted tokens", str(config.num_tokens or "all")
    else:
        yield "states", "the last"
        yield "heads", f"{config.num_heads}, of {config.num_hidden_layers} layers each"
        yield "drafted tokens", str(config.truncated_vocab_size)


def _block_facts(config: dflash.DFlashConfig) -> Iterable[tuple[str, str]]:
    yield "layers", str(config.num_layers)
    yield "block", f"{config.length} drafted tokens, the mask is token {config.mask_token_id}"
    yield "Markov head", f"{config.markov}, of rank {config.rank}" if config.rank else "none"


def _read_tensors(layout: Layout, weights: RawTensors) -> list[RawTensor]:
    return [weights.tensors[one.name] for one in layout.wanted.values() if one.name in weights.tensors]


def _sizes(tensors: Iterable[RawTensor]) -> str:
    tensors = list(tensors)
    count, size = sum(math.prod(t.shape) for t in tensors), sum(t.nbytes for t in tensors)
    types = ", ".join(f"{n} {kind}" for kind, n in Counter(t.type_name for t in tensors).most_common())
    return f"{count} parameters, {size / 1e6:.1f} MB: {types or 'no tensors'}"


def _width(hidden_size: int, target: Target) -> list[Fault]:
    width = getattr(target, "hidden_size", None)
    if width == hidden_size:
        return []
    return [("does not fit", f"states of width {hidden_size}, those of the model have {width}")]
