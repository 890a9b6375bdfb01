"""One measurement is printed as one number on every page, in every table and in the figures' data: clipa.stats'."""

import csv
import html
import re
from collections import defaultdict
from pathlib import Path

import pytest

from clipa.plan import filling
from clipa.records import read_records, record_id, run_name
from clipa.stats import estimate, fixed
from clipa.study import Run, parse_run
from printed_latex import place, read_back, records_of

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FILES = sorted((ROOT / "results" / "recorded" / "micro-v1").glob("**/*.json"))
# A suite measures the plain set again, with the same outcome: one record an id.
RECORDS = list({record["id"]: record for file in FILES for record in read_records(file)}.values())


def name_of(record: dict) -> str:
    """The record's id without its seed."""
    return record_id(record).rpartition(".seed")[0]


@pytest.fixture(scope="module")
def estimates():
    """What clipa.stats gives for the accepted records, by id without the seed."""
    groups = defaultdict(list)
    for record in RECORDS:
        groups[name_of(record)].append(record)
    return {
        name: estimate([r["value"] for r in own], [r["standard_error"] for r in own])
        for name, own in groups.items()
    }


def accuracy_of(run: Run, recipe: str = "study") -> str:
    """The id without the seed of a run's last accuracy on the plain set."""
    slug = run.slug if recipe == "study" else f"{run.slug}-{recipe}"
    stages = {r["stage"] for r in RECORDS if run_name(r) == slug}
    stage = "finetune" if "finetune" in stages else "pretrain"
    return f"micro-v1.{slug}.{stage}.imagenet1k.acc1"


def run_of(model: str, label: str) -> Run:
    """The run behind a row of the law's report: `full`, `block 98`, `resize 64`, `text syntax 8`."""
    slug = model.replace("/", "")
    if label == "full":
        return Run(model)
    words = label.split()
    if words[0] == "text":
        return parse_run(f"{slug}-resize112-{words[1]}{words[2]}")
    return parse_run(f"{slug}-{words[0]}{words[1]}-truncation32")


def in_pages(page: Path):
    """(id without seed, text) of the accuracies in the reports that a page holds."""
    for block in re.findall(r"```text\n(.*?)\n```", page.read_text(encoding="utf-8"), re.S):
        if " at scale micro:" in block:  # another scale's; tests/test_recorded.py compares all of it
            continue
        models, run = [], ""
        for line in block.splitlines():
            cells = re.split(r" {2,}", line.strip())
            if heads := re.findall(r"(\S+) \([\d.]+ M\)", line):
                models = heads
            elif line.startswith("Drop from"):
                models = []
            elif models and len(cells) == len(models) + 1:
                for model, text in zip(models, cells[1:], strict=True):
                    if text != "–":
                        yield accuracy_of(run_of(model, cells[0])), text
            elif block.startswith("Recipes against the study") and re.search(r"\d seeds?$", line):
                run = cells[0] if re.match(r" {2}\S", line) else run
                recipe, text = [cell for cell in cells if cell != run][:2]
                yield accuracy_of(parse_run(run), recipe), text


def in_table(path: Path):
    """The measured cells of a table, found by row and column of the published record beside which they stand."""
    number = int(path.stem.removeprefix("table"))
    panels = read_back(path.read_text(encoding="utf-8"))
    for record in records_of(number):
        if record["unit"] != "percent" or record["metric"].endswith("_gain"):
            continue
        for panel in panels:
            try:
                entry = place(panel, number, record)
            except (AssertionError, ValueError, StopIteration, KeyError):
                continue  # a row or column that nothing fills is left out
            if found := re.match(r"\$(\S+) \\pm (\S+)\$", entry.text):
                for run in filling(record):
                    identity = f"micro-v1.{run}.{record['stage']}.{record['benchmark']}.{record['metric']}"
                    if any(name_of(r) == identity for r in RECORDS):
                        yield identity, f"{found[1]} ± {found[2]}"


