"""Passes of a looped encoder-decoder: nodes of any age have the logits of an unrolled Marian."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.call import Pass  # noqa: E402
from outpace.core.contracts import Looped  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.targets.hf_looped_seq2seq import HfLoopedSeq2SeqTarget, seq2seq_target  # noqa: E402
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget  # noqa: E402
from tests.fake_models import VOCAB_SIZE  # noqa: E402
from tests.hf_seq2seq_families import (  # noqa: E402
    SEQ2SEQ_TYPES,
    sources,
    tiny_looped_seq2seq,
    tiny_seq2seq,
    unrolled,
)
from tests.looped_passes import Row, check_staggered  # noqa: E402
from tests.rows import on  # noqa: E402

LENGTHS = [5, 9, 2]
MODELS: dict[str, dict[str, Any]] = {
    "two layers": {"num_loops": 3},
    "scaled": {"num_loops": 4, "decoder_layers": 1, "scale_embedding": True},
    "eager": {"num_loops": 2, "decoder_layers": 3, "attn_implementation": "eager"},
}


class Expected:
    """Logits after every loop, by an ordinary model without a cache."""

    def __init__(self, model: Any) -> None:
        self._plain = unrolled(model)
        self._layers = model.config.decoder_layers
        self._sources = sources(model, LENGTHS)

    def __call__(self, row: Row, path: Sequence[int]) -> Any:
        """f32[R, V] after the last token."""
        length = LENGTHS[row.source]
        with torch.no_grad():
            states = self._plain(
                input_ids=self._sources["input_ids"][row.source : row.source + 1, :length],
                decoder_input_ids=torch.tensor([[*row.text, *path]]),
                output_hidden_states=True,
                use_cache=False,
            ).decoder_hidden_states
            ends = torch.stack([one[0, -1] for one in states[self._layers :: self._layers]])
            return (self._plain.lm_head(ends) + self._plain.final_logits_bias).numpy()


@pytest.mark.parametrize("kernels", ["torch", "block"])
@pytest.mark.parametrize("name", MODELS)
def test_staggered_passes(name: str, kernels: str) -> None:
    model = tiny_seq2seq("outpace_looped_marian", **MODELS[name])
    model.final_logits_bias += 0.2 * torch.randn(VOCAB_SIZE)
    target = seq2seq_target(model, kernels=kernels)
    assert isinstance(target, HfLoopedSeq2SeqTarget) and isinstance(target, Looped)
    encoded = target.encode(*sources(model, LENGTHS).values())
    # Two of a source, one of which is a copy; some with a text, whose source is cached, and some without.
    rows = [Row(target.open(encoded[number]), [], source=number) for number in (0, 1)]
    target.score(on([row.number for row in rows], [TokenTree.root(7)] * 2))
    target.keep([row.number for row in rows], [()] * 2)
    rows = [Row(row.number, [7], source=row.source) for row in rows]
    rows.append(Row(target.fork(rows[1].number), [7], source=1))
    rows += [Row(target.open(encoded[number]), [], source=number) for number in (2, 0, 2)]
    bias, bound = model.final_logits_bias[0].numpy(), 2e-3 if kernels == "block" else 3e-4
    check_staggered(target, rows, Expected(model), bias=bias, bound=bound)
    target.free([row.number for row in rows[1:]])
    assert (target.num_rows, target.num_sources) == (1, 1)


def test_only_what_is_wanted_has_scores() -> None:
    model = tiny_seq2seq("outpace_looped_marian", **MODELS["two layers"])
    target, expected = HfLoopedSeq2SeqTarget(model), Expected(model)
    encoded = target.encode(*sources(model, LENGTHS).values())
    rows = [Row(target.open(one), [], source=number) for number, one in enumerate(encoded[:2])]
    chain = TokenTree.chain(5, [6, 7])
    scores = target.advance(
        [
            Pass(rows[0].number, chain, [0] * 3, [-1] * 3, [2, 0]),
            Pass(rows[1].number, chain, [0] * 3, [-1] * 3),
        ]
    )
    for place, text in enumerate(([5, 6, 7], [5])):
        assert np.abs(scores.logits(place, [0])[0] - expected(rows[0], text)[0]).max() < 2e-4
    target.advance([Pass(rows[1].number, chain, [1] * 3, range(3))])
    scores = target.advance([Pass(rows[1].number, chain, [2] * 3, range(3), [1])])
    assert np.abs(scores.logits(0, [0])[0] - expected(rows[1], [5, 6])[2]).max() < 2e-4


@pytest.mark.parametrize(
    ("loops", "came"),
    [([0], [0]), ([2], [0]), ([1], [-1]), ([1], [3]), ([1, 1], [0, -1]), ([1, 0], [0, 1])],
)
def test_nodes_that_do_not_go_on_are_refused(loops: list[int], came: list[int]) -> None:
    model = tiny_looped_seq2seq()
    target = HfLoopedSeq2SeqTarget(model)
    row = target.open(target.encode(*sources(model, [4]).values())[0])
    target.advance([Pass(row, TokenTree.chain(5, [6]), [0, 0], [-1, -1])])
    tree = TokenTree.chain(5, [6] * (len(loops) - 1))
    with pytest.raises(OutpaceError, match=r"a node runs loop .*accepted are the loop after that node's"):
        target.advance([Pass(row, tree, loops, came)])


def test_other_refusals() -> None:
    model = tiny_looped_seq2seq()
    target = HfLoopedSeq2SeqTarget(model, context_length=4)
    row, root = target.open(target.encode(*sources(model, [4]).values())[0]), TokenTree.root(5)
    target.advance([Pass(row, root, [0], [-1])])
    with pytest.raises(OutpaceError, match="kept after a pass are the root and nodes that have run all"):
        target.keep([row], [()])
    target.score(on([row], [root]))  # which forgets what is in flight
    with pytest.raises(OutpaceError, match="a node runs loop 1"):
        target.advance([Pass(row, root, [1], [0])])
    with pytest.raises(OutpaceError, match="token ids are not all from 0 to 299"):
        target.advance([Pass(row, TokenTree.root(300), [0], [-1])])
    with pytest.raises(OutpaceError, match="the context holds 4"):
        target.advance([Pass(row, TokenTree.chain(5, [1] * 4), [0] * 5, [-1] * 5)])


def test_other_models_have_the_usual_target() -> None:
    for model_type in SEQ2SEQ_TYPES:
        if model_type != "outpace_looped_marian":
            assert type(seq2seq_target(tiny_seq2seq(model_type))) is HfSeq2SeqTarget
