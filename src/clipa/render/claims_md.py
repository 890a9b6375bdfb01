"""docs/claims.md and docs/errata.md, written from the claims and the records alone: same input, same bytes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from pathlib import Path

from clipa.files import write_text_atomically
from clipa.published.claims import (
    CONTRADICTED,
    DIFFERS,
    HOLDS,
    NOT_CHECKABLE,
    WITHIN,
    Evaluation,
    Result,
)
from clipa.published.errata import (
    CLAIM,
    COUNT,
    READING,
    ROUNDING,
    Erratum,
    comparison_text,
    errata_of,
    ground,
)
from clipa.published.measured import (
    CONSISTENT,
    INCONCLUSIVE,
    NOT_ATTEMPTED,
    REPRODUCED,
    Measured,
    counts_of,
    recorded_scales,
    scales_of,
    verdicts_of,
)
from clipa.published.quantities import Statement
from clipa.published.worked import Worked, turning_point, worked
from clipa.render.law_signs import OTHER_QUESTION, signs_of
from clipa.stats import LEVEL, MINIMAL_SEEDS

GENERATED = "<!-- Written by `clipa claims --write docs` from claims.yaml and the records. Do not edit. -->"
FAILURES_SHOWN = 8
QUOTE_WIDTH = 56
MEANING = {
    HOLDS: "in a fair reading the numbers that the tables print give what is said; where no table has the cost, our "
    "count does",
    WITHIN: "they do not, but numbers that round to the printed ones can: the two intervals overlap, not merely touch. "
    "A number printed to 0.1 carries ±0.05, a difference of two ±0.1",
    CONTRADICTED: "by the paper's own numbers, in every fair reading: none that round to the printed ones give what "
    "is said",
    DIFFERS: "our count of costs, in every fair reading, gives another number, whether or not the printed cells give "
    "the stated one; the authors' way of counting is not printed, so no slip is shown",
    NOT_CHECKABLE: "the paper prints nothing that it could be computed from",
}
MEASURED_MEANING = {
    REPRODUCED: f"the {100 * LEVEL:.0f} % interval over seeds of every comparison that it needs lies on the right side",
    CONSISTENT: "the claim holds in every seed, but an interval holds zero",
    INCONCLUSIVE: "none of the other four",
    CONTRADICTED: "the whole interval of a comparison that it needs lies on the wrong side",
    NOT_ATTEMPTED: f"a number that it needs was not measured, or in fewer than {MINIMAL_SEEDS} seeds",
}

PREFACE = """\
This page is about one paper, *An Inverse Scaling Law for CLIP Training* (Li, Wang, Xie; arXiv:2305.07017), as its text
stands in the version that this artifact was made from. It exists so that a reader who meets two different numbers
knows which one to use. Slips of this kind are in most papers with so many numbers; they could be found here because
these authors print all of theirs.

*Contradicted* means one thing only: the sentence and the tables of the same paper cannot both be exact, however the
sentence is fairly read. It does not say which of the two is wrong, whether the experiment was done well, or whether the
sentence holds elsewhere. Numbers may have been computed from unrounded results, from another run, or from an earlier
draft of a table. What was *probably meant* is a guess, and is called one.

A cost that *differs under our count* is no slip that we could show. Our count is of forward multiply-adds of both
towers (`src/clipa/cost.py`). It starts from Table 4, which has neither OpenCLIP-L/14 nor the width of G/14's MLP, so it
rests on more than the paper prints. It gives Table 10's 177.0 and Table 2's 5.7 as printed. The same rule is used where
it agrees with a sentence and where it does not, and whether or not the paper's own cells give the stated number.

Each entry can be checked by hand: every reading with its arithmetic, what the stated number stands for, the cells, and
what another verdict would take. `clipa claims ID` prints the same for each claim, also for those that hold.

