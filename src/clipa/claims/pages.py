"""docs/claims.md and docs/errata.md, written from the claims and the records alone: same input, same bytes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from clipa.claims import Result
from clipa.claims.content import NotClaim
from clipa.claims.effort import seconds_of
from clipa.claims.errata import errata_page
from clipa.claims.judged import Judged, judge_all
from clipa.claims.markdown import GENERATED, code, in_cell, plain
from clipa.claims.measured import CONSISTENT, INCONCLUSIVE, NOT_ATTEMPTED, REPRODUCED
from clipa.claims.quantities import Statement
from clipa.claims.verdicts import CONTRADICTED, HOLDS, NOT_CHECKABLE, WITHIN
from clipa.config import load_experiment
from clipa.files import write_text_atomically
from clipa.law import LEVEL, MINIMAL_SEEDS
from clipa.records import ROOT

MEANING = {
    HOLDS: "the numbers that the tables print give what is said",
    WITHIN: "they do not, but numbers that round to the printed ones can: a number printed to 0.1 carries ±0.05, "
    "a difference of two ±0.1",
    CONTRADICTED: "no numbers that round to the printed ones give what is said",
    NOT_CHECKABLE: "the paper prints nothing that it could be computed from",
}
MEASURED_MEANING = {
    REPRODUCED: f"the {100 * LEVEL:.0f} % interval over seeds of every comparison that it needs lies on the right side",
    CONSISTENT: "the claim holds in every seed, but an interval holds zero",
    INCONCLUSIVE: "neither this nor that",
    CONTRADICTED: "the whole interval of a comparison that it needs lies on the wrong side",
    NOT_ATTEMPTED: f"a number that it needs was not measured, or in fewer than {MINIMAL_SEEDS} seeds",
}


def write(docs: Path) -> list[Path]:
    """Write both pages into `docs`, atomically. ClaimError or RecordError, before anything is written."""
    judged = judge_all()
    pages = {docs / "claims.md": claims_page(judged), docs / "errata.md": errata_page(judged)}
    for path, text in pages.items():
        write_text_atomically(path, text)
    return list(pages)


def claims_page(judged: Judged, experiments: Path = ROOT / "config" / "experiments") -> str:
    """Every claim with its verdict, section by section; then the numbers that are no claim."""
    asked = _targets(experiments)
    lines = [GENERATED, "", "# Claims", "", *_head(judged)]
    for place, results in _by_place(judged.results).items():
        lines += ["", f"## {place}", "", *_table(results, judged, asked)]
    lines += ["", "## Numbers that are no claim", "", *_no_claims(judged.content.not_claims)]
    return "\n".join(lines) + "\n"


# ------------------------------------------------------------------------------------------------------------ head


def _head(judged: Judged) -> list[str]:
    counts = judged.verdicts
    rate = judged.rate
    lines = [
        f"The {len(judged.results)} quantitative statements of *An Inverse Scaling Law for CLIP Training* that were "
        "found in its abstract, text and captions, each with a formula over the numbers of its tables. The verdict is "
        "computed from the formula; nobody writes it. What is contradicted is taken up in [errata.md](errata.md).",
        "",
        "| verdict | claims | when |",
        "|---|--:|---|",
        *(f"| {verdict} | {counts[verdict]} | {meaning} |" for verdict, meaning in MEANING.items()),
        "",
        "**Reading a row.** *Stated* is the number of the text; a statement that is true or false has none. A stated "
        "number holds if what is computed rounds to it; behind a “~” also if it is within 5 % of it. *Computed* "
        "carries the rounding of the printed numbers (±); a baseline that is taken off two numbers cancels in their "
        "difference. The margin of a statement is by how much its closest comparison holds, below zero if it fails; "
        "where it makes several, their mean stands beside it. GPU hours that end in zeros are taken to be rounded "
        "there (36 hours on 128 GPUs are 4608; Table 1 prints 4600). The functions that formulas call are described in "
        "`src/clipa/claims/functions.py`.",
        "",
        "**What measuring it costs,** for one seed: pre-trainings + fine-tunings behind the numbers of a claim, each "
        "counted once; their compute in the paper's unit, forward multiply-adds of both towers times samples, in 1e12 "
        "GFLOPs (`src/clipa/cost.py`); A100 hours, which are that times "
        f"{rate.mean:,.0f}, the mean of what Table 1's three runs took ({rate.low:,.0f} to {rate.high:,.0f}; other "
        "models may differ by more); and minutes on one core at a small scale, as recorded. Models that Table 4 does "
        "not have (ConvNeXt) and NegCLIP's fine-tuning are not counted in compute; models of others (OpenCLIP, OpenAI, "
        "FLIP) are not trained here at all. No experiment in `config/experiments` fills a target marked † yet.",
    ]
    return lines + [line for scale in judged.measured for line in _measured_head(judged, scale)]


def _measured_head(judged: Judged, scale: str) -> list[str]:
    counts = judged.measured_verdicts(scale)
    return [
        "",
        f"**Measured at scale {scale}.** {sum(counts.values())} claims are a matter of sign or order, and the same "
        f"formula is asked of the accepted records in `results/recorded/{scale}`, once per seed, whatever table they "
        "fill. Its comparisons give margins, in points unless the formula counts or divides; intervals are two-sided, "
        f"Student's over seeds, at {100 * LEVEL:.0f} % ([law.md](law.md)). A verdict at a small scale is about that "
        "scale.",
        "",
        f"| verdict at {scale} | claims | when |",
        "|---|--:|---|",
        *(f"| {verdict} | {counts[verdict]} | {meaning} |" for verdict, meaning in MEASURED_MEANING.items()),
    ]


# ---------------------------------------------------------------------------------------------------------- tables


def _table(results: list[Result], judged: Judged, asked: set[str]) -> list[str]:
    lines = ["| claim | stated | computed | verdict | rests on | measuring it |", "|---|---|---|---|---|---|"]
    for result in results:
        claim = result.claim
        said = [f'<a id="{claim.id}"></a>**{claim.id}**', f"“{plain(claim.quote)}”"]
        if claim.formula:
            said.append(code(claim.formula))
        cells = [
            "<br>".join(map(in_cell, said)),
            in_cell(plain(claim.states or "–")),
            in_cell(plain(result.computed or f"– ({claim.why})")),
            _verdict(result),
            ", ".join(judged.tables(result.rests_on)) or "–",
            _measuring(result, judged, asked),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _verdict(result: Result) -> str:
    text = result.verdict
    if text in (CONTRADICTED, WITHIN):
        text = f"[{text}](errata.md#{result.claim.id})"
    if text.startswith(f"[{CONTRADICTED}"):
        text = f"**{text}**"
    if result.verdict == CONTRADICTED and isinstance(result.value, Statement):
        comparisons = len(result.value.comparisons())
        if comparisons > 1:
            text += f"<br>{len(result.value.failures())} of {comparisons} comparisons fail"
    return text


def _measuring(result: Result, judged: Judged, asked: set[str]) -> str:
    """Targets; trainings, compute, hours; minutes at recorded scales; and what was measured there."""
    needed = judged.effort(result)
    lines = []
    if needed.stages:
        names = judged.trainable(result)
        lines.append(", ".join(f"`measure_{name}`{'' if name in asked else '†'}" for name in names))
        parts = [f"{needed.runs} + {needed.finetunings} trainings"]
        if needed.multiply_adds:
            parts += [
                f"{needed.multiply_adds:.2g}e12",
                f"{_rounded(needed.multiply_adds * judged.rate.mean)} h",
            ]
        if needed.uncounted:
            parts.append(f"{needed.uncounted} trainings not counted")
        for name, scale in judged.scales.items():
            seconds = seconds_of(needed, scale.seconds)
            parts.append(f"{name}: {'not recorded' if seconds is None else f'{seconds / 60:.0f} min'}")
        lines.append("; ".join(parts))
    for name, found in judged.measured.items():
        if measured := found.get(result.claim.id):
            lines.append(f"**{name}: {measured.verdict}** ({measured.said})")
    return "<br>".join(map(in_cell, lines)) or "–"


def _no_claims(entries: tuple[NotClaim, ...]) -> list[str]:
    lines = ["Numbers of the text that state no result, so that none is left out in silence.", ""]
    lines += ["| place | quote | why |", "|---|---|---|"]
    return lines + [f"| {e.place} | “{in_cell(plain(e.quote))}” | {in_cell(plain(e.why))} |" for e in entries]


# --------------------------------------------------------------------------------------------------------- details


def _by_place(results: Iterable[Result]) -> dict[str, list[Result]]:
    places: dict[str, list[Result]] = {}
    for result in results:
        places.setdefault(result.claim.place, []).append(result)
    return places


def _targets(experiments: Path) -> set[str]:
    """Tables and figures that some experiment file fills."""
    names = sorted(path.stem for path in experiments.glob("*.yaml"))
    return {target for name in names for target in load_experiment(name, experiments.parent).fills}


def _rounded(hours: float) -> str:
    """To two significant digits: the rate is not known better."""
    digits = 2 - len(f"{hours:.0f}")
    return f"{round(hours, digits):,.0f}"
