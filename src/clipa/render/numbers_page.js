(async () => {
  const choices = ["place", "model", "benchmark", "stage", "source"];
  const text = (row, name) => row.querySelector("." + name).textContent.trim();
  const number = (count) => count.toLocaleString("en");

  // ------------------------------------------------------------------------------ what the page carries packed

  async function inflate(id) {
    const bytes = Uint8Array.from(atob(byId(id).textContent), (character) => character.charCodeAt(0));
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return JSON.parse(await new Response(stream).text());
  }

  const bar = byId("bar");
  bar.hidden = false;
  document.documentElement.classList.add("js");
  if (!("DecompressionStream" in window)) {
    byId("count").textContent = "This browser cannot open what the page carries packed (2023 or later can): no search here. The tables below are complete but for derived numbers.";
    return;
  }
  const carried = await inflate("packed");
  const bodies = ["table", "derived-table", "measured-table"].map((name) => byId(name).tBodies[0]);
  ["plotted", "derived", "seeds"].forEach((name, position) => bodies[position].insertAdjacentHTML("beforeend", carried[name]));
  byId("printed-tables").innerHTML = carried.printed.join("");

  const plotted = new Set(carried.search.records.filter(([, species, valued], position) =>
    species === "published" && !valued && carried.keys[carried.keysOf[position]][0].startsWith("figure")).map(([id]) => id));
  const search = searchOver(carried.search);
  const rows = search.entries.map((entry) => {
    const element = byId(entry.id), at = entry.position;
    const row = { ...entry, element, body: element.parentElement, entry, at, value: carried.values[at], unit: carried.units[at] };
    carried.keys[carried.keysOf[at]].forEach((key, position) => { row[choices[position]] = key; });
    row.atRest = entry.species !== "seed" && !plotted.has(entry.id);
    return row;
  });
  const rowOf = new Map(rows.map((row) => [row.element, row]));
  const atRest = rows.filter((row) => row.atRest).length;

  for (const row of rows) {
    const last = row.element.lastElementChild, link = last.querySelector("a");
    link.href = "#" + row.id;
    link.replaceChildren(...row.id.split(/(?<=[.\/])/).flatMap((part) => [part, document.createElement("wbr")]));
    const table = row.species === "published" && /^table(\d+)/.exec(row.place);
    if (table) {
      const whole = document.createElement("a"), name = row.element.querySelector(".p b");
      whole.href = "#printed-table" + table[1];
      whole.append(...name.childNodes);
      name.append(whole);
    }
    if (!row.valued) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Cite";
    button.title = "Copy citation";
    button.setAttribute("aria-label", `Copy citation of ${row.id}`);
    last.prepend(button);
  }

  // ------------------------------------------------------------------------------------------ filter and search

  let pinned = null, more = false, settling = 0;
  const state = () => Object.fromEntries(["q", ...choices, "sort"].map((name) => [name, byId(name).value]));

  /** {hits, further, terms, those}: what `clipa cite` finds for the words, among the rows that the filters leave. */
  function find(query, wanted) {
    const kept = rows.filter((row) => choices.every((name) => !wanted[name] || row[name] === wanted[name]));
    const terms = search.termsOf(query);
    if (!terms.length) return { terms, hits: kept.filter((row) => row.atRest || wanted.source), further: [], those: kept };
    const asked = search.speciesAskedFor(terms);
    const those = wanted.source ? kept : kept.filter((row) => asked.has(row.species));
    return { terms, ...search.search(query, those), those };
  }

  /** `typing`: the last word is not at its end yet, so that one which finds nothing is not looked for. */
  function apply(typing = false) {
    const wanted = state();
    let found = find(wanted.q, wanted), waiting = "";
    if (typing && !found.hits.length && /\S$/.test(wanted.q)) {
      waiting = /\S+$/.exec(wanted.q)[0];
      found = find(wanted.q.slice(0, -waiting.length), wanted);
    }
    clearTimeout(settling);
    if (waiting) settling = setTimeout(apply, 900);
    if (!(waiting && !found.hits.length)) show(found, wanted, waiting);
    remember(wanted);
  }

  function show(found, wanted, waiting) {
    const shown = more ? [...found.hits, ...found.further] : found.hits;
    const visible = new Set(shown.map((row) => row.id));
    for (const row of rows) row.element.hidden = !visible.has(row.id) && row.element !== pinned;
    byId("count").replaceChildren(...countText(found, shown, waiting));
    byId("nothing").hidden = found.hits.length > 0;
    if (!found.hits.length) byId("nothing").replaceChildren(...suggestions(found, wanted));
    for (const body of bodies) body.closest("section").classList.toggle("empty", !own(shown, body).length && !body.contains(pinned));
    arrange(shown, wanted.sort);
    for (const group of groups) group.refresh();
  }

  function countText(found, shown, waiting) {
    if (shown.length === atRest) return [`${number(atRest)} numbers`];
    const parts = [`${number(shown.length)} of ${number(atRest)} numbers`];
    if (found.further.length) {
      const those = `${number(found.further.length)} more in other settings (benchmark, text, case, model family)`;
      parts.push(" · ", button(more ? `hide ${those}` : `show ${those}`, () => { more = !more; apply(); }));
    }
    if (waiting) parts.push(` · “${waiting}” finds nothing yet`);
    return parts;
  }

  function button(label, action) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = label;
    made.addEventListener("click", action);
    return made;
  }

  function suggestions({ terms, those }, wanted) {
    if (!terms.length) return ["No number has these filters."];
    if (search.loneNumber(terms)) {
      return [terms[0].length > 1 ? `No number is ${terms[0]}.` : `${terms[0]} alone names no number; say of what: warmup ${terms[0]}.`];
    }
    const { near, ids, meant } = search.nearest(terms, those);
    const ask = (query) => button(query, () => { byId("q").value = query; more = false; apply(); });
    const parts = [`No number has all of: ${terms.join(" ")}`];
    if (choices.some((name) => wanted[name])) parts.push(" (with these filters)");
    parts.push(". ");
    for (const [term, close] of Object.entries(near)) if (!close.length) parts.push(`“${term}” is in no record. `);
    if (meant) parts.push("Did you mean ", ask(meant), "? ");
    for (const close of Object.values(near)) if (close.length > 1) parts.push(`Near it: ${close.join(", ")}. `);
    if (ids.length) parts.push("Nearest: ", ...ids.flatMap((id) => [ask(id), " "]));
    return parts;
  }

  // -------------------------------------------------------------------------------------------------- order

  const keyOf = {
    value: (row) => row.value,
    model: (row) => row.model,
    setting: (row) => text(row.element, "s"),
    quantity: (row) => text(row.element, "q"),
    place: (row) => row.position,
    id: (row) => row.identity,
  };

  const own = (shown, body) => shown.filter((row) => row.body === body);
  let placed = rows.length;

  /** Rows in the order of `key` (of the search without one). Values are compared inside a unit, never across units. */
  function arrange(shown, key) {
    const down = key.endsWith("-") ? -1 : 1, name = key.replace("-", "");
    for (const heading of document.querySelectorAll("tr.unit")) heading.remove();
    for (const body of bodies) {
      let here = own(shown, body);
      if (keyOf[name]) here = sorted(here, keyOf[name], down, name === "value");
      if (!here.every((row, position) => !position || here[position - 1].at < row.at)) {
        body.append(...here.map((row) => row.element));
        // They now stand behind all others of their table.
        for (const row of here) row.at = placed++;
      }
      if (name === "value") headings(here, down);
    }
    for (const head of document.querySelectorAll("th[data-sort]")) {
      const here = name && head.dataset.sort === name;
      if (here) head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    }
  }

  function sorted(here, value, down, byUnit) {
    const units = [...new Set(here.map((row) => row.unit))], empty = (key) => key === "" || key === null;
    const keyed = here.map((row) => ({ row, key: value(row), unit: byUnit ? units.indexOf(row.unit) : 0 }));
    keyed.sort((a, b) => {
      if (a.unit !== b.unit) return a.unit - b.unit;
      if (empty(a.key) || empty(b.key)) return empty(a.key) - empty(b.key) || a.row.position - b.row.position;
      const difference = typeof a.key === "number" ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true });
      return difference * down || a.row.position - b.row.position;
    });
    return keyed.map(({ row }) => row);
  }

  /** A line above the rows of each unit, where there are several. */
  function headings(here, down) {
    const firsts = here.filter((row, position) => !position || here[position - 1].unit !== row.unit);
    if (firsts.length < 2) return;
    for (const row of firsts) {
      const line = document.createElement("tr"), cell = document.createElement("th");
      line.className = "unit";
      cell.colSpan = 6;
      cell.scope = "rowgroup";
      cell.textContent = `In ${row.unit}, ${down < 0 ? "highest" : "lowest"} first`;
      line.append(cell);
      row.element.before(line);
    }
  }

  function remember(wanted) {
    const kept = new URLSearchParams(Object.entries(wanted).filter(([, value]) => value));
    const query = kept.toString();
    try {
      history.replaceState(null, "", (query ? "?" + query : location.pathname) + location.hash);
    } catch { /* a browser that keeps the address of local files as it is */ }
  }

  for (const head of document.querySelectorAll("th[data-sort]")) {
    const made = button("", () => {
      const name = head.dataset.sort, now = byId("sort").value;
      const first = head.classList.contains("number") ? name + "-" : name;
      const second = first.endsWith("-") ? name : name + "-";
      setChoice("sort", now === first ? second : now === second ? "" : first);
      apply();
    });
    made.append(...head.childNodes);
    head.append(made);
  }

  function setChoice(name, value) {
    const select = byId(name);
    if (select.tagName === "SELECT" && ![...select.options].some((option) => option.value === value)) {
      if (name !== "sort" || !(value.replace("-", "") in keyOf)) return;
      select.add(new Option(value.replace("-", ", descending"), value));
    }
    select.value = value;
  }

  // ------------------------------------------------------------------------------- one number: its address

  function go() {
    const target = byId(decodeURIComponent(location.hash.slice(1)) || "none");
    if (pinned) pinned.classList.remove("found");
    byId("context")?.remove();
    const claim = target?.closest(".claims > li");
    if (claim?.hidden) choose(verdicts.firstElementChild);
    for (let around = target?.closest("details"); around; around = around.parentElement.closest("details")) around.open = true;
    pinned = target?.closest(".numbers tbody tr") ?? null;
    apply();
    if (pinned) {
      pinned.classList.add("found");
      pinned.before(context(rowOf.get(pinned)));
    }
    (pinned ?? target)?.scrollIntoView({ block: pinned || claim ? "center" : "start" });
    if (pinned) groups.find((group) => group.container.contains(pinned)).make(pinned);
  }

  /** A line above the number of the address: whose it is, and what it must not be taken for. */
  function context(row) {
    const line = document.createElement("tr"), cell = document.createElement("td"), link = document.createElement("a");
    line.id = "context";
    cell.colSpan = 6;
    const place = row.element.querySelector(".p b").textContent;
    if (row.source === "published") {
      cell.append(`Published: ${place}. `);
      link.textContent = "The table as printed";
      link.href = /^table\d+$/.test(row.place) ? "#printed-" + row.place : "#numbers";
      if (link.hash === "#numbers") link.textContent = "About published numbers";
    } else if (row.source === "derived") {
      cell.append(`Not printed in the paper: ${place} by this artifact. `);
      link.textContent = "About derived numbers";
      link.href = "#derived";
    } else {
      const sample = row.element.querySelector(".p span").textContent;
      cell.append(`Not a number of the paper, and no reproduction of one: ${place}, on ${text(row.element, "q")}, by a ${text(row.element, "o")}, ${sample}. `);
      link.textContent = "About measured numbers";
      link.href = "#measured";
    }
    cell.append(link);
    line.append(cell);
    return line;
  }

  // ------------------------------------------------------------------------------- citations and downloads

  for (const body of bodies) body.addEventListener("click", async (event) => {
    const chosen = event.target.closest("button.copy");
    if (!chosen) return;
    const content = carried.citations[rowOf.get(chosen.closest("tr")).position];
    await copy(content);
    say("Copied: " + content);
  });

  const fileOf = {
    json: (columns, lines) => JSON.stringify({ columns, rows: lines }, null, 1) + "\n",
    csv: (columns, lines) => [Object.keys(columns), ...lines.map(Object.values)]
      .map((line) => line.map(csvCell).join(",") + "\n").join(""),
  };
  const csvCell = (value) => (/[",\r\n]/.test(value ?? "") ? `"${value.replaceAll('"', '""')}"` : String(value ?? ""));

  for (const chosen of document.querySelectorAll("[data-download]")) chosen.addEventListener("click", async () => {
    const { columns, values } = await inflate("packed-numbers"), names = Object.keys(columns);
    const lines = values.id.map((_, at) => Object.fromEntries(names.map((name) => [name, values[name][at]])));
    const kind = chosen.dataset.download, link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([fileOf[kind](columns, lines)], { type: kind === "csv" ? "text/csv" : "application/json" }));
    link.download = "numbers." + kind;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
  });

  // ---------------------------------------------------------------------------------------------- keyboard

  /**
   * One stop of the Tab key for many items: the current one, and the controls in it. Up and Down go to its neighbours,
   * Home and End to the first and the last; in a table as printed, all arrows go to its neighbours.
   */
  function roving(container, selector) {
    const inside = (item) => item.querySelectorAll("a[href], button, summary");
    const usable = () => [...container.querySelectorAll(selector)].filter((item) => !item.hidden);
    let current = null;
    const set = (item, stop) => {
      item.tabIndex = stop;
      for (const control of inside(item)) control.tabIndex = stop;
    };
    const make = (item) => {
      if (current && current !== item) set(current, -1);
      current = item;
      if (item) set(item, 0);
    };
    const refresh = () => { if (!current || current.hidden) make(container.querySelector(`:is(${selector}):not([hidden])`)); };
    for (const item of container.querySelectorAll(selector)) set(item, -1);
    container.addEventListener("focusin", (event) => {
      const item = event.target.closest(selector);
      if (item) make(item);
    });
    container.addEventListener("keydown", (event) => {
      const items = usable(), at = items.indexOf(event.target.closest(selector));
      const to = at < 0 || event.altKey || event.ctrlKey || event.metaKey ? undefined : items[step(event.key, at, items)];
      if (!to) return;
      event.preventDefault();
      to.focus();
    });
    refresh();
    return { container, make, refresh };
  }

  function step(key, at, items) {
    const cell = items[at].closest(".printed td");
    const beside = (line) => items.indexOf(line?.cells[cell.cellIndex]?.querySelector("a"));
    const lines = cell ? [...cell.closest("table").rows] : [], line = lines.indexOf(cell?.parentElement);
    switch (key) {
      case "ArrowDown": return cell ? beside(lines[line + 1]) : at + 1;
      case "ArrowUp": return cell ? beside(lines[line - 1]) : at - 1;
      case "ArrowRight": return cell ? at + 1 : -1;
      case "ArrowLeft": return cell ? at - 1 : -1;
      case "Home": return 0;
      case "End": return items.length - 1;
      default: return -1;
    }
  }

  // ------------------------------------------------------------------------------------------------ claims

  const verdicts = byId("verdicts");
  function choose(chosen) {
    for (const one of verdicts.children) one.setAttribute("aria-pressed", String(one === chosen));
    for (const claim of document.querySelectorAll(".claims > li")) {
      claim.hidden = chosen.dataset.verdict !== "" && claim.dataset.verdict !== chosen.dataset.verdict;
    }
    for (const group of groups) group.refresh();
  }
  verdicts.addEventListener("click", (event) => {
    const chosen = event.target.closest("button");
    if (chosen) choose(chosen);
  });
  // The ids that a claim or a derived number rests on become links when its details are opened.
  document.addEventListener("toggle", (event) => {
    const ids = event.target.querySelector?.(".ids");
    if (!ids || ids.querySelector("a")) return;
    const positions = carried.restsOn[event.target.closest("li, article")?.id];
    const named = positions ? positions.map((position) => rows[position].id) : ids.textContent.trim().split(" ");
    ids.replaceChildren(...named.flatMap((id) => {
      const link = document.createElement("a");
      link.href = "#" + id;
      link.textContent = id;
      return [link, " "];
    }));
  }, true);

  // ------------------------------------------------------------------------------------------------- start

  const groups = [
    ...bodies.map((body) => roving(body, "tr:not(.unit, #context)")),
    ...[...document.querySelectorAll("details.printed")].map((table) => roving(table, "td a")),
    roving(document.querySelector("ol.claims"), "ol.claims > li"),
    roving(byId("errata"), "article"),
  ];
  const given = new URLSearchParams(location.search);
  for (const name of ["q", ...choices, "sort"]) if (given.has(name)) setChoice(name, given.get(name));
  byId("more").addEventListener("click", () => {
    const open = bar.classList.toggle("open");
    byId("more").setAttribute("aria-expanded", String(open));
  });
  bar.addEventListener("input", (event) => { more = false; apply(event.target === byId("q")); });
  bar.addEventListener("submit", (event) => { event.preventDefault(); apply(); });
  bar.addEventListener("reset", () => setTimeout(() => { more = false; apply(); }));
  addEventListener("beforeprint", () => { for (const table of document.querySelectorAll("details.printed")) table.open = true; });
  new ResizeObserver(() => document.documentElement.style.setProperty("--bar", bar.offsetHeight + "px")).observe(bar);
  addEventListener("hashchange", go);
  go();
  document.documentElement.dataset.ready = "true";
  dispatchEvent(new Event("numbersready"));
})();
