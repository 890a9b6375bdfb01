"""The page docs/law.html: charts, what a mark says and is cited as, and the same numbers as tables."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from clipa import __version__
from clipa.published import citation
from clipa.published.claims import Evaluation
from clipa.published.errata import errata_of
from clipa.render.explore.charts import VIEWS, chart, rows
from clipa.render.explore.points import PUBLISHED, SEQUENCES, Source, source_of
from clipa.render.pages import write_page
from clipa.render.terminal import caveats, number_lines
from clipa.schema import Record

HERE = Path(__file__).parent
SHARED = (citation.PAPER, citation.ARTIFACT)
"""Long texts of the reports; PRIVATE: the letter that stands for the first."""
PRIVATE = 0xE000
FIRST = "image-resize"
"""The reduction that is shown first: §8 finds it best, and every scale has it."""


def write(out: Path) -> Path:
    """Write the page to `out`; the same records give the same bytes."""
    return write_page(out, render)


def render(published: Sequence[Record], measured: Mapping[str, Sequence[Record]]) -> str:
    """The page as HTML; `measured` are the accepted records of every scale. FigureError where a baseline is missing."""
    import jinja2
    import vl_convert

    sources = [source_of(PUBLISHED, published), *(source_of(name, own) for name, own in measured.items())]
    sources = [source for source in sources if source.points]
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([HERE, HERE.parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    content = {
        "charts": {
            source.name: {name: chart(source, view) for name, view in VIEWS.items()} for source in sources
        },
        "points": {source.name: rows(source) for source in sources},
        "reports": _short(reports(sources, published)),
        "shared": SHARED,
        "first": FIRST,
    }
    return environment.get_template("page.html.j2").render(
        sources=sources,
        views=VIEWS.values(),
        reductions=_reductions(sources),
        models=list(dict.fromkeys(model for source in sources for model in source.models)),
        about={source.name: about(source) for source in sources},
        content=json.dumps(content, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c"),
        bundle=_inside_script(vl_convert.javascript_bundle()),
        citation=citation,
        first=FIRST,
        version=__version__,
    )


def _inside_script(text: str) -> str:
    """JavaScript, in whose strings nothing ends a script element or comments its end out."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", text, flags=re.IGNORECASE)


def reports(sources: Sequence[Source], published: Sequence[Record]) -> dict[str, list[tuple[str, str]]]:
    """What `clipa cite ID` prints for each number of the page, by its id, as lines that the page wraps."""
    errata = errata_of(Evaluation(published))
    found: dict[str, list[tuple[str, str]]] = {}
    for source in sources:
        for point in source.points:
            for identity in (point.id, *point.drop_ids):
                if identity not in found:
                    record = source.cited[identity]
                    found[identity] = number_lines(record, caveats(record, published, errata))
    return found


def _short(found: Mapping[str, list[tuple[str, str]]]) -> dict[str, list[tuple[str, str]]]:
    """Reports with one letter of the private use area for each text of :data:`SHARED`, which almost all have."""

    def short(text: str) -> str:
        for number, shared in enumerate(SHARED):
            text = text.replace(shared, chr(PRIVATE + number))
        return text

    return {identity: [(name, short(text)) for name, text in lines] for identity, lines in found.items()}


def _reductions(sources: Sequence[Source]) -> dict[str, list[tuple[str, str]]]:
    """What can be chosen: (key, label) by the sequence that is shortened."""
    keys = dict.fromkeys(key for source in sources for key in source.reductions)
    found: dict[str, list[tuple[str, str]]] = {}
    for key in keys:
        sequence, _, name = key.partition("-")
        found.setdefault(sequence, []).append((key, SEQUENCES[sequence].registry[name].label))
    return found


def about(source: Source) -> dict[str, Any]:
    """What all panels of a source say above their chart: whose numbers they are, on what, of what, over how many."""
    tables = " and ".join(str(drawing.table) for drawing in SEQUENCES.values())
    if not source.measured:
        return {
            "title": "Published in the paper",
            "sample": f"Tables {tables}: zero-shot top-1 accuracy on ImageNet-1k, one run a point",
        }
    records = [point.record for point in source.points]
    counts = sorted({record["actual"]["parameters"] for record in records})
    sizes = list(dict.fromkeys(f"{count / 1e6:.2g}" for count in counts))
    seeds = sorted({point.seeds for point in source.points})
    items = sorted({record["dataset"]["n"] for record in records})
    names = ", ".join(sorted({record["dataset"]["name"] for record in records}))
    return {
        "title": f"Measured here at scale {source.name}",
        "sample": f"{names}, top-1 accuracy of stand-ins with {_span(sizes)} million "
        f"parameters; n = {_span(items)}, {_span(seeds)} seed{'s' if seeds != [1] else ''} a point",
    }


def _span(numbers: Sequence[Any]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
