"""Looped encoder-decoders in torch: equal to a Marian that repeats its layers, written and read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
from transformers import (  # noqa: E402
    AutoModelForSeq2SeqLM,
    DynamicCache,
    EncoderDecoderCache,
)

from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.targets.hf_looped_marian import LoopedMarianConfig, LoopedMarianMTModel  # noqa: E402
from tests.fake_models import VOCAB_SIZE  # noqa: E402
from tests.hf_seq2seq_families import sources, tiny_seq2seq, unrolled  # noqa: E402

SOURCES = {"one": [7], "padded": [9, 4, 6]}
TEXT = [[298, 5, 9, 2, 40, 11], [298, 77, 8, 3, 3, 120], [298, 1, 200, 17, 6, 33]]


def pair(num_loops: int, **changes: Any) -> tuple[Any, Any]:
    """A looped model, and an ordinary one whose decoder layers are copies of the looped one's."""
    looped = tiny_seq2seq("outpace_looped_marian", num_loops=num_loops, **changes)
    looped.final_logits_bias += 0.2 * torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(1))
    return looped, unrolled(looped)


SHAPES = pytest.mark.parametrize(
    ("num_loops", "changes"),
    [
        (1, {}),
        (3, {}),
        (2, {"decoder_layers": 3, "scale_embedding": True, "encoder_layers": 1}),
        (4, {"decoder_layers": 1, "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 300}),
    ],
    ids=["once", "two layers", "three layers", "own vocabulary"],
)


@SHAPES
@pytest.mark.parametrize("lengths", SOURCES.values(), ids=SOURCES)
def test_equals_a_marian_that_repeats_its_layers(
    num_loops: int, changes: dict[str, Any], lengths: list[int]
) -> None:
    looped, plain = pair(num_loops, **changes)
    inputs = sources(looped, lengths) | {"decoder_input_ids": torch.tensor(TEXT[: len(lengths)])}
    with torch.no_grad():
        for options in ({"use_cache": False}, {"use_cache": True}):
            assert torch.equal(looped(**inputs, **options).logits, plain(**inputs, **options).logits)


@SHAPES
@pytest.mark.parametrize("lengths", SOURCES.values(), ids=SOURCES)
@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"use_cache": False}], ids=str)
def test_generates_what_the_other_does(
    num_loops: int, changes: dict[str, Any], lengths: list[int], options: dict[str, Any]
) -> None:
    looped, plain = pair(num_loops, **changes)
    varied = {"max_new_tokens": 12, "do_sample": False, "no_repeat_ngram_size": 2}
    inputs = sources(looped, lengths) | varied | options
    ours = looped.generate(**inputs)
    assert len(set(ours[0].tolist())) > 3
    assert torch.equal(ours, plain.generate(**inputs))


@pytest.mark.parametrize("made_for", ["nothing", "config"])
def test_a_cache_grows_by_parts(made_for: str) -> None:
    looped, plain = pair(3, encoder_layers=1)
    options = {"config": looped.config} if made_for == "config" else {}
    cache = EncoderDecoderCache(DynamicCache(**options), DynamicCache(**options))
    inputs, text = sources(looped, [9, 4, 6]), torch.tensor(TEXT)
    with torch.no_grad():
        parts = [
            looped(**inputs, decoder_input_ids=part, past_key_values=cache).logits
            for part in (text[:, :2], text[:, 2:3], text[:, 3:])
        ]
        whole = plain(**inputs, decoder_input_ids=text).logits
    assert (torch.cat(parts, dim=1) - whole).abs().max() < 2e-4
    text, source = cache.self_attention_cache, cache.cross_attention_cache
    assert (len(text.layers), len(source.layers)) == (6, 2)
    assert {text.get_seq_length(layer) for layer in range(6)} == {6}
    assert {source.get_seq_length(layer) for layer in range(2)} == {9}


