"""The language of claims: a small part of Python's expressions, interpreted here, over published or measured numbers.

Numbers (exact), strings, f-strings, lists, tuples, comprehensions over them; + - * / ** and comparisons, also chained;
and, or, not; and the functions of `clipa.claims.functions`. Nothing else: no name but these and a comprehension's
variables exists.
"""

from __future__ import annotations

import ast
import difflib
import functools
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from clipa.claims.functions import NAMES, Functions, a_number, a_statement, mismatch
from clipa.claims.numbers import FormulaError, Numbers
from clipa.claims.quantities import (
    Quantity,
    QuantityError,
    Statement,
    all_of,
    any_of,
    compare,
    exact,
    fact,
    said,
)

ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Pow: operator.pow,
}
SIGNS: dict[type[ast.cmpop], str] = {
    ast.Lt: "<",
    ast.LtE: "<=",
    ast.Gt: ">",
    ast.GtE: ">=",
    ast.Eq: "==",
    ast.NotEq: "!=",
}


@functools.cache
def parsed(formula: str) -> ast.expr:
    """The formula as a tree. FormulaError if it is no expression."""
    try:
        return ast.parse(" ".join(formula.split()), mode="eval").body
    except SyntaxError as error:
        raise FormulaError(f"cannot be read: {error.msg} at character {error.offset}") from None


def evaluate(formula: str, numbers: Numbers) -> tuple[Any, tuple[str, ...]]:
    """The formula's value (Quantity, Statement or string) and the ids of the records that it used, in that order.

    FormulaError says what is wrong with it.
    """
    functions = Functions(numbers)
    try:
        value = Interpreter(functions).of(parsed(formula), {})
    except QuantityError as error:
        raise FormulaError(str(error)) from None
    except RecursionError:
        raise FormulaError("is nested too deep") from None
    return value, tuple(functions.used)


