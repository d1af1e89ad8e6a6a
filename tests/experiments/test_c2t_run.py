"""C2T's experiment: the whole smoke run on tiny models, again, after a kill, and what its records come to."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("matplotlib")

from experiments.c2t import run
from experiments.c2t.evaluate import CHAIN, EAGLE_2, ONLINE, OURS
from experiments.c2t.pairs import ADAPTED, PROMPTS, Pair, pairs_of
from experiments.c2t.replay import replay
from experiments.c2t.scales import SCALES
from experiments.c2t.summary import Point, Sweep, sweeps
from experiments.kit.results import Results
from outpace.pricing.worth import AtLeast
from outpace.train.c2t import FullTrees, _rows
from outpace.trees.survival import SurvivalTree
from tests.experiment_runs import check_report, kill, state
from tests.fake_models import write_gguf
from tests.trees.growing import Paths, grow
from tests.trees.test_survival import Noted

SMOKE = SCALES["smoke"]
CLASSIFIED = 1 + sum(map(len, (SMOKE.sizes, SMOKE.lengths, SMOKE.betas, SMOKE.few)))  # by one classifier
WAYS = CLASSIFIED + 2 * len(SMOKE.online) + 1


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A work folder after a whole run; random models seldom end a message, so prompts are given."""
    work = tmp_path_factory.mktemp("c2t")
    for seed, name in enumerate(("first", "second")):
        write_gguf(work / f"{name}.gguf", "llama", seed=seed)
        (work / "smoke" / name).mkdir(parents=True)
        prompts = [[7 + seed, n, 2 * n, 9] for n in range(3, 3 + SMOKE.prompts)]
        (work / "smoke" / name / PROMPTS).write_text(json.dumps(prompts))
    (work / "asked.txt").write_text("what is in the box\nants and tea\n")
    again(work)
    return work


def again(work: Path) -> None:
    pairs = [Pair(name, str(work / f"{name}.gguf"), "early_exit:layers=1") for name in ("first", "second")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OUTPACE_CACHE", str(work / "cache"))
        patch.setattr(run, "pairs_of", lambda *_: pairs)
        asked = ["--prompts", str(work / "asked.txt"), "--threads", "1"]
        run.main(["--scale", "smoke", "--work", str(work), *asked])


def test_every_way_writes_the_text_of_plain_decoding(made: Path) -> None:
    results = Results(made / "smoke" / "results.jsonl")
    assert all(record["same"] for record in results.of("text"))
    for sweep, classifiers in zip(sweeps(results), (2, 4), strict=True):
        assert len(sweep.classifiers()) == classifiers
        assert sweep.classifiers(ONLINE) == ["none", "c2t", "none, cold"]
        assert len(sweep.points) == WAYS + (classifiers - 1) * len(SMOKE.few)
        for point in sweep.points:
            assert point.texts == SMOKE.judged and 0 <= point.length <= SMOKE.depth
        (short, long) = sweep.of(CHAIN)
        assert short.candidates < long.candidates <= SMOKE.lengths[1] * SMOKE.tokens


def test_a_report_has_all_pairs(made: Path) -> None:
    report = check_report(made / "smoke", "frontiers.png")
    for name in ("first", "second"):
        assert f"`{name}`:" in report
    assert "adapted from the first pair's" in report and "| second | elsewhere |" in report


def test_a_second_run_changes_nothing_and_a_killed_one_goes_on(made: Path) -> None:
    before = state(made)
    again(made)
    assert state(made) == before
    folder = made / "smoke"
    adapted = folder / "second" / ADAPTED
    lines = kill(folder, adapted, adapted / "model.safetensors", by="held_out")
    again(made)
    records = (folder / "results.jsonl").read_bytes().splitlines()
    ways = [tuple(record["way"]) for record in Results(folder / "results.jsonl").of("text", pair="second")]
    assert len(records) > len(lines) - 5 and len({*ways}) == WAYS + 3 * len(SMOKE.few)
    check_report(folder, "frontiers.png")


def test_recorded_trees_teach_what_trees_do_that_are_written() -> None:
    """The same candidates, features and verdicts."""
    for seed in range(20):
        paths, full = Paths(5, seed=seed), FullTrees(k=5, depth=3)
        grow(full, paths)
        assert full.last is not None
        text = [node % 5 for node in range(seed, seed + 4)]
        told = []
        for online in (True, False):
            policy = SurvivalTree(AtLeast(0.05), k=4, depth=2)
            policy.estimate = noted = Noted()
            if online:
                tree = grow(policy, paths)
                assert tree.learn is not None
                tree.learn(tree, text)
            else:
                replay(policy, _rows(full.last, text, 7), 1)
            [(prior, read, kept)] = noted.told
            told.append(sorted(np.column_stack([prior, read, kept]).tolist()))
        assert told[0] == [pytest.approx(row, abs=1e-3) for row in told[1]]


def point(policy: str, length: float, candidates: float) -> Point:
    return Point((policy, "x" if policy == OURS else "", candidates), length, candidates, [1.0], 1, 1)


def test_savings_are_at_equal_accepted_length() -> None:
    known = [point(EAGLE_2, 1.0, 2.0), point(EAGLE_2, 2.0, 6.0), point(EAGLE_2, 3.0, 20.0)]
    ours = [point(OURS, 0.5, 1.0), point(OURS, 1.5, 3.0), point(OURS, 2.5, 13.0), point(OURS, 3.5, 30.0)]
    sweep = Sweep({"pair": "p"}, [*known, *ours])
    assert [sweep.saving(one) for one in ours] == [None, pytest.approx(0.25), pytest.approx(0.0), None]
    nothing = Sweep({"pair": "p"}, [point(EAGLE_2, 0.0, 0.0), *known])
    assert nothing.saving(point(OURS, 0.0, 0.0)) is None
    assert sweep.middle(OURS, "x") == [pytest.approx(0.25), pytest.approx(0.0)]  # from 1.5 to 2.5


def test_two_models_or_none() -> None:
    assert [pair.name for pair in pairs_of(None, None)] == ["own-layers"]
    first, second = pairs_of("big,1.gguf", "small.gguf")
    assert first.draft == "small_model:model=[small.gguf]" and second.name == "own-layers"
    with pytest.raises(SystemExit, match="--target and --draft-model go together"):
        run.main(["--scale", "smoke", "--target", "x.gguf"])
