"""Proposal heads made by hand: random ones, and ones that know a text by heart."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from outpace.core.contracts import Tapped
from outpace.core.tree import TokenTree
from outpace.heads.early import EarlyConfig, EarlyWeights, write_early
from outpace.heads.file import First, Heads, HeadsConfig, write_heads
from outpace.heads.folder import CONFIG
from outpace.heads.hydra import HydraConfig, HydraWeights, write_hydra
from outpace.heads.markov_heads import MarkovConfig, MarkovWeights, write_markov
from outpace.heads.medusa import MedusaConfig, MedusaWeights, write_medusa
from tests.rows import on, opened


def random_heads(
    hidden_size: int,
    target: str,
    *,
    num_heads: int = 4,
    width: int = 8,
    first: First = "identity",
    token_ids: Iterable[int] | None = None,
    seed: int = 0,
) -> Heads:
    """Weights that f16 holds exactly."""
    config = HeadsConfig(num_heads, hidden_size, width, target, "a tiny model", first)
    tensors = random_tensors(config.shapes(), seed)
    return Heads(config, tensors, None if token_ids is None else np.array([*token_ids], np.int32))


def random_tensors(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, np.ndarray]:
    """f32 by name."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.normal(scale=shape[-1] ** -0.5, size=shape).astype(np.float16).astype(np.float32)
        for name, shape in shapes.items()
    }


def with_config(**changes: Any) -> Callable[[Path], None]:
    """What writes a folder's config.json with these fields changed; ... takes one away."""

    def damage(folder: Path) -> None:
        config = json.loads((folder / CONFIG).read_text()) | changes
        (folder / CONFIG).write_text(json.dumps({k: v for k, v in config.items() if v is not ...}))

    return damage


def early_config(target: Any, loop: int = 1, width: int = 8) -> EarlyConfig:
    """That of an early head of this target."""
    sizes = loop, target.num_loops, target.hidden_size, width
    return EarlyConfig(*sizes, ("sha256:another form", target.fingerprint()), "a tiny model")


def write_random_early(folder: str | Path, target: Any, *, seed: int = 0, **options: Any) -> EarlyWeights:
    """A random early head of this target in a folder."""
    config = early_config(target, **options)
    head = EarlyWeights(config, random_tensors(config.shapes(), seed))
    write_early(folder, head)
    return head


def write_stubborn(folder: str | Path, target: Any, avoided: Collection[int], *, loop: int = 1) -> int:
    """An early head that names one token, which is none of these, whatever it reads. Returns the token."""
    config = early_config(target, loop)
    output = target.projection()(np.eye(target.hidden_size, dtype=np.float32)).T
    ahead = (output @ output.T).argmax(axis=1)
    token = next(t for t in range(target.vocab_size) if ahead[t] == t and t not in avoided)
    tensors = {name: np.zeros(shape, np.float32) for name, shape in config.shapes().items()}
    far = 3000 * output[token] / np.abs(output[token]).max()
    tensors["output.bias"] = far.astype(np.float16).astype(np.float32)
    write_early(folder, EarlyWeights(config, tensors))
    return token


def write_random(folder: str | Path, target: Tapped, **options: Any) -> Heads:
    """Random heads of this target in a folder."""
    heads = random_heads(target.hidden_size, target.fingerprint(), **options)
    write_heads(folder, heads)
    return heads


def head_states(heads: Heads, states: np.ndarray) -> np.ndarray:
    """f64[n, L, D]: the paper's layer, head by head, each with its own slice of the weights."""
    config, t = heads.config, heads.tensors
    outputs = []
    for head in range(config.num_learned):
        part = slice(head * config.hidden_size, (head + 1) * config.hidden_size)
        after = []
        for x in states.astype(np.float64):
            u = np.maximum(t["hidden.weight"].astype(np.float64) @ x + t["hidden.bias"], 0)
            after.append(x + t["output.weight"][part].astype(np.float64) @ u + t["output.bias"][part])
        outputs.append(np.stack(after))
    return np.stack(outputs, axis=1)


def states_of(target: Tapped, text: Sequence[int]) -> np.ndarray:
    """f32[T, D]: the states at "final" behind every token of a text, in one call behind its first token."""
    target.tap("final")
    rows, scores = opened(target, [text[:1]])
    first = scores.hidden("final")
    rest = target.score(on(rows, [TokenTree.chain(text[1], text[2:])])).hidden("final")
    target.free(rows)
    return np.concatenate([first, rest])


