"""A small language for expressions in task specs: arithmetic, comparisons, lists, fields of rows and named functions.

The grammar is the part of Python's that `_NODES` names; the text is parsed by `ast` and turned into closures, and
nothing of Python itself is ever run: no attributes of objects, no methods, no imports, no names but the given ones.
Work is bounded: every node, and every 16 items or characters of a result, costs a unit of `FUEL`; whole numbers have
at most `NUMBER_BITS` bits; texts and lists cannot be repeated with `*`. Division is exact: `3 / 8` is a fraction.
"""

import ast
import functools
import math
import operator
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any, Final

from pyllm.data.examples import quoted
from pyllm.errors import InputError

FUEL: Final = 100_000
NUMBER_BITS: Final = 2048
LONGEST_EXPRESSION: Final = 10_000
MOST_ITEMS: Final = 10_000
_DEEPEST: Final = 40

Function = Callable[..., Any]
_Closure = Callable[["_Run"], Any]


class ExpressionError(InputError):
    """An expression cannot be read or evaluated; whoever holds the spec adds its place."""


@dataclass(slots=True)
class _Run:
    """One evaluation: what names mean, and the work that is left."""

    names: Mapping[str, Any]
    fuel: int = FUEL
    local: dict[str, Any] = field(default_factory=dict)

    def spend(self, units: int = 1) -> None:
        self.fuel -= units
        if self.fuel < 0:
            raise ExpressionError(f"it takes more than {FUEL:,} units of work")

    def spend_on(self, value: Any) -> Any:
        """Pay for all that a value holds, and pass it on."""
        stack, units = [value], 0
        while stack:
            top = stack.pop()
            units += 1 + (len(top) // 16 if isinstance(top, str | list | dict) else 0)
            if units > self.fuel:
                break
            if isinstance(top, list):
                stack += top
            elif isinstance(top, dict):
                stack += top.values()
        self.spend(units)
        return value

    def look_up(self, name: str) -> Any:
        if name in self.local:
            return self.local[name]
        if name not in self.names:
            raise ExpressionError(f"there is no `{name}`", hint=f"there is {quoted((*self.local, *self.names))}")
        return self.names[name]


@dataclass(frozen=True, slots=True)
class Expression:
    """An expression that was read once and can be evaluated many times.

    Args:
        text: As it was written.
    """

    text: str
    _closure: _Closure

    def __call__(self, names: Mapping[str, Any]) -> Any:
        """Its value where names mean what is given.

        Raises:
            ExpressionError: It cannot be evaluated: an unknown name, a wrong type, too much work.
        """
        try:
            return self._closure(_Run(names))
        except ExpressionError as error:
            raise ExpressionError(f"in `{cut(self.text)}`: {error.message}", hint=error.hint) from error
        except (ArithmeticError, IndexError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise ExpressionError(f"in `{cut(self.text)}`: {_reason(error)}") from error


def read_expression(text: str, functions: Mapping[str, Function]) -> Expression:
    """Read an expression.

    Args:
        text: The expression.
        functions: What it may call, by name.

    Raises:
        ExpressionError: It is no expression of this language.

    Example:
        >>> read_expression("a * 10 + len(b)", {"len": len})({"a": 2, "b": [7, 8]})
        22
    """
    if len(text) > LONGEST_EXPRESSION:
        raise ExpressionError(f"the expression `{cut(text)}` is longer than {LONGEST_EXPRESSION:,} characters")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd escapes and the like, which are ours to refuse or not
            tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "it is nested too deeply"
        raise ExpressionError(f"`{cut(text)}` is no expression: {reason}") from error
    try:
        return Expression(text, _Reader(functions).read(tree.body))
    except ExpressionError as error:
        raise ExpressionError(f"in `{cut(text)}`: {error.message}", hint=error.hint) from error


_BINARY: Final[dict[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_COMPARE: Final[dict[type[ast.cmpop], Callable[[Any, Any], Any]]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, whole: item in whole,
    ast.NotIn: lambda item, whole: item not in whole,
}


class _Reader:
    """Turns the nodes of one expression into closures."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self._functions = functions
        self._depth = 0

    def read(self, node: ast.expr) -> _Closure:
        method = _NODES.get(type(node))
        if method is None:
            raise ExpressionError(f"{type(node).__name__} is not part of the language")
        if self._depth == _DEEPEST:
            raise ExpressionError("it is nested too deeply")
        self._depth += 1
        inner = method(self, node)
        self._depth -= 1
        return functools.partial(_visit, inner)

    def constant(self, node: ast.Constant) -> _Closure:
        value = node.value
        if not isinstance(value, bool | int | float | str | None):
            raise ExpressionError(f"{type(value).__name__} is not part of the language")
        _check_number(value)
        return lambda _: value

    def name(self, node: ast.Name) -> _Closure:
        name = node.id
        return lambda state: state.look_up(name)

    def list_(self, node: ast.List | ast.Tuple) -> _Closure:
        items = [self.read(item) for item in node.elts]
        return lambda state: [item(state) for item in items]

    def attribute(self, node: ast.Attribute) -> _Closure:
        owner, name = self.read(node.value), node.attr
        return lambda state: _field(owner(state), name)

    def subscript(self, node: ast.Subscript) -> _Closure:
        owner = self.read(node.value)
        if isinstance(node.slice, ast.Slice):
            if node.slice.step is not None:
                raise ExpressionError("a slice takes no step")
            first = self.read(node.slice.lower) if node.slice.lower else None
            last = self.read(node.slice.upper) if node.slice.upper else None
            return lambda state: _part(owner(state), first and first(state), last and last(state))
        index = self.read(node.slice)
        return lambda state: _item(owner(state), index(state))

    def unary(self, node: ast.UnaryOp) -> _Closure:
        value = self.read(node.operand)
        if isinstance(node.op, ast.Not):
            return lambda state: not _truth(value(state))
        if isinstance(node.op, ast.USub):
            return lambda state: -_number(value(state))
        raise ExpressionError(f"{type(node.op).__name__} is not part of the language")

    def binary(self, node: ast.BinOp) -> _Closure:
        kind = type(node.op)
        if kind not in _BINARY:
            raise ExpressionError(f"{kind.__name__} is not part of the language")
        left, right = self.read(node.left), self.read(node.right)
        return lambda state: _calculate(kind, left(state), right(state), state)

    def boolean(self, node: ast.BoolOp) -> _Closure:
        values = [self.read(value) for value in node.values]
        every = isinstance(node.op, ast.And)
        return lambda state: (all if every else any)(_truth(value(state)) for value in values)

    def compare(self, node: ast.Compare) -> _Closure:
        values = [self.read(value) for value in (node.left, *node.comparators)]
        kinds = [type(each) for each in node.ops]
        if any(kind not in _COMPARE for kind in kinds):
            raise ExpressionError("`is` is not part of the language")

        return functools.partial(_compare, kinds, values)

    def choice(self, node: ast.IfExp) -> _Closure:
        test, yes, no = (self.read(each) for each in (node.test, node.body, node.orelse))
        return lambda state: yes(state) if _truth(test(state)) else no(state)

    def call(self, node: ast.Call) -> _Closure:
        if not isinstance(node.func, ast.Name) or node.func.id not in self._functions:
            raise ExpressionError(
                f"there is no function `{ast.unparse(node.func)[:40]}`", hint=f"there is {quoted(self._functions)}"
            )
        if node.keywords:
            raise ExpressionError("functions take no named arguments")
        name, function = node.func.id, self._functions[node.func.id]
        arguments = [self.read(each) for each in node.args]

        return functools.partial(_call, name, function, arguments)

    def comprehension(self, node: ast.ListComp | ast.GeneratorExp) -> _Closure:
        if len(node.generators) != 1 or node.generators[0].is_async:
            raise ExpressionError("a list has one `for`")
        loop = node.generators[0]
        if not isinstance(loop.target, ast.Name):
            raise ExpressionError("a `for` takes one name")
        name = loop.target.id
        source, item = self.read(loop.iter), self.read(node.elt)
        tests = [self.read(test) for test in loop.ifs]

        return functools.partial(_go_through, name, source, tests, item)


_NODES: Final[dict[type[ast.expr], Callable[[_Reader, Any], _Closure]]] = {
    ast.Constant: _Reader.constant,
    ast.Name: _Reader.name,
    ast.List: _Reader.list_,
    ast.Tuple: _Reader.list_,
    ast.Attribute: _Reader.attribute,
    ast.Subscript: _Reader.subscript,
    ast.UnaryOp: _Reader.unary,
    ast.BinOp: _Reader.binary,
    ast.BoolOp: _Reader.boolean,
    ast.Compare: _Reader.compare,
    ast.IfExp: _Reader.choice,
    ast.Call: _Reader.call,
    ast.ListComp: _Reader.comprehension,
    ast.GeneratorExp: _Reader.comprehension,
}


def _visit(inner: _Closure, state: _Run) -> Any:
    state.spend()
    return inner(state)


def _compare(kinds: Sequence[type[ast.cmpop]], values: Sequence[_Closure], state: _Run) -> bool:
    left = state.spend_on(values[0](state))
    for kind, closure in zip(kinds, values[1:], strict=True):
        right = state.spend_on(closure(state))
        if not _COMPARE[kind](left, right):
            return False
        left = right
    return True


def _call(name: str, function: Function, arguments: Sequence[_Closure], state: _Run) -> Any:
    given = [state.spend_on(argument(state)) for argument in arguments]
    try:
        return state.spend_on(_checked(function(*given)))
    except (ArithmeticError, AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ExpressionError(f"`{name}` fails: {_reason(error)}") from error


def _go_through(name: str, source: _Closure, tests: Sequence[_Closure], item: _Closure, state: _Run) -> list[Any]:
    whole = source(state)
    if not isinstance(whole, list):
        raise ExpressionError(f"{kind_of(whole)} is not a list to go through")
    outer = state.local
    items = []
    for value in whole:
        state.local = {**outer, name: value}
        if all(_truth(test(state)) for test in tests):
            items.append(item(state))
    state.local = outer
    return items


def _calculate(kind: type[ast.operator], left: Any, right: Any, state: _Run) -> Any:
    if kind is ast.Add and isinstance(left, str | list) and type(left) is type(right):
        state.spend((len(left) + len(right)) // 16)
        return _checked(operator.add(left, right))
    left, right = _number(left), _number(right)
    if kind is ast.Div and not isinstance(left, float) and not isinstance(right, float):
        return _checked(Fraction(left) / Fraction(right))
    if kind is ast.Pow and not _is_small_power(left, right):
        raise ExpressionError(f"a power has a whole exponent and at most {NUMBER_BITS:,} bits")
    return _checked(_BINARY[kind](left, right))


def _is_small_power(base: Any, exponent: Any) -> bool:
    """Whether a power can be computed without harm: known from its size before anything is computed."""
    return isinstance(exponent, int) and 0 <= exponent <= NUMBER_BITS and _bits(base) * exponent <= NUMBER_BITS


def _checked(value: Any) -> Any:
    _check_number(value)
    if isinstance(value, list) and len(value) > MOST_ITEMS:
        raise ExpressionError(f"a list has more than {MOST_ITEMS:,} items")
    return value


def _check_number(value: Any) -> None:
    if _bits(value) > NUMBER_BITS:
        raise ExpressionError(f"a number has more than {NUMBER_BITS:,} bits")
    if isinstance(value, float) and not math.isfinite(value):
        raise ExpressionError(f"a number is {value}")


def _bits(value: Any) -> int:
    if isinstance(value, int):
        return value.bit_length()
    if isinstance(value, Fraction):
        return max(value.numerator.bit_length(), value.denominator.bit_length())
    return 64 if isinstance(value, float) else 0


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float | Fraction):
        raise ExpressionError(f"{kind_of(value)} is not a number")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ExpressionError(f"{kind_of(value)} is neither true nor false")
    return value


def _field(value: Any, name: str) -> Any:
    if not isinstance(value, dict):
        raise ExpressionError(f"{kind_of(value)} has no fields, so no `{name}`")
    if name not in value:
        raise ExpressionError(f"there is no field `{name}`", hint=f"there is {quoted(value)}")
    return value[name]


def _item(value: Any, index: Any) -> Any:
    if isinstance(value, dict):
        if not isinstance(index, str):
            raise ExpressionError(f"{kind_of(index)} is not the name of a field")
        return _field(value, index)
    if isinstance(index, Fraction) and index.denominator == 1:
        index = int(index)
    if isinstance(index, bool) or not isinstance(index, int):
        raise ExpressionError(f"{kind_of(index)} is not a place in a list")
    if not isinstance(value, str | list):
        raise ExpressionError(f"{kind_of(value)} has no items")
    if not -len(value) <= index < len(value):
        raise ExpressionError(f"there is no item {index} among {len(value)}")
    return value[index]


def _part(value: Any, first: Any, last: Any) -> Any:
    if not isinstance(value, str | list):
        raise ExpressionError(f"{kind_of(value)} has no items")
    for end in (first, last):
        if isinstance(end, bool) or not isinstance(end, int | None):
            raise ExpressionError(f"{kind_of(end)} is not a place in a list")
    return value[first:last]


def kind_of(value: Any) -> str:
    """What messages call a value."""
    names = {str: "a text", list: "a list", dict: "a row", bool: "true or false", type(None): "nothing"}
    return names.get(type(value), "a number")


def _reason(error: Exception) -> str:
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    text = str(error) or type(error).__name__
    return text[:1].lower() + text[1:]


def cut(text: str) -> str:
    """A text in a message: one line, not too long."""
    line = " ".join(text.split())
    return line if len(line) <= 60 else f"{line[:57]}..."
