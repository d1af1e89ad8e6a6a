"""Training of an adapter for an early exit (`heads/exit_adapter.py`) on the states of a frozen model.

Liu et al. 2024, "Kangaroo: Lossless Self-Speculative Decoding via Double Early Exiting", arXiv:2404.18911.
Whole texts are read, prompts too, as drafting reads them; what the adapter has to say is the model's own law:

    loss = mean over tokens of answers of CE(p, law)

both over the drafted tokens alone. No step reads the adapter's own output, in training as in drafting: all
positions of a text are learned in one pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Linear, Module, ModuleDict
from torch.nn.functional import cross_entropy, linear, scaled_dot_product_attention

from outpace.core.contracts import Embedding
from outpace.core.errors import OutpaceError
from outpace.heads.exit_adapter import METHOD, AdapterConfig, AdapterWeights, read_adapter, write_adapter
from outpace.progress import Progress
from outpace.train.checkpoint import Checkpoint
from outpace.train.data import by_length
from outpace.train.eagle_layers import Norm, turned
from outpace.train.loop import Loss, Plan, train
from outpace.train.precision import Precision, products_in
from outpace.train.texts import Texts


class Adapter(Module):
    """The adapter in torch, by the names of the folder. It begins as the bare exit: O is zero.

    exit_norm  f32[D], the model's last norm, which is not trained.
    """

    def __init__(self, config: AdapterConfig, exit_norm: Tensor) -> None:
        super().__init__()
        c = self.config = config
        q, kv = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        self.exit_norm = Norm(c.hidden_size, c.rms_eps)
        self.exit_norm.weight = torch.nn.Parameter(exit_norm, requires_grad=False)
        self.input_layernorm = Norm(c.hidden_size, c.rms_eps)
        sizes = {"q": (c.hidden_size, q), "k": (c.hidden_size, kv), "v": (c.hidden_size, kv)}
        self.self_attn = ModuleDict(
            {
                f"{name}_proj": Linear(*size, bias=False)
                for name, size in {**sizes, "o": (q, c.hidden_size)}.items()
            }
        )
        torch.nn.init.zeros_(self.get_parameter("self_attn.o_proj.weight"))

    def tensors(self) -> dict[str, NDArray[np.float32]]:
        """f32 by name, as a folder has them."""
        return {name: value.detach().float().numpy() for name, value in self.state_dict().items()}

    def forward(self, states: Tensor) -> Tensor:
        """[B, N, D], the states x of texts -> [B, N, D], the outputs y."""
        c, exit_states = self.config, self.exit_norm(states)
        read = self.input_layernorm(exit_states)
        angles = torch.outer(torch.arange(states.shape[1]), torch.from_numpy(c.inv_freq())).to(states.dtype)

        def heads(name: str) -> Tensor:
            wide: Tensor = self.self_attn[f"{name}_proj"](read)
            split = wide.view(*wide.shape[:2], -1, c.head_dim).transpose(1, 2)
            return split if name == "v" else turned(split, (angles.cos(), angles.sin()))

        shared = c.num_heads // c.num_kv_heads
        keys, values = (heads(name).repeat_interleave(shared, 1) for name in "kv")
        seen = scaled_dot_product_attention(heads("q"), keys, values, is_causal=True)
        attended: Tensor = self.self_attn["o_proj"](seen.transpose(1, 2).flatten(2))
        return exit_states + attended


def train_early_exit(
    target: Embedding,
    texts: Texts,
    folder: str | Path,
    config: AdapterConfig,
    exit_norm: NDArray[np.float32],
    token_ids: NDArray[np.integer] | None,
    *,
    batch: int = 2048,
    plan: Plan,
    precision: Precision = "float32",
    data: str = "",
    progress: Progress | None = None,
) -> AdapterConfig:
    """Train an adapter and write it to `folder`, with run.json; the same run goes on, or is done.

    target     its logits are what its output rows make of states, without bias, scale or cap.
    texts      states at the adapter's tap and at "final".
    exit_norm  f32[D], the target's last norm.
    token_ids  ascending: those that are drafted. None for all.
    batch      tokens of a batch, with padding.
    precision  of matrix products. data: names the data in run.json.

    Raises an OutpaceError for states of another width, and for a folder of another run.
    """
    if (wide := texts.features.states.shape[1]) != 2 * config.hidden_size:
        raise OutpaceError(f"the states are {wide} wide, accepted are {2 * config.hidden_size}")
    ids = None if token_ids is None else np.asarray(token_ids, np.int32)
    drafted = "all" if ids is None else f"sha256:{hashlib.sha256(ids.tobytes()).hexdigest()}"
    settings = {
        "method": METHOD, **asdict(config), "data": data, "batch": batch, "precision": precision,
        "token_ids": drafted,
        **{option: value for option, value in asdict(plan).items() if option != "checkpoint_s"},
    }  # fmt: skip
    checkpoint = Checkpoint(folder, settings)
    if "finished" in checkpoint.run:
        checkpoint.done()  # it may have been killed before
        return read_adapter(folder).config
    torch.manual_seed(plan.seed)
    adapter = Adapter(config, torch.from_numpy(exit_norm.astype(np.float32)))
    output = torch.from_numpy(target.output_rows(ids))
    numbers = by_length(np.diff(texts.features.ends, prepend=0).tolist(), batch, plan.seed)

    def loss(step: int, random: torch.Generator) -> Loss:
        return adapter_loss(adapter, texts, numbers(step), output, precision)

    train([adapter], loss, plan, checkpoint, progress=progress)
    write_adapter(folder, AdapterWeights(config, adapter.tensors(), ids))
    checkpoint.note(finished=asdict(config))
    checkpoint.done()
    return config


def adapter_loss(
    adapter: Adapter,
    texts: Texts,
    numbers: Sequence[int],
    output: Tensor,
    precision: Precision = "float32",
) -> Loss:
    """Of these texts; output f32[M, D]. Laws and the loss are in float32, whatever the products are in."""
    text, width = texts.padded(numbers), adapter.config.hidden_size
    states, known = torch.from_numpy(text.states), torch.from_numpy(text.answers)
    with torch.no_grad():
        law = linear(states[..., width:][known], output).softmax(-1)
    with products_in(precision, torch.device("cpu")):
        logits = linear(adapter(states[..., :width])[known], output)
    return Loss(cross_entropy(logits.float(), law), len(law))
