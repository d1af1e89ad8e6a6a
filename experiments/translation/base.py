"""Train the translation model that heads are put on, or with another seed the teacher that distils.

    python -m experiments.translation.base --work FOLDER --scale full
    python -m experiments.translation.base --work FOLDER --scale full --name teacher --seed 1

A run that was killed goes on from its last checkpoint, with the same result. The transformer of Vaswani et
al. 2017, arXiv:1706.03762, with tied embeddings and label smoothing; the learning rate warms up and falls as
a cosine within the minutes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from time import perf_counter
from typing import Any

import sacrebleu
import torch

from experiments.kit.trainings import announce, is_finished, measured_once, short_fingerprint
from experiments.translation import corpus
from experiments.translation.model import Batches, Examples, load_model, new_model, translate
from experiments.translation.pieces import MODEL, Pieces, train_pieces
from experiments.translation.prepare import WORK
from experiments.translation.scales import SCALES, Scale
from outpace.core.errors import OutpaceError
from outpace.progress import progress_bar
from outpace.train.allocator import keep_freed_memory
from outpace.train.checkpoint import Checkpoint
from outpace.train.loop import Loss, Plan, train
from outpace.train.precision import Precision, faster_precision, products_in

BASE, TEACHER, DISTILLED = "base", "teacher", "base-distilled"
LABEL_SMOOTHING = 0.1

LossOf = Callable[[int, torch.Generator], Loss]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--scale", default="session", choices=("full", "session"))
    parser.add_argument("--name", default=BASE, choices=(BASE, TEACHER))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, help="about how long to train, if not as the scale says")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--speed", action="store_true", help="measure 8 steps, and stop")
    args = parser.parse_args()
    keep_freed_memory()
    if args.threads:
        torch.set_num_threads(args.threads)
    scale, folder = SCALES[args.scale], args.work / args.scale
    try:
        if args.speed:
            print_speed(args.work, folder, scale, device=args.device)
            return
        minutes = args.minutes or (scale.base_minutes if args.name == BASE else scale.teacher_minutes)
        train_base(args.work, folder, scale, args.name, minutes=minutes, seed=args.seed, device=args.device)
    except (OutpaceError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def train_bases(
    corpus_folder: Path, folder: Path, scale: Scale, *, seed: int = 0, device: str = "cpu"
) -> None:
    """The base and, where there is one, the teacher, into the folder of a scale."""
    train_base(corpus_folder, folder, scale, BASE, minutes=scale.base_minutes, seed=seed, device=device)
    if scale.teacher_minutes:
        train_base(
            corpus_folder, folder, scale, TEACHER, minutes=scale.teacher_minutes, seed=seed + 1, device=device
        )


def train_base(
    corpus_folder: Path,
    folder: Path,
    scale: Scale,
    name: str,
    *,
    minutes: float,
    distilled: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> None:
    """Train a model into folder/name and note BLEU on the dev set in its run.json; done already: nothing.

    distilled  segments to train on in place of train.tsv. The base is gone on with then, at half the rate: a
               second one from nothing would take the time of the first to be as good.
    """
    where, path = folder / name, distilled or corpus_folder / "train.tsv"
    data = corpus.fingerprint(path) if path.exists() else "none"
    if is_finished(where, data=data, seed=seed):
        return
    segments = corpus.read(path)
    pieces = open_pieces(corpus_folder, folder / MODEL, scale.num_pieces)
    examples = Examples.of(segments, pieces)
    batches = examples.batches(scale.tokens, seed)

    def new() -> Any:
        return (load_model(folder / BASE) if distilled else new_model(pieces, scale.size, seed)).to(device)

    pace = measured_once(where, lambda: _pace(new(), batches, minutes, scale, distilled is None))
    lr = scale.lr if distilled is None else scale.lr / 2
    settings = {
        "data": data, "seed": seed, "tokens": scale.tokens, "lr": lr, "device": device, **pace,
        "size": asdict(scale.size), "num_pieces": pieces.num_ids,
        "start": short_fingerprint(new()) if distilled else None,
    }  # fmt: skip
    checkpoint = Checkpoint(where, settings)
    model = new().train()
    plan = Plan(int(pace["steps"]), lr, seed=seed, checkpoint_s=180.0)
    announce(name, plan.steps, 0 if scale.steps else minutes)
    with progress_bar() as progress:
        train([model], smoothed_loss(model, batches, pace["precision"]), plan, checkpoint, progress=progress)
    model.eval().save_pretrained(where)
    pieces.save(where)
    dev = corpus.read(corpus_folder / "dev.tsv")
    outputs = translate(load_model(where, device), pieces, [one.source for one in dev])
    bleu = sacrebleu.corpus_bleu(outputs, [[one.target for one in dev]])
    passes = plan.steps * scale.tokens / sum(map(len, examples.targets))
    checkpoint.note(dev_bleu=round(bleu.score, 2), passes=round(passes, 2), finished=True)
    checkpoint.done()
    print(f"{name}: dev BLEU {bleu.score:.2f}, {passes:.1f} passes over the data", flush=True)


def open_pieces(corpus_folder: Path, path: Path, num_pieces: int) -> Pieces:
    """The vocabulary at `path`, made from the training segments where there is none."""
    if path.exists():
        return Pieces(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    segments = corpus.read(corpus_folder / "train.tsv")
    texts = [text for one in segments for text in (one.source, one.target)]
    return train_pieces(texts, path, num_pieces=num_pieces)


def smoothed_loss(model: Any, batches: Batches, precision: Precision) -> LossOf:
    """Cross-entropy with label smoothing of every target token of a step's batch."""
    device = model.device

    def loss(step: int, random: torch.Generator) -> Loss:
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=random)))  # of dropout
        batch = {name: value.to(device) for name, value in batches(step).items()}
        labels = batch["labels"]
        tokens = labels.masked_fill(labels < 0, model.config.pad_token_id)
        start = torch.full_like(tokens[:, :1], model.config.decoder_start_token_id)
        with products_in(precision, device):
            states = model.model(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                decoder_input_ids=torch.cat([start, tokens[:, :-1]], dim=1),
                use_cache=False,
            ).last_hidden_state
            logits = model.lm_head(states[labels >= 0]) + model.final_logits_bias
        wanted = labels[labels >= 0]
        value = torch.nn.functional.cross_entropy(logits.float(), wanted, label_smoothing=LABEL_SMOOTHING)
        return Loss(value, len(wanted))

    return loss


