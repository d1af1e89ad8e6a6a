"""OpenVINO GenAI, which reads GGUF files of Llama, Qwen2 and Qwen3 models itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import openvino
import openvino_genai
from openvino_genai import GenerationConfig, LLMPipeline

from benchmarks.engines.serve import Options, serve

Open = Callable[[], LLMPipeline]


class OpenVino:
    """A pipeline drafts in one way, so that there is one for each; drafting ones are opened when asked."""

    def __init__(self, options: Options) -> None:
        self.version = openvino_genai.__version__
        self._pipelines: dict[str, LLMPipeline] = {}
        settings = {"INFERENCE_NUM_THREADS": options.threads}

        def pipeline(**drafting: Any) -> LLMPipeline:
            return LLMPipeline(options.model, "CPU", **drafting, **settings)

        lookup = {"num_assistant_tokens": 4, "max_ngram_size": 3}
        self.methods: dict[str, tuple[Open, Mapping[str, int]]] = {
            "plain": (pipeline, {}),
            "prompt lookup": (lambda: pipeline(prompt_lookup=True), lookup),
        }
        if (path := options.draft_model) is not None:

            def with_draft_model() -> LLMPipeline:
                return pipeline(draft_model=openvino_genai.draft_model(path, "CPU", **settings))

            self.methods["draft model"] = (with_draft_model, {"num_assistant_tokens": 4})
        self._pipelines["plain"] = pipeline()  # a file that it cannot read ends it here

    def decode(self, tokens: Sequence[int], max_tokens: int, method: str) -> dict[str, Any]:
        open_pipeline, settings = self.methods[method]
        if method not in self._pipelines:
            self._pipelines[method] = open_pipeline()
        config = GenerationConfig(max_new_tokens=max_tokens, ignore_eos=True, do_sample=False, **settings)
        ids = openvino.Tensor(np.array([tokens], dtype=np.int64))
        result = self._pipelines[method].generate(ids, config)
        prompt_s = result.perf_metrics.get_ttft().mean / 1e3
        total_s = result.perf_metrics.get_generate_duration().mean / 1e3
        return {
            "token_ids": [int(token) for token in result.tokens[0]],
            "prompt_s": prompt_s,
            "decode_s": total_s - prompt_s,
        }

    def prompt(self, tokens: Sequence[int]) -> dict[str, Any]:
        return {"seconds": self.decode(tokens, 1, "plain")["prompt_s"]}


if __name__ == "__main__":
    serve(OpenVino)
