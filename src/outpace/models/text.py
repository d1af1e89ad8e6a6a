"""The five-line use: load a model of a file, generate or stream text."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, overload

from outpace.core.contracts import Target
from outpace.core.errors import OutpaceError
from outpace.core.options import accept, checked, taken
from outpace.core.turns import turns_of
from outpace.engine.request import Generation, Request
from outpace.engine.text import TextStream
from outpace.files.memo import Memo
from outpace.models.choosing import with_choosing
from outpace.models.face import Face
from outpace.models.options import LoadOptions, Text, TextOptions, Texts, sampling_of
from outpace.models.prompt import Chat
from outpace.models.stream import Stream

if TYPE_CHECKING:
    from outpace.files import LoadedModel, ModelConfig, PackedFile
    from outpace.files.tokenizer import Tokenizer


@checked
def load(source: str | Path, **options: Unpack[LoadOptions]) -> Model:
    """The model of a file, of a folder or of a name; see `outpace.load`."""
    return _load(source, options)


def _load(source: str | Path, options: LoadOptions, beside: Target | None = None) -> Model:
    """beside: a target that works in turns with this model's, on the same threads where both are native."""
    from outpace.files import open_model
    from outpace.targets.native import NativeTarget, check_ranges

    accept("source", source, str | Path)
    check_ranges(options)  # before a model is fetched and packed
    given = taken(LoadOptions, dict(options))
    loaded = open_model(source, quantize=given["quantize"], progress=given["progress"])
    target = NativeTarget(
        loaded.config,
        loaded.weights,
        eos_ids=loaded.tokenizer.eos_ids,
        threads=given["threads"],
        context_length=given["context_length"],
        kv=given["kv"],
        cache_tokens=given["cache_tokens"],
        beside=beside if isinstance(beside, NativeTarget) else None,
    )
    memo = Memo(loaded.weights.path)
    target.tune(memo)
    return Model(loaded, target, name=str(source), num_threads=target.threads, memo=memo)


class Model(Face):
    """A loaded model: its files (`config`, `weights`, `tokenizer`, `chat`) and the `target` that runs it.

    A target that is not read from our files has no `loaded`, and so neither `config` nor `weights`.
    """

    _with_text = "models of files and targets with the attribute `tokenizer`"

    def __init__(
        self,
        loaded: LoadedModel | None,
        target: Target,
        *,
        name: str,
        num_threads: int,
        memo: Memo | None = None,
        tokenizer: Tokenizer | None = None,
        chat: Chat | None = None,
    ) -> None:
        if loaded is not None:
            tokenizer, chat = loaded.tokenizer, loaded.chat
        super().__init__(
            target, name=name, num_threads=num_threads, tokenizer=tokenizer, chat=chat, memo=memo
        )
        self._loaded = loaded

    @property
    def config(self) -> ModelConfig:
        """What the model's file says of its architecture."""
        return self._file().config

    def beside(self, name: str) -> Path:
        """The path of a file of this name that belongs to the model's file."""
        self._file()
        assert self._beside is not None, "what is read from a file has files beside it"
        return self._beside(name)

    @property
    def weights(self) -> PackedFile:
        """The packed weights."""
        return self._file().weights

    @overload
    def generate(self, prompt: Text, **options: Unpack[TextOptions]) -> Generation: ...

    @overload
    def generate(self, prompt: Texts, **options: Unpack[TextOptions]) -> list[Generation]: ...

    @checked
    def generate(self, prompt: Text | Texts, **options: Unpack[TextOptions]) -> Generation | list[Generation]:
        """Generate to the end: one text, or those of a list of prompts side by side, each as it is alone.

        The options are those of `stream`.
        """
        return self._answer(prompt, options)

    @checked
    def stream(self, prompt: Text, **options: Unpack[TextOptions]) -> Stream:
        """Generate piece by piece.

        prompt       a user message, or messages with "role" and "content", for the model's chat template;
                     an `outpace.Prompt` of token ids is continued as it is.
        draft        `name:option=value,...` or a Drafter; None is plain decoding. Changes the speed alone.
        tree         the shape of a model-based draft, `name:option=value,...`; None for the drafter's own.
        rule         what to accept of a draft; "match" gives the tokens of plain decoding.
        system       a system message to put in front.
        raw          continue the prompt as it is, without the chat template.
        tools        descriptions of functions that the model may call, for the chat template.
        chat_template_kwargs  further variables of the template: {"enable_thinking": False}.
        parse_special  read special tokens that are written in the prompt, instead of taking them as text.
        stop         texts before which the output ends.
        show_tokens  ids of special tokens that the text shows, which it leaves out else.
        max_tokens   the most tokens to generate; None for as many as the context holds.
        sampling     a `Sampling`, in place of the single options:
        temperature  0 takes the likeliest token; with top_k, top_p, min_p and seed see `Sampling`.
        seed         same seed, same text; None for another one in every call.
        logit_bias   with presence_penalty, frequency_penalty, repetition_penalty, min_tokens, ignore_eos and
                     stop_token_ids: what changes the choice of tokens, see `Choosing`.
        logprobs     for every token its log-probability and those of so many of the likeliest, in the result.
        grammar      a `Grammar` that the text follows, if max_tokens lets it come to its end.

        Options out of range, and a prompt longer than the context, raise OutpaceError here. A stream that has
        begun holds a row of the model until it ends or is closed (see `Stream`).
        """
        return self._stream(prompt, options)

    @checked
    def request(self, prompt: Text, **options: Unpack[TextOptions]) -> tuple[Request, TextStream | None]:
        """The request of a prompt for an engine, and what makes text of its tokens.

        The options are those of `stream`, without what drafts: an engine has its own drafter and rule.
        """
        given = dict(options)
        if named := [name for name in ("draft", "tree", "rule") if name in given]:
            raise OutpaceError(f"a request has no {named[0]}, accepted are the options of a text")
        self._check_open()
        return self._request(prompt, given, streams=True)

    def _request(
        self, prompt: Text, given: dict[str, Any], *, streams: bool
    ) -> tuple[Request, TextStream | None]:
        sampling = sampling_of(given)
        ids, text = self._prompt_of(prompt, given)
        wanted = taken(TextOptions, given)
        most = self.target.context_length if wanted["max_tokens"] is None else wanted["max_tokens"]
        request = Request(ids, sampling, most, logprobs=wanted["logprobs"])
        request = with_choosing(request, wanted, self.target)
        return self._constrained(request, wanted["grammar"]), text

    def close(self) -> None:
        """As of every model, and its hold on the weights' file: drafters that still use them keep theirs."""
        with turns_of(self.target):
            if self._loaded is not None and not self.closed:
                self._loaded.close()
            super().close()

    def _file(self) -> LoadedModel:
        self._check_open()
        if self._loaded is None:
            raise OutpaceError(f"the model {self.name!r} is read from no file, accepted are models of files")
        return self._loaded

    def _open(self, source: str) -> Model:
        return _load(source, {"threads": self.num_threads}, self.target)
