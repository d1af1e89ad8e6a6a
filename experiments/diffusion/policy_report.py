"""What the report says of the policy: the fields of policy.template.md, and its figure."""

from __future__ import annotations

from pathlib import Path
from statistics import mean, median

import numpy as np

from experiments.diffusion import tables
from experiments.diffusion.policy_evaluate import BARE, ddim_name
from experiments.diffusion.policy_train import POLICY
from experiments.diffusion.scales import Scale
from experiments.diffusion.sections import Fields, common_fields
from experiments.diffusion.settings import Chain, Setting
from experiments.diffusion.tables import Found
from experiments.kit.markdown import spread, table
from experiments.kit.plots import plot_acceptance
from experiments.kit.results import Record, Results

RESAMPLES = 10_000
COVERED = 0.95  # by the bootstrap's intervals


def policy_found(results: Results, scale: Scale) -> Found:
    """What was measured of the policy."""
    return Found(results, scale.policy.sweep, [POLICY])


def policy_section(found: Found, to: Path, scale: Scale) -> Fields:
    """Fields of policy.template.md."""
    plot_acceptance(to / "policy.png", {POLICY: tables.acceptance_of(found, POLICY, found.sweep.window)})
    (model,) = found.results.of("model", model=POLICY)
    return {
        **common_fields(found),
        "tried": str(model["tried"]),
        "kept": str(model["kept"]),
        "mean_length": f"{model['mean_length']:.0f}",
        "parameters": f"{model['parameters']:,}",
        "steps": f"{model['trainings'][POLICY]['steps']:,}",
        "minutes": f"{model['trainings'][POLICY]['minutes']:.1f}",
        "passes": f"{model['passes']:g}",
        "episodes": _episodes_table(found),
        "quality": _quality_text(found),
        "bare": BARE,
        "decisions": _decisions_table(found, scale.policy.ddim),
        "against_bare": _against_bare(found),
    }


def interval_of(mine: list[float], others: list[float]) -> tuple[float, float, float]:
    """(mean difference of paired numbers, and the ends of its bootstrap interval)."""
    differences = np.asarray(mine, float) - np.asarray(others, float)
    random = np.random.default_rng(0)
    means = differences[random.integers(len(differences), size=(RESAMPLES, len(differences)))].mean(1)
    low, high = np.quantile(means, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return float(differences.mean()), float(low), float(high)


def _episodes_table(found: Found) -> str:
    """A line for each way to decide."""
    lines = []
    for record in found.results.of("episodes", subject=POLICY):
        plain = _plain(found, record)
        name = f"`{record['draft']}`" if record.get("window") else record["draft"] or "plain"
        less = interval_of(record["reward"], plain["reward"])
        lines.append(
            [
                str(record["steps"]),
                f"{record['churn']:g}",
                name + (", again" if record.get("again") else ""),
                record.get("window") or "-",
                f"{mean(record['success']):.0%}",
                f"{mean(record['reward']):.3f}",
                "-" if record is plain else _interval(*less),
                f"{_per_decision(record, 'calls'):.1f}",
                f"{_per_decision(record, 'evaluations'):.1f}",
                f"{_fewer(record, plain):.2f}",
            ]
        )
    head = [
        "steps", "churn", "draft", "window", "success", "reward", "less plain's", "calls a decision",
        "evaluations a decision", "times fewer calls",
    ]  # fmt: skip
    return table(head, lines)


def _quality_text(found: Found) -> str:
    """Whether the rewards of drafted sampling are plain sampling's, as far as the episodes can tell."""
    drafted = [one for one in found.results.of("episodes", subject=POLICY) if one.get("window")]
    intervals = [interval_of(one["reward"], _plain(found, one)["reward"]) for one in drafted]
    outside = [one for one, (_, low, high) in zip(drafted, intervals, strict=True) if low > 0 or high < 0]
    text = (
        f"Of {len(drafted)} settings, the interval of the difference in reward holds 0 in "
        f"{len(drafted) - len(outside)}; where there is no difference, one such interval in "
        f"{1 / (1 - COVERED):.0f} misses it."
    )
    stale = Setting(found.sweep.base, "stale", found.sweep.window)
    for record in found.results.of("episodes", subject=POLICY, **stale.record):
        plain = _plain(found, record)
        difference = _interval(*interval_of(record["reward"], plain["reward"]))
        text += (
            f" `stale` with window {stale.window} plays {len(plain['reward'])} episodes with "
            f"{_fewer(record, plain):.2f} times fewer sequential calls a decision, and its reward less "
            f"plain's is {difference}."
        )
    return text


def _decisions_table(found: Found, ddim: tuple[int, ...]) -> str:
    """Milliseconds of a single decision, as medians."""
    times = found.results.of("time", subject=POLICY)
    plain = median(one["plain_wall_s"] for one in times)
    lines = [["plain", "-", f"{1e3 * plain:.2f}", "1"]]
    settings = [one for one in found.sweep.settings() if one.chain == found.sweep.base]
    ways: list[tuple[str, str, Record]] = [(f"`{one.draft}`", one.window, one.record) for one in settings]
    ways += [(name, "-", {"draft": name}) for name in (BARE, *map(ddim_name, ddim))]
    for name, window, values in ways:
        some = [one for one in times if all(one.get(key) == value for key, value in values.items())]
        ratios = [one["plain_wall_s"] / one["wall_s"] for one in some]
        lines.append([name, window, f"{1e3 * median(one['wall_s'] for one in some):.2f}", spread(ratios)])
    return table(["draft", "window", "ms", "times plain's speed"], lines)


def _against_bare(found: Found) -> str:
    """Whether drafts are faster than the plain chain in a loop of its own."""
    walls: dict[tuple[str, str | None], list[float]] = {}
    for record in found.results.of("time", subject=POLICY):
        walls.setdefault((record["draft"], record["window"]), []).append(record["wall_s"])
    bare = median(walls[BARE, None])
    drafted = {way: median(some) for way, some in walls.items() if way[1] is not None}
    (draft, window), best = min(drafted.items(), key=lambda pair: pair[1])
    faster = sum(wall < bare for wall in drafted.values())
    return (
        f"Of {len(drafted)} settings, {faster} decide sooner than the bare loop. The fastest is `{draft}` "
        f"with window {window}, with {bare / best:.2f} times the bare loop's speed."
    )


def _plain(found: Found, record: Record) -> Record:
    """Plain sampling's episodes of the same chain, the first time."""
    chain = Chain(record["process"], record["steps"], record["churn"])
    return found.results.of("episodes", subject=POLICY, draft=None, again=False, **chain.record)[0]


def _per_decision(record: Record, what: str) -> float:
    return sum(record[what]) / sum(record["decisions"])


def _fewer(record: Record, plain: Record) -> float:
    return _per_decision(plain, "calls") / _per_decision(record, "calls")


def _interval(value: float, low: float, high: float) -> str:
    return f"{value:+.3f} ({low:+.3f} to {high:+.3f})"
