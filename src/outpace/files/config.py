"""ModelConfig: everything about a decoder model that its weights do not say.

Architectures differ by configuration alone: rotary tables and windows per layer, the activation, two scales.
The tensors that exist tell which layers have query/key norms, biases or norms after their blocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from outpace.core.errors import FormatError

ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3", "gemma3", "looped", "ouro")
ACTIVATIONS = ("silu", "gelu_tanh")
# No model is near these; what a file says beyond them is refused by its name there.
LIMITS = {
    "vocab_size": 1 << 24,
    "hidden_size": 1 << 17,
    "num_layers": 1 << 12,
    "num_heads": 1 << 12,
    "num_kv_heads": 1 << 12,
    "head_dim": 512,
    "intermediate_size": 1 << 20,
    "context_length": 1 << 24,
}
RANGES = {"rms_eps": (1e-20, 1.0), "attention_scale": (1e-6, 1e3), "embedding_scale": (1e-6, 1e6)}
_MAX_FREQUENCY, _ROPE_SCALES = 1e3, (1e-3, 1e3)
_HEAD_STEP = 16


@dataclass(frozen=True, slots=True, eq=False)
class ModelConfig:
    """The shape of a model. Raises FormatError for values that no model of these architectures can have.

    Rotary embeddings turn the pairs (i, i + head_dim / 2) by position * inv_freq[i]; cosine and sine are
    multiplied by the table's scale. `layer_rope` names the table of each layer. `layer_window[i]` is 0 for
    full attention, else W: position p sees the positions above p - W. `layer_order[i]` is the layer whose
    weights layer i runs; () where each has its own. Every layer has keys and values of its own. `loop_norm`:
    the last norm stands behind every loop, and the next one reads what it leaves.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    intermediate_size: int
    context_length: int
    rms_eps: float
    activation: str
    attention_scale: float
    embedding_scale: float
    rope_inv_freq: tuple[np.ndarray, ...]  # f32[head_dim / 2] each
    rope_scale: tuple[float, ...]
    layer_rope: tuple[int, ...]
    layer_window: tuple[int, ...]
    tie_embeddings: bool
    layer_order: tuple[int, ...] = ()
    loop_norm: bool = False

    def __post_init__(self) -> None:
        for name, limit in LIMITS.items():
            whole_number(name, getattr(self, name), limit)
        if self.architecture not in ARCHITECTURES:
            raise unknown_architecture(self.architecture)
        if self.activation not in ACTIVATIONS:
            raise FormatError(
                f"activation {self.activation!r} is not known; accepted: {', '.join(ACTIVATIONS)}"
            )
        if self.head_dim % _HEAD_STEP:
            raise FormatError(f"head_dim is {self.head_dim}; accepted: multiples of {_HEAD_STEP}")
        if self.num_heads % self.num_kv_heads:
            raise FormatError(
                f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}"
            )
        for name, (least, most) in RANGES.items():
            number(name, getattr(self, name), least, most)
        self._check_rope()
        if len(self.layer_window) != self.num_layers or min(self.layer_window) < 0:
            raise FormatError("layer_window needs one number, 0 or more, per layer")
        if self.layer_order and (
            len(self.layer_order) != self.num_layers or not {*self.layer_order} <= {*range(self.num_layers)}
        ):
            raise FormatError("layer_order needs the number of a layer per layer")
        if type(self.loop_norm) is not bool or (self.loop_norm and self.num_loops == 1):
            raise FormatError("loop_norm is true or false, and true only where all layers run several times")

    @property
    def num_loops(self) -> int:
        """How many times all layers run, one after the other and alike each time; 1 for any other order."""
        distinct = len({*self.layer_order}) or self.num_layers
        loops, rest = divmod(self.num_layers, distinct)
        if rest or self.layer_order != tuple(range(distinct)) * loops:
            return 1
        kinds = (self.layer_rope, self.layer_window)
        return loops if all(kind == kind[:distinct] * loops for kind in kinds) else 1

    def _check_rope(self) -> None:
        if len(self.rope_scale) != len(self.rope_inv_freq) or not self.rope_scale:
            raise FormatError("rope_scale and rope_inv_freq need one entry per rotary table")
        for table, scale in zip(self.rope_inv_freq, self.rope_scale, strict=True):
            if table.shape != (self.head_dim // 2,) or table.dtype != np.float32:
                raise FormatError(f"a rotary table has shape {table.shape}, expected ({self.head_dim // 2},)")
            if not ((table >= 0) & (table <= _MAX_FREQUENCY)).all():
                raise FormatError(f"a rotary table holds frequencies outside 0 to {_MAX_FREQUENCY:g}")
            number("rope_scale", scale, *_ROPE_SCALES)
        if len(self.layer_rope) != self.num_layers or not all(
            0 <= i < len(self.rope_scale) for i in self.layer_rope
        ):
            raise FormatError("layer_rope needs one table index per layer")

    def to_json(self) -> dict[str, Any]:
        """A JSON object; `from_json` gives back the same configuration to the last bit."""
        fields = asdict(self)
        fields["rope_inv_freq"] = [table.tolist() for table in self.rope_inv_freq]
        return fields

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_json`; FormatError where the object is not one of its results."""
        try:
            values = dict(fields)
            values["rope_inv_freq"] = tuple(np.array(table, np.float32) for table in values["rope_inv_freq"])
            values.setdefault("layer_order", ())  # files that were packed before there were orders
            for name in ("rope_scale", "layer_rope", "layer_window", "layer_order"):
                values[name] = tuple(values[name])
            return cls(**values)
        except (KeyError, TypeError, AttributeError) as error:
            raise FormatError(f"not a model configuration: {error}") from None


def whole_number(name: str, value: object, most: int, *, least: int = 1) -> int:
    """The value of a field, a whole number in these bounds; FormatError by the field's name."""
    if type(value) is not int or not least <= value <= most:
        raise FormatError(f"{name} is {brief(value)}; accepted: a whole number from {least} to {most}")
    return value


def number(name: str, value: object, least: float, most: float) -> float:
    """As `whole_number`, for any number; NaN is none. FormatError by the field's name."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise FormatError(f"{name} is {brief(value)}; accepted: a number from {least:g} to {most:g}")
    return float(value)


def brief(value: object) -> str:
    """A value as an error message quotes it."""
    text = "missing" if value is None else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def unknown_architecture(name: object, accepted: Sequence[str] = ARCHITECTURES) -> FormatError:
    """The refusal of an architecture, with the accepted ones."""
    return FormatError(f"architecture {name!r:.60} is not supported; accepted: {', '.join(accepted)}")
