"""docs/law.html: its points are the figures', its citations the command's; in a browser also what its marks say."""

import csv
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import chromium
from clipa.published.measured import recorded
from clipa.records import published_records, recorded_scales
from clipa.render.explore import page as law_page
from clipa.render.explore.charts import VIEWS
from clipa.render.explore.points import PUBLISHED, Source, source_of
from clipa.render.terminal import cite_report
from clipa.stats import fixed
from html_tree import Node, every, read

ROOT = Path(__file__).resolve().parent.parent
DROP = "derived.table11.L16-resize64-truncation32.finetune.imagenet1k.acc1_drop"
RESIZE64 = "table11.L16-resize64-truncation32.finetune.imagenet1k.acc1"
MEASURED = "micro-v1.L16-resize96-truncation32.finetune.imagenet1k.acc1"


@pytest.fixture(scope="module")
def sources() -> dict[str, Source]:
    found = [source_of(PUBLISHED, published_records())]
    found += [source_of(scale, recorded(scale)) for scale in recorded_scales()]
    return {source.name: source for source in found}


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    """The page as the command makes it, with another order of sets and dictionaries than the stored one's."""
    out = tmp_path_factory.mktemp("page") / "law.html"
    done = subprocess.run(
        [sys.executable, "-m", "clipa", "explore", "--output", str(out)],
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "7"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, f"{out}\n"), done.stderr
    return out


