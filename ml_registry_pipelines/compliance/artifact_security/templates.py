"""Chat templates: Jinja that a tokenizer runs, read as a tree and never rendered.

A template of a chat needs messages, loops and texts. What reaches for the inside of Python, for
another template or for a helper that leads there is flagged, whether or not a sandbox would stop it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.artifact_security.findings import readable

if TYPE_CHECKING:
    from jinja2 import nodes

MOST_TEMPLATE = 1 << 20
_HELPERS = {"cycler", "joiner", "lipsum", "self", "config", "request", "url_for", "get_flashed_messages"}
_ATTRIBUTE_FILTERS = {
    "attr",
    "map",
    "selectattr",
    "rejectattr",
    "groupby",
    "sort",
    "unique",
    "sum",
    "min",
    "max",
}
_TEXT_FILTERS = {"join", "replace", "format", "reverse", "lower", "upper", "string", "trim", "first", "last"}


def check_template(text: str, say: Callable[[str], None]) -> None:
    """Tell of everything that a chat has no need of.

    Raises:
        Broken: it is no Jinja, or too long.
    """
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    from ml_registry_pipelines.compliance.artifact_security.symbols import Broken

    if len(text) > MOST_TEMPLATE:
        raise Broken("the chat template has more than 1 MiB")
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", "jinja2.ext.do", _generation()],
    )
    try:
        tree = environment.parse(text)
    except (TemplateSyntaxError, RecursionError) as failure:
        raise Broken(f"the chat template cannot be read: {readable(failure)}") from None
    for node in _all(tree):
        match node:
            case nodes.Getattr(attr=attr) if _unsafe(attr):
                say(f"the chat template reaches for attribute {readable(attr)}")
            case nodes.Getitem(arg=nodes.Const(value=str(key))) if _unsafe(key):
                say(f"the chat template reaches for attribute {readable(key)}")
            case nodes.Getitem(arg=key) if _is_made_text(key):
                say("the chat template makes up the name of an attribute")
            case nodes.Filter(name=name, args=args, kwargs=kwargs) if name in _ATTRIBUTE_FILTERS:
                _check_filter(name, [*args, *(k.value for k in kwargs)], say)
            case nodes.Include() | nodes.Import() | nodes.FromImport() | nodes.Extends():
                say("the chat template loads another template")
            case nodes.Name(name=name) if name in _HELPERS or name.startswith("__"):
                say(f"the chat template uses {readable(name)}")
            case nodes.Const(value=str(value)) if "__" in value and any(
                word in value
                for word in ("class", "globals", "builtins", "subclasses", "import", "mro", "init")
            ):
                say("the chat template holds the name of something inside Python")


def _check_filter(name: str, arguments: list[nodes.Expr], say: Callable[[str], None]) -> None:
    from jinja2 import nodes

    if name == "attr" and not all(isinstance(a, nodes.Const) for a in arguments):
        say("the chat template makes up the name of an attribute")
    for argument in arguments:
        if isinstance(argument, nodes.Const) and isinstance(argument.value, str):
            if argument.value in {"attr", *(_HELPERS)} or any(_unsafe(p) for p in argument.value.split(".")):
                say(f"the chat template reaches for attribute {readable(argument.value)}")
        elif name != "attr" and _is_made_text(argument):
            say("the chat template makes up the name of an attribute")


def _unsafe(name: str) -> bool:
    from jinja2 import sandbox

    return name.startswith("_") or name in (
        sandbox.UNSAFE_FUNCTION_ATTRIBUTES
        | sandbox.UNSAFE_METHOD_ATTRIBUTES
        | sandbox.UNSAFE_GENERATOR_ATTRIBUTES
        | sandbox.UNSAFE_COROUTINE_ATTRIBUTES
        | sandbox.UNSAFE_ASYNC_GENERATOR_ATTRIBUTES
        | {"mro", "format_map"}
    )


def _is_made_text(node: nodes.Node) -> bool:
    """Whether an expression puts a text together, so that nobody can see which one."""
    from jinja2 import nodes

    match node:
        case nodes.Concat() | nodes.Mod():
            return any(isinstance(n, nodes.Const | nodes.TemplateData) for n in _all(node)) and not all(
                isinstance(n.value, int) for n in _all(node) if isinstance(n, nodes.Const)
            )
        case nodes.Add():
            return any(isinstance(n.value, str) for n in _all(node) if isinstance(n, nodes.Const))
        case nodes.Filter(name=name):
            return name in _TEXT_FILTERS
        case nodes.Call(node=nodes.Getattr(attr=attr)):
            return attr in {"join", "replace", "format", "lower", "upper", "strip", "decode"}
        case nodes.Slice():
            return False
        case _:
            return False


def _all(node: nodes.Node) -> Iterator[nodes.Node]:
    yield node
    for child in node.iter_child_nodes():
        yield from _all(child)


def _generation() -> type:
    """The one tag that chat templates have beside Jinja's own: `{% generation %}`."""
    from jinja2 import nodes
    from jinja2.ext import Extension
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - as its base class declares it

        def parse(self, parser: Parser) -> nodes.Node:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return nodes.Scope(body).set_lineno(line)

    return Generation
