"""The reader's verbs: figures, tables, the law, claims, single numbers. They need no torch and no data."""

from __future__ import annotations

import argparse
from pathlib import Path

from clipa.cli.verbs import add_verb


def add_verbs(verbs) -> None:
    """Add the verbs of this module to a parser's verbs."""
    _cite_verb(verbs)
    _number_verbs(verbs)
    _drawing_verbs(verbs)
    _record_verbs(verbs)


# ------------------------------------------------------------------------------------------------------ verbs


def _cite(chosen: argparse.Namespace) -> int:
    from clipa.render.terminal import cite_report

    text, code = cite_report(chosen.words, as_json=chosen.json, bibtex=chosen.bibtex, measured=chosen.records)
    print(text)
    return code


def _claims(chosen: argparse.Namespace) -> int:
    if chosen.write is not None:
        from clipa.render.claims_md import write

        print(*write(chosen.write), sep="\n")
    elif chosen.ids:
        from clipa.render.one_claim import one_claim_report

        if chosen.scale or chosen.verdict or chosen.json:
            raise ValueError(
                "an id is worked out from the paper's tables: leave out --scale, --verdict, --json"
            )
        print(one_claim_report(chosen.ids))
    else:
        from clipa.render.terminal import claims_report

        print(claims_report(chosen.scale, chosen.verdict, chosen.json))
    return 0


def _numbers(chosen: argparse.Namespace) -> int:
    if chosen.output.suffix == ".html":
        from clipa.render.numbers_page import write
    else:
        from clipa.render.numbers_files import write

    print(write(chosen.output))
    return 0


def _explore(chosen: argparse.Namespace) -> int:
    from clipa.render.explore.page import write

    print(write(chosen.output))
    return 0


def _models(chosen: argparse.Namespace) -> int:
    from clipa.render.terminal import models_report

    print(models_report())
    return 0


def _recipes(chosen: argparse.Namespace) -> int:
    from clipa.recipes import report

    print(report())
    return 0


def _figure(chosen: argparse.Namespace) -> int:
    from clipa.render.figures import make

    print(*make(_number(chosen.name, "figure"), chosen.measured, chosen.published, chosen.output), sep="\n")
    return 0


def _table(chosen: argparse.Namespace) -> int:
    from clipa.render.tables import make

    print(make(_number(chosen.name, "table"), chosen.measured, chosen.published, chosen.output))
    return 0


def _number(name: str, kind: str) -> int:
    """4 for ``figure4`` or ``4``."""
    digits = name.removeprefix(kind)
    if not digits.isdigit():
        raise ValueError(f"{name!r} is no {kind}: expected {kind}4 or 4, as the paper numbers them")
    return int(digits)


def _law(chosen: argparse.Namespace) -> int:
    from clipa.law import main_report
    from clipa.law.power import pilot_report

    if chosen.power is not None:
        print(pilot_report(chosen.power), end="")
    elif not chosen.records:
        raise ValueError(
            "no records were given: name their files, or a file of pilot deviations with --power"
        )
    if chosen.records:
        print(main_report(chosen.records, chosen.beside))
    if chosen.output is not None:
        from clipa.render.figures.law import make_law
        from clipa.render.figures.trainings import make_trainings

        make = make_trainings if chosen.over == "training" else make_law
        print(*make(chosen.records, chosen.output), sep="\n")
    return 0


def _drop(chosen: argparse.Namespace) -> int:
    from clipa.law.shortened import shortened_report

    print(shortened_report(chosen.records), end="")
    if chosen.output is not None:
        from clipa.render.figures.shortened import make_shortened

        print(*make_shortened(chosen.records, chosen.output), sep="\n")
    return 0


def _compare(chosen: argparse.Namespace) -> int:
    if chosen.paired:
        from clipa.render.checkpoints import paired_report

        if len(chosen.records) != 2:
            raise ValueError(f"--paired compares two files of records, {len(chosen.records)} were given")
        print(paired_report(*chosen.records))
        return 0
    from clipa.law import comparison_report

    print(comparison_report(chosen.records), end="")
    return 0


def _macros(chosen: argparse.Namespace) -> int:
    from clipa.render.tables import make_numbers

    print(make_numbers(chosen.published, chosen.output))
    return 0


# ----------------------------------------------------------------------------------------------------- parsing


def _cite_verb(verbs) -> None:
    cite = add_verb(
        verbs,
        "cite",
        _cite,
        "find a number of the paper by words or id, with what to know before citing it",
        "L/16 resize 64 finetune",
        asked=False,
    )
    cite.add_argument(
        "words",
        nargs="+",
        metavar="WORD",
        help="words in any order, or an id; drop, slope, ratio and minimal ask for what follows from the tables, "
        "measured or a scale's name for what was measured here",
    )
    cite.add_argument("--json", action="store_true", help="the records found, as JSON")
    cite.add_argument("--bibtex", action="store_true", help="add the BibTeX entry")
    cite.add_argument(
        "--records",
        nargs="+",
        type=Path,
        default=[],
        metavar="FILE",
        help="the measured records of these files",
    )