@pytest.mark.parametrize("use_cache", [False, True])
def test_hidden_states_are_what_the_output_reads_after_each_loop(use_cache: bool) -> None:
    looped, plain = pair(3)
    inputs = sources(looped, [9, 4, 6]) | {"decoder_input_ids": torch.tensor(TEXT), "use_cache": use_cache}
    with torch.no_grad():
        ours = looped(**inputs, output_hidden_states=True)
        theirs = plain(**inputs, output_hidden_states=True)
        last = looped.lm_head(ours.decoder_hidden_states[-1]) + looped.final_logits_bias
    assert len(ours.decoder_hidden_states) == 4
    for loop, states in enumerate(ours.decoder_hidden_states):
        assert torch.equal(states, theirs.decoder_hidden_states[2 * loop])
    assert torch.equal(ours.logits, last)
    assert len(ours.encoder_hidden_states) == len(theirs.encoder_hidden_states) == 3
    assert looped(**inputs).decoder_hidden_states is None


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
def test_learns_as_the_other_does(checkpointing: bool) -> None:
    looped, plain = pair(3, dropout=0.0)
    inputs = sources(looped, [9, 4, 6]) | {"labels": torch.tensor(TEXT)}
    for model in (looped, plain):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.train()(**inputs).loss.backward()
    for number, layer in enumerate(looped.model.decoder.layers):
        copies = [plain.model.decoder.layers[number + 2 * loop] for loop in range(3)]
        named = [dict(copy.named_parameters()) for copy in copies]
        for name, parameter in layer.named_parameters():
            expected = sum(one[name].grad for one in named)
            assert (parameter.grad - expected).abs().max() < 1e-5 * (1 + expected.abs().max())


def test_early_losses_reach_every_layer() -> None:
    model = tiny_seq2seq("outpace_looped_marian", num_loops=3).train()
    inputs = sources(model, [4]) | {"labels": torch.tensor(TEXT[:1])}
    early = model(**inputs, output_hidden_states=True).decoder_hidden_states[1]
    model.lm_head(early).square().sum().backward()
    assert all(layer.fc1.weight.grad.abs().max() > 0 for layer in model.model.decoder.layers)


@SHAPES
def test_what_is_saved_is_read_again(num_loops: int, changes: dict[str, Any], tmp_path: Path) -> None:
    model = LoopedMarianMTModel(
        LoopedMarianConfig(**tiny_seq2seq("marian", **changes).config.to_dict() | {"num_loops": num_loops})
    ).eval()
    model.final_logits_bias += torch.randn(model.final_logits_bias.shape)
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").exists()
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert type(again) is LoopedMarianMTModel
    assert again.config.num_loops == num_loops
    inputs = sources(model, [9, 4, 6]) | {"decoder_input_ids": torch.tensor(TEXT)}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, again.eval()(**inputs).logits)
    tied = model.config.share_encoder_decoder_embeddings
    for one in (model, again):
        decoder, encoder = one.model.decoder.embed_tokens, one.model.encoder.embed_tokens
        assert (decoder.weight is encoder.weight) == tied
        assert one.lm_head.weight is decoder.weight


@pytest.mark.parametrize("value", [0, 65, -1, 2.0, "3", True, None])
def test_impossible_numbers_of_loops_are_refused(value: Any) -> None:
    with pytest.raises(OutpaceError, match=r"num_loops is .*accepted is a whole number from 1 to 64"):
        LoopedMarianConfig(num_loops=value)


def test_other_caches_and_inputs_are_refused() -> None:
    model = tiny_seq2seq("outpace_looped_marian")
    inputs = sources(model, [4])
    with pytest.raises(OutpaceError, match="is a DynamicCache, accepted is an EncoderDecoderCache"):
        model(**inputs, decoder_input_ids=torch.tensor([[1]]), past_key_values=DynamicCache())
    with pytest.raises(OutpaceError, match="the StaticCache has 2 layers and the model 4, accepted is a Dyn"):
        model.generate(**inputs, max_new_tokens=3, cache_implementation="static")
    with pytest.raises(OutpaceError, match="either input_ids or inputs_embeds of the decoder"):
        model(**inputs)
