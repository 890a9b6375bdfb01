"""A claim worked out, to be checked by hand: cells, substituted arithmetic, bound, verdict, and its turning point."""

from __future__ import annotations

import ast
import copy
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from clipa.cost import CONFIGURATIONS, Transformer
from clipa.published.claims import DIFFERS, ReadResult, Result, check, stated
from clipa.published.errata import SYMBOLS, comparison_text
from clipa.published.formulas import SIGNS, Functions, Interpreter, parsed
from clipa.published.quantities import (
    FormulaError,
    Published,
    Quantity,
    Statement,
    describe,
    exact,
    printed_unit,
)
from clipa.study import FULL_TEXT_TOKENS

CELLS_SHOWN = 12
COMPARISONS_SHOWN = 6
LISTED_AT_MOST = 8
"""Elements of a list that are written out with their numbers."""
TURNING_CELLS = 12
"""Cells of a claim up to which each is tried: what would it have to be for another verdict?"""
FARTHEST = 12
"""A cell is moved by at most 2 to this power of its printed units."""
LEAVES = ("v", "acc", "macs", "parameters")
DIFFERENCES = ("drop", "gain")


@dataclass(frozen=True)
class Worked:
    """One reading: cells that no reading before it has, arithmetic, the bound that it is held against, and its verdict.

    `assumed`: what our count takes that no table prints.
    """

    name: str
    cells: tuple[tuple[str, str], ...]
    more_cells: int
    arithmetic: tuple[str, ...]
    assumed: tuple[str, ...]
    bound: str
    verdict: str
    why: str | None


def worked(result: Result, numbers: Published) -> list[Worked]:
    """Every reading of a claim, the formula's own first."""
    seen: set[str] = set()
    found = []
    for reading in result.all_readings:
        found.append(_worked(reading, numbers, seen))
        seen |= set(reading.rests_on)
    return found


def _worked(found: ReadResult, numbers: Published, seen: set[str]) -> Worked:
    new = [identity for identity in found.rests_on if identity not in seen]
    cells = tuple((identity, _cell(identity, numbers)) for identity in new[:CELLS_SHOWN])
    arithmetic, bound = (), ""
    if found.reading.formula is not None:
        arithmetic, bound = _arithmetic(found, numbers), _bound(found)
    return Worked(
        found.reading.name,
        cells,
        len(new) - len(cells),
        arithmetic,
        _assumed(found),
        bound,
        found.verdict,
        found.reading.why,
    )


def _assumed(found: ReadResult) -> tuple[str, ...]:
    """The parts of a model's configuration that Table 4 does not print, of each model that is counted."""
    if not found.counted:
        return ()
    said = []
    for name, towers in CONFIGURATIONS.items():
        if f'"{name.replace("/", "")}"' not in (found.reading.formula or ""):
            continue
        image, text = towers.vision, towers.text
        if name.startswith("OpenCLIP"):
            said.append(
                f"{name}: {image.layers} layers of width {image.width} for images, "
                f"{text.layers} of {text.width} for texts"
            )
        said.append(f"{name}: MLPs of width {_mlp(image)} for images, {_mlp(text)} for texts")
    return tuple(said)


def _mlp(tower: Transformer) -> int:
    return tower.mlp_width or 4 * tower.width


def _cell(identity: str, numbers: Published) -> str:
    value = numbers.value(identity)
    return describe(value) if not isinstance(value, str) else f"“{value}”"


def _arithmetic(found: ReadResult, numbers: Published) -> tuple[str, ...]:
    """The formula with its numbers put in; of a statement the comparisons, those that fail or are closest first."""
    tree, value = parsed(found.reading.formula or ""), found.value
    functions = Functions(numbers)
    if not isinstance(value, Statement):
        return (f"{_text(tree, functions, {})} = {describe(value)}",)
    comparisons = value.comparisons()
    texts = list(_comparisons(tree, functions, {}))
    if len(texts) != len(comparisons):  # a negation, or words
        texts = [comparison_text(one) for one in comparisons]
    order = sorted(range(len(comparisons)), key=lambda n: (comparisons[n].holds, _margin(comparisons[n])))
    shown = order[:COMPARISONS_SHOWN]
    lines = [f"{texts[n]}: {'true' if comparisons[n].holds else 'false'}" for n in shown]
    left = len(order) - len(shown)
    return (*lines, f"and {left} more, with larger margins") if left else tuple(lines)


