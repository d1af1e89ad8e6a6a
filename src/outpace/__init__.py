"""Outpace: same seed, same text, sooner. Drafts are scored in parallel and kept only where the model agrees.

model = outpace.load("smollm2-135m-instruct")
print(model.generate("Explain tides.").text)
"""

from __future__ import annotations

from importlib import import_module

TYPE_CHECKING = False  # typing takes a while to import, and whoever runs `outpace` may press Ctrl-C
if TYPE_CHECKING:
    from typing import Any

    from outpace.core.call import Prompt
    from outpace.core.contracts import Drafter, Rule, Target
    from outpace.core.edits import Edit
    from outpace.core.errors import OutpaceError
    from outpace.core.sampling import Sampling
    from outpace.core.steps import Ask, Scores, Step, Verdict
    from outpace.core.traits import Traits
    from outpace.core.tree import TokenTree
    from outpace.engine.engine import Event
    from outpace.engine.request import Generation, Request
    from outpace.models.grammar import Grammar
    from outpace.models.load import accelerate, load
    from outpace.models.seq2seq import AcceleratedSeq2Seq
    from outpace.models.stream import Stream
    from outpace.models.text import Model
    from outpace.models.transformers import Accelerated

__version__ = "0.2.0"

__all__ = [
    "Accelerated",
    "AcceleratedSeq2Seq",
    "Ask",
    "Drafter",
    "Edit",
    "Event",
    "Generation",
    "Grammar",
    "Model",
    "OutpaceError",
    "Prompt",
    "Request",
    "Rule",
    "Sampling",
    "Scores",
    "Step",
    "Stream",
    "Target",
    "TokenTree",
    "Traits",
    "Verdict",
    "accelerate",
    "load",
]

_MODULES = {
    **dict.fromkeys(("accelerate", "load"), "outpace.models.load"),
    "Accelerated": "outpace.models.transformers",
    **dict.fromkeys(("Generation", "Request"), "outpace.engine.request"),
    "AcceleratedSeq2Seq": "outpace.models.seq2seq",
    "Event": "outpace.engine.engine",
    "Grammar": "outpace.models.grammar",
    "Model": "outpace.models.text",
    "Stream": "outpace.models.stream",
    **dict.fromkeys(("Drafter", "Rule", "Target"), "outpace.core.contracts"),
    **dict.fromkeys(("Ask", "Scores", "Step", "Verdict"), "outpace.core.steps"),
    "Edit": "outpace.core.edits",
    "Prompt": "outpace.core.call",
    "Traits": "outpace.core.traits",
    "OutpaceError": "outpace.core.errors",
    "Sampling": "outpace.core.sampling",
    "TokenTree": "outpace.core.tree",
}


def __getattr__(name: str) -> Any:
    # Imported on first use: `import outpace` costs next to nothing.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
