"""Jinja2's sandbox, narrowed to expressions over plain data; used by ``expressions`` alone.

The operator who writes an expression is trusted, the data that it reads is not. So nothing of
Python can be reached through the data: a dot or bracket finds the keys of tables and the items of
lists, nothing can be called, and of Jinja2's filters only those are left whose work is bounded by
the size of the data. Where a vendor's number could make a text or number huge, it is refused.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, Final, NoReturn, cast

import msgspec
from jinja2 import Template, TemplateError, nodes
from jinja2.exceptions import SecurityError, TemplateSyntaxError
from jinja2.filters import FILTERS
from jinja2.nativetypes import NativeCodeGenerator
from jinja2.parser import Parser
from jinja2.runtime import Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import missing

from gateway.errors import ExpressionInvalid

_MAX_REPEATED: Final = 1 << 20  # items or characters made by one `*`
_MAX_POWER_BITS: Final = 4096

# Expressions of these alone return a part of the data as it is.
_READS: Final = (nodes.Name, nodes.Getattr, nodes.Getitem, nodes.Const)

# Jinja2's filters without those that reach attributes, speak HTML, or grow with a number.
_KEPT_FILTERS: Final = re.split(
    r"\s+",
    """abs capitalize count d default dictsort first float int items join last length list lower
    map max min reject rejectattr replace reverse round select selectattr sort string sum title
    trim truncate unique upper urlencode wordcount""",
)


class Compiled:
    """One expression, ready to run on any context."""

    __slots__ = ("_run", "environment", "names", "only_reads")

    def __init__(self, environment: Environment, text: str, names: frozenset[str]) -> None:
        """Compile *text*, which may read *names*; :class:`ExpressionInvalid` tells what is wrong.

        Jinja2 compiles templates only, so the expression becomes a template's single output; its
        render function is then run directly, since ``Template.render`` costs five times as much.
        """
        try:
            parser = Parser(environment, text, state="variable")
            tree = nodes.Template([nodes.Output([parser.parse_expression()], lineno=1)], lineno=1)
            if not parser.stream.eos:
                parser.fail(f"unexpected {parser.stream.current.value!r} after the expression")
            tree.set_environment(environment)
            self.names = _check(tree, environment, text, names)
            self.only_reads = all(isinstance(node, _READS) for node in tree.find_all(nodes.Expr))
            template = Template.from_code(environment, environment.compile(tree), {})
        except TemplateSyntaxError as error:
            raise ExpressionInvalid(f"{shown(text)}: {syntax_problem(error)}") from None
        except (RecursionError, MemoryError):
            raise ExpressionInvalid(f"{shown(text)}: it is nested too deeply") from None
        except (TemplateError, SyntaxError, ValueError) as error:
            raise ExpressionInvalid(f"{shown(text)}: {error}") from None
        self.environment = environment
        self._run = cast(Callable[[Frame], Iterator[Any]], template.root_render_func)

    def value(self, context: Mapping[str, Any]) -> Any:
        """Return the value; any exception may be raised, and the value may be ``Undefined``."""
        return next(self._run(Frame(context, self.environment)))


class Frame:
    """What compiled code needs of Jinja2's ``Context``, which is far dearer to make."""

    __slots__ = ("_values", "environment", "eval_ctx")

    def __init__(self, values: Mapping[str, Any], environment: Environment) -> None:
        self._values = values
        self.environment = environment
        self.eval_ctx = environment.eval_ctx

    def resolve_or_missing(self, name: str) -> Any:
        """Return the value of *name*, or Jinja2's marker for none."""
        return self._values.get(name, missing)


def shown(text: str) -> str:
    """Return *text* as an error shows it: quoted, and cut to a bearable length."""
    return repr(cut(text))


def cut(text: str) -> str:
    """Return *text*, or its beginning where it is too long to be read in an error."""
    return text if len(text) <= 120 else text[:119] + "…"


