"""What each tree policy drafts and what is kept of it: every prompt is gone on with in all ways, in turns.

kind "run"    a command that measured: hardware, versions, date
kind "pair"   a target and a drafter, and how each classifier does on trees held out
kind "text"   a text of a pair by a policy: tokens, calls, drafted, accepted, seconds, and whether it is that
              of plain decoding

A way is a list: the policy, the classifier ("" for none) or what trees that learn begin with, and its number
(size, beta, or length).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.c2t.pairs import ADAPTED, ROWS, Pair, classifier_of
from experiments.c2t.replay import replay
from experiments.c2t.scales import ALL, Scale
from experiments.kit.results import RESULTS, Record, Results, run_record
from outpace.bench.prompts import Prompt as Asked
from outpace.core.call import Prompt
from outpace.core.contracts import Drafter, Growth, Learning, TreePolicy
from outpace.core.steps import Candidates
from outpace.core.traits import Traits
from outpace.core.tree import TokenTree
from outpace.heads.c2t import Classifier, read_c2t
from outpace.models.text import Model
from outpace.pricing.worth import AtLeast
from outpace.progress import progress_bar
from outpace.train.c2t import Rows, read_rows
from outpace.train.checkpoint import RUN
from outpace.trees.c2t import C2T
from outpace.trees.chain import Chain
from outpace.trees.dynamic import Dynamic
from outpace.trees.survival import SurvivalTree, neutral, trained

PLAIN, EAGLE_2, OURS, CHAIN, C2T_CHAIN, ONLINE = "plain", "dynamic", "c2t", "chain", "c2t chain", "survival"
NEUTRAL, TRAINED, COLD = "none", "c2t", "none, cold"  # priors of trees that learn; cold: no steps before
ELSEWHERE = "elsewhere"  # the other pair's classifier, as it is
Way = tuple[str, str, float]


class Switched:
    """A tree policy that is another one each time: one drafter, with one draft model, serves them all."""

    traits = Traits(keeps_draw=False)

    def __init__(self, policy: TreePolicy) -> None:
        self.policy = policy

    def begin(self) -> Growth:
        """By the policy now; the policy goes on learning when its turn comes again."""
        return self.policy.begin() if isinstance(self.policy, Learning) else Untaught(self.policy)

    @property
    def width(self) -> int:
        """Of the policy now."""
        return self.policy.width

    def expand(self, tree: TokenTree) -> Sequence[int]:
        """As the policy now."""
        return self.policy.expand(tree)

    def grow(self, tree: TokenTree, candidates: Candidates) -> TokenTree:
        """As the policy now."""
        return self.policy.grow(tree, candidates)

    def prune(self, tree: TokenTree, budget: int) -> TokenTree:
        """As the policy now."""
        return self.policy.prune(tree, budget)


class Untaught(Switched):
    """One tree of a policy that learns nothing."""

    def learn(self, scored: TokenTree, tokens: Sequence[int]) -> None:
        """There is nobody to tell."""


def evaluate(
    folder: Path, pairs: Sequence[Pair], asked: Sequence[Asked], scale: Scale, *, command: str
) -> None:
    """Bring folder/results.jsonl to the whole of a scale."""
    results = Results(folder / RESULTS, run_record(command, "cpu"))
    for number, pair in enumerate(pairs):
        classifiers = _classifiers(folder, pairs, number, scale)
        policies = ways_of(classifiers, scale) | learning_ways(
            classifiers[_name(ALL)], read_rows(folder / pair.name / ROWS), scale
        )
        if not results.of("pair", pair=pair.name):
            results.add({"kind": "pair", "pair": pair.name} | _facts(folder, pair, classifiers))
        missing = [
            (place, one)
            for place, one in enumerate(asked)
            if len(results.of("text", pair=pair.name, number=place)) < 1 + len(policies)
        ]
        if missing:
            with pair.load() as model:
                _texts(results, pair, model, missing, policies, scale)


def ways_of(classifiers: dict[str, Classifier], scale: Scale) -> dict[Way, TreePolicy]:
    """All that is compared, but for plain decoding."""
    k, depth = scale.k, scale.depth
    ways: dict[Way, TreePolicy] = {
        (EAGLE_2, "", size): Dynamic(size=size, k=k, depth=depth) for size in scale.sizes
    }
    for name, one in classifiers.items():
        betas = scale.betas if name == _name(ALL) else scale.few
        ways |= {(OURS, name, beta): C2T(one, beta=beta, k=k, depth=depth) for beta in betas}
    ways |= {(CHAIN, "", length): Chain(length=length) for length in scale.lengths}
    own = classifiers[_name(ALL)]
    return ways | {(C2T_CHAIN, _name(ALL), beta): C2T(own, beta=beta, k=1, depth=depth) for beta in scale.few}


def learning_ways(classifier: Classifier, rows: Rows, scale: Scale) -> dict[Way, TreePolicy]:
    """Trees that learn while they write, and what the trees recorded for training have taught them."""
    ways: dict[Way, TreePolicy] = {}
    for name, prior in ((NEUTRAL, neutral), (TRAINED, trained(classifier))):
        for beta in scale.online:
            policy = SurvivalTree(AtLeast(beta), prior, k=scale.k, depth=scale.depth)
            replay(policy, rows, scale.warm)
            ways[ONLINE, name, beta] = policy
    cold = scale.online[0]
    return ways | {(ONLINE, COLD, cold): SurvivalTree(AtLeast(cold), k=scale.k, depth=scale.depth)}


def _classifiers(folder: Path, pairs: Sequence[Pair], number: int, scale: Scale) -> dict[str, Classifier]:
    where = folder / pairs[number].name
    paths = {_name(features): classifier_of(where, features) for features in (ALL, *scale.ablation)}
    if number:
        paths |= {ADAPTED: where / ADAPTED, ELSEWHERE: classifier_of(folder / pairs[0].name, ALL)}
    return {name: read_c2t(path) for name, path in paths.items()}


def _facts(folder: Path, pair: Pair, classifiers: dict[str, Classifier]) -> Record:
    runs = {path.parent.name: json.loads(path.read_text()) for path in (folder / pair.name).glob(f"*/{RUN}")}
    some = next(iter(classifiers.values()))
    return {
        "model": some.config.model,
        "draft": pair.drafter,
        "trainings": {
            name: {key: run[key] for key in ("trees", "rows", "held_out")} for name, run in runs.items()
        },
    }


def _texts(
    results: Results,
    pair: Pair,
    model: Model,
    asked: Sequence[tuple[int, Asked]],
    policies: dict[Way, TreePolicy],
    scale: Scale,
) -> None:
    switch = Switched(Chain())
    drafter = model.new_drafter(pair.draft, tree=switch)
    with progress_bar() as progress:
        for done, (number, one) in enumerate(asked):
            prompt = Prompt(model.prompt_ids(one.text))
            plain = _write(model, None, prompt, scale)
            where = {"kind": "text", "pair": pair.name, "number": number, "category": one.category}
            records = [{**where, "way": [PLAIN, "", 0], **plain, "same": True}]
            for way, policy in policies.items():
                switch.policy = policy
                if progress is not None:
                    progress(done, len(asked), " ".join(map(str, way)))
                made = _write(model, drafter, prompt, scale)
                records.append({**where, "way": [*way], **made, "same": made["text"] == plain["text"]})
            for record in records:
                del record["text"]
            results.add(*records)


def _write(model: Model, drafter: Drafter | None, prompt: Prompt, scale: Scale) -> dict[str, Any]:
    made = model.generate(prompt, draft=drafter, max_tokens=scale.tokens)
    assert not isinstance(made, list), "one text of one prompt"
    stats = made.stats
    return {
        "text": made.token_ids,
        "tokens": stats.completion_tokens,
        "calls": stats.target_calls,
        "drafted": stats.num_drafted,
        "accepted": stats.num_accepted,
        "seconds": round(stats.wall_s - stats.prompt_s, 5),
        "draft_s": round(stats.draft_s, 5),
    }


def _name(features: Sequence[str]) -> str:
    return "-".join(features)
