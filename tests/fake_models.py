"""Tiny random models of every family, written as Hugging Face folders and as GGUF files of the same weights.

The Hugging Face side goes through transformers' own classes and the GGUF side through ggml-org's `gguf`
package, so that both are independent of the code under test. Their vocabulary (300) is no multiple of a tile
of 16.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, quants
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

VOCAB_SIZE = 300
EOS_ID, BOS_ID = 298, 297
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SPECIALS = ("<|im_start|>", "<|bos|>", "<|im_end|>", "<|pad|>")  # the last four ids
_MERGES = (
    "t h, h e, i n, e r, a n, r e, o n, Ġ t, Ġ a, Ġ s, o r, e n, th e, in g, Ġ o, Ġt he, a t, o u, i s, Ġ w, "
    "e s, i t, Ġ b, Ġ c, a l, an d, e d, o f, Ġ in, Ġ f, s t, l e, a r, Ġ p, r o, l l, Ġ m, i c, u s, Ġ d"
)

_BASE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "bos_token_id": BOS_ID,
    "eos_token_id": EOS_ID,
    "pad_token_id": VOCAB_SIZE - 1,
}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
_YARN_ROPE = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 128,
}
_GEMMA_ROPE = {
    "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
}
# Family -> (transformers model class, transformers config class, GGUF architecture, what differs from _BASE).
_FAMILIES: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", "llama", {"tie_word_embeddings": True}),
    "llama3": (
        "LlamaForCausalLM",
        "LlamaConfig",
        "llama",
        {"tie_word_embeddings": False, "rope_parameters": _LLAMA3_ROPE, "head_dim": 32},
    ),
    "mistral": (
        "MistralForCausalLM",
        "MistralConfig",
        "llama",
        {"tie_word_embeddings": False, "sliding_window": 8, "head_dim": 32},
    ),
    "qwen2": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        "qwen2",
        {"tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    ),
    "qwen2_yarn": (
        "Qwen2ForCausalLM",
        "Qwen2Config",
        "qwen2",
        {"tie_word_embeddings": False, "rope_parameters": _YARN_ROPE},
    ),
    "qwen3": (
        "Qwen3ForCausalLM",
        "Qwen3Config",
        "qwen3",
        {"tie_word_embeddings": False, "head_dim": 32, "num_hidden_layers": 2},
    ),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        "gemma3",
        {
            "tie_word_embeddings": True,
            "head_dim": 32,
            "num_hidden_layers": 7,  # the sixth is global, the others slide
            "num_key_value_heads": 1,
            "sliding_window": 8,
            "query_pre_attn_scalar": 24,
            "rope_parameters": _GEMMA_ROPE,
        },
    ),
}
FAMILIES = tuple(_FAMILIES)
TENSOR_TYPES = ("F32", "F16", "BF16", "Q4_0", "Q4_1", "Q4_K", "Q5_0", "Q5_1", "Q5_K", "Q6_K", "Q8_0")
_SCALE_BYTES = {"Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)}  # where a block of 256 keeps its f16 scales


def make_model(family: str, *, seed: int = 0, **changes: Any) -> Any:
    """A random transformers model in f32, its weights large enough that logits differ clearly.

    `changes` replace values of the configuration (hidden_size=256, num_hidden_layers=2 ...).
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model_class, config_class, _, own = _FAMILIES[family]
    config = getattr(transformers, config_class)(**_BASE | own | changes)
    model = getattr(transformers, model_class)(config).float().eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(0.2 * noise + (0.0 if family == "gemma3" else 1.0))
            elif parameter.ndim == 1:
                parameter.copy_(0.3 * noise)
            else:
                parameter.copy_(noise * (0.3 if "embed" in name else parameter.shape[1] ** -0.5))
    return model


def write_hf(
    folder: str | Path,
    family: str,
    *,
    seed: int = 0,
    dtype: str = "float32",
    sharded: bool = False,
    **changes: Any,
) -> Any:
    """Writes a Hugging Face folder with weights, tokenizer and chat template; returns the model, in f32.

    The returned model has the weights as written (rounded to `dtype`: "float32", "bfloat16" or "float16").
    """
    model = make_model(family, seed=seed, **changes)
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size="100KB" if sharded else "5GB")
    write_tokenizer(folder)
    return model.float()