def learn_by_heart(
    folder: str | Path,
    target: Tapped,
    output: np.ndarray,
    prompt: Sequence[int],
    answers: Sequence[Sequence[int]],
    *,
    num_heads: int = 4,
    loud: float = 4.0,
    wrong: Sequence[int] = (),
) -> Heads:
    """Heads that propose, behind every token of these answers, what comes next; written to a folder.

    A random hidden layer tells the states apart, and the output layer is solved for states that point to the
    wanted tokens' rows of the output matrix f32[V, D], `loud` times over. `wrong` are places, counted over
    all answers, after which they propose something else.
    """
    states, wanted, place = [], [], 0
    for answer in answers:
        behind = states_of(target, [*prompt, *answer])[len(prompt) - 1 :]
        for at in range(len(answer) - num_heads + 1):
            ahead = list(answer[at + 1 : at + num_heads])
            states.append(behind[at])
            wanted.append([(t + 1) % target.vocab_size for t in ahead] if place in wrong else ahead)
            place += 1
    width = 2 * len(states) // (num_heads - 1) + 1
    heads = random_heads(target.hidden_size, target.fingerprint(), num_heads=num_heads, width=width)
    x = np.stack(states).astype(np.float64)
    t = heads.tensors
    hidden = np.maximum(x @ t["hidden.weight"].T + t["hidden.bias"], 0)
    rows = output[np.array(wanted)].astype(np.float64)
    rows *= loud * np.linalg.norm(x, axis=1).mean() / np.linalg.norm(rows, axis=2, keepdims=True)
    difference = (rows - x[:, None]).reshape(len(x), -1)
    solved = np.linalg.lstsq(hidden, difference, rcond=None)[0]
    tensors = {
        **t,
        "output.weight": solved.T.astype(np.float32),
        "output.bias": np.zeros(solved.shape[1], np.float32),
    }
    heads = Heads(heads.config, tensors, None)
    write_heads(folder, heads)
    return heads


def markov_config(target: Any, **options: Any) -> MarkovConfig:
    """That of Markov heads of this target, over its first tokens."""
    fields: dict[str, Any] = {"length": 3, "taps": ("0", "final"), "width": 6, "rank": 4, "num_tokens": 8}
    return MarkovConfig(
        hidden_size=target.hidden_size, target=target.fingerprint(), model="a tiny model", **fields | options
    )


def write_random_markov(
    folder: str | Path, target: Any, *, token_ids: Sequence[int] | None = None, seed: int = 0, **options: Any
) -> MarkovWeights:
    """Random Markov heads of this target in a folder."""
    ids = range(8) if token_ids is None else token_ids
    config = markov_config(target, num_tokens=len(ids), **options)
    tensors = random_tensors(config.shapes(), seed)
    for name in ("gate.weight", "order.weight", "position.weight"):
        tensors[name] *= 4  # such that tokens before a position matter, and no two of them look alike
    block = MarkovWeights(config, tensors, np.array([*ids], np.int32))
    write_markov(folder, block)
    return block


def markov_logits(
    block: MarkovWeights, states: np.ndarray, output: np.ndarray, path: Sequence[int]
) -> np.ndarray:
    """f64[M] behind a path, its root first, by numpy; states f[T, D] of the root, output f[V, D].

    Written after the equations in `heads/markov_heads.py`.
    """
    c, t = block.config, {name: tensor.astype(np.float64) for name, tensor in block.tensors.items()}
    read = np.stack([*states, output[path[0]]]).astype(np.float64)
    read /= np.sqrt((read**2).mean(axis=1, keepdims=True) + 1e-6)
    wide = t["trunk.weight"] @ read.reshape(-1) + t["trunk.bias"]
    u = wide / (1 + np.exp(-wide))
    at = len(path) - 1
    s = (t["position.weight"] @ u + t["position.bias"]).reshape(c.length, -1)[at]
    g = (t["gate.weight"] @ u + t["gate.bias"]).reshape(c.length, -1)[at]
    m = np.zeros(c.rank)
    ids = block.token_ids.tolist()
    for token in path:
        number = ids.index(token) if token in ids else c.num_tokens
        m = np.tanh(t["token.weight"][number] + t["step.weight"] @ m)
    logits: np.ndarray = output[ids].astype(np.float64) @ s + t["order.weight"] @ (g * m)
    return logits


