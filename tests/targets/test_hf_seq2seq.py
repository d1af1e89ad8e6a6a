"""Encoder-decoder models as targets: every node's logits are those of a full forward call of its path."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from outpace.core.call import Prompt  # noqa: E402
from outpace.core.errors import OutpaceError, PromptTooLong  # noqa: E402
from outpace.core.sampling import Sampling  # noqa: E402
from outpace.core.tree import TokenTree  # noqa: E402
from outpace.targets.hf_seq2seq import HfSeq2SeqTarget  # noqa: E402
from outpace.targets.hf_seq2seq_models import TESTED  # noqa: E402
from tests.hf_families import contents, tiny_model  # noqa: E402
from tests.hf_seq2seq_families import (  # noqa: E402
    SEQ2SEQ_TYPES,
    START_ID,
    random_seq2seq,
    sources,
    tiny_seq2seq,
)
from tests.rows import on, opened  # noqa: E402

SOURCE_LENGTHS = [7, 3, 12]
# Of different lengths, so that a call on all is ragged; the last goes beyond T5's far distances.
TEXTS = [[START_ID, 17, 33, 250, 9, 9], [START_ID], [START_ID, *range(90, 116)]]
TREE = TokenTree([11, 20, 21, 22, 20, 23, 24, 25], [-1, 0, 0, 1, 1, 3, 2, 5])
TREES = [TREE, TokenTree.chain(40, [41, 42, 43, 44]), TokenTree([50, 51, 52], [-1, 0, 0])]


@pytest.fixture(scope="module", params=SEQ2SEQ_TYPES)
def model(request: pytest.FixtureRequest) -> Any:
    return tiny_seq2seq(request.param)


class Case:
    """A target with the sources of SOURCE_LENGTHS, and what the model itself says of them."""

    def __init__(self, model: Any, **options: Any) -> None:
        self.model = model
        self.target = HfSeq2SeqTarget(model, **options)
        self.inputs = sources(model, SOURCE_LENGTHS)
        if "input_features" in self.inputs:
            self.inputs["input_features"] = self.inputs["input_features"].to(model.dtype)
        self.sources = self.target.encode(*self.inputs.values())

    def prompts(self, numbers: Sequence[int] = (0, 1, 2)) -> list[Prompt]:
        return [Prompt(TEXTS[number], self.sources[number]) for number in numbers]

    def reference(self, source: int, text: list[int]) -> np.ndarray:
        """f32[T, V]: the model's own logits after every token: no cache, no mask, no companions."""
        alone = {name: given[source : source + 1] for name, given in self.inputs.items()}
        if "attention_mask" in alone:
            alone = {"input_ids": alone["input_ids"][:, : SOURCE_LENGTHS[source]]}
        with torch.no_grad():
            logits = self.model(**alone, decoder_input_ids=torch.tensor([text]), use_cache=False).logits
        return logits[0].float().numpy()

    def check(self, rows: list[int], texts: list[list[int]], of: list[int], trees: list[TokenTree]) -> None:
        """Every node of every tree, behind the texts of these sources that the rows should hold."""
        scores = self.target.score(on(rows, trees))
        for row, (text, source, tree) in enumerate(zip(texts, of, trees, strict=True)):
            assert self.target.length(rows[row]) == len(text)
            for path in tree.paths():
                expected = self.reference(source, [*text, *(tree.token_list[node] for node in path)])
                assert np.abs(scores.logits(row, path) - expected[len(text) :]).max() < 1e-4


def test_every_type_is_named_as_tested() -> None:
    assert set(SEQ2SEQ_TYPES) == set(TESTED)


def test_a_tree_is_its_paths(model: Any) -> None:
    case = Case(model)
    rows, scores = opened(case.target, case.prompts())
    for row, text in enumerate(TEXTS):
        assert np.abs(scores.logits(row, [0]) - case.reference(row, text)[-1:]).max() < 1e-4
    for i in range(3):
        case.check(rows[i : i + 1], TEXTS[i : i + 1], [i], [TREE])
        case.check(rows[i : i + 1], TEXTS[i : i + 1], [i], [TREES[1]])
    case.check(rows, TEXTS, [0, 1, 2], TREES)
    case.check([rows[2], rows[0]], [TEXTS[2], TEXTS[0]], [2, 0], [TREE, TREES[2]])
    case.check(rows, TEXTS, [0, 1, 2], [TokenTree.root(4)] * 3)