@pytest.fixture(scope="module")
def static(page) -> Node:
    return read(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def content(static) -> dict:
    """What the page's script reads."""
    return json.loads(next(one for one in static.all("script") if one.attributes.get("id") == "content").text)


# -------------------------------------------------------------------------------------------- without a browser


def test_stored_page_is_what_the_records_give(page):
    stored = ROOT / "docs" / "law.html"
    assert stored.read_bytes() == page.read_bytes(), "old: python -m clipa explore --output docs/law.html"


def test_page_is_one_small_file_that_may_load_nothing(page, static):
    assert page.stat().st_size < 2_000_000
    for node in every(static):
        assert node.name not in ("link", "img", "iframe", "object", "embed", "base")
        assert "src" not in node.attributes
    (policy,) = [node for node in static.all("meta") if "http-equiv" in node.attributes]
    assert policy.attributes["http-equiv"] == "Content-Security-Policy"
    allowed = dict(part.split(maxsplit=1) for part in policy.attributes["content"].split("; "))
    assert allowed.pop("default-src") == "'none'"
    assert set(allowed.values()) == {"'unsafe-inline'", "data:", "'none'"}


def rows_of(number: int, source: Source, column: str):
    """The points of a drawn figure as tracked: (reduction, model, length): row."""
    folder = ROOT / "figures" / ("" if source.name == PUBLISHED else source.name) / "data"
    sequence = column.partition("_")[0]
    with open(folder / f"figure{number}.csv", encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            if row["source"] == ("published" if source.name == PUBLISHED else "measured"):
                key = (f"{sequence}-{row[f'{sequence}_reduction']}", row["model"], int(row[column]))
                yield key, row


@pytest.mark.parametrize("name", [PUBLISHED, "micro-v1"])
def test_points_are_those_of_the_figures(sources, name):
    """Drops and intervals of Figures 4 and 7, accuracies and tokens of Figure 10."""
    source = sources[name]
    points = {(p.reduction, p.record["model"], p.length): p for p in source.points}
    assert len(points) == len(source.points)

    def same(number: float, text: str) -> bool:
        return text == "" or float(f"{number:.6g}") == pytest.approx(float(text), rel=1e-5, abs=1e-9)

    drops = {**dict(rows_of(4, source, "image_tokens")), **dict(rows_of(7, source, "text_tokens"))}
    assert drops.keys() == points.keys()
    for key, row in drops.items():
        point = points[key]
        assert same(point.drop.mean, row["drop"])
        over_seeds = row["interval"] == "95 % over seeds"
        assert bool(point.drop_interval) == over_seeds
        if over_seeds:
            assert same(point.drop.low, row["low"])
            assert same(point.drop.high, row["high"])
    accuracies = dict(rows_of(10, source, "image_tokens"))
    assert accuracies.keys() == {key for key in points if key[0].startswith("image")}
    for key, row in accuracies.items():
        assert same(points[key].accuracy.mean, row["value"])
        assert same(points[key].tokens, row["pretraining_tokens"])
        hollow = row["source"] == "measured" and row["interval"] != "95 % over seeds"
        assert points[key].hollow == hollow


def whole(content: dict, identity: str) -> list[list[str]]:
    """The lines of a report with the shared texts in the place of the letters that stand for them."""
    shared = {0xE000 + number: text for number, text in enumerate(content["shared"])}
    return [[name, text.translate(shared)] for name, text in content["reports"][identity]]


def test_citations_are_those_of_the_command(content, sources):
    """Line by line: the page wraps what the terminal wraps."""
    baseline = "micro-v1.L16-none-truncation32.pretrain.imagenet1k.acc1"
    for identity in (DROP, RESIZE64, MEASURED, baseline):
        text, code = cite_report([identity])
        (_, head), *lines = whole(content, identity)
        assert code == 0
        assert text.splitlines()[0] == head
        assert " ".join(text.split()).startswith(
            " ".join(" ".join([head, *(f"{name}: {said}" if name else said for name, said in lines)]).split())
        )
    needed = {identity for s in sources.values() for p in s.points for identity in (p.id, *p.drop_ids)}
    assert content["reports"].keys() == needed
    assert all(lines[-1][0] == "cite as" for lines in content["reports"].values())


def test_every_point_has_a_row_that_says_it(static, sources):
    tables = {table.attributes["data-source"]: table for table in static.all("table")}
    numbers = read((ROOT / "docs" / "numbers.html").read_text(encoding="utf-8"))
    anchors = {node.attributes.get("id") for node in every(numbers)}
    for name, source in sources.items():
        rows = tables[name].all("tbody")[0].all("tr")
        for row, point in zip(rows, source.points, strict=True):
            for text in (
                point.trained,
                point.setting,
                point.drop_text,
                point.accuracy_text,
                point.id,
                point.cells,
            ):
                assert text in row.text
            page, _, anchor = row.all("a")[0].attributes["href"].partition("#")
            assert page == "numbers.html"
            assert anchor in anchors
    ids = [node.attributes["id"] for node in every(static) if node.attributes.get("id")]
    assert len(ids) == len(set(ids))
    inside = {
        link.attributes["href"][1:] for link in static.all("a") if link.attributes["href"].startswith("#")
    }
    assert inside <= set(ids)


def test_text_of_records_cannot_become_markup_and_nothing_measured_is_no_panel():
    evil = '</script><script>alert("1")</script><!-- & "x"'
    records = [
        {**record, "row": evil, "note": evil} if record["id"] == RESIZE64 else record
        for record in published_records()
    ]
    html = law_page.render(records, {})
    assert evil not in html
    static = read(html)
    (content,) = [one for one in static.all("script") if one.attributes.get("id") == "content"]
    assert ["row", evil] in json.loads(content.text)["reports"][RESIZE64]
    charts = static.of_class("chart")
    assert [one.attributes["data-source"] for one in charts] == [PUBLISHED] * len(VIEWS)


# ------------------------------------------------------------------------------------------------ in a browser

LOOK = """
const later = (ms) => new Promise((done) => setTimeout(done, ms));
const chart = (source, view) => document.querySelector(`.chart[data-source="${source}"][data-view="${view}"]`);
const marks = (one) => [...one.querySelectorAll(".mark-symbol path")].filter((path) => path.__data__?.datum?.id);
const all = () => Object.fromEntries([...document.querySelectorAll(".chart")].map((one) => [
  `${one.dataset.source} ${one.dataset.view}`,
  marks(one).map((path) => [path.__data__.datum.id, path.getAttribute("fill"), path.getAttribute("aria-label")]),
]));

const escape = () => document.dispatchEvent(new KeyboardEvent("keydown", { key: "Escape" }));

async function at(source, view, id) {
  escape();
  const path = marks(chart(source, view)).find((one) => one.__data__.datum.id === id);
  path.scrollIntoView({ block: "center" });
  await later(50);
  const box = path.getBoundingClientRect();
  const place = { bubbles: true, clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
  const target = document.elementFromPoint(place.clientX, place.clientY);
  for (const name of ["pointerover", "pointermove"]) target.dispatchEvent(new PointerEvent(name, place));
  for (const name of ["mouseover", "mousemove"]) target.dispatchEvent(new MouseEvent(name, place));
  await later(50);
  const tip = document.getElementById("vg-tooltip-element");
  const shown = tip.classList.contains("visible") ? tip.textContent : "";
  target.dispatchEvent(new MouseEvent("click", place));
  await later(50);
  return [shown, document.getElementById("citation-title").textContent, document.getElementById("report").textContent];
}

function faint() {  // text whose contrast with what is behind it is below 4.5 : 1
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const solid = (node) => {
    for (; node; node = node.parentElement) {
      const colour = getComputedStyle(node).backgroundColor;
      if (parts(colour)[3] !== 0) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text; (text = walker.nextNode());) {
    const node = text.parentElement;
    if (!text.data.trim() || !node.checkVisibility() || /SCRIPT|STYLE|OPTION/.test(node.tagName)) continue;
    const style = getComputedStyle(node);
    const [one, two] = [light(node instanceof SVGElement ? style.fill : style.color), light(solid(node))];
    const ratio = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    if (ratio < 4.5) found.push([text.data.trim().slice(0, 30), ratio]);
  }
  return found;
}

await lawIsDrawn;
const found = { width: innerWidth, marks: all(), faint: faint() };
found.dark = matchMedia("(prefers-color-scheme: dark)").matches;
const charts = [...document.querySelectorAll(".chart")];
found.labels = charts.map((one) => one.parentElement.querySelector("[role=graphics-document]").ariaLabel);
found.words = Object.fromEntries(charts.map((one) => [
  `${one.dataset.source} ${one.dataset.view}`,
  [...one.querySelectorAll("svg text")].map((text) => text.textContent),
]));
found.cut = charts.flatMap((one) => {
  const whole = one.querySelector("svg").getBoundingClientRect();
  const cut = (box) => box.left < whole.left - 1 || box.right > whole.right + 1
    || box.top < whole.top - 1 || box.bottom > whole.bottom + 1;
  return [...one.querySelectorAll("svg text")].filter((text) => text.textContent && cut(text.getBoundingClientRect()))
    .map((text) => [one.dataset.source, one.dataset.view, text.textContent]);
});
found.published = await at("published", "length", RESIZE64);
found.accuracy = await at("published", "tokens", RESIZE64);
found.measured = await at("micro-v1", "length", MEASURED);
escape();
found.closed = document.getElementById("citation").hidden;
const button = document.querySelector(`button[aria-label="Cite the accuracy of ${MEASURED}"]`);
button.click();
found.byButton = [document.getElementById("report").textContent, document.activeElement.id];
escape();
found.back = document.activeElement === button;
document.getElementById("reduction").value = "text-syntax";
document.querySelector("#models input[value='S/16']").checked = false;
document.getElementById("bar").dispatchEvent(new Event("change", { bubbles: true }));
await later(500);
found.chosen = all();
found.rows = document.querySelectorAll(".points tbody tr:not([hidden])").length;
found.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
found.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
return found;
"""


@pytest.fixture(scope="module")
def window(tmp_path_factory) -> Iterator[chromium.Browser | None]:
    with chromium.browser(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module", params=[1280, 390], ids=["wide", "narrow and dark"])
def look(request, page, window) -> dict | None:
    """What a script sees and does at a width."""
    if window is None:
        return None
    constants = f"const RESIZE64 = {RESIZE64!r}, MEASURED = {MEASURED!r};"
    dark = request.param < 500
    seen = window.ask(page, constants + LOOK, width=request.param, dark=dark)
    assert (seen["width"], seen["dark"]) == (request.param, dark)
    return seen


def shown(source: Source, view: str, reduction: str, models: tuple[str, ...]) -> list[str]:
    return sorted(
        point.id
        for point in source.points
        if point.reduction == reduction
        and point.record["model"] in models
        and not (view == "size" and point.full)
    )


def test_browser_draws_the_chosen_points_each_in_its_own_panel(look, sources):
    if look is None:
        return
    for name, reduction, models in (
        ("marks", "image-resize", ("Ti/16", "S/16", "B/16", "L/16")),
        ("chosen", "text-syntax", ("Ti/16", "B/16", "L/16")),
    ):
        assert len(look[name]) == len(sources) * len(VIEWS)
        for panel, marks in look[name].items():
            source, view = sources[panel.split()[0]], panel.split()[1]
            assert sorted(identity for identity, *_ in marks) == shown(source, view, reduction, models), panel
            hollow = {point.id for point in source.points if point.hollow}
            assert {identity for identity, fill, _ in marks if fill == "#ffffff"} == hollow & {
                m[0] for m in marks
            }
            by_id = {point.id: point for point in source.points if point.reduction == reduction}
            for identity, _, label in marks:
                point = by_id[identity]
                text = point.drop_text if VIEWS[view].y == "drop" else point.accuracy_text
                place = "Table 1"
                if source.measured:
                    name, n = point.record["dataset"]["name"], point.record["dataset"]["n"]
                    place = f"measured here at scale {source.name}, {name}, top-1 accuracy, n = {n}, "
                assert f" {text}" in label
                assert f": {point.trained}, {point.setting}; {place}" in label
    of_syntax = [
        len(shown(source, "length", "text-syntax", ("Ti/16", "B/16", "L/16"))) for source in sources.values()
    ]
    assert look["rows"] == sum(of_syntax) and of_syntax[0] == 2 * 5


def test_browser_shows_value_and_id_and_cites_on_a_click(look):
    if look is None:
        return
    tip, title, report = look["published"]
    assert "3.0 points" in tip
    assert DROP in tip
    assert "Drop 3.0 points: L/16" in title
    assert "3.0 ± 0.1 points" in report
    assert f"record {DROP} of" in report
    tip, title, report = look["accuracy"]
    assert "66.2 %" in tip
    assert RESIZE64 in tip
    assert "Table 11, row “resizing | 64×64 | 17”" in report
    tip, title, report = look["measured"]
    for text in (MEASURED, "too few seeds", "n4000", "seeds1", "L/16 stand-in, 0.5 M", "pictograms/v1/plain"):
        assert text in tip
    assert "n = 4000, 1 seed" in title
    for one in (MEASURED, "micro-v1.L16-none-truncation32.pretrain.imagenet1k.acc1"):
        assert f"record {one} of" in report
    assert look["closed"]
    assert look["back"]
    text, focus = look["byButton"]
    assert f"record {MEASURED} of" in text
    assert focus == "citation-title"


def test_browser_needs_no_network_fits_its_width_and_can_be_read(look, sources):
    if look is None:
        return
    assert look["requests"] == []
    assert look["overflow"] == 0
    assert look["faint"] == []
    assert look["cut"] == []
    assert len(look["labels"]) == len(look["words"])
    assert all(label and "The table below has its numbers" in label for label in look["labels"])
    for panel, words in look["words"].items():
        source, view = sources[panel.split()[0]], VIEWS[panel.split()[1]]
        assert view.axis in words
        assert any(re.match(r"Drop \(percentage points\)|Accuracy, .*\(%\)", word) for word in words)
        chance = f"chance {fixed(source.chance or 0)} %"
        assert any(word == chance for word in words) == (source.measured and view.y == "accuracy")
