"""The language of claims: a small part of Python's expressions, interpreted here, over published or measured numbers.

Numbers (exact), strings, f-strings, lists, tuples, comprehensions over them; + - * / ** and comparisons, also chained;
and, or, not; and the functions of :class:`Functions`: records, what is counted from them, costs, lists, numbers.
Nothing else: no name but these and a comprehension's variables exists.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from clipa.cost import CONFIGURATIONS, Towers, Transformer
from clipa.published.quantities import (
    FormulaError,
    Published,
    Quantity,
    Statement,
    all_of,
    any_of,
    between,
    compare,
    describe,
    exact,
    fact,
    falling,
    largest,
    number_of,
    smallest,
    total,
)
from clipa.study import FULL_TEXT_TOKENS, parse_run

FULL_TEXT = exact(FULL_TEXT_TOKENS)
NO_DIGITS = exact(0)


@dataclass
class Functions:
    """The functions, by the names that formulas use, over some numbers; `used` are the ids asked for, in order."""

    numbers: Published
    used: dict[str, None] = field(default_factory=dict)

    # ------------------------------------------------------------------------------------------------ the records

    def v(self, id: Any) -> Any:
        """The value of a record, with what its rounding leaves open."""
        identity = needs(str, id, "v: the id")
        value = self.numbers.value(identity)
        self.used[identity] = None
        return value

    def text(self, id: Any) -> str:
        """The value of a record in words, else what is printed."""
        identity = needs(str, id, "text: the id")
        text = self.numbers.text(identity)
        self.used[identity] = None
        return text

    def acc(
        self, table: Any, subject: Any, stage: Any = None, benchmark: Any = "imagenet1k", metric: Any = "acc1"
    ) -> Quantity:
        """An accuracy or recall of a table; without a stage the last one: pretrain for full length, else finetune."""
        name = needs(str, subject, "acc: the run or case")
        if stage is None:
            stage = "pretrain" if "-none-" in name else "finetune"
        parts = [f"table{a_whole_number(table, 'acc: the table')}", name, stage, benchmark, metric]
        identity = ".".join(needs(str, part, "acc: every other argument") for part in parts if part)
        return needs(Quantity, self.v(identity), identity)

    def drop(self, table: Any, run: Any, benchmark: Any = "imagenet1k", metric: Any = "acc1") -> Quantity:
        """Baseline minus value, in points."""
        baseline = baseline_of(needs(str, run, "drop: the run"))
        full = self.acc(table, baseline, None, benchmark, metric)
        return full - self.acc(table, run, None, benchmark, metric)

    def gain(self, table: Any, run: Any, benchmark: Any = "imagenet1k", metric: Any = "acc1") -> Quantity:
        """What fine-tuning adds, in points."""
        after = self.acc(table, run, "finetune", benchmark, metric)
        return after - self.acc(table, run, "pretrain", benchmark, metric)

    def tokens_needed(self, table: Any, model: Any, reduction: Any, threshold: Any) -> Quantity:
        """The shortest length with a drop of at most `threshold` points, and of no more at any longer length.

        Image tokens in Table 11, text tokens in 12, pixels in 13; the full length where no shorter one will do.
        With drops at their least and at their greatest within rounding it may be another one: its bounds.
        """
        number = a_whole_number(table, "tokens_needed: the table")
        name = needs(str, model, "tokens_needed: the model")
        kind = needs(str, reduction, "tokens_needed: the reduction")
        limit = needs(Quantity, threshold, "tokens_needed: the threshold")
        runs = self.numbers.lengths(number, name, kind)
        drops = [(length, self.drop(exact(number), run) - limit) for run, length in runs.items()]
        full = {11: 197, 12: FULL_TEXT_TOKENS, 13: 224}[number]

        def shortest(too_much: Callable[[Statement], bool]) -> Fraction:
            needed = full
            for length, drop in drops:
                if too_much(compare("<=", drop, exact(0))):
                    break
                needed = length
            return Fraction(needed)

        low, high = shortest(lambda fits: not fits.can_hold), shortest(lambda fits: fits.can_fail)
        return between(shortest(lambda fits: not fits.holds), low, high)

    # -------------------------------------------------------------------------------------------------- the costs

    def macs(self, model: Any, patches: Any = None, text_tokens: Any = FULL_TEXT) -> Quantity:
        """Forward multiply-adds of one pair through both towers, in units of 1e9 (the paper's GFLOPs), from Table 4."""
        towers = self._towers(needs(str, model, "macs: the model"))
        kept = exactly(patches, "macs: patches") if patches is not None else (224 // towers.patch_size) ** 2
        return exact(towers.macs(kept, exactly(text_tokens, "macs: text_tokens")) / Fraction(10**9))

    def training_macs(
        self, model: Any, patches: Any, text_tokens: Any, pretrain_samples: Any, finetune: Any = ()
    ) -> Quantity:
        """Forward multiply-adds of all samples, in units of 1e21 (the paper's "1e12" GFLOPs).

        `finetune`: (patches, samples) of each later stage, with a text of 32 tokens.
        """
        stages = [(patches, text_tokens, pretrain_samples)]
        for stage in finetune:
            if not isinstance(stage, tuple) or len(stage) != 2:
                raise FormulaError("training_macs: finetune is a list of (patches, samples)")
            stages.append((stage[0], FULL_TEXT, stage[1]))
        costs = [
            self.macs(model, kept, tokens).scaled(exactly(samples, "training_macs: samples") / 10**12)
            for kept, tokens, samples in stages
        ]
        return total(costs)

    def parameters(self, model: Any, classes: Any = NO_DIGITS) -> Quantity:
        """Millions of parameters of the image tower, position embeddings included, without its projection.

        `classes`: with a linear classifier of so many classes, as sizes of ViTs are usually quoted.
        """
        towers = self._towers(needs(str, model, "parameters: the model"))
        head = a_whole_number(classes, "parameters: classes") * (towers.vision.width + 1)
        count = towers.vision_parameters(positions=True, projection=False) + head
        return exact(Fraction(count, 10**6))

    def _towers(self, model: str) -> Towers:
        """Table 4's row, whose cells are used; it gives no patch sizes and no MLP widths: those are `clipa.cost`'s."""
        known = next(
            (towers for name, towers in CONFIGURATIONS.items() if name.replace("/", "") == model), None
        )
        if known is None:
            names = [name.replace("/", "") for name in CONFIGURATIONS]
            raise FormulaError(f"macs: no configuration of {model!r}; there are {', '.join(names)}")
        if model.startswith("OpenCLIP"):
            return known

        def cell(metric: str) -> int:
            return int(exactly(self.v(f"table4.{model}.{metric}"), metric))

        vision = Transformer(cell("vision.layers"), cell("vision.width"), known.vision.mlp_width)
        text = Transformer(cell("text.layers"), cell("text.width"), known.text.mlp_width)
        return Towers(cell("embed_dim"), known.patch_size, vision, text)

    # ------------------------------------------------------------------------------------------ lists and numbers

    def all_of(self, statements: Any) -> Statement:
        """True if all are."""
        return all_of(needs_list(Statement, statements, "all_of"))

    def any_of(self, statements: Any) -> Statement:
        """True if one is."""
        return any_of(needs_list(Statement, statements, "any_of"))

    def count(self, statements: Any) -> Quantity:
        """How many of the statements hold."""
        return number_of(needs_list(Statement, statements, "count"))

    def decreasing(self, numbers: Any) -> Statement:
        """Each strictly below the one before."""
        return falling(needs_list(Quantity, numbers, "decreasing", least=2))

    def nonincreasing(self, numbers: Any) -> Statement:
        """None above the one before."""
        return falling(needs_list(Quantity, numbers, "nonincreasing", least=2), ">=")

    def min(self, *numbers: Any) -> Quantity:
        """The least, of a list or of several arguments."""
        return smallest(needs_list(Quantity, spread(numbers), "min"))

    def max(self, *numbers: Any) -> Quantity:
        """The greatest, of a list or of several arguments."""
        return largest(needs_list(Quantity, spread(numbers), "max"))

    def sum(self, numbers: Any) -> Quantity:
        """The sum of a list."""
        return total(needs_list(Quantity, numbers, "sum"))

    def mean(self, numbers: Any) -> Quantity:
        """The mean of a list."""
        listed = needs_list(Quantity, numbers, "mean")
        return total(listed).scaled(Fraction(1, len(listed)))

    def len(self, items: Any) -> Quantity:
        """The length of a list."""
        if not isinstance(items, (list, tuple)):
            raise FormulaError(f"len: needs a list, got {describe(items)}")
        return exact(len(items))

    def abs(self, number: Any) -> Quantity:
        """The absolute value."""
        return abs(needs(Quantity, number, "abs"))

    def round(self, number: Any, digits: Any = NO_DIGITS) -> Quantity:
        """Rounded to so many decimals, halves up."""
        return needs(Quantity, number, "round").rounded(a_whole_number(digits, "round: digits"))


NAMES = [name for name in vars(Functions) if not name.startswith("_") and name not in ("numbers", "used")]
"""Everything that a formula can call."""


@functools.cache
def mismatch(name: str, positional: int, named: tuple[str, ...]) -> str | None:
    """What is wrong with calling a function with so many arguments and these named ones; None if nothing is."""
    try:
        inspect.signature(getattr(Functions, name)).bind(None, *range(positional), **dict.fromkeys(named))
    except TypeError as error:
        return str(error)
    return None


# --------------------------------------------------------------------------------------------------------- arguments


def baseline_of(run: str) -> str:
    """The run that a run's drop is measured from (``clipa.study``)."""
    try:
        return parse_run(run).baseline.slug
    except ValueError:
        raise FormulaError(
            f"drop: {run!r} is no run with a baseline (expected as in L16-resize64-truncation32)"
        ) from None


KINDS = {Quantity: "number", Statement: "comparison", str: "string"}


def needs(kind: type, value: Any, what: str | ast.expr) -> Any:
    """The value if it is of a kind, else FormulaError that says which piece of the formula is not."""
    if not isinstance(value, kind):
        name = what if isinstance(what, str) else ast.unparse(what)
        raise FormulaError(f"{name}: needs a {KINDS[kind]}, got {describe(value)!r}")
    return value


def needs_list(kind: type, values: Any, what: str, least: int = 1) -> list[Any]:
    """A list of values of a kind, `least` or more."""
    if not isinstance(values, (list, tuple)) or len(values) < least:
        count = f"{least} or more " if least > 1 else ""
        raise FormulaError(f"{what}: needs a list of {count}{KINDS[kind]}s, got {describe(values)!r}")
    return [needs(kind, value, what) for value in values]


def exactly(value: Any, what: str) -> Fraction:
    """The value of an exact number."""
    if not needs(Quantity, value, what).is_exact:
        raise FormulaError(f"{what}: needs an exact number, got {describe(value)}")
    return value.value


def a_whole_number(value: Any, what: str) -> int:
    """The value of an exact whole number."""
    number = exactly(value, what)
    if number.denominator != 1:
        raise FormulaError(f"{what}: needs a whole number, got {describe(value)}")
    return int(number)


def spread(values: tuple[Any, ...]) -> Any:
    """The arguments of min and max: one list, or several numbers."""
    return values[0] if len(values) == 1 and isinstance(values[0], (list, tuple)) else values


# ------------------------------------------------------------------------------------------------------- interpreter

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


def evaluate(formula: str, numbers: Published) -> tuple[Any, tuple[str, ...]]:
    """The formula's value (Quantity, Statement or string) and the ids of the records that it used, in that order.

    FormulaError says what is wrong with it.
    """
    functions = Functions(numbers)
    try:
        value = Interpreter(functions).of(parsed(formula), {})
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
                return describe(value)
            raise FormulaError(f"an f-string takes strings and exact numbers, got {describe(value)}")
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
            needs(Quantity, operand, where)
        return ARITHMETIC[type(node.op)](left, right)

    def _unaryop(self, node: ast.UnaryOp, names: Mapping[str, Any]) -> Any:
        operand = self.of(node.operand, names)
        if isinstance(node.op, ast.Not):
            return needs(Statement, operand, node.operand).negated()
        if isinstance(node.op, ast.USub):
            return -needs(Quantity, operand, node.operand)
        raise FormulaError(f"{ast.unparse(node)!r} is not part of the language")

    def _boolop(self, node: ast.BoolOp, names: Mapping[str, Any]) -> Statement:
        parts = [needs(Statement, self.of(part, names), part) for part in node.values]
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
        return [self.of(node.elt, inner) for inner in self.rounds(node.generators, names)]

    def _generatorexp(self, node: ast.GeneratorExp, names: Mapping[str, Any]) -> list[Any]:
        return [self.of(node.elt, inner) for inner in self.rounds(node.generators, names)]

    def rounds(self, loops: list[ast.comprehension], names: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        """The names of every round of a comprehension, with those around it."""
        if not loops:
            yield names
            return
        loop = loops[0]
        items = self.of(loop.iter, names)
        if not isinstance(items, (list, tuple)):
            raise FormulaError(f"{ast.unparse(loop.iter)!r} is no list to go through")
        for item in items:
            inner = {**names, **_bound(loop.target, item)}
            conditions = [needs(Statement, self.of(test, inner), test) for test in loop.ifs]
            if all(condition.holds for condition in conditions):
                yield from self.rounds(loops[1:], inner)


def _compared(sign: str, left: Any, right: Any) -> Statement:
    if isinstance(left, Quantity) and isinstance(right, Quantity):
        return compare(sign, left, right)
    if type(left) is not type(right) or sign not in ("==", "!="):
        raise FormulaError(f"cannot compare {describe(left)!r} {sign} {describe(right)!r}")
    return fact((left == right) == (sign == "=="))


def _bound(target: ast.expr, item: Any) -> dict[str, Any]:
    """The names that one round of a comprehension binds."""
    if isinstance(target, ast.Name):
        return {target.id: item}
    parts = target.elts if isinstance(target, (ast.Tuple, ast.List)) else []
    if not parts or not isinstance(item, (list, tuple)) or len(parts) != len(item):
        raise FormulaError(f"cannot take {describe(item)!r} apart into {ast.unparse(target)}")
    bound: dict[str, Any] = {}
    for part, value in zip(parts, item, strict=True):
        bound |= _bound(part, value)
    return bound


def _scope(names: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """The names of the comprehensions around a comparison, in words."""
    return tuple((name, describe(value)) for name, value in names.items())


def _near(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" (nearest: {near[0]})" if near else f" (there are {', '.join(NAMES)})"