def write_gguf(
    path: str | Path, family: str, *, tensor_type: str = "F32", seed: int = 0, **changes: Any
) -> Any:
    """Writes a GGUF file of the same weights as `write_hf` and returns the model with the weights as written.

    Matrices are stored as `tensor_type`, vectors as F32. Types of 256 values per block need sizes that are
    multiples of 256; the gguf package cannot quantise to them, so their blocks are random and the model gets
    their values.
    """
    model = make_model(family, seed=seed, **changes)
    architecture = _FAMILIES[family][2]
    writer = gguf.GGUFWriter(path, architecture)
    _add_metadata(writer, family, model)
    rng = np.random.default_rng(seed)
    state = model.state_dict()
    arch = gguf.MODEL_ARCH[architecture.upper()]
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    for name, tensor in state.items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        target = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert target is not None, name
        values = _as_in_file(name, tensor.numpy(), family, model.config)
        if values.ndim == 1:
            writer.add_tensor(target, values)
            continue
        raw, values = encode(values, tensor_type, rng)
        writer.add_tensor(target, raw, raw_dtype=GGMLQuantizationType[tensor_type])
        tensor.copy_(torch.from_numpy(_as_in_model(name, values, family, model.config)))
    if family == "llama3":
        head_dim = model.config.head_dim
        unscaled = _LLAMA3_ROPE["rope_theta"] ** -(np.arange(0, head_dim, 2) / head_dim)
        factors = unscaled / model.model.rotary_emb.inv_freq.numpy()
        writer.add_tensor("rope_freqs.weight", factors.astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model.load_state_dict(state)
    return model


def encode(values: np.ndarray, tensor_type: str, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(what the file holds, the values that this stands for) of f32[rows, cols]."""
    kind = GGMLQuantizationType[tensor_type]
    if tensor_type in _SCALE_BYTES:
        raw = random_blocks(tensor_type, values.shape[0], values.shape[1], rng)
    else:
        raw = quants.quantize(np.ascontiguousarray(values), kind)
    return raw, quants.dequantize(raw, kind).reshape(values.shape).astype(np.float32)


def random_blocks(tensor_type: str, rows: int, cols: int, rng: np.random.Generator) -> np.ndarray:
    """Random blocks of any quantised type with scales of sensible size: u8[rows, bytes per row]."""
    values, nbytes = gguf.GGML_QUANT_SIZES[GGMLQuantizationType[tensor_type]]
    assert cols % values == 0, f"{tensor_type} needs a multiple of {values} columns, not {cols}"
    blocks = rng.integers(0, 256, (rows * cols // values, nbytes), dtype=np.uint8)
    # Weights of about cols**-0.5.
    size = cols**-0.5 / {"Q6_K": 2000, "Q4_K": 400, "Q5_K": 400}.get(tensor_type, 10)
    for at in _SCALE_BYTES.get(tensor_type, (0, 2) if tensor_type.endswith("_1") else (0,)):
        scales = (size * (1 + rng.random((len(blocks), 1)))).astype("<f2")
        blocks[:, at : at + 2] = scales.view(np.uint8)
    return blocks.reshape(rows, -1)


def tokens_and_merges() -> tuple[list[str], list[str]]:
    """300 tokens: 256 byte letters, 40 merged ones, four special ones; and the 40 merges."""
    merges = [merge.strip() for merge in _MERGES.split(",")]
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + [merge.replace(" ", "") for merge in merges]
    return [*tokens, *_SPECIALS], merges


def make_tokenizer() -> Tokenizer:
    """The byte-level BPE tokenizer of all these models."""
    tokens, merges = tokens_and_merges()
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in merges)]
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(tokens[:-4])}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIALS))
    return tokenizer


def write_tokenizer(folder: str | Path) -> None:
    """tokenizer.json and tokenizer_config.json with the chat template."""
    folder = Path(folder)
    make_tokenizer().save(str(folder / "tokenizer.json"))
    config = {
        "bos_token": "<|bos|>",
        "eos_token": "<|im_end|>",
        "add_bos_token": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def _add_metadata(writer: gguf.GGUFWriter, family: str, model: Any) -> None:
    config = model.config
    writer.add_name(f"tiny random {family}")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    rope = config.rope_parameters.get("full_attention", config.rope_parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] in ("linear", "yarn"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
        writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if family in ("mistral", "gemma3"):
        writer.add_sliding_window(config.sliding_window)
    if family == "gemma3":
        writer.add_attention_scale(config.query_pre_attn_scalar**-0.5)
    tokens, merges = tokens_and_merges()
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * (VOCAB_SIZE - 4) + [gguf.TokenType.CONTROL] * 4)
    writer.add_token_merges(merges)
    writer.add_bos_token_id(BOS_ID)
    writer.add_eos_token_id(EOS_ID)
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)


def _heads_of(name: str, family: str, config: Any) -> int | None:
    """How many heads the rows of a tensor have, where llama files interleave them; else None."""
    if _FAMILIES[family][2] == "llama":
        if ".q_proj." in name:
            return int(config.num_attention_heads)
        if ".k_proj." in name:
            return int(config.num_key_value_heads)
    return None


def _as_in_file(name: str, values: np.ndarray, family: str, config: Any) -> np.ndarray:
    """What llama.cpp's converter makes of a tensor: interleaved q and k rows, Gemma's norms plus one."""
    if family == "gemma3" and "norm" in name:
        return values + np.float32(1)
    heads = _heads_of(name, family, config)
    if heads is None:
        return values
    halves = values.reshape(heads, 2, -1, *values.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(values.shape)


def _as_in_model(name: str, values: np.ndarray, family: str, config: Any) -> np.ndarray:
    """The inverse of `_as_in_file` for matrices."""
    heads = _heads_of(name, family, config)
    if heads is None:
        return values
    pairs = values.reshape(heads, -1, 2, *values.shape[1:])
    return np.ascontiguousarray(pairs.swapaxes(1, 2)).reshape(values.shape)
