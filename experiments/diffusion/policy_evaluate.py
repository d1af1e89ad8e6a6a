"""Part (c): what drafts are worth to a diffusion policy, decision by decision and in whole episodes.

Sequences of actions for held-out observations are sampled by the sweep of `measure.py`, their laws compared
given the observation. Then the policy plays: with plain sampling, twice at the base, with every setting, and
with DDIM, always from the same first observations.

kind "model"     the policy: its training
kind "control"   DDIM's sequences, whose law is another one
kind "time"      those of the sweep; also DDIM and the bare loop, of that name as "draft"
kind "episodes"  "reward", "success", "length", "decisions", "calls", "evaluations": lists, a number for
                 each episode. "draft" is null for plain sampling, whose second time is "again"
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from experiments.diffusion.measure import CONTROL_SEED, PLAIN_SEEDS, TIMED_SEED, Measure, draw
from experiments.diffusion.policy_demos import HORIZON
from experiments.diffusion.policy_episodes import Decide, play
from experiments.diffusion.policy_model import Policy, policy_chain
from experiments.diffusion.policy_peers import bare_loop
from experiments.diffusion.policy_subject import GivenObservation, PolicySubject, held_out_pairs
from experiments.diffusion.policy_task import MOST_STEPS
from experiments.diffusion.policy_train import POLICY
from experiments.diffusion.scales import PolicyScale
from experiments.diffusion.settings import Setting, make_window
from experiments.diffusion.two_sample import ALARM_RATE, permutations_for
from experiments.kit.results import Record, Results
from experiments.kit.trainings import duration_of, short_fingerprint
from outpace.diffusion import Samples, sample
from outpace.diffusion.names import make_draft
from outpace.files.json_files import json_file
from outpace.progress import Progress
from outpace.train.checkpoint import RUN

PLAYED = 2_000_000  # first seed
BARE = "bare loop"


def measure_policy(folder: Path, results: Results, scale: PolicyScale, progress: Progress | None) -> None:
    """All that is missing."""
    policy = Policy.open(folder / POLICY)
    fingerprint = short_fingerprint(policy)
    if not results.knows(POLICY, fingerprint):
        results.add(
            {
                "kind": "model",
                "model": POLICY,
                "fingerprint": fingerprint,
                "parameters": sum(parameter.numel() for parameter in policy.parameters()),
                "trainings": {POLICY: duration_of(folder / POLICY)},
                **json_file(folder / POLICY / RUN)["demonstrations"],
            }
        )
    subject = PolicySubject(policy, held_out_pairs(scale.observations))
    judge = GivenObservation(scale.observations, permutations_for(len(scale.sweep.settings()), ALARM_RATE))
    num = scale.observations * scale.repeats
    measure = Measure(subject, scale.sweep, judge, results, num, scale.timed, progress)
    peers = _Peers(policy, subject, results, scale)
    peers.compare(judge, num)
    peers.time()
    _Games(policy, measure.price(), results, scale, progress).all()
    measure.all()  # last, which says to the report that all is there


@dataclass(slots=True)
class _Peers:
    """DDIM and the bare loop, decision by decision."""

    policy: Policy
    subject: PolicySubject
    results: Results
    scale: PolicyScale

    def compare(self, judge: GivenObservation, num: int) -> None:
        """DDIM's law with that of plain sampling: records of kind "control"."""
        base = self.scale.sweep.base
        missing = [one for one in self.scale.ddim if not self._known("control", ddim_name(one))]
        if not missing:
            return
        both = torch.cat([draw(self.subject, base, num, seed).samples for seed in PLAIN_SEEDS])
        told = self.subject.conditions(num, 0)
        for steps in missing:
            drawn = bare_loop(self.policy, told, steps, seed=CONTROL_SEED + steps)
            record = {"kind": "control", "subject": POLICY, **base.record, "draft": ddim_name(steps)}
            self.results.add({**record, "num": num, **judge.of(drawn.samples, both)})

    def time(self) -> None:
        """Single decisions, each beside plain sampling: records of kind "time"."""
        base = self.scale.sweep.base
        ways = [(ddim_name(steps), steps, 0.0) for steps in self.scale.ddim] + [(BARE, base.steps, 1.0)]
        for seed in range(TIMED_SEED, TIMED_SEED + self.scale.timed):
            told = self.subject.conditions(1, seed)
            for name, steps, eta in ways:
                if not self._known("time", name, seed=seed):
                    plain = draw(self.subject, base, 1, seed).stats.wall_s
                    wall = bare_loop(self.policy, told, steps, eta=eta, seed=seed).stats.wall_s
                    walls = {"wall_s": round(wall, 5), "plain_wall_s": round(plain, 5)}
                    record = {**base.record, "draft": name, "window": None, "seed": seed, **walls}
                    self.results.add({"kind": "time", "subject": POLICY, **record})

    def _known(self, kind: str, draft: str, **values: int) -> bool:
        return bool(self.results.of(kind, subject=POLICY, draft=draft, **values))


@dataclass(slots=True)
class _Games:
    """Episodes: records of their kind."""

    policy: Policy
    price: float
    results: Results
    scale: PolicyScale
    progress: Progress | None

    def all(self) -> None:
        """Every way to decide that has not played yet."""
        ways = list(self._ways())
        for number, (record, decide) in enumerate(ways):
            if self.results.of("episodes", subject=POLICY, **record):
                continue
            if self.progress is not None:
                self.progress(number, len(ways), f"{POLICY}: episodes, {record['draft'] or 'plain'}")
            played = play(self.policy, range(PLAYED, PLAYED + self.scale.episodes), decide)
            columns = ("reward", "success", "length", "decisions", "calls", "evaluations")
            lists = {name: [getattr(one, name) for one in played] for name in columns}
            self.results.add({"kind": "episodes", "subject": POLICY, **record, **lists})

    def _ways(self) -> Iterator[tuple[Record, Decide]]:
        """How to decide, and its record."""
        base, settings = self.scale.sweep.base, self.scale.sweep.settings()
        for chain in dict.fromkeys((base, *(one.chain for one in settings))):
            for again in (False, True) if chain == base else (False,):
                record = {**chain.record, "draft": None, "again": again}
                yield record, self._sampled(record, Setting(chain, "none", "1"))
        for setting in settings:
            yield setting.record, self._sampled(setting.record, setting)
        for steps in self.scale.ddim:
            record = {**base.record, "draft": ddim_name(steps)}
            yield record, self._ddim(record, steps)

    def _sampled(self, record: Record, setting: Setting) -> Decide:
        draft, window = make_draft(setting.draft), make_window(setting.window, self.price)
        process = policy_chain(setting.chain.steps, churn=setting.chain.churn)

        def decide(conditions: torch.Tensor, number: int) -> Samples:
            return sample(
                self.policy, process, (HORIZON, 2), len(conditions), draft=draft, window=window,
                seed=_seed(record, number), conditions=conditions,
            )  # fmt: skip

        return decide

    def _ddim(self, record: Record, steps: int) -> Decide:
        return lambda told, number: bare_loop(self.policy, told, steps, seed=_seed(record, number))


def ddim_name(steps: int) -> str:
    """As records have it."""
    return f"ddim, {steps} steps"


def _seed(record: Record, number: int) -> int:
    """Of a decision: every way to decide has noise of its own."""
    return zlib.crc32(repr(record).encode()) * MOST_STEPS + number
