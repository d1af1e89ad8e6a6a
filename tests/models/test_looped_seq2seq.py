"""Looped encoder-decoders draft for themselves: the tokens of transformers, whatever is guessed."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")
import outpace  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.drafters.lookup.ngram import NGram  # noqa: E402
from outpace.drafters.model.speed import Speed  # noqa: E402
from outpace.drafters.none import NoDraft  # noqa: E402
from outpace.targets.hf_looped_seq2seq import HfLoopedSeq2SeqTarget  # noqa: E402
from tests.hf_families import tiny_looped  # noqa: E402
from tests.hf_seq2seq_families import PAD_ID, sources, tiny_looped_seq2seq, tiny_seq2seq  # noqa: E402

LENGTHS = [7, 3, 12, 5, 1]
SPEEDS = ["speed", "speed:early=1", "speed:early=2", "speed:early=1,second=2", "speed:early=1,draft=ngram"]


@cache
def looped(kind: str) -> Any:
    """A model whose guesses are right now and then, one with hardly a right one, one with hardly a wrong."""
    model = tiny_looped_seq2seq() if kind != "hostile" else tiny_seq2seq("outpace_looped_marian", num_loops=3)
    if kind == "sure":  # what comes next is told by the embedding alone
        with torch.no_grad():
            for layer in model.model.decoder.layers:
                for part in (layer.self_attn.out_proj, layer.encoder_attn.out_proj, layer.fc2):
                    part.weight *= 0.01
    model.generation_config.eos_token_id = []
    return model


KINDS = pytest.mark.parametrize("kind", ["trained", "hostile", "sure"])


@KINDS
@pytest.mark.parametrize("draft", SPEEDS)
def test_greedy_is_that_of_transformers(kind: str, draft: str) -> None:
    model = looped(kind)
    fast = outpace.accelerate(model, draft=draft)
    inputs = sources(model, LENGTHS)
    options: dict[str, Any] = {"max_new_tokens": 30}
    assert torch.equal(fast.generate(**inputs, **options), model.generate(**inputs, **options))
    alone = {name: values[:1, : LENGTHS[0]] for name, values in inputs.items()}
    assert torch.equal(fast.generate(**alone, **options), model.generate(**alone, **options))
    assert isinstance(fast.target, HfLoopedSeq2SeqTarget)
    assert (fast.target.num_rows, fast.target.num_sources) == (0, 0)


@KINDS
@pytest.mark.parametrize("draft", SPEEDS)
@pytest.mark.parametrize("temperature", [0.7, 1.5])
def test_sampled_is_that_of_plain_decoding(kind: str, draft: str, temperature: float) -> None:
    model = looped(kind)
    fast = outpace.accelerate(model)
    options: dict[str, Any] = {"max_new_tokens": 25, "do_sample": True, "temperature": temperature, "seed": 5}
    for lengths in (LENGTHS, [4]):
        inputs = sources(model, lengths, seed=1)
        plain = fast.generations(**inputs, **options, draft=None)
        drafted = fast.generations(**inputs, **options, draft=draft)
        assert [one.token_ids for one in drafted] == [one.token_ids for one in plain]
        assert all(one.stats.num_passes > 0 for one in drafted)


def test_right_guesses_save_passes() -> None:
    """Of R = 3 passes a token of plain decoding: near early = 1 where guesses are right, never above 3."""
    found = {}
    for kind in ("sure", "trained", "hostile"):
        (made,) = outpace.accelerate(looped(kind), draft="speed:early=1").generations(
            **sources(looped(kind), [6]), max_new_tokens=60
        )
        found[kind] = made.stats.passes_per_token
    assert found["sure"] < 1.2 and found["sure"] <= found["trained"] <= found["hostile"] <= 3


@pytest.mark.parametrize("model", [tiny_looped, tiny_looped_seq2seq])
def test_a_looped_model_drafts_for_itself(model: Any) -> None:
    """Without a word it is speed; whoever names a draft, a rule or a tree has what he had."""
    made = model()
    for fast in (outpace.accelerate(made), outpace.load(made)):
        assert fast.own_draft == "speed" and isinstance(fast.drafter(), Speed)
        assert isinstance(fast.drafter("ngram"), NGram) and isinstance(fast.drafter(None), NoDraft)
    assert isinstance(outpace.accelerate(made, draft="ngram").drafter(), NGram)
    assert isinstance(outpace.accelerate(made, draft=None).drafter(), NoDraft)
    assert isinstance(outpace.accelerate(made, rule="topk").drafter(), NGram)
    inputs = torch.full((2, 5), 7) if model is tiny_looped else sources(made, [5, 3])["input_ids"]
    options: dict[str, Any] = {"max_new_tokens": 20, "eos_token_id": [], "pad_token_id": PAD_ID}
    fast = outpace.accelerate(made)
    assert all(one.stats.num_passes > 0 for one in fast.generations(inputs, **options))
    assert all(one.stats.num_passes == 0 for one in fast.generations(inputs, **options, draft=None))
    once = tiny_seq2seq("outpace_looped_marian", num_loops=1)
    assert isinstance(outpace.accelerate(once).drafter(), NGram)


def test_a_folder_is_read(tmp_path: Path) -> None:
    model = tiny_looped_seq2seq()
    model.generation_config.eos_token_id = []
    model.save_pretrained(tmp_path)
    fast: Any = outpace.load(str(tmp_path))
    assert isinstance(fast.target, HfLoopedSeq2SeqTarget) and isinstance(fast.drafter(), Speed)
    inputs = sources(model, LENGTHS)
    expected = model.generate(**inputs, max_new_tokens=20)
    for options in ({}, {"draft": None}):
        assert torch.equal(fast.generate(**inputs, max_new_tokens=20, **options), expected)
    with pytest.raises(OutpaceError, match="takes no quantize, accepted is context_length"):
        outpace.load(tmp_path, quantize="q8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"decoder_layers": 2},
            r"lacks \S+decoder.layers.1\S+ and \d+ more, .*_layers=2 of num_loops=3",
        ),
        ({"decoder_layers": 0}, r"has \S+decoder.layers.0\S+ and \d+ more, accepted .*decoder_layers=0"),
        ({"num_loops": 0}, "num_loops is 0, accepted is a whole number from 1 to 64"),
        ({"d_model": 64}, "cannot be read: "),
    ],
)
def test_weights_of_another_shape_are_refused(
    changes: dict[str, int], message: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    tiny_looped_seq2seq().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    capfd.readouterr()
    with pytest.raises(OutpaceError, match=message) as error:
        outpace.load(tmp_path)
    assert str(error.value).isprintable()
    assert "decoder" not in capfd.readouterr().err
