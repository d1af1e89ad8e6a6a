"""vLLM's end of a pipe: a model with heads for its speculative decoding. Runs in vLLM's own environment.

The protocol is that of `engines/serve.py`, with one request:

    decode(tokens, max_tokens, stop)  -> token_ids, drafts (calls that verified one), drafted (tokens),
                                         accepted_at: by depth, 1 first, how many were right up to there
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import Any

from benchmarks.engines.serve import answer

COUNTERS = {"drafts": "vllm:spec_decode_num_drafts", "drafted": "vllm:spec_decode_num_draft_tokens"}
BY_DEPTH = "vllm:spec_decode_num_accepted_tokens_per_pos"


class Vllm:
    """A model of one process, as it comes: no compiler is asked for, and no text is kept for the next."""

    methods = ("drafted",)

    def __init__(self, options: argparse.Namespace) -> None:
        # Read when vLLM is imported. One process of as many threads as were asked for, bound to none.
        os.environ |= {
            "OMP_NUM_THREADS": str(options.threads),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        import vllm

        self.version = vllm.__version__
        self._llm = vllm.LLM(
            options.model,
            skip_tokenizer_init=True,
            dtype=options.dtype,
            max_model_len=options.context,
            max_num_seqs=1,
            max_num_batched_tokens=options.context,
            enforce_eager=True,
            enable_prefix_caching=False,
            disable_log_stats=False,  # the counts of drafts are among them
            # Else it misses token_map of Medusa heads, which it has read, among what it has read.
            model_loader_extra_config={"enable_weights_track": False},
            speculative_config={
                "method": options.method,
                "model": options.heads,
                "num_speculative_tokens": options.depth,
            },
        )

    def decode(self, tokens: Sequence[int], max_tokens: int, stop: Sequence[int]) -> dict[str, Any]:
        from vllm import SamplingParams

        before = self._counts()
        sampling = SamplingParams(
            temperature=0.0, max_tokens=max_tokens, stop_token_ids=list(stop), detokenize=False
        )
        (found,) = self._llm.generate({"prompt_token_ids": list(tokens)}, sampling, use_tqdm=False)
        counts = self._counts()
        return {
            "token_ids": list(found.outputs[0].token_ids),
            **{name: counts[name] - before[name] for name in COUNTERS},
            "accepted_at": [
                now - then for now, then in zip(counts["accepted_at"], before["accepted_at"], strict=True)
            ],
        }

    def _counts(self) -> dict[str, Any]:
        """All since the start."""
        metrics = {metric.name: metric for metric in self._llm.get_metrics()}
        counts: dict[str, Any] = {name: metrics[theirs].value for name, theirs in COUNTERS.items()}
        return counts | {"accepted_at": list(metrics[BY_DEPTH].values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--heads", required=True)
    parser.add_argument("--method", required=True)
    parser.add_argument("--depth", type=int, required=True)
    parser.add_argument("--dtype", required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--context", type=int, required=True)
    options = parser.parse_args()
    answer(lambda: Vllm(options))


if __name__ == "__main__":
    main()