def medusa_config(target: Any, **options: Any) -> MedusaConfig:
    """That of Medusa heads of this target: three heads of two layers, with output matrices of their own."""
    fields: dict[str, Any] = {"num_heads": 3, "num_hidden_layers": 2, "truncated_vocab_size": 8}
    return MedusaConfig(
        hidden_size=target.hidden_size,
        vocab_size=target.vocab_size,
        target=target.fingerprint(),
        model="a tiny model",
        **fields | options,
    )


def write_random_medusa(
    folder: str | Path, target: Any, *, token_ids: Iterable[int] | None = None, seed: int = 0, **options: Any
) -> MedusaWeights:
    """Random Medusa heads of this target in a folder, over these tokens or all."""
    ids = None if token_ids is None else np.array([*token_ids], np.int64)
    count = target.vocab_size if ids is None else len(ids)
    config = medusa_config(target, truncated_vocab_size=count, **options)
    heads = MedusaWeights(config, random_tensors(config.shapes(), seed), ids)
    write_medusa(folder, heads, output=target.output_rows(ids) if config.original_lm_head else None)
    return heads


def medusa_states(heads: MedusaWeights, states: np.ndarray) -> np.ndarray:
    """f64[n, H, D]: what the output matrix of each head reads, state by state, head by head."""
    c, t = heads.config, heads.tensors
    found = np.zeros((len(states), c.num_heads, c.hidden_size))
    for row, head in np.ndindex(len(states), c.num_heads):
        x = states[row].astype(np.float64)
        for layer in range(c.num_hidden_layers):
            name = f"blocks.{head}.layers.{layer}"
            wide = t[f"{name}.weight"].astype(np.float64) @ x
            wide = wide + t[f"{name}.bias"] if c.medusa_fc_bias else wide
            x = x + wide / (1 + np.exp(-wide))
        found[row, head] = x
    return found


def hydra_config(target: Any, **options: Any) -> HydraConfig:
    """That of Hydra heads of this target: three heads of two layers, with output matrices of their own."""
    fields: dict[str, Any] = {"num_heads": 3, "num_layers": 2, "num_tokens": 8, "shared_output": False}
    return HydraConfig(
        hidden_size=target.hidden_size,
        vocab_size=target.vocab_size,
        target=target.fingerprint(),
        model="a tiny model",
        **fields | options,
    )


def write_random_hydra(
    folder: str | Path, target: Any, *, token_ids: Iterable[int] | None = None, seed: int = 0, **options: Any
) -> HydraWeights:
    """Random Hydra heads of this target in a folder, over these tokens or all."""
    ids = None if token_ids is None else np.array([*token_ids], np.int32)
    count = target.vocab_size if ids is None else len(ids)
    config = hydra_config(target, num_tokens=count, **options)
    tensors = random_tensors(config.shapes(), seed)
    for name in tensors:
        if name.endswith("layers.0.weight"):
            tensors[name] *= 2  # such that tokens before a position matter
    heads = HydraWeights(config, tensors, ids)
    write_hydra(folder, heads)
    return heads


def hydra_logits(
    heads: HydraWeights, state: np.ndarray, embeddings: np.ndarray, output: np.ndarray, path: Sequence[int]
) -> np.ndarray:
    """f64[M] behind a path, its root first, by numpy; f[D], and f[V, D] as the target has them.

    Written after the equations in `heads/hydra.py`; output is read where the heads share it.
    """
    c, t = heads.config, {name: tensor.astype(np.float64) for name, tensor in heads.tensors.items()}
    read = np.stack([state, *embeddings[[*path]]]).astype(np.float64)
    read /= np.sqrt((read**2).mean(axis=1, keepdims=True) + 1e-6)
    head, z, inputs = len(path) - 1, state.astype(np.float64), read.reshape(-1)
    for layer in range(c.num_layers):
        name = f"blocks.{head}.layers.{layer}"
        wide = t[f"{name}.weight"] @ inputs + t[f"{name}.bias"]
        z = inputs = z + wide / (1 + np.exp(-wide))
    if not c.shared_output:
        return t[f"lm_heads.{head}.weight"] @ z
    rows = output if heads.token_ids is None else output[heads.token_ids]
    logits: np.ndarray = rows.astype(np.float64) @ z
    return logits
