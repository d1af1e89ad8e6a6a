"""A sandbox for chat templates: programs that come with a model, from an author who may be a stranger.

Jinja's sandbox keeps a template away from Python's insides, but not from endless loops and from texts of
gigabytes. Here every step, value and piece of output is charged to a budget that grows with the template's
input. The few operations whose result can be much larger than their input are charged before they run. So any
template ends after a bounded time in bounded memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, MappingView
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.visitor import NodeTransformer

from outpace.core.errors import OutpaceError

MOST_SOURCE = 1 << 17  # letters of a template; the longest in use have a fifth of that
MOST_NUMBER = 10**5  # of an argument: widths, counts, lengths
MOST_DIGITS = 10**30  # of what a template computes with
LEAST_WORK, WORK_PER_LETTER, MOST_WORK = 5_000_000, 50, 200_000_000
STEP, CALL = 10, 50  # what an iteration or a look-up costs, and a call; a letter costs 1

# Filters that look at the list, not at what is in it.
_SHALLOW = {
    "batch", "d", "default", "items", "list", "map", "reject", "rejectattr", "reverse", "select",
    "selectattr", "slice",
}  # fmt: skip
# Filters and tests that take one step, however long what they are given is.
_SWIFT = {
    "attr", "boolean", "callable", "count", "defined", "divisibleby", "even", "false", "first", "float",
    "integer", "iterable", "last", "length", "mapping", "none", "number", "odd", "random", "sameas",
    "sequence", "string", "true", "undefined",
}  # fmt: skip
# No prompt needs these, and each has its own ways to blow up.
_LEFT_OUT = ("filesizeformat", "pprint", "striptags", "urlize", "wordwrap", "xmlattr")
_UNSAFE = {"decode", "encode", "expandtabs", "from_bytes", "maketrans", "to_bytes", "translate"}
_WIDTH = re.compile(r"\d+")


class Unbounded(Exception):
    """A template that would take more than it may."""


class _Budget:
    """The part of its budget that a template may still spend."""

    def __init__(self, work: int) -> None:
        self.left = work

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise Unbounded("it takes more steps or writes more text than a prompt needs")


_budget: ContextVar[_Budget] = ContextVar("budget")


def _spend(work: int) -> None:
    _budget.get().spend(work)


@contextmanager
def budgeted(*given: Any) -> Iterator[None]:
    """A template that runs in here may do as much as what it was given explains."""
    size = _Budget(1 << 40)
    token = _budget.set(size)
    try:
        for value in given:
            _pay(value)
        explained = LEAST_WORK + WORK_PER_LETTER * ((1 << 40) - size.left)
        _budget.set(_Budget(min(MOST_WORK, explained)))
        yield
    finally:
        _budget.reset(token)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox of transformers, with a budget."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, filters: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, loopcontrols],
            finalize=_finalize,
        )
        for name in _LEFT_OUT:
            del self.filters[name]
        del self.globals["lipsum"]
        for name, filtered in [*self.filters.items(), *filters.items()]:
            self.filters[name] = _paid(filtered, name)
        tests: dict[str, Any] = self.tests
        self.tests = {name: _paid(test, name, is_test=True) for name, test in tests.items()}
        self.filters |= {"_step": _step, "_shallow": _shallow, "_deep": _deep}

    def program(self, source: str) -> Template:
        """A template that pays for what it does. Raises TemplateSyntaxError."""
        if len(source) > MOST_SOURCE:
            raise OutpaceError(f"the chat template has {len(source)} letters, accepted are {MOST_SOURCE}")
        tree = _Paying().visit(self.parse(source))
        tree.set_environment(self)
        return self.template_class.from_code(self, self.compile(tree), self.make_globals(None))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Not these either, whose work no budget can foresee."""
        return attr not in _UNSAFE and super().is_safe_attribute(obj, attr, value)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """A function, a macro or a method: it pays for what it is given, and for its result."""
        args = tuple(map(_listed, args))
        _spend(CALL)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str | bytes | int | float | list | tuple | Mapping):
            name = getattr(__obj, "__name__", "")
            _pay(owner, deep=name in ("count", "index"))
            for value in (*args, *kwargs.values()):
                _pay(value)
                _limited(value, MOST_NUMBER)
            if name in _FORESEEN:
                _FORESEEN[name](owner, *args, **kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        _pay(result, deep=False)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """+, *, ** and %."""
        _spend(STEP)
        if operator == "%" and isinstance(left, str):
            _percent(left, right)
        elif operator == "**":
            _limited(left, MOST_NUMBER)
            _limited(right, 100)
        elif operator == "*":
            for one, other in ((left, right), (right, left)):
                if isinstance(one, str | bytes | list | tuple) and isinstance(other, int):
                    _spend(len(one) * max(0, other))
        result = super().call_binop(context, operator, left, right)
        _limited(result, MOST_DIGITS)
        _pay(result, deep=isinstance(result, tuple))
        return result

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A look-up costs a step."""
        _spend(STEP)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """A look-up costs a step."""
        _spend(STEP)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """`str.format` that pays for every field."""
        if super().wrap_str_format(value) is None:
            return None
        text, is_map = value.__self__, value.__name__ == "format_map"

        def formatted(*args: Any, **kwargs: Any) -> str:
            fields = args[0] if is_map and args else kwargs
            return str(_PaidFormatter(self).vformat(text, () if is_map else args, fields))

        return formatted


class _GenerationTag(Extension):
    """`{% generation %} ... {% endgeneration %}` marks the assistant's words for training: no change here."""

    tags = frozenset({"generation"})  # type: ignore[assignment]

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Paying(NodeTransformer):
    """Puts the budget into a program, where no hook of the environment sees what it does."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        self.generic_visit(node)
        step = _filter(nodes.Const(True, lineno=node.lineno), "_step")
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        if node.test is not None:
            step = _filter(nodes.Const(True, lineno=node.lineno), "_step")
            node.test = nodes.And(step, node.test, lineno=node.lineno)
        return node

    def visit_TemplateData(self, node: nodes.TemplateData) -> nodes.Const:
        return nodes.Const(node.data, lineno=node.lineno)  # which goes through `finalize`

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        node.nodes = [_filter(one, "_deep") for one in node.nodes]
        return _filter(node, "_shallow")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        self.generic_visit(node)
        return _filter(node, "_shallow") if isinstance(node.arg, nodes.Slice) else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        self.generic_visit(node)
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        if {operand.op for operand in node.ops} <= {"eq", "ne"} and (
            sum(isinstance(side, nodes.Const) for side in sides) >= len(sides) - 1
        ):
            return node  # what is written in a template is short, and no more of the other side is looked at
        node.expr = _filter(node.expr, "_deep")
        for operand in node.ops:
            operand.expr = _filter(operand.expr, "_deep")
        return node

    def _built(self, node: Any) -> Any:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else _filter(node, "_deep")

    visit_List = visit_Tuple = visit_Dict = _built


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


# Nothing of this runs while a template is compiled: there is no budget then, and Jinja leaves it for later.
def _step(value: Any) -> Any:
    _spend(STEP)
    return value


def _shallow(value: Any) -> Any:
    _pay(value, deep=False)
    return value


def _deep(value: Any) -> Any:
    _pay(value)
    return value


@pass_context
def _finalize(context: Context, value: Any) -> Any:
    _pay(value)
    return value


def _pay(value: Any, *, deep: bool = True) -> None:
    """Spend the size of a value: letters, and a step for what else there is. `deep`: also inside of lists."""
    budget = _budget.get()
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str | bytes):
            budget.spend(1 + len(one))
        elif isinstance(one, list | tuple | set | frozenset | Mapping | MappingView | range):
            budget.spend(STEP + STEP * len(one))
            if deep:
                inside: Any = one
                waiting += [*inside, *inside.values()] if isinstance(one, Mapping) else inside
        else:
            budget.spend(1)


def _paid(function: Callable[..., Any], name: str, *, is_test: bool = False) -> Callable[..., Any]:
    """A filter or a test that pays for what it is given, and for its result."""
    passed = getattr(function, "jinja_pass_arg", None)
    skipped = 0 if passed is None else 1
    deep, limited = is_test or name not in _SHALLOW, not is_test and name not in ("d", "default")
    swift = name in _SWIFT

    def paid(*args: Any, **kwargs: Any) -> Any:
        given = [*map(_listed, args[skipped:])]
        _spend(STEP)
        for place, value in enumerate((*given, *kwargs.values())):
            if place or not swift:
                _pay(value, deep=deep or place > 0)
            if place and limited:
                _limited(value, MOST_NUMBER)
        if name in _FORESEEN:
            _FORESEEN[name](*given, **kwargs)
        result = function(*args[:skipped], *given, **kwargs)
        _pay(result, deep=False)
        return result

    if passed is not None:
        paid.jinja_pass_arg = passed  # type: ignore[attr-defined]
    return paid


def _listed(value: Any) -> Any:
    """A lazy value made whole, so that its size is known. Every item is charged."""
    return list(value) if isinstance(value, Iterator) and not isinstance(value, LoopContext) else value


def _limited(value: Any, most: int) -> None:
    if isinstance(value, int | float) and abs(value) > most:
        raise Unbounded(f"it uses a number beyond {most:.0e}")


class _PaidFormatter(SandboxedFormatter):
    """`str.format`, field by field."""

    def convert_field(self, value: Any, conversion: Any) -> Any:
        _pay(value)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> str:
        _widths(format_spec)
        _pay(value)
        text = str(super().format_field(value, format_spec))
        _pay(text)
        return text


def _widths(text: str) -> None:
    for number in _WIDTH.findall(text):
        if len(number) > len(str(MOST_NUMBER)) or int(number) > MOST_NUMBER:
            raise Unbounded(f"it uses a width beyond {MOST_NUMBER}")


# What comes before a result that may be much larger than all that goes in. Methods have their owner first.
def _percent(text: Any, *args: Any, **kwargs: Any) -> None:
    text = str(text)
    for part in text.split("%")[1:]:
        _widths(part)
    for value in args[0] if args and isinstance(args[0], tuple) else args:
        _limited(value, MOST_NUMBER if "*" in text else MOST_DIGITS)
    for _ in range(text.count("%")):
        _pay((args, kwargs))


def _replace(text: Any, old: Any = "", new: Any = "", *_: Any, **__: Any) -> None:
    text, old, new = str(text), str(old), str(new)
    _spend(len(text) + (text.count(old) if old else len(text) + 1) * len(new))


def _join(*args: Any, **kwargs: Any) -> None:
    values = [*args, *kwargs.values()]  # as a method the separator comes first, as a filter the list
    sized = [value for value in values if hasattr(value, "__len__")]
    _pay(sized)
    lists = [len(value) for value in sized]
    if len(lists) > 1:
        _spend(lists[0] * lists[1])


def _indent(text: Any, width: Any = 4, *_: Any, **__: Any) -> None:
    _spend((str(text).count("\n") + 1) * (width if isinstance(width, int) else len(str(width))))


def _tojson(value: Any, *args: Any, **kwargs: Any) -> None:
    indent = 0
    for option in (*args, *kwargs.values()):
        indent = max(indent, option if isinstance(option, int) else len(str(option)))
    if indent > 32:
        raise ValueError("an indent of more than 32")
    for _ in range(indent + 1):  # a line is indented by as much as it is deep
        _pay(value)


def _search_backwards(text: Any, found: Any = "", *_: Any, **__: Any) -> None:
    if isinstance(found, str | bytes):
        _spend(len(text) * len(found) // 16)


def _sum(values: Any, attribute: Any = None, start: Any = 0) -> None:
    if not isinstance(start, int | float):
        raise ValueError("sum adds numbers alone")


def _remainder(value: Any, *_: Any) -> None:
    if not isinstance(value, int | float):  # of a text, % makes another
        raise ValueError("only numbers are even, odd or divisible")


_FORESEEN: dict[str, Callable[..., None]] = {
    "divisibleby": _remainder,
    "even": _remainder,
    "format": _percent,
    "indent": _indent,
    "join": _join,
    "odd": _remainder,
    "replace": _replace,
    "rfind": _search_backwards,
    "rindex": _search_backwards,
    "rpartition": _search_backwards,
    "rsplit": _search_backwards,
    "sum": _sum,
    "tojson": _tojson,
}