{summary}
Every number below is computed from `results/published` when this page is written."""

KINDS = {
    "setting": ("Settings on which the paper disagrees with itself", "What a reproduction has to choose."),
    "label": (
        "Labels and words",
        "Headings, names and words that say something else than the numbers they are about.",
    ),
    "cell": (
        "Cells",
        "Numbers of the tables that are recorded differently from how they are printed, are lost, or stand out.",
    ),
    "compute": ("Costs", "Printed costs against what one consistent way of counting gives."),
    "unknown": (
        "What cannot be known from the paper",
        "Nobody outside can decide these; what was taken is said.",
    ),
}


CLAIM_KINDS = {
    CLAIM: ("Contradicted by the paper's own numbers", ""),
    COUNT: (
        "Different under our count of costs",
        "No slip is shown: the authors' way of counting is not printed, and ours assumes what Table 4 lacks.",
    ),
    READING: (
        "True in one fair reading",
        "These count as holding. The reading in which they do not is given for those who need it.",
    ),
}


def write(docs: Path) -> list[Path]:
    """Write both pages into `docs`, atomically. ClaimError or RecordError, before anything is written."""
    evaluation = Evaluation()
    scales = scales_of(evaluation, recorded_scales())
    measured = {name: verdicts_of(evaluation, scale) for name, scale in scales.items()}
    pages = {
        docs / "claims.md": claims_page(evaluation, measured),
        docs / "errata.md": errata_page(evaluation),
    }
    for path, text in pages.items():
        write_text_atomically(path, text)
    return list(pages)


# ------------------------------------------------------------------------------------------------------- claims.md


def claims_page(evaluation: Evaluation, measured: Mapping[str, Mapping[str, Measured]]) -> str:
    """Every claim with its verdict, section by section. `measured`: verdicts by scale and claim."""
    lines = [GENERATED, "", "# Claims", "", *_introduction(evaluation)]
    for scale, verdicts in measured.items():
        lines += _measured_counts(scale, verdicts)
    errata = {erratum.id: erratum for erratum in errata_of(evaluation)}
    for place in dict.fromkeys(claim.place for claim in evaluation.content.claims):
        lines += ["", f"## {place}", ""]
        of_place = [result for result in evaluation.results if result.claim.place == place]
        for result in of_place:
            if result.claim.id in errata:
                lines += [_disputed(result, evaluation), ""]
        lines += [_listed(result) for result in of_place if result.claim.id not in errata]
    return _joined(lines)


def _introduction(evaluation: Evaluation) -> list[str]:
    return [
        f"The {len(evaluation.results)} quantitative statements of *An Inverse Scaling Law for CLIP Training* that "
        "were found in its abstract, text and captions. Each has a formula over the numbers of the paper's tables, and "
        "its verdict is computed from the formula. [errata.md](errata.md) takes up what is contradicted.",
        "",
        "This page is for reading. For each claim, [numbers.html](numbers.html#claims) has the formula, the computed "
        "value, the numbers that it rests on, what measuring it costs, and verdicts on measured numbers; "
        "`clipa claims --json` prints the same, and `clipa claims ID` works one claim out. "
        f"It also lists the {len(evaluation.content.not_claims)} numbers of the text that state no result "
        "([settings, counts of what a sentence lists](numbers.html#not-claims)).",
        "",
        "| verdict | claims | when |",
        "|---|--:|---|",
        *(f"| {name} | {evaluation.counts[name]} | {meaning} |" for name, meaning in MEANING.items()),
        "",
        "A stated number holds if what is computed rounds to it; behind a “\\~” also if it is within 5 % of it. "
        "Printed numbers carry their rounding (±) through the formula; a baseline that is taken off two numbers "
        "cancels in their difference. GPU hours that end in zeros are taken to be rounded there (36 hours on 128 GPUs "
        "are 4608; Table 1 prints 4600).",
    ]


def _measured_counts(scale: str, verdicts: Mapping[str, Measured]) -> list[str]:
    """Verdicts at a scale, and signs of slopes with what tells the two apart."""
    counts = counts_of(verdicts)
    signs = [
        f"| strategy at {scale} | sign of the slope, by length (`clipa law`, exploratory) |",
        "|---|---|",
        *(f"| {strategy} | {said} |" for strategy, said in signs_of(scale)),
    ]
    if counts[NOT_ATTEMPTED] == len(verdicts):
        none = f"**Measured at scale {scale}.** Of no claim were all numbers measured in {MINIMAL_SEEDS} seeds or more."
        return ["", none, "", *signs]
    return [
        "",
        f"**Measured at scale {scale}.** {len(verdicts)} claims are a matter of sign or order. The same formula is "
        f"evaluated on the accepted records in `results/recorded/{scale}`, once per seed. Intervals are two-sided, "
        f"Student's over seeds, at {100 * LEVEL:.0f} % ([law.md](law.md)). A verdict at a small scale is about that "
        "scale.",
        "",
        f"| verdict at {scale} | claims | when |",
        "|---|--:|---|",
        *(f"| {name} | {counts[name]} | {meaning} |" for name, meaning in MEASURED_MEANING.items()),
        "",
        OTHER_QUESTION,
        "",
        *signs,
    ]


def _listed(result: Result) -> str:
    """A claim that holds or cannot be checked, as one line of a list: quote, stated number, verdict."""
    claim = result.claim
    quote = textwrap.shorten(claim.quote, QUOTE_WIDTH, placeholder=" …", break_on_hyphens=False)
    stated = f" ({plain(claim.states)})" if claim.states and claim.states not in quote else ""
    verdict = "not checkable" if result.verdict == NOT_CHECKABLE else result.verdict
    return f"- {_anchor(result)}: “{plain(quote)}”{stated} {verdict}"


def _disputed(result: Result, evaluation: Evaluation) -> str:
    """A claim with an entry in the errata, in a short paragraph."""
    claim = result.claim
    source = f"{ground(result)} ({', '.join(evaluation.places(result.rests_on))})"
    if isinstance(result.value, Statement):
        verb = "is" if result.failures == 1 else "are"
        found = f"By {source}, {result.failures} of {result.comparisons} comparisons {verb} false."
    else:
        gives = "gives" if source.startswith("our") else "give"
        found = f"The text says {claim.states}, {source} {gives} {result.computed}."
    if result.depends_on_the_reading:
        found += f" The other readings: {', '.join(one.verdict for one in result.others)}."
    elif claim.meant and isinstance(result.value, Statement):
        found += f" {claim.meant}"
    verdict = f"[{result.verdict[0].upper()}{result.verdict[1:]}](errata.md#{claim.id})"
    if result.verdict == CONTRADICTED:
        verdict = f"**{verdict}**"
    return f"{_anchor(result)}: “{plain(claim.quote)}” {verdict}. {plain(found)}"


def _anchor(result: Result) -> str:
    name = result.claim.id
    return f'<a id="{name}"></a>[{name}](numbers.html#claim-{name})'


# ------------------------------------------------------------------------------------------------------- errata.md


def errata_page(evaluation: Evaluation) -> str:
    """The page. Contradicted claims, claims that hold only within rounding, conflicts by kind, open questions."""
    by_kind: dict[str, list[Erratum]] = {}
    for erratum in errata_of(evaluation):
        by_kind.setdefault(erratum.kind, []).append(erratum)
    summary = textwrap.fill(_summary(evaluation), 120) + "\n"
    lines = [GENERATED, "", "# Errata", "", PREFACE.format(summary=summary), ""]
    for kind, (title, about) in CLAIM_KINDS.items():
        lines += [f"## {title}", "", *([about, ""] if about else [])]
        for erratum in by_kind.get(kind, ()):
            lines += _claim(erratum, evaluation)
    lines += ["## True only within rounding", ""]
    lines += [
        "The printed numbers do not give these, numbers that round to them can. No error need be behind it.",
        "",
    ]
    lines += ["| claim | place | the paper says | the tables give | rests on |", "|---|---|---|---|---|"]
    lines += [_rounding_row(erratum, evaluation) for erratum in by_kind.get(ROUNDING, ())]
    for kind, (title, about) in KINDS.items():
        if kind in by_kind:
            lines += ["", f"## {title}", "", about]
            lines += [line for erratum in by_kind[kind] for line in _conflict(erratum)]
    return _joined(lines)


def _summary(evaluation: Evaluation) -> str:
    counts = evaluation.counts
    depends = sum(result.depends_on_the_reading for result in evaluation.results)
    return (
        f"Of {sum(counts.values()) - counts[NOT_CHECKABLE]} statements that can be checked, {counts[HOLDS]} hold "
        f"({depends} of them in one fair reading and not in another), {counts[WITHIN]} hold within rounding, "
        f"{counts[CONTRADICTED]} are contradicted by the paper's own numbers, and {counts[DIFFERS]} differ under our "
        f"count of costs ([claims.md](claims.md) has them all). Beside them stand {len(evaluation.conflicts)} entries "
        "on settings, labels, cells, costs, and what the paper leaves open.\n"
    )


def _claim(erratum: Erratum, evaluation: Evaluation) -> list[str]:
    """A claim worked out: every reading, then the verdict and what another one would take."""
    result = erratum.result
    assert result is not None
    claim = result.claim
    lines = [f'### <a id="{claim.id}"></a>{claim.place}: {claim.id}', "", f"> {plain(claim.quote)}", ""]
    for reading in worked(result, evaluation.numbers):
        lines += _reading(reading)
    places = ", ".join(evaluation.places(result.rests_on))
    lines.append(
        f"* **Verdict:** {result.verdict}{f' ({places})' if places else ''}. **Another one would take:** "
        f"{plain(turning_point(result, evaluation.numbers))}"
    )
    if claim.meant:
        label = erratum.meant_label if erratum.kind == CLAIM else "Note"
        lines.append(f"* **{label}:** {plain(claim.meant)}")
    return [*lines, ""]


def _reading(reading: Worked) -> list[str]:
    """One reading: its name and verdict, arithmetic and bound, cells."""
    name = plain(reading.name)
    lines = [f"* **{name[:1].upper()}{name[1:]}:** {reading.verdict}. {plain(reading.why or reading.bound)}"]
    lines += [f"  * `{text}`" for text in reading.arithmetic]
    lines += [f"  * Not in the paper: {plain(text)}" for text in reading.assumed]
    if cells := [f"{name} = {value}" for name, value in reading.cells]:
        more = [f"and {reading.more_cells} more"] if reading.more_cells else []
        lines.append(f"  * Cells: {plain('; '.join([*cells, *more]))}")
    return lines


def _rounding_row(erratum: Erratum, evaluation: Evaluation) -> str:
    result = erratum.result
    assert result is not None
    claim = result.claim
    stated = f" (stated: {plain(claim.states)})" if claim.states else ""
    computed = result.computed
    if isinstance(result.value, Statement):
        failures = [plain(comparison_text(failure)) for failure in result.value.failures()]
        computed = f"as printed, not: {'; '.join(failures[:FAILURES_SHOWN])}"
    if claim.meant:
        computed += f". {plain(claim.meant)}"
    cells = [f'<a id="{claim.id}"></a>{claim.id}', claim.place, f"“{plain(claim.quote)}”{stated}", computed]
    cells.append(", ".join(evaluation.places(erratum.rests_on)))
    return f"| {' | '.join(map(in_cell, cells))} |"


def _conflict(erratum: Erratum) -> list[str]:
    title = erratum.id.replace("-", " ")
    lines = ["", f'### <a id="{erratum.id}"></a>{title[0].upper()}{title[1:]}', ""]
    lines += [f"*{', '.join(erratum.places)}*", ""]
    lines += [f"* {plain(text)}" for text in erratum.says]
    if erratum.computed:
        lines.append(f"* **Computed:** {plain(erratum.computed)}")
    if erratum.meant:
        lines.append(f"* **{erratum.meant_label}:** {plain(erratum.meant)}")
    return [*lines, f"* **Taken here:** {plain(erratum.taken)}"]


# -------------------------------------------------------------------------------------------------------- Markdown


def plain(text: str) -> str:
    """Text in which no mark of the paper's prose ("~33", "*") turns into Markdown."""
    return "".join(f"\\{mark}" if mark in "*~_`<[" else mark for mark in _one_line(text))


def in_cell(text: str) -> str:
    """Markdown that may stand in a cell of a table."""
    return _one_line(text).replace("|", "\\|")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _joined(lines: list[str]) -> str:
    return "\n".join(lines).rstrip() + "\n"
