"""Training of C2T's classifier: which nodes are kept, what a tree holds, probabilities, resumption."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import outpace  # noqa: E402
from outpace.core.errors import OutpaceError  # noqa: E402
from outpace.heads.c2t import C2TConfig, features_of, read_c2t  # noqa: E402
from outpace.heads.folder import WEIGHTS  # noqa: E402
from outpace.models.text import Model  # noqa: E402
from outpace.train import c2t  # noqa: E402
from outpace.train.c2t import NO_ROWS, FullTrees, Rows, Watched, rows_of, train_c2t, write_rows  # noqa: E402
from outpace.train.checkpoint import RUN, STATE  # noqa: E402
from outpace.train.loop import Plan  # noqa: E402
from tests.fake_models import write_gguf  # noqa: E402
from tests.trees.growing import ROOT, Paths, grow, softmax  # noqa: E402
from tests.trees.test_dynamic import children, heaviest, nodes_of, weight  # noqa: E402

DRAFT = "early_exit:layers=1"
PROMPTS = [[5, 6, 7, 8], [40, 3, 40, 3, 40], [9]]
K, DEPTH, LENGTH = 3, 3, 20


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("model")
    write_gguf(folder / "tiny.gguf", "llama")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(folder / "cache"))
        return outpace.load(folder / "tiny.gguf")


def watched(model: Model) -> Watched:
    policy = FullTrees(k=K, depth=DEPTH)
    return Watched(model.new_drafter(DRAFT, tree=policy), policy)


@pytest.mark.parametrize("seed", range(5))
def test_a_full_tree_is_eagle_2s_before_it_is_ranked(seed: int) -> None:
    paths, policy = Paths(5, seed=seed), FullTrees(k=K, depth=DEPTH)
    grow(policy, paths)
    grown: set[tuple[int, ...]] = set()
    layer: list[tuple[int, ...]] = [()]
    for _ in range(DEPTH):
        new = set().union(*(children(paths, path, K) for path in layer))
        grown |= new
        layer = heaviest(paths, new, K)
    assert policy.last is not None
    tree = policy.last.tree
    assert nodes_of(tree) == grown and len(grown) == K + (DEPTH - 1) * K * K
    for node in range(1, tree.num_nodes):
        before = [tree.token_list[i] for i in tree.path_to(tree.shape.parent_list[node])]
        law = softmax(paths.after(before))
        assert policy.last.entropies[node] == pytest.approx(-(law * np.log(law)).sum(), abs=1e-4)


def test_a_node_is_kept_if_the_text_goes_through_it(model: Model) -> None:
    """Every tree beside the plain text, and every root that the text has had in its place."""
    kept = 0
    for prompt in PROMPTS:
        drafter = watched(model)
        rows = rows_of(model, drafter, prompt, depth=DEPTH, max_tokens=LENGTH)
        text = model.generate(outpace.Prompt(prompt), draft=None, max_tokens=LENGTH).token_ids
        whole = [*prompt, *text]
        used = [(at, one) for at, one in drafter.seen if at + DEPTH < len(whole)]
        assert len(used) == len(np.unique(rows.tree)) > 2
        expected = []
        for at, one in used:
            assert one.tree.token_list[0] == whole[at]
            for node in range(1, one.tree.num_nodes):
                path = [one.tree.token_list[i] for i in one.tree.path_to(node)]
                expected.append(path == whole[at : at + len(path)])
        assert rows.kept.tolist() == expected
        kept += sum(expected)
    assert kept > 5


def test_features_are_those_of_the_node() -> None:
    paths, policy = Paths(5, seed=3), FullTrees(k=K, depth=DEPTH)
    grow(policy, paths)
    assert policy.last is not None
    tree = policy.last.tree
    rows = c2t._rows(policy.last, [9, 9, 9], 4)
    for node in range(1, tree.num_nodes):
        path = tuple(tree.token_list[i] for i in tree.path_to(node))[1:]
        law = softmax(paths.after([ROOT, *path[:-1]]))
        expected = [max(-12.0, np.log(weight(paths, path))), -(law * np.log(law)).sum(), len(path)]
        assert rows.features[node - 1] == pytest.approx(expected, abs=1e-4)
    assert set(rows.tree) == {4} and not rows.kept.any()


def test_rows_are_written_once(model: Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options: dict[str, Any] = {"k": K, "depth": DEPTH, "max_tokens": LENGTH}
    first = write_rows(model, DRAFT, PROMPTS[:2], tmp_path, **options)
    monkeypatch.setattr(c2t, "rows_of", lambda *_, **__: pytest.fail("written already"))
    again = write_rows(model, DRAFT, PROMPTS[:2], tmp_path, **options)
    for name in ("features", "kept", "tree", "parent"):
        assert np.array_equal(getattr(first, name), getattr(again, name))
        assert np.array_equal(getattr(first, name), getattr(c2t.read_rows(tmp_path), name))
    assert len(np.unique(first.tree)) == first.tree.max() + 1
    (tmp_path / "00001.npz").write_bytes(b"PK")
    with pytest.raises(OutpaceError, match=r"00001\.npz cannot be read .*remove it"):
        write_rows(model, DRAFT, PROMPTS[:2], tmp_path, **options)


def made_rows(count: int, seed: int = 0) -> Rows:
    """A node is kept with half its joint probability, whatever its depth."""
    rng = np.random.default_rng(seed)
    joint, entropy, depth = rng.random(count) ** 3, 5 * rng.random(count), rng.integers(1, 9, count)
    features = features_of(np.log(joint), entropy, depth)
    return Rows(features, rng.random(count) < joint / 2, np.arange(count) // 50, np.full(count, -1))


def test_what_it_says_is_a_probability(tmp_path: Path) -> None:
    """Although it sees two nodes that are not kept for each that is, of seven."""
    rows = made_rows(60_000)
    facts = train_c2t(rows, tmp_path, C2TConfig(48), epochs=6, negatives=2)
    one, other = read_c2t(tmp_path), made_rows(60_000, seed=1)
    said = one(other.features)
    law = np.exp(other.features[:, 0]) / 2
    for low, high in ((0.0, 0.05), (0.05, 0.15), (0.15, 0.3), (0.3, 0.5)):
        some = (law >= low) & (law < high)
        assert float(said[some].mean()) == pytest.approx(float(other.kept[some].mean()), abs=0.02)
    best = -np.where(other.kept, np.log(law), np.log1p(-law)).mean()
    assert facts["nats"] == pytest.approx(best, abs=0.01)


def test_another_classifier_is_gone_on_with(tmp_path: Path) -> None:
    """With the rate of the paper it stays near what it was; the same seen share of nodes does not matter."""
    train_c2t(made_rows(20_000), tmp_path / "first", C2TConfig(8), epochs=4)
    features = made_rows(500, seed=2).features
    few = made_rows(4000, seed=3)
    train_c2t(few, tmp_path / "next", C2TConfig(8), epochs=1, lr=1e-6, negatives=1, start=tmp_path / "first")
    before, after = (read_c2t(tmp_path / name)(features) for name in ("first", "next"))
    assert np.allclose(before, after, atol=0.01) and not np.array_equal(before, 0.5 + 0 * before)
    with pytest.raises(OutpaceError, match="has a classifier of 8 units that reads joint, entropy, depth"):
        train_c2t(few, tmp_path / "wide", C2TConfig(9), start=tmp_path / "first")


def test_a_killed_training_goes_on_to_the_same_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = made_rows(3000)
    options: dict[str, Any] = {"epochs": 2, "batch": 256, "seed": 5}
    facts = train_c2t(rows, tmp_path / "whole", C2TConfig(4), **options)

    def stops(*args: Any, **kwargs: Any) -> Any:
        stops.count = getattr(stops, "count", 0) + 1  # type: ignore[attr-defined]
        if stops.count == 4:  # type: ignore[attr-defined]
            raise KeyboardInterrupt
        return loss(*args, **kwargs)

    loss, often = torch.nn.functional.binary_cross_entropy_with_logits, partial(Plan, checkpoint_s=0)
    monkeypatch.setattr("outpace.train.c2t.Plan", often)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("outpace.train.c2t.binary_cross_entropy_with_logits", stops)
        train_c2t(rows, tmp_path / "killed", C2TConfig(4), **options)
    assert (tmp_path / "killed" / STATE).exists() and not (tmp_path / "killed" / WEIGHTS).exists()
    assert train_c2t(rows, tmp_path / "killed", C2TConfig(4), **options) == facts
    assert (tmp_path / "killed" / WEIGHTS).read_bytes() == (tmp_path / "whole" / WEIGHTS).read_bytes()
    assert json.loads((tmp_path / "killed" / RUN).read_text())["held_out"] == facts
    monkeypatch.setattr(c2t, "train", lambda *_, **__: pytest.fail("done already"))
    assert train_c2t(rows, tmp_path / "killed", C2TConfig(4), **options) == facts
    with pytest.raises(OutpaceError, match=r"holds a run with lr=0\.003"):
        train_c2t(rows, tmp_path / "killed", C2TConfig(4), lr=0.1, **options)


@pytest.mark.parametrize("kept", [True, False])
def test_nodes_of_one_kind_teach_nothing(tmp_path: Path, kept: bool) -> None:
    rows = made_rows(100)
    same = Rows(rows.features, np.full(100, kept), rows.tree, rows.parent)
    with pytest.raises(OutpaceError, match="accepted are nodes of both kinds"):
        train_c2t(same, tmp_path, C2TConfig(4))
    with pytest.raises(OutpaceError, match="of 0 drafted nodes 0 are kept"):
        train_c2t(NO_ROWS, tmp_path, C2TConfig(4))


def test_a_drafter_that_says_nothing_leaves_no_rows(model: Model) -> None:
    policy = FullTrees(k=K, depth=DEPTH)
    drafter = Watched(model.new_drafter("none"), policy)
    assert len(rows_of(model, drafter, PROMPTS[0], depth=DEPTH, max_tokens=LENGTH).kept) == 0
