"""The layer of `heads/eagle.py` in torch, with its names, and unrolled as drafting unrolls it.

A drafted token reads the layer's own output behind the token before it, and it attends to what stands in the
cache then: tokens with the target's states up to the root, drafted ones behind. So step s of the training
(EAGLE-3's training-time test, Li et al. 2025, arXiv:2503.01840, section 3.2) reads the outputs of step s - 1
one token later, and its queries see the keys of step 1 that are s - 1 places back or more, and of each later
step the one key on their own path.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Linear, Module, ModuleDict, ModuleList
from torch.nn.functional import silu

from outpace.heads.decoder_layer import rope
from outpace.heads.eagle import EagleConfig

KeyValue = tuple[Tensor, Tensor]


class EagleLayers(Module):
    """An EAGLE-3 layer whose states get a norm at each tap before they are fused."""

    def __init__(self, config: EagleConfig) -> None:
        super().__init__()
        c = self.config = config
        assert c.is_third and c.fc_norm, "the kind of layer that is trained here"
        self.fc_norm = ModuleList([Norm(c.hidden_size, c.rms_eps) for _ in c.taps])
        self.fc = Linear(len(c.taps) * c.hidden_size, c.hidden_size, bias=False)
        self.layers = ModuleList([DecoderLayer(c)])
        self.norm = Norm(c.hidden_size, c.rms_eps)
        self.lm_head = Linear(c.hidden_size, c.num_tokens, bias=False)

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """f32 by name, as a folder has them."""
        return {name: value.detach().float().numpy() for name, value in self.state_dict().items()}

    def features(self, states: Tensor) -> Tensor:
        """[B, N, T * D], states at the taps -> [B, N, D]."""
        parts = states.chunk(len(self.config.taps), dim=-1)
        fused: Tensor = self.fc(
            torch.cat([norm(part) for norm, part in zip(self.fc_norm, parts, strict=True)], -1)
        )
        return fused

    def unrolled(self, embeddings: Tensor, states: Tensor, steps: int) -> list[Tensor]:
        """Per step, the layer's outputs behind the last norm, [B, N, D].

        embeddings  [B, N, D] of tokens; states [B, N, T * D], what each token was chosen from.
        """
        layer: Any = self.layers[0]
        angles = layer.angles(embeddings.shape[1])
        features, before = self.features(states), list[KeyValue]()
        found = []
        for _ in range(steps):
            outputs = layer(embeddings, features, angles, before)
            normed = self.norm(outputs)
            found.append(normed)
            features = later(normed if self.config.norm_output else outputs, 1)
        return found


class DecoderLayer(Module):
    """Attention over tokens and features side by side, and a feed-forward."""

    def __init__(self, c: EagleConfig) -> None:
        super().__init__()
        self.config = c
        q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        sizes = {
            "q": (c.input_width, q),
            "k": (c.input_width, kv),
            "v": (c.input_width, kv),
            "o": (q, c.hidden_size),
        }
        self.self_attn = ModuleDict({f"{n}_proj": Linear(*size, bias=False) for n, size in sizes.items()})
        wide = c.intermediate_size
        sizes = {"gate": (c.hidden_size, wide), "up": (c.hidden_size, wide), "down": (wide, c.hidden_size)}
        self.mlp = ModuleDict({f"{n}_proj": Linear(*size, bias=False) for n, size in sizes.items()})
        self.input_layernorm = Norm(c.hidden_size, c.rms_eps)
        self.hidden_norm = Norm(c.hidden_size, c.rms_eps)
        self.post_attention_layernorm = Norm(c.hidden_size, c.rms_eps)

    def angles(self, length: int) -> tuple[Tensor, Tensor]:
        """(cosines, sines) [N, head_dim / 2]."""
        inv_freq, scale = rope(self.config)
        angles = torch.outer(torch.arange(length), torch.from_numpy(inv_freq))
        return scale * angles.cos(), scale * angles.sin()

    def forward(
        self, embeddings: Tensor, features: Tensor, angles: tuple[Tensor, Tensor], before: list[KeyValue]
    ) -> Tensor:
        """Outputs [B, N, D] of one more step. `before`: keys and values of those so far; it gets new ones."""
        hidden = self.hidden_norm(features)
        read = torch.cat([self.input_layernorm(embeddings), hidden], dim=-1)
        x = hidden if self.config.norm_before_residual else features
        x = x + self._attended(read, angles, before)
        read = self.post_attention_layernorm(x)
        wide = silu(self.mlp["gate_proj"](read)) * self.mlp["up_proj"](read)
        out: Tensor = x + self.mlp["down_proj"](wide)
        return out

    def _attended(self, read: Tensor, angles: tuple[Tensor, Tensor], before: list[KeyValue]) -> Tensor:
        c, (batch, length, _) = self.config, read.shape

        def heads(name: str) -> Tensor:
            wide: Tensor = self.self_attn[f"{name}_proj"](read)
            split = wide.view(batch, length, -1, c.head_dim).transpose(1, 2)
            return split if name == "v" else turned(split, angles)

        shared = c.num_heads // c.num_kv_heads
        query = heads("q") * c.head_dim**-0.5
        before.append((heads("k").repeat_interleave(shared, 1), heads("v").repeat_interleave(shared, 1)))
        steps, keys, values = len(before), before[0][0], before[0][1]
        ahead = torch.ones(length, length, dtype=torch.bool).triu(
            2 - steps
        )  # those that a query does not see
        scores = [(query @ keys.transpose(2, 3)).float().masked_fill(ahead, -torch.inf)]
        path = [
            (later(k, steps - 1 - s, 2), later(v, steps - 1 - s, 2)) for s, (k, v) in enumerate(before) if s
        ]
        scores += [(query * key).sum(-1, keepdim=True).float() for key, _ in path]
        weights = torch.cat(scores, dim=-1).softmax(-1).to(values.dtype)
        seen = weights[..., :length] @ values
        for number, (_, value) in enumerate(path):
            seen = seen + weights[..., length + number, None] * value
        attended: Tensor = self.self_attn["o_proj"](seen.transpose(1, 2).reshape(batch, length, -1))
        return attended


class Norm(torch.nn.RMSNorm):
    """In float32, whatever products are in."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., D] -> [..., D]."""
        return super().forward(x.to(self.weight.dtype))


def later(x: Tensor, places: int, dim: int = 1) -> Tensor:
    """What stands at each place moved so many places on; zeros come in."""
    if not places:
        return x
    places = min(places, x.shape[dim])
    moved = x.narrow(dim, 0, x.shape[dim] - places)
    empty = torch.zeros_like(x.narrow(dim, 0, places))
    return torch.cat([empty, moved], dim=dim)


def turned(heads: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary: the pairs (i, i + half) of [B, H, N, d]."""
    cos, sin = (angle.to(heads.dtype) for angle in angles)
    low, high = heads.chunk(2, dim=-1)
    return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)