def in_numbers_page():
    """The measured rows of docs/numbers.html, by id."""
    page = (ROOT / "docs" / "numbers.html").read_text(encoding="utf-8")
    number = r"-?[\d.]+(?: ± [\d.]+)?"
    for start, end in (('<a href="#', "</a>"), ('<tr id="', "</b>")):
        between = ">" if end == "</a>" else r"[^>]*><th[^>]*><b>"
        pattern = rf'{start}(micro-v1\.[^"]+?)(?:\.seed\d+)?"{between}({number}){end}'
        for identity, text in re.findall(pattern, page):
            yield identity, html.unescape(text)


def in_figure_data():
    """(id without seed, mean, low, high) of the measured accuracies in the figures' data: Figures 8 and 10."""
    for path in sorted((ROOT / "figures" / "micro-v1" / "data").glob("*.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                if row["source"] != "measured" or not row.get("value"):
                    continue
                full = int(row["image_tokens"]) == 197
                reduction = row.get("image_reduction") or "resize"
                setting = row["image_size"] if reduction == "resize" else row["patches"]
                yield (
                    path.name,
                    accuracy_of(run_of(row["model"], "full" if full else f"{reduction} {setting}")),
                    *(float(row[name]) for name in ("value", "low", "high")),
                )


def test_every_measurement_is_printed_as_one_number(estimates):
    printed: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    sources = {page.name: in_pages(page) for page in PAGES}
    sources |= {
        f"{path.name}": in_table(path) for path in sorted((ROOT / "tables" / "micro-v1").glob("table*.tex"))
    }
    sources["numbers.html"] = in_numbers_page()
    for source, found in sources.items():
        for identity, text in found:
            printed[identity][text].add(source)
    wrong = {
        identity: {"clipa.stats": estimates[identity].text}
        | {text: sorted(pages) for text, pages in texts.items()}
        for identity, texts in printed.items()
        if set(texts) != {estimates[identity].text}
    }
    assert not wrong, "\n".join(f"{identity}: {texts}" for identity, texts in sorted(wrong.items()))
    covered = sum(len(pages) for texts in printed.values() for pages in texts.values())
    assert len(printed) > 150 and covered > 250, (len(printed), covered)
    by_page = {page for texts in printed.values() for pages in texts.values() for page in pages}
    assert {"found.md", "method.md", "table11.tex", "table12.tex", "table13.tex"} <= by_page


def test_the_figures_data_are_the_same_estimates(estimates):
    found = list(in_figure_data())
    assert len(found) > 50 and len({identity for _, identity, *_ in found}) > 40
    for file, identity, mean, low, high in found:
        own = estimates[identity]
        expected = [float(f"{value:.6g}") for value in (own.mean, own.low, own.high)]
        assert [mean, low, high] == expected, (file, identity)
        assert fixed(mean) == fixed(own.mean), (file, identity)


def drops_in_found() -> dict[tuple[str, str], str]:
    """The drops that docs/found.md prints, by model and label of the length."""
    found, models = {}, []
    for line in (ROOT / "docs" / "found.md").read_text(encoding="utf-8").splitlines():
        cells = re.split(r" {2,}", line.strip())
        if line.startswith("Drop from"):
            models = ["next line"]
        elif models == ["next line"]:
            models = cells
        elif models and len(cells) == len(models) + 1:
            found |= {(model, cells[0]): text for model, text in zip(models, cells[1:], strict=True)}
        else:
            models = []
    return found


def test_drops_are_the_same_in_the_report_and_behind_figures_4_7_and_9():
    printed, compared = drops_in_found(), 0
    for name in ("figure4", "figure7", "figure9"):
        with open(
            ROOT / "figures" / "micro-v1" / "data" / f"{name}.csv", encoding="utf-8", newline=""
        ) as file:
            rows = [row for row in csv.DictReader(file) if row["source"] == "measured" and row["interval"]]
        for row in rows:
            if name == "figure7":
                label = f"text {row['text_reduction']} {row['text_tokens']}"
            else:
                reduction = row["image_reduction"]
                label = f"{reduction} {row['image_size' if reduction == 'resize' else 'patches']}"
            drop, low, high = (fixed(float(row[key]), signed=True) for key in ("drop", "low", "high"))
            assert printed[row["model"], label] == f"{drop} [{low}, {high}]", (name, label, row["model"])
            compared += 1
    assert compared > 100