def _number_verbs(verbs) -> None:
    claims = add_verb(
        verbs,
        "claims",
        _claims,
        "check what the paper says against its own tables, or against measured records",
        "--verdict contradicted",
        asked=False,
    )
    claims.add_argument("ids", nargs="*", metavar="ID", help="work these claims or errata out")
    claims.add_argument("--scale", help="give verdicts on the measured records of this scale (micro, …)")
    claims.add_argument("--verdict", help="only claims of this verdict: holds, contradicted, …")
    claims.add_argument("--json", action="store_true", help="as JSON")
    claims.add_argument(
        "--write", type=Path, metavar="DIR", help="write claims.md and errata.md into this folder"
    )
    add_verb(
        verbs,
        "models",
        _models,
        "print sizes of the paper's models and their cost at every token length used",
        "",
        asked=False,
    )
    add_verb(
        verbs,
        "recipes",
        _recipes,
        "print how runs can be trained: the trees of Tables 1 to 3, 6 to 10 and 14, and readings of §3",
        "",
        asked=False,
    )
    numbers = add_verb(
        verbs,
        "numbers",
        _numbers,
        "write all numbers, published, derived and measured: as a page that searches, or as a flat table",
        "--output numbers.csv",
        asked=False,
    )
    numbers.add_argument(
        "--output",
        type=Path,
        required=True,
        metavar="FILE",
        help="what is written goes by its ending: .html, the page; .csv, .json (with the meaning of each column), "
        ".parquet (needs pyarrow: envs/parquet.lock)",
    )
    explore = add_verb(
        verbs,
        "explore",
        _explore,
        "write the page to explore the law: one HTML file of charts, published and measured numbers apart",
        "--output docs/law.html",
        asked=False,
    )
    explore.add_argument("--output", type=Path, required=True, metavar="FILE")


def _drawing_verbs(verbs) -> None:
    for name, call, one in (("figure", _figure, "figure4"), ("table", _table, "table11")):
        parser = add_verb(
            verbs,
            name,
            call,
            f"make one {name} of the paper from records",
            f"{one} --published results/published/table11.json --output {one}.{'pdf' if name == 'figure' else 'tex'}",
            asked=False,
        )
        parser.add_argument("name", help=f"{one}, …")
        parser.add_argument("--published", nargs="*", type=Path, default=[], metavar="FILE")
        parser.add_argument("--measured", nargs="+", type=Path, default=[], metavar="FILE")
        parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    macros = add_verb(
        verbs,
        "macros",
        _macros,
        r"write \clipanumber{id} for every published number, for LaTeX",
        "--published results/published/table11.json --output numbers.tex",
        asked=False,
    )
    macros.add_argument("--published", nargs="+", type=Path, required=True, metavar="FILE")
    macros.add_argument("--output", type=Path, required=True, metavar="FILE")


def _record_verbs(verbs) -> None:
    law = add_verb(
        verbs,
        "law",
        _law,
        "say what records of one scale say about the law: drops, slopes, convergence, power, verdicts",
        "results/runs/micro/*/evaluation/*/records.json",
        asked=False,
    )
    law.add_argument("records", nargs="*", type=Path, metavar="FILE")
    law.add_argument(
        "--beside", nargs="+", type=Path, default=[], metavar="FILE", help="records of another scale"
    )
    law.add_argument(
        "--power",
        type=Path,
        metavar="PILOT",
        help="print the power to find the paper's effect, from a YAML file of pilot deviations (docs/law.md)",
    )
    law.add_argument("--output", type=Path, metavar="FILE", help="also draw the law: PDF, SVG and PNG")
    law.add_argument(
        "--over",
        choices=["size", "training"],
        default="size",
        help="draw it over the models' size (default), or over shares of the samples (experiment over-training)",
    )
    drop = add_verb(
        verbs,
        "drop",
        _drop,
        "set shortened trainings beside the full length on any test set: accuracy and drop, with intervals",
        "results/runs/photos/*/evaluation/*/records.json --output photos.pdf",
        asked=False,
    )
    drop.add_argument("records", nargs="+", type=Path, metavar="FILE")
    drop.add_argument("--output", type=Path, metavar="FILE", help="also draw it: PDF, SVG and PNG")
    compare = add_verb(
        verbs,
        "compare",
        _compare,
        "set recipes of one run beside the study: accuracy, and the difference with its interval",
        "results/recorded/micro/*/*.json",
        asked=False,
    )
    compare.add_argument("records", nargs="+", type=Path, metavar="FILE")
    compare.add_argument(
        "--paired",
        action="store_true",
        help="two files, of any two models: differences over the same items, with McNemar's exact test, of retrieval "
        "with a paired bootstrap",
    )