def tokens_per_second(
    model: Any, batches: Batches, precision: Precision, *, num_steps: int
) -> tuple[float, float]:
    """(target tokens, steps) a second in training; the weights stay as they are."""
    loss = smoothed_loss(model.train(), batches, precision)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0)
    tokens, began = 0, 0.0
    for step in range(num_steps + 1):
        if step == 1:  # the first one allocates
            began = perf_counter()
        one = loss(step, torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        one.value.backward()
        optimizer.step()
        float(one.value.detach())  # wait for the device
        tokens += one.num_tokens if step else 0
    seconds = perf_counter() - began
    return tokens / seconds, num_steps / seconds


def print_speed(corpus_folder: Path, folder: Path, scale: Scale, *, device: str) -> None:
    """Target tokens per second of a scale's model in training."""
    pieces = open_pieces(corpus_folder, folder / MODEL, scale.num_pieces)
    examples = Examples.of(corpus.read(corpus_folder / "train.tsv"), pieces)
    mean = [sum(map(len, rows)) / len(rows) for rows in (examples.sources, examples.targets)]
    print(f"{len(examples.sources)} examples, pieces: {mean[0]:.1f} source, {mean[1]:.1f} target on average")
    model = new_model(pieces, scale.size, 0).to(device)
    num_weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    precision = faster_precision(device)
    speed, steps = tokens_per_second(model, examples.batches(scale.tokens, 0), precision, num_steps=8)
    print(
        f"{num_weights / 1e6:.1f} M weights, {precision}: {speed:.0f} target tokens/s, {1 / steps:.2f} s a "
        f"step, {torch.get_num_threads()} threads"
    )


def _pace(model: Any, batches: Batches, minutes: float, scale: Scale, is_first: bool) -> dict[str, Any]:
    """The precision, and the number of steps that fit into the minutes."""
    precision = faster_precision(model.device)
    steps = scale.base_steps if is_first else scale.steps
    if steps is None:
        _, per_second = tokens_per_second(model, batches, precision, num_steps=8)
        steps = max(1, round(per_second * minutes * 60))
    return {"precision": precision, "steps": steps}


if __name__ == "__main__":
    main()
