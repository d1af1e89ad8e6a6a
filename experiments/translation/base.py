"""Train the translation model that heads are put on, or with another seed the teacher that distils.

    python -m experiments.translation.base --work FOLDER --minutes 60
    python -m experiments.translation.base --work FOLDER --minutes 60 --name teacher --seed 1

A run that was killed goes on from its last checkpoint, with the same result. The transformer of Vaswani et
al. 2017, arXiv:1706.03762, with tied embeddings and label smoothing; the learning rate warms up and falls as
a cosine within the minutes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from time import perf_counter
from typing import Any

import sacrebleu
import torch

from experiments.translation import corpus
from experiments.translation.model import Batches, Examples, Size, load_model, new_model, translate
from experiments.translation.pieces import MODEL, Pieces, train_pieces
from experiments.translation.prepare import WORK
from outpace.cli.render import progress_bar
from outpace.core.errors import OutpaceError
from outpace.train.checkpoint import Checkpoint
from outpace.train.loop import Loss, Plan, train

NUM_PIECES = 8000
LABEL_SMOOTHING = 0.1
PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}

LossOf = Callable[[int, torch.Generator], Loss]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--name", default="base", help="the folder in --work that the model goes to")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=60.0, help="about how long to train")
    parser.add_argument("--tokens", type=int, default=2048, help="target tokens in a batch")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--speed", action="store_true", help="measure 8 steps, and stop")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        if args.speed:
            print_speed(args.work, device=args.device, tokens=args.tokens)
            return
        train_base(
            args.work, args.name, seed=args.seed, minutes=args.minutes, tokens=args.tokens, lr=args.lr,
            device=args.device,
        )  # fmt: skip
    except (OutpaceError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


def train_base(
    work: Path,
    name: str,
    *,
    seed: int = 0,
    minutes: float = 60.0,
    steps: int | None = None,
    tokens: int = 2048,
    lr: float = 1e-3,
    device: str = "cpu",
    size: Size | None = None,
    num_pieces: int = NUM_PIECES,
) -> None:
    """Train a model into work/name and note BLEU on the dev set in its run.json; done already: nothing.

    steps  how long to train, in place of minutes.
    """
    folder, size = work / name, size or Size()
    data = corpus.fingerprint(work / "train.tsv") if (work / "train.tsv").exists() else "none"
    if _is_finished(folder, data):
        return
    segments = corpus.read(work / "train.tsv")
    pieces = open_pieces(work, segments, num_pieces)
    examples = Examples.of(segments, pieces)
    batches = examples.batches(tokens, seed)
    model = new_model(pieces, size, seed).to(device)
    pace = _pace(folder, model, batches, minutes, steps)
    settings = {
        "data": data, "seed": seed, "tokens": tokens, "lr": lr, "device": device, **pace,
        "size": {field: getattr(size, field) for field in size.__slots__}, "num_pieces": pieces.num_ids,
    }  # fmt: skip
    checkpoint = Checkpoint(folder, settings)
    # Measuring the pace has moved what follows from the seed.
    model = new_model(pieces, size, seed).to(device).train()
    plan = Plan(int(pace["steps"]), lr, seed=seed, checkpoint_s=180.0)
    with progress_bar() as progress:
        train([model], smoothed_loss(model, batches, pace["precision"]), plan, checkpoint, progress=progress)
    model.eval().save_pretrained(folder)
    pieces.save(folder)
    dev = corpus.read(work / "dev.tsv")
    outputs = translate(load_model(folder, device), pieces, [one.source for one in dev])
    bleu = sacrebleu.corpus_bleu(outputs, [[one.target for one in dev]])
    passes = plan.steps * tokens / sum(map(len, examples.targets))
    checkpoint.note(dev_bleu=round(bleu.score, 2), passes=round(passes, 2), finished=True)
    checkpoint.done()
    print(f"{name}: dev BLEU {bleu.score:.2f} after {plan.steps} steps, {passes:.1f} passes over the data")


def open_pieces(work: Path, segments: list[corpus.Segment], num_pieces: int) -> Pieces:
    """The vocabulary in the work folder, made from the training segments where there is none."""
    path = work / MODEL
    if path.exists():
        return Pieces(path)
    texts = [text for one in segments for text in (one.source, one.target)]
    return train_pieces(texts, path, num_pieces=num_pieces)


def smoothed_loss(model: Any, batches: Batches, precision: str) -> LossOf:
    """Cross-entropy with label smoothing of every target token of a step's batch."""
    device = model.device

    def loss(step: int, random: torch.Generator) -> Loss:
        torch.manual_seed(int(torch.randint(2**62, (1,), generator=random)))  # of dropout
        batch = {name: value.to(device) for name, value in batches(step).items()}
        labels = batch["labels"]
        tokens = labels.masked_fill(labels < 0, model.config.pad_token_id)
        start = torch.full_like(tokens[:, :1], model.config.decoder_start_token_id)
        low = PRECISIONS[precision] != torch.float32
        with torch.autocast(device.type, PRECISIONS[precision]) if low else nullcontext():
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


def faster_precision(device: torch.device | str) -> str:
    """Of matrix products on this machine; bfloat16 has to be clearly faster to be worth its casts."""
    seconds = {}
    for name, dtype in PRECISIONS.items():
        matrix = torch.ones(1024, 1024, device=device, dtype=dtype)
        times = []
        for _ in range(5):
            began = perf_counter()
            float((matrix @ matrix)[0, 0])  # wait for the device
            times.append(perf_counter() - began)
        seconds[name] = min(times)
    return "bfloat16" if 1.5 * seconds["bfloat16"] < seconds["float32"] else "float32"


def tokens_per_second(model: Any, batches: Batches, precision: str, *, num_steps: int) -> tuple[float, float]:
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


def print_speed(work: Path, *, device: str, tokens: int) -> None:
    segments = corpus.read(work / "train.tsv")
    pieces = open_pieces(work, segments, NUM_PIECES)
    examples = Examples.of(segments, pieces)
    mean = [sum(map(len, rows)) / len(rows) for rows in (examples.sources, examples.targets)]
    print(f"{len(examples.sources)} examples, pieces: {mean[0]:.1f} source, {mean[1]:.1f} target on average")
    model = new_model(pieces, Size(), 0).to(device)
    num_weights = sum(p.numel() for p in model.parameters() if p.requires_grad)
    precision = faster_precision(device)
    speed, steps = tokens_per_second(model, examples.batches(tokens, 0), precision, num_steps=8)
    print(
        f"{num_weights / 1e6:.1f} M weights, {precision}: {speed:.0f} target tokens/s, {1 / steps:.2f} s a "
        f"step, {torch.get_num_threads()} threads"
    )


def _pace(folder: Path, model: Any, batches: Batches, minutes: float, steps: int | None) -> dict[str, Any]:
    """The precision and the number of steps that fit into the minutes; of a run begun, what it has."""
    path = folder / "pace.json"
    if path.exists():
        before: dict[str, Any] = json.loads(path.read_text())
        return before
    precision = faster_precision(model.device)
    if steps is None:
        _, per_second = tokens_per_second(model, batches, precision, num_steps=8)
        steps = max(1, round(per_second * minutes * 60))
    pace = {"precision": precision, "steps": steps}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(pace))
    return pace


def _is_finished(folder: Path, data: str) -> bool:
    path = folder / "run.json"
    if not path.exists():
        return False
    run = json.loads(path.read_text())
    return bool(run.get("finished")) and run["settings"]["data"] == data


if __name__ == "__main__":
    main()