def test_kept_paths_forks_and_freed_rows(model: Any) -> None:
    case = Case(model)
    rows, _ = opened(case.target, case.prompts())
    texts = [list(text) for text in TEXTS]
    for paths in ([[2, 6], [1, 2], []], [[1, 3, 5, 7], [], [2]], [[1, 4], [1, 2, 3, 4], [1]]):
        case.check(rows, texts, [0, 1, 2], TREES)
        case.target.keep(rows, paths)
        for text, tree, path in zip(texts, TREES, paths, strict=True):
            text += [tree.token_list[node] for node in (0, *path)]
    copy = case.target.fork(rows[0])
    case.target.free([rows[0]])
    case.check([rows[1], rows[2], copy], [texts[1], texts[2], texts[0]], [1, 2, 0], TREES)
    # A source that is cached already and one that is not any more, in one call.
    case.target.free([rows[1]])
    again, _ = opened(case.target, case.prompts([0, 1]))
    assert case.target.num_sources == 3 and case.target.num_rows == 4
    case.check(
        [again[1], copy, again[0], rows[2]],
        [TEXTS[1], texts[0], TEXTS[0], texts[2]],
        [1, 0, 0, 2],
        [TREE] * 4,
    )


def test_sources_are_cached_once_and_go_with_their_last_row() -> None:
    case = Case(tiny_seq2seq("t5"))
    target = case.target
    first, _ = opened(target, case.prompts([0, 1, 0, 0]))
    assert (target.num_rows, target.num_sources) == (4, 2)
    twin = target.fork(first[0])
    target.free([first[0], first[2], first[3]])
    assert target.num_sources == 2, "the fork still needs it"
    case.check([twin, first[1]], [TEXTS[0], TEXTS[1]], [0, 1], TREES[:2])
    target.free([twin])
    assert (target.num_rows, target.num_sources) == (1, 1)
    target.free([first[1]])
    held = []
    for _ in range(3):
        rows, _ = opened(target, case.prompts([2, 0, 1]))
        case.check(rows, [TEXTS[2], TEXTS[0], TEXTS[1]], [2, 0, 1], TREES)
        target.free(rows)
        held.append(target.cache_bytes)
    assert (target.num_rows, target.num_sources) == (0, 0) and len(set(held)) == 1


def test_rows_end_where_the_table_of_positions_does() -> None:
    """A long row and a wide tree of another must not look up positions that no node has."""
    case = Case(tiny_seq2seq("bart", max_position_embeddings=40))
    texts = [[START_ID, *range(60, 98)], [START_ID]]
    prompts = [Prompt(text, case.sources[n]) for n, text in enumerate(texts)]
    rows, _ = opened(case.target, prompts)
    case.check(rows, texts, [0, 1], [TokenTree.root(5), TREE])
    with pytest.raises(OutpaceError, match="the context holds 40"):
        case.target.score(on(rows, [TokenTree.chain(5, [6]), TREE]))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("model_type", ["t5", "bart", "whisper"])
def test_both_kinds_of_attention(model_type: str, attention: str) -> None:
    case = Case(tiny_seq2seq(model_type, attn_implementation=attention))
    rows, _ = opened(case.target, case.prompts())
    case.check(rows, TEXTS, [0, 1, 2], TREES)


@pytest.mark.parametrize("model_type", ["t5", "bart", "whisper"])
def test_half_precision(model_type: str) -> None:
    case = Case(tiny_seq2seq(model_type).to(torch.bfloat16))
    rows, _ = opened(case.target, case.prompts())
    scores = case.target.score(on(rows, TREES))
    for row, (text, tree) in enumerate(zip(TEXTS, TREES, strict=True)):
        for path in tree.paths():
            expected = case.reference(row, [*text, *(tree.token_list[node] for node in path)])[len(text) :]
            logits = scores.logits(row, path)
            assert logits.dtype == np.float32 and np.abs(logits - expected).max() < 0.15 * expected.std()
        assert scores.choose([Sampling()] * 3, [0] * 3)[row] == [
            int(scores.logits(row, [node]).argmax()) for node in range(tree.num_nodes)
        ]


