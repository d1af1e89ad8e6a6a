"""Tiny random encoder-decoder models of transformers, of every tested model type."""

from __future__ import annotations

import re
from typing import Any

import torch

from outpace.core.call import Source
from outpace.targets.hf_looped_seq2seq import HfLoopedSeq2SeqTarget
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget
from tests.fake_models import EOS_ID, VOCAB_SIZE

torch.set_num_threads(1)  # on tiny tensors threads do nothing but wait for one another

PAD_ID = VOCAB_SIZE - 1
START_ID = VOCAB_SIZE - 2
NUM_MELS, NUM_FRAMES = 4, 24
_BASE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "d_model": 32,
    "eos_token_id": EOS_ID,
    "pad_token_id": PAD_ID,
    "decoder_start_token_id": START_ID,
    "forced_eos_token_id": None,
}
_T5: dict[str, Any] = {
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    # So few that most distances have a bucket of their own, and far ones share.
    "relative_attention_num_buckets": 12,
    "relative_attention_max_distance": 20,
}
_BART: dict[str, Any] = {
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 96,
}
_WHISPER: dict[str, Any] = {
    "num_mel_bins": NUM_MELS,
    "max_source_positions": NUM_FRAMES // 2,
    "max_target_positions": 96,
    "begin_suppress_tokens": None,
}
# Model type -> (name of its classes, the model's class after it, what differs from _BASE).
_TYPES: dict[str, tuple[str, dict[str, Any]]] = {
    "bart": ("Bart", _BART),
    "m2m_100": ("M2M100", _BART | {"pad_token_id": 1}),  # counts positions from this one on
    "marian": ("Marian", _BART),
    "mbart": ("MBart", _BART),
    "mt5": ("MT5", _T5),
    "outpace_looped_marian": ("LoopedMarian", _BART | {"num_loops": 2}),
    "pegasus": ("Pegasus", _BART),
    "t5": ("T5", _T5),
    "whisper": ("Whisper", _BART | _WHISPER),
}
SEQ2SEQ_TYPES = tuple(_TYPES)


def tiny_seq2seq(model_type: str, *, attn_implementation: str = "sdpa", **changes: Any) -> Any:
    """A model in f32 whose logits differ clearly. `changes` replace values of the configuration."""
    names, own = _TYPES[model_type]
    return random_seq2seq(names, attn_implementation=attn_implementation, **_BASE | own | changes)


def random_seq2seq(names: str, *, attn_implementation: str = "sdpa", **config: Any) -> Any:
    """The conditional generation model of a `NamesConfig` with random weights."""
    import transformers

    from outpace.targets import hf_looped_marian

    where = hf_looped_marian if names == "LoopedMarian" else transformers
    last = "MTModel" if names.endswith("Marian") else "ForConditionalGeneration"
    made = getattr(where, f"{names}Config")(**config)
    made._attn_implementation = attn_implementation
    model = getattr(where, f"{names}{last}")(made).float().eval()
    head = model.get_output_embeddings()
    head.weight = torch.nn.Parameter(head.weight.clone())  # tied, a random model repeats one token
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if "embed_positions" in name and names in ("Marian", "LoopedMarian", "Pegasus"):
                continue  # sines
            if parameter.ndim == 1:
                parameter += 0.2 * noise
            else:
                wide = any(part in name for part in ("embed", "shared", "relative_attention_bias"))
                # Embeddings so strong that the next token depends on the last ones, not on the source alone.
                parameter.copy_(noise * (2.0 if wide else parameter.shape[1] ** -0.5))
    return model


def unrolled(looped: Any) -> Any:
    """A MarianMTModel whose decoder layers are copies of a LoopedMarianMTModel's, R times over."""
    from transformers import MarianConfig, MarianMTModel

    config = looped.config.to_dict()
    layers, num_loops = config["decoder_layers"], config.pop("num_loops")
    for name in ("model_type", "architectures", "transformers_version"):
        config.pop(name)
    plain: Any = MarianMTModel(MarianConfig(**config | {"decoder_layers": layers * num_loops})).eval()
    plain.lm_head.weight = torch.nn.Parameter(plain.lm_head.weight.clone())
    short = looped.state_dict()
    for name, tensor in plain.state_dict().items():
        name = re.sub(r"(decoder\.layers\.)(\d+)", lambda found: f"{found[1]}{int(found[2]) % layers}", name)
        tensor.copy_(short[name])
    return plain


def tiny_looped_seq2seq(**changes: Any) -> Any:
    """One decoder layer that runs three times; its early outputs are right now and then."""
    from outpace.targets.hf_looped_marian import LoopedMarianConfig, LoopedMarianMTModel

    torch.manual_seed(3)
    sizes: dict[str, Any] = {"encoder_layers": 1, "decoder_layers": 1, "num_loops": 3, "init_std": 0.2}
    model: Any = LoopedMarianMTModel(LoopedMarianConfig(**_BASE | _BART | sizes | changes)).eval()
    model.final_logits_bias += 0.2 * torch.randn(VOCAB_SIZE)
    return model


class OneSource(HfSeq2SeqTarget):
    """For tests of targets in general: every prompt is written from the same source."""

    def __init__(self, model: Any, **options: Any) -> None:
        super().__init__(model, **options)
        (self.source,) = self.encode(*sources(model, [5]).values())

    def open(self, source: Source | None = None) -> int:
        return super().open(source or self.source)


def sources(model: Any, lengths: list[int], *, seed: int = 0) -> dict[str, Any]:
    """Random inputs of the encoder, padded on the right: what `model.generate` takes."""
    generator = torch.Generator().manual_seed(seed)
    if model.config.model_type == "whisper":
        shape = (len(lengths), NUM_MELS, NUM_FRAMES)
        return {"input_features": torch.randn(shape, generator=generator)}
    ids = torch.randint(3, 280, (len(lengths), max(lengths)), generator=generator)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return {"input_ids": ids.masked_fill(~mask, model.config.pad_token_id), "attention_mask": mask.long()}


class OneSourceInLoops(OneSource, HfLoopedSeq2SeqTarget):
    """The same of looped models."""