def _comparisons(node: ast.expr, functions: Functions, names: Mapping[str, Any]) -> Iterator[str]:
    """The elementary comparisons of a statement with their numbers put in, in the order of its parts."""
    interpreter = Interpreter(functions)
    if isinstance(node, ast.BoolOp):
        for part in node.values:
            yield from _comparisons(part, functions, names)
    elif isinstance(node, ast.ListComp):
        for inner in interpreter.rounds(node.generators, names):
            yield from _comparisons(node.elt, functions, inner)
    elif isinstance(node, ast.List):
        for part in node.elts:
            yield from _comparisons(part, functions, names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("all_of", "any_of"):
        yield from _comparisons(node.args[0], functions, names)
    elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("decreasing", "nonincreasing"):
        sign = ">" if ast.unparse(node.func) == "decreasing" else "≥"
        yield from _chained(_elements(node.args[0], functions, names), [sign])
    elif isinstance(node, ast.Compare):
        texts = [(_text(part, functions, names), names) for part in (node.left, *node.comparators)]
        yield from _chained(texts, [SYMBOLS.get(SIGNS[type(sign)], SIGNS[type(sign)]) for sign in node.ops])


def _elements(node: ast.expr, functions: Functions, names: Mapping[str, Any]) -> list[tuple[str, Mapping]]:
    """The texts of a list's elements, each with the names around it."""
    if isinstance(node, ast.ListComp):
        rounds = Interpreter(functions).rounds(node.generators, names)
        return [(_text(node.elt, functions, inner), names) for inner in rounds]
    return [(_text(part, functions, names), names) for part in getattr(node, "elts", ())]


def _chained(texts: Sequence[tuple[str, Mapping[str, Any]]], signs: Sequence[str]) -> Iterator[str]:
    for number, ((left, names), (right, _)) in enumerate(itertools.pairwise(texts)):
        where = ", ".join(f"{name} = {describe(value)}" for name, value in names.items())
        yield f"{left} {signs[min(number, len(signs) - 1)]} {right}{f' for {where}' if where else ''}"


def _text(node: ast.expr, functions: Functions, names: Mapping[str, Any]) -> str:
    """A piece of a formula with its numbers put in."""
    tree = _Substituted(functions, names).visit(copy.deepcopy(node))
    return ast.unparse(ast.fix_missing_locations(tree)).replace("'", "")


def _margin(statement: Statement) -> Fraction:
    return statement.margin.value if statement.margin is not None else Fraction(0)


def _bound(found: ReadResult) -> str:
    """What the computed number must lie in, or how many comparisons must be true."""
    if isinstance(found.value, Statement):
        parts = found.value.comparisons()
        if len(parts) == 1:
            return "the comparison must be true"
        how = {"all": "all of", "any": "one part of"}[found.value.how]
        false = sum(not part.holds for part in parts)
        return f"{how} {len(parts)} comparisons must be true; {false} false as printed"
    if not isinstance(found.value, Quantity) or found.states is None:
        return f"the text has {found.states}"
    number, tolerance = stated(found.states)
    low, high = (_plain(number + sign * tolerance) for sign in (-1, 1))
    text = f"“{found.states}” stands for {low} to {high}"
    if not found.value.is_exact:
        text += f"; the cells leave {_plain(found.value.low)} to {_plain(found.value.high)} open"
    return text


def _plain(number: Fraction) -> str:
    return f"{float(number):.5g}"


class _Substituted(ast.NodeTransformer):
    """A formula in which each call for a number is that number, and short lists are written out."""

    def __init__(self, functions: Functions, names: Mapping[str, Any]) -> None:
        self.functions, self.names = functions, names
        self.interpreter = Interpreter(functions)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        if name == "tokens_needed":
            return ast.Name(self._lengths(node))
        if name == "training_macs":
            return ast.Name(self._stages(node))
        if name in LEAVES:
            return ast.Name(_central(describe(self.interpreter.of(node, self.names))))
        if name in DIFFERENCES:
            inner = Functions(self.functions.numbers)
            Interpreter(inner).of(node, self.names)
            parts = [describe(inner.numbers.value(identity)) for identity in inner.used]
            return ast.Name(f"({' - '.join(map(_central, parts))})")
        node.args = [self.visit(argument) for argument in node.args]
        return node

    def _lengths(self, node: ast.Call) -> str:
        """Each length with its drop, and the threshold: `shortest of 101: 0.6, 50: 1.3, 37: 2.1 within 2`."""
        table, model, reduction, threshold = (self.interpreter.of(part, self.names) for part in node.args)
        runs = self.functions.numbers.lengths(int(table.value), model, reduction)
        drops = [
            f"{length}: {_central(describe(self.functions.drop(table, run)))}" for run, length in runs.items()
        ]
        return f"shortest of ({', '.join(drops)}) with a drop within {describe(threshold)}"

    def _stages(self, node: ast.Call) -> str:
        """Billions of multiply-adds a pair times billions of pairs, by stage: `(25.84 * 2.56 + 177 * 0.128) / 1000`."""
        model, *first = (self.interpreter.of(part, self.names) for part in node.args)
        later = next((self.interpreter.of(k.value, self.names) for k in node.keywords), ())
        stages = [tuple(first), *((kept, exact(FULL_TEXT_TOKENS), samples) for kept, samples in later)]
        parts = [
            f"{_plain(self.functions.macs(model, kept, tokens).value)} * {_plain(samples.value / 10**9)}"
            for kept, tokens, samples in stages
        ]
        return f"(({' + '.join(parts)}) / 1000)"

    def visit_ListComp(self, node: ast.ListComp) -> ast.AST:
        rounds = list(self.interpreter.rounds(node.generators, self.names))
        elements = [_Substituted(self.functions, names).visit(copy.deepcopy(node.elt)) for names in rounds]
        if len(elements) > LISTED_AT_MOST:
            left = len(elements) - LISTED_AT_MOST
            elements = [*elements[:LISTED_AT_MOST], ast.Name(f"and {left} more")]
        return ast.List(elements, ast.Load())

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return ast.Name(describe(self.names[node.id])) if node.id in self.names else node


def _central(text: str) -> str:
    return text.partition(" ± ")[0]


# ---------------------------------------------------------------------------------------------------- turning point


def turning_point(result: Result, numbers: Published) -> str:
    """What it would take for another verdict, in a sentence."""
    if result.claim.formula is None:
        return "A run that the tables lack."
    if result.verdict == DIFFERS:
        return (
            "The authors' way of counting, or unrounded numbers behind the cells; the paper prints neither."
        )
    decisive = next(one for one in result.all_readings if one.verdict == result.verdict)
    cells = [name for name in decisive.rests_on if isinstance(numbers.value(name), Quantity)]
    movable = [name for name in cells if not numbers.value(name).is_exact]
    if not movable or decisive.counted:
        return "Nothing that is printed with a rounding: the numbers are settings."
    if len(movable) > TURNING_CELLS:
        return _closest(decisive)
    moves = [move for name in movable for move in _moves(result, numbers, name)]
    if not moves:
        return "More than one cell."
    moves.sort(key=lambda move: move.units)
    return "; or ".join(
        f"{move.cell} at {move.to} instead of {move.now} ({move.verdict})" for move in moves[:3]
    )


@dataclass(frozen=True)
class Move:
    """A cell's nearest printed value with another verdict, `units` of its last digit away."""

    cell: str
    now: str
    to: str
    units: int
    verdict: str


def _moves(result: Result, numbers: Published, name: str) -> list[Move]:
    """The nearest other value of one cell below and above, where there is one."""
    now = numbers.value(name)
    unit = printed_unit(numbers.record(name))
    found = []
    for sign in (-1, 1):

        def moved(units: int, sign: int = sign) -> Quantity:
            return replace(now, value=now.value + sign * units * unit)

        def changes(units: int) -> bool:
            return _with(result, numbers, name, moved(units)).verdict != result.verdict

        tried = sorted({1 << power for power in range(FARTHEST)} | _aims(result, numbers, name, moved(1)))
        far = next((units for units in tried if changes(units)), 0)
        if not far:
            continue
        near = max((units for units in tried if units < far), default=0)
        while far - near > 1:
            middle = (near + far) // 2
            near, far = (near, middle) if changes(middle) else (middle, far)
        found.append(
            Move(
                name,
                _central(describe(now)),
                _central(describe(moved(far))),
                far,
                _outcome(_with(result, numbers, name, moved(far))),
            )
        )
    return found


def _outcome(result: Result) -> str:
    """A verdict, and where there are several readings the one that it comes from."""
    decisive = next((one for one in result.all_readings if one.verdict == result.verdict), None)
    return result.verdict + (f", as {decisive.reading.name}" if result.others and decisive else "")


def _aims(result: Result, numbers: Published, name: str, one_unit: Quantity) -> set[int]:
    """How many units, in a line, would bring a computed number to the stated one: else both are easily jumped over."""
    if not isinstance(result.value, Quantity) or result.states is None:
        return set()
    try:
        changed = check(result.claim, numbers.with_value(name, one_unit)).value
    except (ValueError, FormulaError):
        return set()
    step = changed.value - result.value.value
    units = round((stated(result.states)[0] - result.value.value) / step) if step else 0
    return {units + more for more in (-1, 0, 1) if units + more > 0}


def _with(result: Result, numbers: Published, name: str, value: Quantity) -> Result:
    """The claim with another value of one cell; as it was where its formula has no value then."""
    try:
        return check(result.claim, numbers.with_value(name, value))
    except (ValueError, FormulaError):
        return result


def _closest(found: ReadResult) -> str:
    """Of a reading of many cells: its false comparisons, or the closest one."""
    if not isinstance(found.value, Statement):
        return "Several cells at once."
    comparisons = found.value.failures() or sorted(found.value.comparisons(), key=_margin)[:1]
    return f"Another outcome of: {'; '.join(map(comparison_text, comparisons[:3]))}."