@dataclass
class Interpreter:
    """Evaluates the nodes of one formula, a method for each kind of node."""

    functions: Functions

    def of(self, node: ast.expr, names: Mapping[str, Any]) -> Any:
        """The value of a node, with the names that the comprehensions around it bind."""
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            raise FormulaError(f"{ast.unparse(node)!r} ({type(node).__name__}) is not part of the language")
        return method(node, names)

    def _constant(self, node: ast.Constant, names: Mapping[str, Any]) -> Any:
        value = node.value
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise FormulaError(f"{value!r} is not part of the language: numbers and strings only")
        return exact(Fraction(repr(value)))

    def _joinedstr(self, node: ast.JoinedStr, names: Mapping[str, Any]) -> str:
        return "".join(self._piece(part, names) for part in node.values)

    def _piece(self, part: ast.expr, names: Mapping[str, Any]) -> str:
        if isinstance(part, ast.FormattedValue):
            if part.format_spec is not None or part.conversion != -1:
                raise FormulaError("an f-string takes plain {names}, without a format")
            value = self.of(part.value, names)
            if isinstance(value, str) or (isinstance(value, Quantity) and value.is_exact):
                return said(value)
            raise FormulaError(f"an f-string takes strings and exact numbers, got {said(value)}")
        return part.value

    def _name(self, node: ast.Name, names: Mapping[str, Any]) -> Any:
        if node.id not in names:
            raise FormulaError(f"unknown name {node.id!r}{_near(node.id, [*names, *NAMES])}")
        return names[node.id]

    def _list(self, node: ast.List, names: Mapping[str, Any]) -> list[Any]:
        return [self.of(part, names) for part in node.elts]

    def _tuple(self, node: ast.Tuple, names: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(self.of(part, names) for part in node.elts)

    def _binop(self, node: ast.BinOp, names: Mapping[str, Any]) -> Quantity:
        if type(node.op) not in ARITHMETIC:
            raise FormulaError(f"{ast.unparse(node)!r}: the operators are + - * / **")
        left, right = self.of(node.left, names), self.of(node.right, names)
        for operand, where in ((left, node.left), (right, node.right)):
            a_number(operand, where)
        return ARITHMETIC[type(node.op)](left, right)

    def _unaryop(self, node: ast.UnaryOp, names: Mapping[str, Any]) -> Any:
        operand = self.of(node.operand, names)
        if isinstance(node.op, ast.Not):
            return a_statement(operand, node.operand).negated()
        if isinstance(node.op, ast.USub):
            return -a_number(operand, node.operand)
        raise FormulaError(f"{ast.unparse(node)!r} is not part of the language")

    def _boolop(self, node: ast.BoolOp, names: Mapping[str, Any]) -> Statement:
        parts = [a_statement(self.of(part, names), part) for part in node.values]
        return all_of(parts) if isinstance(node.op, ast.And) else any_of(parts)

    def _compare(self, node: ast.Compare, names: Mapping[str, Any]) -> Statement:
        values = [self.of(part, names) for part in (node.left, *node.comparators)]
        parts = []
        for sign, left, right in zip(node.ops, values, values[1:], strict=False):
            if type(sign) not in SIGNS:
                raise FormulaError(f"{ast.unparse(node)!r}: the comparisons are < <= > >= == !=")
            parts.append(_compared(SIGNS[type(sign)], left, right))
        return all_of(parts).placed(_scope(names))

    def _call(self, node: ast.Call, names: Mapping[str, Any]) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ast.unparse(node.func)
        if name not in NAMES:
            raise FormulaError(f"unknown function {name!r}{_near(name, NAMES)}")
        if any(keyword.arg is None for keyword in node.keywords):
            raise FormulaError(f"{name}: ** is not part of the language")
        arguments = [self.of(argument, names) for argument in node.args]
        named = {keyword.arg: self.of(keyword.value, names) for keyword in node.keywords}
        if wrong := mismatch(name, len(arguments), tuple(named)):
            raise FormulaError(f"{name}: {wrong}")
        value = getattr(self.functions, name)(*arguments, **named)
        return value.placed(_scope(names)) if name in ("decreasing", "nonincreasing") else value

    def _listcomp(self, node: ast.ListComp, names: Mapping[str, Any]) -> list[Any]:
        return [self.of(node.elt, inner) for inner in self._rounds(node.generators, names)]

    def _generatorexp(self, node: ast.GeneratorExp, names: Mapping[str, Any]) -> list[Any]:
        return [self.of(node.elt, inner) for inner in self._rounds(node.generators, names)]

    def _rounds(
        self, loops: list[ast.comprehension], names: Mapping[str, Any]
    ) -> Iterator[Mapping[str, Any]]:
        if not loops:
            yield names
            return
        loop = loops[0]
        items = self.of(loop.iter, names)
        if not isinstance(items, (list, tuple)):
            raise FormulaError(f"{ast.unparse(loop.iter)!r} is no list to go through")
        for item in items:
            inner = {**names, **_bound(loop.target, item)}
            conditions = [a_statement(self.of(test, inner), test) for test in loop.ifs]
            if all(condition.holds for condition in conditions):
                yield from self._rounds(loops[1:], inner)


def _compared(sign: str, left: Any, right: Any) -> Statement:
    if isinstance(left, Quantity) and isinstance(right, Quantity):
        return compare(sign, left, right)
    if type(left) is not type(right) or sign not in ("==", "!="):
        raise FormulaError(f"cannot compare {said(left)!r} {sign} {said(right)!r}")
    return fact((left == right) == (sign == "=="))


def _bound(target: ast.expr, item: Any) -> dict[str, Any]:
    """The names that one round of a comprehension binds."""
    if isinstance(target, ast.Name):
        return {target.id: item}
    parts = target.elts if isinstance(target, (ast.Tuple, ast.List)) else []
    if not parts or not isinstance(item, (list, tuple)) or len(parts) != len(item):
        raise FormulaError(f"cannot take {said(item)!r} apart into {ast.unparse(target)}")
    bound: dict[str, Any] = {}
    for part, value in zip(parts, item, strict=True):
        bound |= _bound(part, value)
    return bound


def _scope(names: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The names of the comprehensions around a comparison, in words."""
    return tuple((name, said(value)) for name, value in names.items())


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (nearest: {near[0]})" if near else f" (there are {', '.join(NAMES)})"
