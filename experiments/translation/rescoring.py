"""N-grams that mend drafts (Kim et al. 2024, arXiv:2404.09221): counted on targets, weighed on dev."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.kit.heads import Training
from experiments.kit.results import Results
from experiments.kit.subjects import Setting
from experiments.translation import corpus
from experiments.translation.decoding import Ids, as_named, in_batches
from experiments.translation.heads import examples_of, trainings
from experiments.translation.model import load_model
from experiments.translation.pieces import MODEL, Pieces
from experiments.translation.scales import Scale
from experiments.translation.settings import LATTICE, TREE, ngrams_file, options_of, rescored
from outpace.files.backoff import write_backoff


def rescored_settings(
    results: Results, corpus_folder: Path, folder: Path, scale: Scale, device: str
) -> list[Setting]:
    """Trees of the likeliest paths with and without n-grams, at the weight that does best on dev."""
    write_tables(corpus_folder, folder, scale)
    dev = [one.source for one in corpus.read(corpus_folder / "dev.tsv")[: scale.tuned]]
    pieces = Pieces(folder / MODEL)
    sources = pieces.encode(dev)
    found = []
    for training in rescored(scale):
        _weigh(results, training, folder, scale, sources, pieces.pad_id, device)
        tried = results.of("alpha", regime=training.regime, data=training.data)
        best = max(tried, key=lambda record: record["tokens"] / record["calls"])["alpha"]
        found.append(Setting(training, training.num_heads, TREE))
        found.append(Setting(training, training.num_heads, LATTICE, alpha=best))
    return found


def write_tables(corpus_folder: Path, folder: Path, scale: Scale) -> None:
    """A back-off table of each kind of targets; what is there already stays."""
    pieces = Pieces(folder / MODEL)
    for training in trainings(scale):
        path = ngrams_file(folder, training.data)
        if not path.exists():
            targets = examples_of(training, corpus_folder, folder, scale).targets
            begun = ([pieces.pad_id, *target] for target in targets)  # as the decoder begins
            write_backoff(path, begun, vocabulary=f"{pieces.num_ids} ids")


def _weigh(
    results: Results,
    training: Training,
    folder: Path,
    scale: Scale,
    sources: Sequence[Ids],
    pad_id: int,
    device: str,
) -> None:
    """Records of kind "alpha" for the weights that have none."""
    kind = {"regime": training.regime, "data": training.data}
    missing = [alpha for alpha in scale.alphas if not results.of("alpha", **kind, alpha=alpha)]
    if not missing:
        return
    model = load_model(training.model(folder), device)
    for alpha in missing:
        setting = Setting(training, training.num_heads, LATTICE, alpha=alpha)
        written = in_batches(as_named(model, **options_of(setting, folder)), sources, pad_id)
        tokens = sum(len(one.token_ids) for one in written)
        calls = sum(one.stats.target_calls + 1 for one in written)
        results.add({"kind": "alpha", **kind, "alpha": alpha, "tokens": tokens, "calls": calls})
