"""What `clipa claims`, `clipa cite` and `clipa models` print: at most 100 columns, or JSON."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipa.cost import CONFIGURATIONS, CONVNETS, full_patches
from clipa.published import citation
from clipa.published.claims import CONTRADICTED, VERDICTS, WITHIN, Claim, Evaluation, Result
from clipa.published.errata import CLAIM, Erratum, errata_behind, errata_of, notes_behind
from clipa.published.search import (
    MENTIONED,
    Entry,
    Found,
    entries_of,
    lone_number,
    nearest,
    search,
    species_asked_for,
    terms_of,
)
from clipa.records import load_records, published_records, recorded_scales
from clipa.schema import Record
from clipa.study import FULL_TEXT_TOKENS

if TYPE_CHECKING:
    from clipa.published.measured import Measured  # imported where it is used: NumPy comes with it

WIDTH = 100  # columns
LISTED = 20  # hits of a search

# ---------------------------------------------------------------------------------------------------------- claims


def claims_report(scale: str | None, verdict: str | None, as_json: bool) -> str:
    """Counts of verdicts, then claims: of `verdict`, else the contradicted ones, or with `scale` what was measured.

    ValueError for a verdict that does not exist; RecordError for a scale without accepted records.
    """
    from clipa.published import measured

    possible = measured.MEASURED_VERDICTS if scale else VERDICTS
    if verdict is not None and verdict not in possible:
        numbers = "measured" if scale else "published"
        raise ValueError(f"{verdict!r} is no verdict on {numbers} numbers: {', '.join(possible)}")
    evaluation = Evaluation()
    found = None
    if scale:
        records = measured.scales_of(evaluation, [scale])
        found = measured.verdicts_of(evaluation, records[scale])
    if as_json:
        document = _claims_document(evaluation, scale, found, verdict)
        return json.dumps(document, ensure_ascii=False, indent=2)
    if found is None:
        return "\n".join(_published_lines(evaluation, verdict))
    return "\n".join(_measured_lines(scale, found, verdict))


def _published_lines(evaluation: Evaluation, verdict: str | None) -> list[str]:

    wanted = verdict or CONTRADICTED
    chosen = [result for result in evaluation.results if result.verdict == wanted]
    lines = [f"What the paper says, against its own tables: {len(evaluation.results)} claims", ""]
    lines += [*_counts(evaluation.counts), "", f"{wanted[0].upper()}{wanted[1:]} ({len(chosen)})"]
    for result in chosen:
        lines += _claim_lines(result.claim, _finding(result, evaluation))
    lines += ["", "clipa claims ID works a claim out: cells, arithmetic, bound, and what would change it."]
    if others := len(evaluation.conflicts):
        lines += [f"And {others} conflicts and open questions beside single claims: docs/errata.md."]
    return lines


def _measured_lines(scale: str | None, found: Mapping[str, Measured], verdict: str | None) -> list[str]:
    from clipa.published.measured import MEASURED_VERDICTS, NOT_ATTEMPTED, counts_of
    from clipa.stats import LEVEL

    lines = [
        f"Signs and orders that the paper claims, against records measured at scale {scale}: {len(found)} claims",
        f"Margins are points of accuracy with {100 * LEVEL:.0f} % intervals over seeds (docs/law.md).",
        "",
        *_counts(counts_of(found)),
    ]
    if verdict is None:
        lines += ["", *_law_lines(scale or "")]
    for wanted in [verdict] if verdict else [name for name in MEASURED_VERDICTS if name != NOT_ATTEMPTED]:
        chosen = [one for one in found.values() if one.verdict == wanted]
        if chosen:
            lines += ["", f"{wanted[0].upper()}{wanted[1:]} ({len(chosen)})"]
        for one in chosen:
            lines += _claim_lines(one.claim, one.text)
    return lines


def _law_lines(scale: str) -> list[str]:
    """The signs that `clipa law` gives at this scale, and why they are no verdicts on claims."""
    from clipa.render.law_signs import OTHER_QUESTION, signs_of

    said = OTHER_QUESTION.replace("[law.md](law.md)", "docs/law.md").replace("`", "").replace("**", "")
    return [*textwrap.wrap(said, WIDTH), *(f"  {strategy:<18}{signs}" for strategy, signs in signs_of(scale))]


def _counts(counts: Mapping[str, int]) -> list[str]:
    return [f"  {verdict:<32}{count:>5}" for verdict, count in counts.items()]


def _claim_lines(claim: Claim, finding: str) -> list[str]:
    texts = (f"“{claim.quote}”", finding)
    wrapped = [
        line
        for text in texts
        for line in textwrap.wrap(
            text, WIDTH, initial_indent=4 * " ", subsequent_indent=6 * " ", break_long_words=False
        )
    ]
    return ["", f"  {claim.id}   {claim.place}", *wrapped]


def _finding(result: Result, evaluation: Evaluation) -> str:
    """What the tables say of a claim, in a sentence."""
    if result.value is None:
        return f"Not checked: {result.claim.why}"
    where = ", ".join(evaluation.places(result.rests_on)) or "arithmetic"
    if result.claim.states is not None:
        return f"stated {result.claim.states}, computed {result.computed}   ({where})"
    failing = f"; {result.failures} of {result.comparisons} comparisons fail" if result.failures else ""
    return f"{result.computed}{failing}   ({where})"


def _claims_document(
    evaluation: Evaluation, scale: str | None, found: Mapping[str, Measured] | None, verdict: str | None
) -> dict[str, Any]:
    from clipa.published.measured import counts_of

    found_by_id = found or {}
    chosen = [
        result
        for result in evaluation.results
        if not scale or result.claim.id in found_by_id
        if verdict in (None, found_by_id[result.claim.id].verdict if scale else result.verdict)
    ]
    counts: dict[str, Any] = {"verdicts": evaluation.counts}
    if found is not None:
        counts |= {"scale": scale, "measured_verdicts": counts_of(found)}
    entries = [_claim_entry(evaluation, result, found_by_id.get(result.claim.id)) for result in chosen]
    return {**counts, "claims": entries}


def _claim_entry(evaluation: Evaluation, result: Result, measured: Measured | None) -> dict[str, Any]:
    from clipa.published.measured import a100_hours, trainings_behind

    claim = result.claim
    fields = ("id", "place", "quote", "formula", "states", "scale_free")
    entry = {
        **{name: getattr(claim, name) for name in fields},
        "verdict": result.verdict,
        "computed": result.computed or None,
        "rests_on": list(result.rests_on),
        "why": claim.why,
        "meant": claim.meant if result.verdict in (CONTRADICTED, WITHIN) else None,
    }
    if result.comparisons:
        entry["failing"] = result.failures
    trainings = trainings_behind(evaluation.records(result.rests_on))
    if trainings.stages:
        entry["trainings"] = {
            "pretrainings": trainings.pretrainings,
            "finetunings": trainings.finetunings,
            "1e12 GFLOPs": float(f"{trainings.multiply_adds:.4g}"),
            "A100 hours": round(a100_hours(trainings, evaluation.numbers.records)),
        }
    if measured is not None:
        margin = measured.tightest
        limits = margin and {name: round(getattr(margin, name), 4) for name in ("mean", "low", "high")}
        entry["measured"] = {
            "scale": measured.scale,
            "verdict": measured.verdict,
            "seeds": list(measured.seeds),
            "missing": list(measured.missing),
            "comparisons": measured.comparisons,
            "tightest_margin": limits,
        }
    return entry


# ------------------------------------------------------------------------------------------------------------ cite


def cite_report(
    words: Sequence[str], *, as_json: bool = False, bibtex: bool = False, measured: Sequence[Path] = ()
) -> tuple[str, int]:
    """What `clipa cite` prints, and its exit code: 0 if something was found, else 1.

    The paper's numbers; what is derived from them, or the accepted measured ones, where the words ask for these; with
    `measured` the records in these files.
    """
    records = _numbers_asked_for(words, measured)
    entries = entries_of(records)
    found = search(words, entries)
    if not found.hits:
        return _none(words, found.terms, entries, as_json), 1
    known = caveats(found.hits[0], records) if len(found.hits) == 1 else []
    if as_json:
        return _as_json(found, known), 0
    if len(found.hits) == 1:
        text, entry = number_report(found.hits[0], known) + _further(found), citation.bibtex(found.hits[0])
        entry = "" if found.hits[0]["value"] is None else entry
    else:
        text, entry = _several(found), citation.bibtex()
    return (f"{text}\n\n{entry}" if bibtex and entry else text), 0


def _numbers_asked_for(words: Sequence[str], files: Sequence[Path]) -> list[Record]:
    """The records that a query is about: published ones; derived or measured ones only where its words say so."""
    terms = terms_of(" ".join(words))
    scales = recorded_scales()
    if files:
        return _with_means(load_records(files), species_asked_for(["measured", *terms], scales))
    species = species_asked_for(terms, scales)
    if "published" not in species:
        from clipa.published.measured import recorded

        return _with_means([record for scale in scales for record in recorded(scale)], species)
    records = published_records()
    if len(species) > 1:
        from clipa.published.derived import KINDS, derived_records

        records = records + derived_records(records, [kind for kind in KINDS if kind in species])
    return records


def _with_means(records: Sequence[Record], species: set[str]) -> list[Record]:
    """Published records, and measured ones as means over seeds, or as they are where single seeds are asked for."""
    from clipa.published.measured import means

    if "seed" in species:
        return list(records)
    published = [record for record in records if record["source"] == "published"]
    return published + [mean.record for mean in means(r for r in records if r["source"] == "measured")]


def caveats(
    record: Record, records: Sequence[Record], errata: Sequence[Erratum] | None = None
) -> list[tuple[str, str]]:
    """What to know before citing a record, as (kind, text): its note, and errata of the paper that it is part of.

    Of a derived number those of the cells that it rests on. Unless `errata` are given, they are computed from all
    published `records` (a third of a second), hence for a single hit only.
    """
    published = {one["id"]: one for one in records if one["source"] == "published"}
    notes = [("caveat", note) for note in notes_behind(record, published)]
    if record["source"] == "measured":
        return notes
    if errata is None:
        errata = errata_of(Evaluation(list(published.values())))
    known = errata_behind(record, published, errata)
    return notes + [("erratum" if one.kind == CLAIM else "conflict", one.text) for one in known]


def number_report(record: Record, known: Sequence[tuple[str, str]]) -> str:
    """A number with everything about it, a line each: what `clipa cite ID` prints. `known`: its :func:`caveats`."""
    (_, head), *lines = number_lines(record, known)
    return "\n".join([head, *(_wrapped(name, text) for name, text in lines)])


def number_lines(record: Record, known: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """The lines of :func:`number_report`, each (name, text) before it is wrapped; the first, without a name, has the
    value and what it is of."""
    lines = [("", f"{citation.value_text(record)}   {citation.quantity(record)}")]
    lines += [("id", record["id"]), *_whose(record)]
    if record.get("row"):
        lines += [("row", record["row"]), ("column", record["column"])]
    if citation.printed_differently(record):
        lines.append(("printed", f"“{record['printed']}”"))
    lines.append(("setting", ", ".join(citation.setting(record))))
    lines.append(("stage", citation.stage_text(record)))
    lines.append(("measured by", citation.measuring(record)))
    lines += [("also printed", other) for other in record.get("same_as") or ()]
    lines += known
    lines.append(("cite as", citation.citation(record)))
    return [(name, text) for name, text in lines if text]


def _whose(record: Record) -> list[tuple[str, str]]:
    """Where a number is from: its place in the paper, what was measured, or what it was computed from."""
    if record["source"] == "published":
        return [("in the paper", citation.place(record))]
    if record["source"] == "derived":
        low, high = (f"{bound:.4g}" for bound in record["bounds"])
        return [
            (
                "not in paper",
                f"computed from {citation.place(record)}; rounding of its cells allows {low} to {high}",
            ),
            ("formula", record["formula"]),
            ("rests on", " ".join(record["rests_on"])),
        ]
    data = record["dataset"]["name"]
    trained = "" if "seeds" in record else f"seed {record['seed']}, stage {record['stage_fingerprint']}"
    return [
        ("not in paper", f"{citation.place(record)} on {data}, {citation.sample(record)}"),
        ("", citation.stands_for(record)),
        ("trained as", trained),
    ]


def _wrapped(name: str, text: str) -> str:
    """One named line of an answer, in a terminal's width; ids and addresses are not broken."""
    indent = 16 * " "
    return textwrap.fill(
        text,
        WIDTH,
        initial_indent=f"  {name + ':' if name else '':<14}",
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _several(found: Found) -> str:
    shown = found.hits[:LISTED]
    more = len(found.hits) - len(shown)
    count = f"{len(found.hits)} numbers have {' '.join(found.terms)}"
    head = f"{count}{f'; the first {len(shown)}' if more else ''} (value, id, row; column):"
    tail = "\nMore words leave fewer; an id leaves one."
    if all(record["value"] is None for record in shown):
        tail = "\nThe paper gives no number here; an id says why."
    return head + "\n" + "\n".join(_lines(shown)) + tail


def _further(found: Found) -> str:
    if not found.further:
        return ""
    head = (
        f"\n\n{len(found.further)} more in other settings (benchmark, text, case, model family), such as:\n"
    )
    return head + "\n".join(_lines(found.further[:MENTIONED]))


def _lines(records: Iterable[Record]) -> list[str]:
    records = list(records)
    values = [citation.value_text(record) for record in records]
    value_width, id_width = max(map(len, values)), max(len(record["id"]) for record in records)
    return [
        f"  {value:>{value_width}}  {record['id']:<{id_width}}  {citation.cell(record)}"
        for value, record in zip(values, records, strict=True)
    ]


def _none(words: Sequence[str], terms: list[str], entries: Sequence[Entry], as_json: bool) -> str:
    close = nearest(terms, entries)
    if as_json:
        answer = {"terms": terms, "found": 0, "near": close.near, "nearest": close.ids}
        return json.dumps(answer | {"meant": close.meant or None}, indent=2, ensure_ascii=False)
    if not terms:
        return (
            f"clipa cite: {' '.join(words)!r} names nothing; for example: clipa cite L/16 resize 64 finetune"
        )
    if lone_number(terms):
        if len(terms[0]) > 1:
            return f"clipa cite: no number of the paper is {terms[0]}"
        return f"clipa cite: {terms[0]} alone names no number; say of what: clipa cite warmup {terms[0]}"
    lines = [f"clipa cite: no number has all of: {' '.join(terms)}"]
    for term, words_near in close.near.items():
        lines.append(
            f"  {term}: in no record" + (f"; near it: {', '.join(words_near)}" if words_near else "")
        )
    if close.meant:
        lines.append(f"  did you mean: clipa cite {close.meant}")
    if close.ids:
        lines += ["  nearest:", *(f"    {identity}" for identity in close.ids)]
    return "\n".join(lines)


def _as_json(found: Found, known: Sequence[tuple[str, str]]) -> str:
    """Whole records, with their citations; `caveats` beyond a record's note are there for a single hit."""
    hits = [
        {
            **record,
            "cite_as": citation.citation(record) or None,
            "bibtex": citation.bibtex(record) if record["value"] is not None else None,
        }
        for record in found.hits
    ]
    if len(hits) == 1:
        hits[0]["errata"] = [text for kind, text in known if kind != "caveat"]
    content = {
        "terms": found.terms,
        "found": len(hits),
        "records": hits,
        "further": [r["id"] for r in found.further],
    }
    return json.dumps(content, indent=2, ensure_ascii=False)


# ---------------------------------------------------------------------------------------------------------- models

MODELS = ("S/16", "B/16", "L/16", "H/14", "G/14")
# Entries of bert-base-uncased; rows of the released embedding tables.
BERT_ROWS, RELEASED_ROWS = 30_522, 32_000
TEXT_LENGTHS = (32, 16, 8, 6, 4)
# Patches kept in pre-training and, for patch size 14, in fine-tuning: 30 % masked at 224 and 40 % at 336 pixels.
IMAGE_LENGTHS = {16: (196, 100, 98, 49, 36, 16), 14: (576, 345, 256, 179, 36, 25)}
CONVNEXT = {"ConvNeXt-T": "convnext_tiny", "ConvNeXt-B": "convnext_base"}
CONVNEXT_SIZES = (224, 160, 112, 96, 64)


def models_report() -> str:
    """How large the paper's models are, counted two ways, and what they cost at every length used."""
    images = []
    for size, models in ((16, MODELS[:3]), (14, MODELS[3:])):
        images.append(("", *IMAGE_LENGTHS[size]))
        for model in models:
            costs = [CONFIGURATIONS[model].image_macs(kept) / 1e9 for kept in IMAGE_LENGTHS[size]]
            images.append((model, *(f"{cost:.2f}" for cost in costs)))
    texts = [
        (
            model,
            *(f"{CONFIGURATIONS[model].text_macs(tokens) / 1e9:.3f}" for tokens in TEXT_LENGTHS),
            f"{CONFIGURATIONS[model].macs(full_patches(model), FULL_TEXT_TOKENS) / 1e9:.2f}",
        )
        for model in MODELS
    ]
    trunks = [
        (
            model,
            f"{CONVNETS[name].parameters() / 1e6:.2f}",
            *(f"{CONVNETS[name].macs(size) / 1e9:.2f}" for size in CONVNEXT_SIZES),
        )
        for model, name in CONVNEXT.items()
    ]
    blocks = [
        "Parameters, millions: bare / as released / Table 4",
        _columns([("model", "vision", "text", "total"), *_parameter_rows()]),
        "  bare: no projections, 30,522 word pieces; as released: projections, 32,000 rows, without the\n"
        "  fixed image positions. Table 4's totals for B/16, L/16 and H/14 are not the sums of its towers.\n",
        "Image tower, GMACs of one forward pass, by patches (the class token is added)",
        _columns(images) + "\n",
        "Text tower, GMACs, by tokens; last column: both towers at 224 pixels and 32 tokens",
        _columns([("", *TEXT_LENGTHS, "both"), *texts]) + "\n",
        "ConvNeXt trunk (§4.3): parameters, millions, and GMACs by pixels",
        _columns([("", "", *CONVNEXT_SIZES), *trunks]),
    ]
    return "\n".join(blocks)


def _parameter_rows() -> list[list[str]]:
    """Of every model, vision, text and total: two counts beside Table 4's. No one count gives all its fifteen numbers.

    Bare: no projections, 30,522 word pieces, image positions included. Released: projections, 32,000 rows, without
    the fixed image positions.
    """
    printed = {record["id"]: record["value"] for record in published_records() if record["table"] == 4}
    rows = []
    for model in MODELS:
        towers = CONFIGURATIONS[model]
        counts = {
            "vision": [
                towers.vision_parameters(positions=bare, projection=not bare) for bare in (True, False)
            ],
            "text": [
                towers.text_parameters(BERT_ROWS, projection=False),
                towers.text_parameters(RELEASED_ROWS, projection=True),
            ],
        }
        counts["total"] = [sum(both) for both in zip(*counts.values(), strict=True)]
        place = f"table4.{model.replace('/', '')}"
        cells = [
            f"{bare / 1e6:.2f} / {released / 1e6:.2f} / {printed[f'{place}.{name}.parameters']}"
            for name, (bare, released) in counts.items()
        ]
        rows.append([model, *cells])
    return rows


def _columns(rows: Sequence[Sequence[Any]]) -> str:
    """Rows as right-aligned columns, the first one left-aligned, indented by two."""
    from tabulate import tabulate

    align = ("left", *("right" for _ in rows[0][1:]))
    return textwrap.indent(tabulate(rows, tablefmt="plain", colalign=align, disable_numparse=True), "  ")
