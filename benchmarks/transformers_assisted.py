"""Our drafts on a transformers model against transformers' own: prompt lookup and assisted generation.

All methods run on the same loaded model, in turns prompt by prompt, greedily. `identical` counts the prompts
on which a method gives exactly the tokens of `model.generate`. The draft model is the model itself without
its middle layers, the same for both sides; few of its drafts are right. With --middle, what those layers add
is scaled down in the model, so that they matter less and drafts pay: at 0 every draft is right.

    python benchmarks/transformers_assisted.py --prompts spec_bench.jsonl --num-prompts 50
    python benchmarks/transformers_assisted.py --prompts spec_bench.jsonl --num-prompts 50 --middle 0.1
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
import transformers

import outpace
from outpace.bench.prompts import BUILTIN, read_prompts
from outpace.bench.report import markdown_table
from outpace.core.errors import OutpaceError
from outpace.files import catalog
from outpace.progress import progress_bar

OWN = "as deep as pays"
Method = Callable[[Any, Any], Any]  # input_ids, attention_mask -> ids with what was generated


def open_model(source: str, dtype: torch.dtype) -> tuple[Any, Callable[[str], list[int]]]:
    """A transformers model from a GGUF file or a folder, and what turns a user's message into its ids."""
    if Path(source).is_dir():
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
        model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=dtype)

        def encode(text: str) -> list[int]:
            messages = [{"role": "user", "content": text}]
            rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
            return list(tokenizer.encode(rendered, add_special_tokens=False))

        return model.eval(), encode
    path = catalog.resolve(source)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype)
    return model.eval(), outpace.load(path).prompt_ids


def outer_layers(model: Any, num_layers: int) -> list[int]:
    """The first and the last so many layers of a model."""
    total = model.config.num_hidden_layers
    return [*range(num_layers - num_layers // 2), *range(total - num_layers // 2, total)]


@torch.no_grad()
def scale_middle_layers(model: Any, num_layers: int, share: float) -> None:
    """Multiply what all other layers add to the hidden states."""
    for number in set(range(model.config.num_hidden_layers)) - set(outer_layers(model, num_layers)):
        layer = model.model.layers[number]
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight.mul_(share)
            if linear.bias is not None:
                linear.bias.mul_(share)


def without_middle_layers(model: Any, num_layers: int) -> Any:
    """A model of the first and the last layers of another, with the same weights in memory."""
    config = copy.deepcopy(model.config)
    kept, config.num_hidden_layers = outer_layers(model, num_layers), num_layers
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[layer] for layer in kept]
    with torch.device("meta"):
        draft = transformers.AutoModelForCausalLM.from_config(config)
    state = {}
    for name, tensor in model.state_dict().items():
        head, found, rest = name.partition(".layers.")
        layer, _, rest = rest.partition(".")
        if not found:
            state[name] = tensor
        elif int(layer) in kept:
            state[f"{head}.layers.{kept.index(int(layer))}.{rest}"] = tensor
    draft.load_state_dict(state, assign=True)
    # Tables that are no weights were made without values; those of the model serve as well.
    buffers = dict(model.named_buffers())
    for name, _ in list(draft.named_buffers()):
        parent, _, leaf = name.rpartition(".")
        setattr(draft.get_submodule(parent), leaf, buffers[name])
    draft.generation_config = copy.deepcopy(model.generation_config)
    return draft.eval()


def methods_of(model: Any, draft: Any, args: argparse.Namespace) -> dict[str, Method]:
    """Every method by name; the first is what the others are compared with."""

    def theirs(**options: Any) -> Method:
        return lambda ids, mask: model.generate(
            ids, attention_mask=mask, max_new_tokens=args.tokens, do_sample=False, **options
        )

    def ours(**options: Any) -> Method:
        accelerated = outpace.accelerate(model, **options)
        return lambda ids, mask: accelerated.generate(ids, mask, max_new_tokens=args.tokens, do_sample=False)

    lookups = {
        f"transformers, prompt lookup, {count}": theirs(prompt_lookup_num_tokens=count)
        for count in args.num_lookup
    }
    trees = {
        f"outpace, draft model, {tree}": ours(draft=draft, tree=None if tree == OWN else tree)
        for tree in args.tree
    }
    return {
        "transformers": theirs(),
        **lookups,
        "transformers, draft model": theirs(assistant_model=draft),
        "outpace, none": ours(draft="none"),
        **{f"outpace, {spec}": ours(draft=spec) for spec in args.draft},
        **trees,
    }


def compare(
    methods: dict[str, Method], batches: list[tuple[Any, Any]], repeats: int, progress: Any
) -> list[tuple[str, str, str, str]]:
    """(method, tokens/s, speed to the first, identical), in turns batch by batch."""
    seconds = {name: 0.0 for name in methods}
    tokens = dict.fromkeys(methods, 0)
    identical = dict.fromkeys(methods, 0)
    for number, (ids, mask) in enumerate(batches):
        if progress is not None:
            progress(number, len(batches), "batches of prompts")
        times: dict[str, list[float]] = {name: [] for name in methods}
        outputs = {}
        for _ in range(repeats):
            for name, method in methods.items():
                began = perf_counter()
                outputs[name] = method(ids, mask)
                times[name].append(perf_counter() - began)
        expected = next(iter(outputs.values()))
        for name, output in outputs.items():
            seconds[name] += statistics.median(times[name])
            tokens[name] += output.shape[0] * (output.shape[1] - ids.shape[1])
            identical[name] += int(torch.equal(output, expected))
    speeds = {name: tokens[name] / seconds[name] for name in methods}
    first = next(iter(speeds.values()))
    return [
        (name, f"{speed:.1f}", f"{speed / first:.2f}", f"{identical[name]}/{len(batches)}")
        for name, speed in speeds.items()
    ]


def padded(texts: list[list[int]], pad_id: int, device: torch.device) -> tuple[Any, Any]:
    """A batch: (input_ids, attention_mask), padded on the left."""
    width = max(map(len, texts))
    ids = [[pad_id] * (width - len(text)) + text for text in texts]
    mask = [[0] * (width - len(text)) + [1] * len(text) for text in texts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--model", default=catalog.DEFAULT, help="a .gguf file, a short name of one, a folder"
    )
    parser.add_argument("--prompts", type=Path, default=BUILTIN)
    parser.add_argument("--num-prompts", type=int, default=10, help="spread over the file")
    parser.add_argument("--tokens", type=int, default=64, help="new tokens after each prompt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=4, help="rows of the second table; 0 for none")
    parser.add_argument("--draft-layers", type=int, default=10, help="layers of the draft model")
    parser.add_argument(
        "--middle", type=float, default=1.0, help="share of what the layers between those add in the model"
    )
    parser.add_argument("--num-lookup", type=int, nargs="*", default=[3, 10], help="prompt lookup's tokens")
    parser.add_argument("--draft", nargs="*", default=["ngram"], help="our drafters")
    parser.add_argument(
        "--tree",
        nargs="*",
        default=[OWN, "chain:length=20,min_p=0.4"],  # the second is how transformers stops
        help=f"our trees with the draft model; {OWN!r}: as `accelerate` without a tree, as deep as pays",
    )
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))
    args = parser.parse_args()
    try:
        run(args)
    except OutpaceError as error:
        raise SystemExit(f"error: {error}") from error


