"""`outpace generate`: one answer, streamed; on request compared with plain decoding or as one JSON record."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from outpace.cli import choosing, grammar, options, render, streams
from outpace.core.errors import OutpaceError

if TYPE_CHECKING:
    from outpace.engine.engine import Event
    from outpace.engine.request import Generation
    from outpace.engine.trace import Trace
    from outpace.models.method import Method
    from outpace.models.stream import Stream
    from outpace.models.text import Model


def generate(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT|-", help="The prompt; - reads it from standard input.")
    ] = None,
    model: options.Model = options.DEFAULT_MODEL,
    draft: options.Draft = None,
    tree: options.Tree = None,
    rule: options.Rule = "match",
    max_tokens: options.MaxTokens = 128,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    min_p: options.MinP = 0.0,
    seed: options.Seed = 0,
    system: options.System = None,
    tools: options.Tools = None,
    template_option: options.TemplateOptions = None,
    parse_special: options.ParseSpecial = False,
    raw: Annotated[
        bool, typer.Option("--raw", help="Continue the prompt as it is, without a chat template.")
    ] = False,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", metavar="TEXT", help="Stop before this text; may be repeated."),
    ] = None,
    stop_token: choosing.StopTokens = None,
    min_tokens: choosing.MinTokens = 0,
    ignore_eos: choosing.IgnoreEos = False,
    presence_penalty: choosing.Presence = 0.0,
    frequency_penalty: choosing.Frequency = 0.0,
    repetition_penalty: choosing.Repetition = 1.0,
    logit_bias: choosing.LogitBias = None,
    logprobs: choosing.Logprobs = None,
    json_object: grammar.JsonObject = False,
    json_schema: grammar.JsonSchema = None,
    regex: grammar.Regex = None,
    grammar_file: grammar.GrammarFile = None,
    threads: options.Threads = None,
    show_drafts: Annotated[
        bool,
        typer.Option("--show-drafts", help="Mark what was drafted: kept, dropped, or the model's own."),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON record and nothing else.")] = False,
    compare: Annotated[
        bool,
        typer.Option(
            "--compare", help="Decode plainly too; print both speeds and whether the tokens are identical."
        ),
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", metavar="FILE", help="Write what was drafted and kept in every step, and its times."
        ),
    ] = None,
) -> int:
    """Generate text."""
    if show_drafts and as_json:
        raise OutpaceError("--show-drafts prints text and --json a record, accepted is one of them")
    place = None if trace is None else _place(options.expanded(trace))
    text = read_prompt(prompt)
    sampling = options.sampling_options(temperature, top_k, top_p, min_p, seed)
    method = options.method_option(draft, tree, rule)
    request: dict[str, Any] = {
        "max_tokens": max_tokens,
        **options.template_options(system, tools, template_option, parse_special),
        "raw": raw,
        "stop": tuple(streams.utf8("--stop", one) for one in stop or ()),
        **sampling,
        **choosing.choosing_options(
            logit_bias, presence_penalty, frequency_penalty, repetition_penalty, min_tokens, ignore_eos,
            stop_token,
        ),
        **grammar.grammar_option(json_object, json_schema, regex, grammar_file),
        **choosing.logprobs_option(logprobs, as_json=as_json),
    }  # fmt: skip
    loaded = render.load_model(model, threads=threads)
    method = options.with_own_draft(method, loaded, draft)
    drafted: dict[str, Any] = {"draft": method.draft, "tree": method.tree, "rule": method.rule}
    traced = None if place is None else _trace(loaded, model, method, request)
    if as_json and traced is None:
        generation = loaded.generate(text, **drafted, **request)
    elif as_json:
        generation = _silent(loaded, text, drafted | request, traced)
    elif show_drafts:
        generation = _show_drafts(loaded, text, drafted | request, traced)
    else:
        generation = _show(loaded, text, drafted | request, traced)
    if place is not None and traced is not None:
        from outpace.files.whole import write_whole

        write_whole(place, json.dumps(traced.whole(), ensure_ascii=False).encode())
    plain = loaded.generate(text, draft="none", **request) if compare else None
    identical = None if plain is None else generation.token_ids == plain.token_ids
    if as_json:
        from outpace.bench.records import generation_record

        record = generation_record(
            generation, model=model, method=method, sampling=sampling, identical_to_plain=identical
        )
        if generation.logprobs is not None:
            record["logprobs"] = [one._asdict() for one in generation.logprobs]
        if plain is not None:
            record["plain_tokens_per_s"] = plain.stats.tokens_per_s
        print(json.dumps(record))
    elif plain is not None:
        print(_comparison(generation, plain, method))
    elif sys.stderr.isatty():
        render.note(f"[{render.figures(generation)}]")
    return 1 if identical is False and generation.exactness == "identical" else 0


def read_prompt(prompt: str | None) -> str:
    """The prompt of the command line, or standard input for `-` and for no prompt in a pipe.

    The line end that `echo` puts behind a text is not part of it.
    """
    if prompt == "-" or (prompt is None and not sys.stdin.isatty()):
        if not (text := streams.read_all()):
            raise OutpaceError("standard input is empty, accepted is a prompt")
        return streams.without_line_end(text)
    if prompt is None:
        raise OutpaceError('a prompt is needed: outpace generate "TEXT", or - to read standard input')
    return streams.utf8("the prompt", prompt)


def _place(path: Path) -> Path:
    """Where a trace may be written; what is wrong with it costs no waiting. Raises an OutpaceError."""
    folder = path.parent
    if path.exists() and not path.is_file():
        raise OutpaceError(f"{path} is not a regular file, accepted is the name of one to write")
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise OutpaceError(f"cannot write {path}: {folder} is no folder to write in")
    return path


def _trace(model: Model, name: str, method: Method, request: dict[str, Any]) -> Trace:
    from outpace.engine.text import TextStream
    from outpace.engine.trace import Trace

    said = TextStream(model.tokenizer, stop=request["stop"], keep_first_space=request["raw"])
    return Trace(said, model.tokenizer, model.target.eos_ids, model=name, draft=str(method))


def _events(stream: Stream, trace: Trace | None) -> Iterator[Event]:
    for event in stream.events():
        if trace is not None:
            trace.add(event, last=event.job.result is not None)
        yield event


def _silent(model: Model, text: str, request: dict[str, Any], trace: Trace | None) -> Generation:
    stream = model.stream(text, **request)
    for _ in _events(stream, trace):
        pass
    return stream.result


def _show(model: Model, text: str, request: dict[str, Any], trace: Trace | None) -> Generation:
    stream = model.stream(text, **request)
    with render.StreamedText() as out:
        for piece in stream if trace is None else (event.text for event in _events(stream, trace)):
            out.write(piece)
    return stream.result


def _show_drafts(model: Model, text: str, request: dict[str, Any], trace: Trace | None) -> Generation:
    from outpace.cli.drafted import DraftedText
    from outpace.engine.text import TextStream

    said = TextStream(model.tokenizer, stop=request["stop"], keep_first_space=request["raw"])
    stream = model.stream(text, **request)
    with DraftedText(said, model.tokenizer, model.target.eos_ids) as out:
        for event in _events(stream, trace):
            out.show(event)
        out.finish()
    render.note(f"[{out.legend()}]")
    return stream.result


def _comparison(generation: Generation, plain: Generation, method: Method) -> str:
    speed, plain_speed = generation.stats.tokens_per_s, plain.stats.tokens_per_s
    ratio = f" ({speed / plain_speed:.2f} times)" if plain_speed > 0 else ""
    name = str(method)
    width = max(len(name), len("plain"))
    identical = "yes" if generation.token_ids == plain.token_ids else "no"
    if generation.exactness != "identical":
        identical += f"; what is promised: {generation.exactness}"
    if generation.numerics == "ties":
        identical += "; up to floating-point ties"
    return "\n".join(
        [
            "",
            f"{'plain'.ljust(width)}  {render.figures(plain)}",
            f"{name.ljust(width)}  {render.figures(generation)}{ratio}",
            f"identical: {identical}",
        ]
    )
