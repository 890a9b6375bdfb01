"""docs/numbers.html in a browser: search, sorting, keyboard, addresses, copies and downloads, at two widths."""

import csv
import json
import re
from pathlib import Path

import pytest

import chromium
from clipa.published import citation
from clipa.published.derived import derived_records
from clipa.published.flat import COLUMNS, flat_table
from clipa.published.measured import means, recorded
from clipa.published.search import entries_of, search, species, species_asked_for, terms_of
from clipa.records import published_records, recorded_scales

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "numbers.html"  # which is what the records give: test_numbers_page.py
RESIZE64 = "table11.L16-resize64-truncation32.finetune.imagenet1k.acc1"


@pytest.fixture(scope="module")
def records():
    return published_records(ROOT / "results" / "published")


COMMON = """
  if (!document.documentElement.dataset.ready) {
    await new Promise((done) => addEventListener("numbersready", done));
  }
  const byId = (id) => document.getElementById(id);
  const pause = (time = 0) => new Promise((done) => setTimeout(done, time));
  const shown = () => [...document.querySelectorAll(".numbers tbody tr[id]:not([hidden], #context)")]
    .map((row) => row.id);
  const count = () => byId("count").textContent;
  const ask = (query) => {
    byId("q").value = query;
    byId("bar").dispatchEvent(new Event("submit", { cancelable: true }));
  };
  const typed = (query) => [...query].map((_, at) => {
    byId("q").value = query.slice(0, at + 1);
    byId("q").dispatchEvent(new Event("input", { bubbles: true }));
    return [count(), shown().length];
  });
  const stops = () => [...document.querySelectorAll("a[href], button, input, select, summary, [tabindex]")]
    .filter((one) => one.tabIndex >= 0 && one.checkVisibility({ visibilityProperty: true })).length;
  const inView = (one) => {
    const { top, bottom } = one.getBoundingClientRect();
    return top >= 0 && bottom <= innerHeight;
  };
  const visit = async (hash) => { location.hash = hash; await pause(100); };
"""
PHRASINGS = [
    line.split("\t")[0]
    for line in (ROOT / "tests" / "cite_phrasings.tsv").read_text(encoding="utf-8").splitlines()
    if line and not line.startswith("#")
]
SECONDS_LATER = "await pause(1200);"
SYNTAX8 = "L/16 syntax 8 finetune"
MEASURED = "micro-v1.L16-resize64-truncation32.finetune.imagenet1k.acc1"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Chromium; None where there is none."""
    with chromium.browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def wide(browser):
    """Everything that is asked of the page in a wide window, at one start of the browser; None without Chromium."""
    script = f"""{COMMON}
      const told = {{ start: [shown(), [...document.querySelectorAll("[aria-sort]")].map((head) => head.ariaSort)] }};
      byId("reset").click(); byId("sort").value = ""; await pause();
      told.rest = [count(), stops()];

      // Typing, and a mistyped word when the typing is over.
      told.typed = typed("L/16 resize 64 finetune");
      told.more = [count(), byId("count").querySelector("button").textContent];
      byId("count").querySelector("button").click();
      told.all = shown().length;
      told.mistyped = typed("L/16 trunctation");
      {SECONDS_LATER}
      told.settled = [count(), byId("nothing").textContent];
      byId("nothing").querySelector("button").click();
      told.meant = [byId("q").value, shown().length];

      // The rows of each phrasing.
      told.rows = {json.dumps(PHRASINGS)}.map((query) => {{ ask(query); return shown(); }});

      // Sorting by value, of several units.
      ask("table 1");
      document.querySelector("#table th[data-sort=value] button").click();
      told.sorted = [...document.querySelectorAll("#table tbody tr:not([hidden])")]
        .map((row) => row.className === "unit" ? row.textContent : row.querySelector(".v").textContent);
      told.address = location.search;
      byId("reset").click(); await pause();

      // The keyboard: one stop for a table, arrows inside.
      const first = document.querySelector("#table tbody tr:not([hidden])");
      first.focus();
      const press = (key) => {{
        document.activeElement.dispatchEvent(new KeyboardEvent("keydown", {{ key, bubbles: true }}));
      }};
      press("ArrowDown"); press("ArrowDown");
      told.third = document.activeElement.id === shown()[2];
      const controls = [...document.activeElement.querySelectorAll("a[href], button")];
      told.controls = controls.every((one) => one.tabIndex === 0);
      press("End");
      told.last = document.activeElement.id === shown().filter((id) => byId(id).closest("#table")).at(-1);

      // Addresses.
      const land = async (id) => {{
        await visit(id);
        const row = byId(id), line = byId("context");
        return [row.className, line.textContent, inView(row) && inView(line), line.nextElementSibling === row];
      }};
      told.published = await land({RESIZE64!r});
      told.measured = await land({MEASURED!r});
      told.seed = await land({MEASURED!r} + ".seed0");
      told.derived = await land("derived." + {RESIZE64!r} + "_drop");
      ask("OpenCLIP");
      told.pinned = shown().filter((id) => !id.includes("OpenCLIP"));
      byId("reset").click();
      await visit("printed-table11");
      const table = byId("printed-table11");
      told.printed = [table.open, table.querySelectorAll("td a").length];
      const cell = table.querySelector(`a[href="#{RESIZE64}"]`);
      cell.focus(); press("ArrowUp");
      told.up = document.activeElement.hash;
      cell.click(); await pause(100);
      told.clicked = byId({RESIZE64!r}).className;

      // What is copied and what is downloaded.
      navigator.clipboard.writeText = async (text) => {{ told.copied.push(text); }};
      told.copied = [];
      for (const id of [{RESIZE64!r}, {MEASURED!r}, "derived." + {RESIZE64!r} + "_drop"]) {{
        byId(id).querySelector("button.copy").click();
      }}
      const files = [];
      URL.createObjectURL = (blob) => {{ files.push(blob.text()); return "#errata"; }};
      HTMLAnchorElement.prototype.click = () => {{}};
      for (const chosen of document.querySelectorAll("[data-download]")) {{ chosen.click(); await pause(500); }}
      told.files = await Promise.all(files);

      // Claims.
      document.querySelector('#verdicts [data-verdict="contradicted"]').click();
      const claim = document.querySelector(".claims li:not([hidden])");
      claim.querySelector("details").open = true;
      await pause(100);
      const links = claim.querySelectorAll(".ids a").length;
      told.claim = [claim.dataset.verdict, links, claim.querySelector("summary").textContent];
      return told;
    """
    address = "?place=table11&model=L/16&stage=finetune&sort=value-"
    return browser and browser.ask(PAGE, script, address)


def test_browser_starts_as_the_address_says(wide, records):
    if wide is None:
        return
    ids, sorts = wide["start"]
    by_id = {record["id"]: record["value"] for record in records}
    of_paper = [by_id[name] for name in ids if name in by_id and by_id[name] is not None]
    assert of_paper == sorted(of_paper, reverse=True) and of_paper[0] == 69.5
    # Three tables for three species of numbers, each sorted by itself.
    assert sorts == ["descending"] * 3


def no_flash(typed):
    return all(not text.startswith("0 ") and rows for text, rows in typed)


def test_typing_never_shows_nothing(wide):
    if wide is None:
        return
    assert no_flash(wide["typed"]) and wide["typed"][-1][1] == 1
    assert wide["more"][0].startswith(f"1 of {wide['rest'][0]} · show ")
    assert "more in other settings" in wide["more"][1]
    assert wide["all"] == 1 + int(wide["more"][1].split()[1]) > 5
    assert no_flash(wide["mistyped"])
    count, nothing = wide["settled"]
    assert count.startswith("0 of") and "Did you mean l/16 truncation?" in nothing
    assert wide["meant"][0] == "l/16 truncation" and wide["meant"][1] > 0


def test_a_phrasing_shows_the_rows_that_the_command_finds(wide, records):
    if wide is None:
        return
    measured = [record for scale in recorded_scales() for record in recorded(scale)]
    everything = [*records, *derived_records(records), *(one.record for one in means(measured)), *measured]
    entries = entries_of(everything)
    assert len(wide["rows"]) == len(PHRASINGS) >= 60
    for query, shown in zip(PHRASINGS, wide["rows"], strict=True):
        asked = species_asked_for(terms_of(query), recorded_scales())
        found = search([query], [entry for entry in entries if species(entry.record) in asked])
        # A query without a word that says anything finds nothing at the command line; the page then shows all.
        if found.terms:
            assert sorted(shown) == sorted(record["id"] for record in found.hits), query


def test_sorting_compares_values_inside_a_unit(wide):
    if wide is None:
        return
    lines = wide["sorted"]
    heads = [line for line in lines if line.startswith("In ")]
    assert heads == ["In percent, highest first", "In GPU hours, highest first"]
    at = lines.index(heads[1])
    for part in (lines[1:at], lines[at + 1 :]):
        values = [float(re.match(r"[\d.]+", line)[0]) for line in part if line[0].isdigit()]
        assert values == sorted(values, reverse=True) and len(values) > 5
    assert wide["address"] == "?q=table+1&sort=value-"


def test_the_keyboard_reaches_everything_in_few_stops(wide):
    if wide is None:
        return
    count, stops = wide["rest"]
    measured = means([record for scale in recorded_scales() for record in recorded(scale)])
    assert (
        count == f"{1_124 + 630 + len(measured):,} numbers"
    )  # published, derived; the paper's do not change
    assert stops < 100, stops
    assert wide["third"] and wide["controls"]
    assert wide["last"] is True
    assert wide["up"] == "#" + RESIZE64.replace("resize64", "block16")


def test_an_address_lands_with_what_its_number_is(wide):
    if wide is None:
        return
    for name in ("published", "measured", "seed", "derived"):
        marked, _, in_view, above = wide[name]
        assert (marked, in_view, above) == ("found", True, True), name
    assert wide["published"][1].startswith("Published: Table 11.")
    for name, sample in (("measured", "3 seeds"), ("seed", "seed 0")):
        text = wide[name][1].replace("‑", "-")
        assert text.startswith(
            "Not a number of the paper, and no reproduction of one: measured here at scale micro-v1"
        )
        assert (
            "on pictograms/v1/plain, top-1 accuracy, by a L/16 stand-in, 0.5 M, n = 4000, " + sample in text
        )
    assert wide["derived"][1].startswith("Not printed in the paper: derived from Table 11")
    # Shown although the search would leave it out, and nothing else is.
    assert wide["pinned"] == ["derived." + RESIZE64 + "_drop"]


def test_a_cell_of_a_table_as_printed_leads_to_its_record(wide):
    if wide is None:
        return
    assert wide["printed"] == [True, 102]
    assert wide["clicked"] == "found"


def test_browser_copies_what_the_command_cites(wide, records):
    if wide is None:
        return
    one = next(one for one in means(recorded("micro-v1")) if one.id == MEASURED)
    (record,) = [record for record in records if record["id"] == RESIZE64]
    drop = next(r for r in derived_records(records, ["drop"]) if r["id"] == f"derived.{RESIZE64}_drop")
    assert wide["copied"] == [citation.citation(own) for own in (record, one.record, drop)]


def test_downloads_hold_what_the_command_writes(wide, records):
    if wide is None:
        return
    table = flat_table(records, [record for scale in recorded_scales() for record in recorded(scale)])
    as_csv, as_json = wide["files"]
    content = json.loads(as_json)
    assert content["columns"] == {name: meaning for name, (_, meaning) in COLUMNS.items()}
    assert content["rows"] == table
    lines = list(csv.DictReader(as_csv.splitlines(keepends=True)))
    assert len(lines) == len(table)
    for line, row in zip(lines, table, strict=True):
        for name, (kind, _) in COLUMNS.items():
            assert (kind(line[name]) if line[name] else None) == (row[name] if row[name] != "" else None)


def test_claims_are_chosen_by_verdict_and_name_their_numbers(wide):
    if wide is None:
        return
    verdict, links, summary = wide["claim"]
    assert verdict == "contradicted" and summary.startswith(f"rests on {links} number")


def test_a_narrow_window_shows_all_of_it(browser):
    script = f"""{COMMON}
      const told = {{ width: [innerWidth, document.documentElement.scrollWidth], stops: stops() }};
      told.typed = typed({SYNTAX8!r});
      byId("reset").click(); await pause();
      await visit({MEASURED!r});
      const value = byId({MEASURED!r}).querySelector(".v");
      told.landed = [inView(byId("context")), byId("context").textContent, inView(value)];
      await visit("printed-table15");
      told.tables = [byId("printed-table15").open, document.documentElement.scrollWidth];
      return told;
    """
    if browser is None:
        return
    told = browser.ask(PAGE, script, width=500)
    window, wide = told["width"]
    assert window <= 500 and wide <= window and told["tables"] == [True, wide]
    assert told["stops"] < 100
    assert no_flash(told["typed"])
    seen, text, value = told["landed"]
    assert seen and value and "Not a number of the paper" in text
