"""REPORT.md and its picture from results.jsonl and nothing else; what differs and why is in the template.

python -m experiments.c2t.report --scale hours --to experiments/c2t
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median

from matplotlib.figure import Figure

from experiments.c2t.evaluate import C2T_CHAIN, CHAIN, EAGLE_2, ONLINE, OURS, PLAIN
from experiments.c2t.pairs import ADAPTED, WORK
from experiments.c2t.scales import ALL, SCALES
from experiments.c2t.summary import Sweep, sweeps
from experiments.kit.markdown import bullets, runs_table, table
from experiments.kit.reports import filled, report_command, write_report
from experiments.kit.results import Results

TEMPLATE = Path(__file__).parent / "REPORT.template.md"
PICTURE = "frontiers.png"
OWN = "-".join(ALL)
LABELS = {EAGLE_2: "EAGLE-2's trees", OURS: "C2T's trees", CHAIN: "chains", C2T_CHAIN: "C2T's chains"}


def main() -> None:
    report_command(__doc__, SCALES, WORK, lambda folder, to, _: report(folder, to))


def report(folder: Path, to: Path) -> None:
    """The report on folder/results.jsonl, unless there is one that is newer."""
    write_report(folder, to, [TEMPLATE], lambda results: _text(results, to), run="experiments.c2t.run")


def _text(results: Results, to: Path) -> str:
    found = sweeps(results)
    _plot(to / PICTURE, found)
    return filled(
        TEMPLATE,
        {
            "findings": _findings(found),
            "runs": runs_table(results),
            "pairs": _pairs(found),
            "trees": "\n\n".join(_trees(one) for one in found),
            "online": _online(found),
            "ablation": _ablation(found),
            "chains": _chains(found),
        },
    )


def _findings(found: Sequence[Sweep]) -> str:
    points = [point for one in found for point in one.points if point.way[0] != PLAIN]
    said = [
        f"{sum(p.same for p in points)} of {sum(p.texts for p in points)} texts are those of plain decoding."
    ]
    for one in found:
        middle = one.middle(OURS, OWN)
        if middle:
            reach = f" ({_percent(min(middle))} to {_percent(max(middle))})" if len(middle) > 1 else ""
            said.append(
                f"`{one.name}`: at equal accepted length, in the middle of EAGLE-2's sweep, C2T drafts "
                f"{_percent(median(middle))} fewer tokens{reach}."
            )
        best = {
            policy: max(one.of(policy, OWN if policy == OURS else ""), key=lambda p: p.speed)
            for policy in (EAGLE_2, OURS)
        }
        said.append(
            f"`{one.name}`: the fastest tree has {best[OURS].speed:.2f} times plain decoding's speed with "
            f"C2T (beta {best[OURS].way[2]:g}) and {best[EAGLE_2].speed:.2f} times with EAGLE-2's rule "
            f"({best[EAGLE_2].way[2]:g} nodes)."
        )
        online = [one.saving(point, OURS, OWN) for point in one.of(ONLINE, "none")]
        if shares := [share for share in online if share is not None]:
            said.append(
                f"`{one.name}`: trees that learn while they write and start from no classifier draft "
                f"{_fewer(min(shares))} to {_fewer(max(shares))} tokens than C2T's at equal accepted length."
            )
    return bullets(said)


def _pairs(found: Sequence[Sweep]) -> str:
    lines = []
    for one in found:
        for name, training in one.pair["trainings"].items():
            judged = training["held_out"]
            lines.append(
                [
                    one.name, one.pair["model"], f"`{one.pair['draft']}`", name.replace("-", ", "),
                    f"{training['trees']:,}", f"{training['rows']:,}",
                    f"{judged['nats']:.4f}" if judged else "-",
                    *(f"{100 * judged[key]:.2f} %" if judged else "-" for key in ("recall", "positive")),
                ]
            )  # fmt: skip
    head = [
        "pair",
        "model",
        "drafter",
        "classifier",
        "trees",
        "nodes trained on",
        "nats",
        "recall",
        "positive",
    ]
    return table(head, lines)


def _trees(one: Sweep) -> str:
    lines = []
    for policy, classifier in [(EAGLE_2, ""), *((OURS, name) for name in (OWN,))]:
        for point in one.of(policy, classifier):
            saved = one.saving(point) if policy == OURS else None
            lines.append(
                [
                    LABELS[policy], f"{point.way[2]:g}", f"{point.length:.2f}", f"{point.candidates:.2f}",
                    "-" if saved is None else _percent(saved), f"{point.speed:.2f}",
                    f"{point.same} of {point.texts}",
                ]
            )  # fmt: skip
    head = [
        "trees",
        "size or beta",
        "accepted per call",
        "drafted per token",
        "fewer than EAGLE-2",
        "times plain",
        "same text",
    ]
    return f"`{one.name}`:\n\n{table(head, lines)}"


def _online(found: Sequence[Sweep]) -> str:
    lines = []
    for one in found:
        for prior in one.classifiers(ONLINE):
            for point in one.of(ONLINE, prior):
                saved = [one.saving(point), one.saving(point, OURS, OWN)]
                lines.append(
                    [
                        one.name, prior, f"{point.way[2]:g}", f"{point.length:.2f}",
                        f"{point.candidates:.2f}",
                        *("-" if share is None else _percent(share) for share in saved),
                        f"{point.speed:.2f}", f"{point.same} of {point.texts}",
                    ]
                )  # fmt: skip
    head = [
        "pair",
        "prior",
        "beta",
        "accepted per call",
        "drafted per token",
        "fewer than EAGLE-2",
        "fewer than C2T",
        "times plain",
        "same text",
    ]
    return table(head, lines)


def _ablation(found: Sequence[Sweep]) -> str:
    lines = []
    for one in found:
        for name in one.classifiers():
            middle = one.middle(OURS, name)
            reach = max((point.length for point in one.of(OURS, name)), default=0.0)
            said = name.replace("-", ", ") if name != ADAPTED else "adapted from the first pair's"
            lines.append([one.name, said, _percent(median(middle)) if middle else "-", f"{reach:.2f}"])
    return table(["pair", "classifier reads", "fewer than EAGLE-2, median", "longest accepted"], lines)


def _chains(found: Sequence[Sweep]) -> str:
    lines = []
    for one in found:
        for policy, classifier in ((CHAIN, ""), (C2T_CHAIN, OWN)):
            for point in one.of(policy, classifier):
                saved = one.saving(point, CHAIN) if policy == C2T_CHAIN else None
                lines.append(
                    [
                        one.name, LABELS[policy], f"{point.way[2]:g}", f"{point.length:.2f}",
                        f"{point.candidates:.2f}", "-" if saved is None else _percent(saved),
                        f"{point.speed:.2f}",
                    ]
                )  # fmt: skip
    head = [
        "pair",
        "chains",
        "length or beta",
        "accepted per call",
        "drafted per token",
        "fewer than chains",
        "times plain",
    ]
    return table(head, lines)


def _plot(path: Path, found: Sequence[Sweep]) -> None:
    figure = Figure(figsize=(5.2 * len(found), 4.2), layout="constrained")
    for axes, one in zip(figure.subplots(1, len(found), squeeze=False)[0], found, strict=True):
        for policy, label in LABELS.items():
            points = one.of(policy, OWN if policy in (OURS, C2T_CHAIN) else "")
            axes.plot([p.candidates for p in points], [p.length for p in points], marker="o", label=label)
        axes.set_xscale("log")
        axes.set_xlabel("drafted per token of text")
        axes.set_ylabel("accepted per call")
        axes.set_title(one.name, fontsize=10)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8)
    figure.savefig(path, dpi=120, metadata={"Software": None})


def _fewer(share: float) -> str:
    return f"{_percent(abs(share))} {'fewer' if share >= 0 else 'more'}"


def _percent(share: float) -> str:
    return f"{round(100 * share)} %"


if __name__ == "__main__":
    main()