def test_padding_of_sources_may_stand_on_either_side() -> None:
    case = Case(tiny_seq2seq("t5"))
    ids, mask = case.inputs.values()
    left = [
        torch.stack([row.roll(12 - n) for row, n in zip(t, SOURCE_LENGTHS, strict=True)]) for t in (ids, mask)
    ]
    encoded = case.target.encode(*left)
    for row, source in enumerate(encoded):
        assert source.ids == ids[row, : SOURCE_LENGTHS[row]].tolist()
    _, scores = opened(case.target, [Prompt(*pair) for pair in zip(TEXTS, encoded, strict=True)])
    for row, text in enumerate(TEXTS):
        assert np.abs(scores.logits(row, [0]) - case.reference(row, text)[-1:]).max() < 1e-4


def test_nothing_stays_in_the_model(model: Any) -> None:
    before = contents(model)
    config = model.config.to_dict()
    case = Case(model)
    rows, _ = opened(case.target, case.prompts())
    case.target.score(on(rows, TREES))
    with pytest.raises(OutpaceError, match="token ids"):
        case.target.score(on(rows, [TokenTree.root(300)] * 3))
    hooks = [module._forward_hooks or module._forward_pre_hooks for module in model.modules()]
    assert contents(model) == before and not any(hooks) and model.config.to_dict() == config


def test_a_failed_call_leaves_no_row() -> None:
    case = Case(tiny_seq2seq("bart"), context_length=8)
    for prompts, why in (
        ([Prompt([START_ID, 300], case.sources[0])], "token ids"),
        ([Prompt([], case.sources[0])], "empty"),
        ([[START_ID]], r"no source, accepted is Prompt\(tokens, source\)"),
    ):
        with pytest.raises(OutpaceError, match=why):
            opened(case.target, prompts)
    with pytest.raises(PromptTooLong, match="9 tokens, the context holds 8"):
        opened(case.target, [Prompt([START_ID] * 9, case.sources[0])])
    assert (case.target.num_rows, case.target.num_sources) == (0, 0)


def test_wrong_sources_are_refused() -> None:
    target = HfSeq2SeqTarget(tiny_seq2seq("bart"))
    ids = torch.ones((2, 3), dtype=torch.long)
    with pytest.raises(OutpaceError, match=r"attention_mask has shape \(1, 3\)"):
        target.encode(ids, torch.ones((1, 3)))
    with pytest.raises(OutpaceError, match="empty"):
        target.encode(ids, torch.tensor([[1, 1, 1], [0, 0, 0]]))


def test_who_cannot_be_told_positions_is_refused() -> None:
    """Every layer has a bias of its own, and none takes it from outside."""
    ids: dict[str, Any] = {
        "vocab_size": 64,
        "pad_token_id": 0,
        "eos_token_id": 1,
        "decoder_start_token_id": 0,
    }
    sizes: dict[str, Any] = {"d_model": 32, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
    options: dict[str, Any] = ids | sizes
    with pytest.raises(OutpaceError, match=r"'umt5'.*cannot be told positions"):
        HfSeq2SeqTarget(random_seq2seq("UMT5", **options))


def test_other_models_and_modes_are_refused() -> None:
    with pytest.raises(OutpaceError, match=r"'llama'.*no encoder-decoder"):
        HfSeq2SeqTarget(tiny_model("llama"))
    model = tiny_seq2seq("t5")
    with pytest.raises(OutpaceError, match=r"model\.eval\(\)"):
        HfSeq2SeqTarget(model.train())
    with pytest.raises(OutpaceError, match="compiled"):
        HfSeq2SeqTarget(torch.compile(model.eval(), backend="eager"))
    with pytest.raises(OutpaceError, match="accepted are whole numbers from 1 to 96"):
        HfSeq2SeqTarget(tiny_seq2seq("bart"), context_length=97)
    model.config._attn_implementation = "flash_attention_2"
    with pytest.raises(OutpaceError, match="accepted are eager, sdpa"):
        HfSeq2SeqTarget(model)


@pytest.mark.parametrize("model_type", ["t5", "bart"])
def test_an_unknown_type_is_tried(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_seq2seq(model_type)
    monkeypatch.setattr("outpace.targets.hf_seq2seq.TESTED", ("marian",))
    target = HfSeq2SeqTarget(model)
    assert (target.num_rows, target.num_sources) == (0, 0)
    monkeypatch.setattr(type(target._facts.placing), "at", lambda self, *places: torch.no_grad())
    with pytest.raises(OutpaceError, match=f"'{model_type}' cannot be a target: a tree could not be scored"):
        HfSeq2SeqTarget(model)