def run(args: argparse.Namespace) -> None:
    transformers.logging.set_verbosity_error()
    if args.threads:
        torch.set_num_threads(args.threads)
    model, encode = open_model(args.model, getattr(torch, args.dtype))
    model.to(args.device)
    if args.middle != 1.0:
        scale_middle_layers(model, args.draft_layers, args.middle)
    draft = without_middle_layers(model, args.draft_layers)
    everything = read_prompts(args.prompts)
    stride = max(1, len(everything) // args.num_prompts)
    texts = [encode(prompt.text) for prompt in everything[::stride][: args.num_prompts]]
    pad_id = model.generation_config.pad_token_id
    if pad_id is None:
        pad_id = model.generation_config.pad_token_id = 0
    methods = methods_of(model, draft, args)
    header = ("method", "tokens/s", "speed to generate", "identical")
    print(f"{args.model}, {args.dtype} on {args.device}, {torch.get_num_threads()} threads, transformers ")
    print(
        f"{transformers.__version__}, torch {torch.__version__}; draft model of {args.draft_layers} layers, "
    )
    print(f"what the layers between them add times {args.middle:g}\n")
    print(f"{len(texts)} prompts one by one, {args.tokens} tokens, median of {args.repeats}\n")
    device = torch.device(args.device)
    alone = [padded([text], pad_id, device) for text in texts]
    with progress_bar() as progress:
        rows = compare(methods, alone, args.repeats, progress)
    print(markdown_table(header, rows, num_text_columns=1))
    if args.batch:
        # transformers refuses assisted generation of more than one row.
        batched = {n: m for n, m in methods.items() if n == "transformers" or n.startswith("outpace")}
        groups = [texts[start : start + args.batch] for start in range(0, len(texts), args.batch)]
        batches = [padded(group, pad_id, device) for group in groups]
        print(f"\nthe same in batches of {args.batch}\n")
        with progress_bar() as progress:
            rows = compare(batched, batches, args.repeats, progress)
        print(markdown_table(header, rows, num_text_columns=1))


if __name__ == "__main__":
    main()