def syntax_problem(error: TemplateSyntaxError) -> str:
    """Return what Jinja2 found wrong, in words that fit an expression."""
    problem = (error.message or "syntax error").replace("end of template", "end")
    return problem if error.lineno == 1 else f"{problem} (line {error.lineno} of it)"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the remedy for the unknown *name*: the nearest known one, or all of them."""
    candidates = sorted(known)
    near = get_close_matches(name, candidates, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(candidates)}"


class Environment(ImmutableSandboxedEnvironment):
    """The sandbox in which plain data is plain data."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def __init__(self, undefined: type[Undefined]) -> None:
        super().__init__(undefined=undefined, keep_trailing_newline=True)
        self.code_generator_class = _NativeValue
        self.globals.clear()
        self.filters = _filters()
        self.tests = {name: test for name, test in TESTS.items() if name != "callable"} | {
            "startswith": lambda text, start: text.startswith(start),
            "endswith": lambda text, end: text.endswith(end),
        }
        self.binop_table |= {"*": _multiply, "**": _power, "%": _modulo}
        self.eval_ctx = nodes.EvalContext(self)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """Return the field *attribute* of a table; never an attribute of a Python object."""
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return the field of a table, or the item of a list or text; else what is missing."""
        if type(obj) is dict:  # nearly always
            found = obj.get(argument, missing)
            return self.undefined(obj=obj, name=argument) if found is missing else found
        if isinstance(obj, Undefined):
            return obj
        if isinstance(argument, Undefined):
            return argument
        if isinstance(obj, Mapping) and argument in obj:
            return obj[argument]
        if (
            isinstance(obj, list | tuple | str)
            and type(argument) is int
            and -len(obj) <= argument < len(obj)
        ):
            return obj[argument]
        return self.undefined(obj=obj, name=argument)


class _NativeValue(NativeCodeGenerator):
    """Yields a constant as it is, where the base class would make text of it."""

    def _output_const_repr(self, group: Iterable[Any]) -> str:
        return repr(next(iter(group)))


class _Missing(Undefined):
    """What an expression reads but the event does not have; never equal to anything."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        if self._undefined_hint:
            return self._undefined_hint
        if self._undefined_obj is missing:
            why = (
                " (the body is neither JSON nor a form)" if self._undefined_name == "event" else ""
            )
            return f"{self._undefined_name!r} has no value{why}"
        return f"the field {self._undefined_name!r} is missing"

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = Undefined.__hash__


class _Lenient(_Missing):
    """In a condition: false, empty, in no order to anything, and so is what is computed of it."""

    __slots__ = ()

    def _itself(self, *_others: object) -> Any:
        return self

    def _false(self, *_others: object) -> Any:
        return False

    __add__ = __radd__ = __sub__ = __rsub__ = _itself
    __mul__ = __rmul__ = __truediv__ = __rtruediv__ = __floordiv__ = __rfloordiv__ = _itself
    __mod__ = __rmod__ = __pow__ = __rpow__ = __pos__ = __neg__ = __getitem__ = _itself
    __lt__ = __le__ = __gt__ = __ge__ = _false


class _Strict(_Missing):
    """In a template: only to be tested, or replaced by ``| default(…)``."""

    __slots__ = ()

    def _fail(self, *_args: object) -> NoReturn:
        self._fail_with_undefined_error()

    __iter__ = __str__ = __len__ = _fail


def _check(
    tree: nodes.Template, environment: Environment, text: str, names: frozenset[str]
) -> frozenset[str]:
    """Refuse what the sandbox does not know, and return the names that the tree reads."""
    if next(tree.find_all(nodes.Call), None):
        raise ExpressionInvalid(
            f"{shown(text)}: nothing can be called here; use a filter: x | upper"
        )
    for condition in tree.find_all(nodes.CondExpr):
        if condition.expr2 is None:
            raise ExpressionInvalid(f"{shown(text)}: 'a if b' needs an 'else'")
    for node in tree.find_all((nodes.Filter, nodes.Test)):
        kind, known = (
            ("filter", environment.filters)
            if isinstance(node, nodes.Filter)
            else ("test", environment.tests)
        )
        if node.name not in known:
            raise ExpressionInvalid(
                f"{shown(text)}: there is no {kind} {node.name!r}; {did_you_mean(node.name, known)}"
            )
    used = frozenset(node.name for node in tree.find_all(nodes.Name))
    for name in sorted(used - names):
        place = match.start() + 1 if (match := re.search(rf"\b{name}\b", text)) else 1
        raise ExpressionInvalid(
            f"{shown(text)}: unknown name {name!r} at character {place}; "
            f"{did_you_mean(name, names)} "
            f"(a field of the body is {'event' if 'event' in names else 'response'}.{name})"
        )
    return used


def _filters() -> dict[str, Any]:
    return {name: FILTERS[name] for name in _KEPT_FILTERS} | {
        "format": _format,
        "split": _split,
        "tojson": lambda value: msgspec.json.encode(value).decode(),  # Jinja2's escapes for HTML
    }


def _format(pattern: str, *values: object) -> str:
    """As ``"%.2f" | format(amount)``."""
    if re.search(r"\*|\d{3}", pattern):
        raise SecurityError("a width in format() has at most two digits")
    return pattern % values


def _split(text: str, separator: str | None = None) -> list[str]:
    return text.split(separator)


def _multiply(left: Any, right: Any) -> Any:
    for sequence, count in ((left, right), (right, left)):
        repeats = isinstance(sequence, str | list | tuple) and isinstance(count, int)
        if repeats and len(sequence) * count > _MAX_REPEATED:
            raise SecurityError(f"a repetition makes more than {_MAX_REPEATED} items")
    return operator.mul(left, right)


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * right
        if bits > _MAX_POWER_BITS:
            raise SecurityError(f"a power has more than {_MAX_POWER_BITS} bits")
    return operator.pow(left, right)


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        raise SecurityError("'%' is for numbers; write: pattern | format(value)")
    return operator.mod(left, right)


CONDITIONS: Final = Environment(_Lenient)
VALUES: Final = Environment(_Strict)
