"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const words = JSON.parse(byId("vocabulary").textContent);
  const rewrites = words.rewrites.map(([pattern, text]) => [new RegExp(pattern, "g"), text]);
  const likeAnId = new RegExp(words.likeAnId);
  const aroundAnId = new RegExp(words.aroundAnId, "g");
  const bodies = ["table", "measured-table"].map((name) => byId(name).tBodies[0]);
  const choices = ["place", "model", "benchmark", "stage", "source"];
  const text = (row, name) => row.querySelector("." + name).textContent.trim();

  const rows = Array.from(bodies.flatMap((body) => [...body.rows]), (element, position) => {
    const [place, model, benchmark, stage, source] = element.dataset.k.split("|");
    const terms = element.dataset.t.split(" ").map((number) => words.terms[parseInt(number, 36)]);
    return {
      element, body: element.parentElement, position, place, model, benchmark, stage, source,
      id: element.id.toLowerCase(),
      terms,
      has: new Set(terms),
    };
  });

  // ------------------------------------------------------------------------ the words of `clipa cite`

  function termsOf(query) {
    const terms = [];
    let plain = [];
    const flush = () => {
      let text = plain.join(" ");
      for (const [pattern, replacement] of rewrites) text = text.replace(pattern, replacement);
      terms.push(...text.split(/\s+/).filter((word) => word && !words.silent.includes(` ${word} `)));
      plain = [];
    };
    for (const word of query.toLowerCase().split(/\s+/).filter(Boolean)) {
      if (likeAnId.test(word)) { flush(); terms.push(word.replace(aroundAnId, "")); } else plain.push(word);
    }
    flush();
    return [...new Set(terms)];
  }

  function matches(term, row) {
    if (row.has.has(term)) return true;
    if (likeAnId.test(term)) return row.id.includes(term);
    return /^[a-z]{3,}$/.test(term) && row.terms.some((known) => known.startsWith(term));
  }

  // ------------------------------------------------------------------------------- filter and sort

  let pinned = null;
  const state = () => Object.fromEntries(["q", ...choices, "sort"].map((name) => [name, byId(name).value]));

  function apply() {
    const wanted = state();
    const terms = termsOf(wanted.q);
    let shown = 0;
    for (const row of rows) {
      const fits = choices.every((name) => !wanted[name] || row[name] === wanted[name])
        && terms.every((term) => matches(term, row));
      row.element.hidden = !fits && row.element !== pinned;
      shown += fits;
    }
    const of = rows.length.toLocaleString("en");
    byId("count").textContent = shown === rows.length ? `${of} numbers` : `${shown.toLocaleString("en")} of ${of} numbers`;
    byId("nothing").hidden = shown > 0;
    order(wanted.sort);
    remember(wanted);
  }

  let sorted = "";
  function order(key) {
    if (key === sorted) return;
    sorted = key;
    const down = key.endsWith("-") ? -1 : 1;
    const name = key.replace("-", "") || "place";
    const list = [...rows];
    if (name !== "place" || down < 0) {
      const value = {
        value: (row) => parseFloat(row.element.dataset.v),
        model: (row) => row.model,
        setting: (row) => text(row.element, "s"),
        quantity: (row) => text(row.element, "q"),
        place: (row) => row.position,
        id: (row) => row.id,
      }[name];
      for (const row of list) row.key = value(row);
      const empty = (key) => key === "" || Number.isNaN(key);
      list.sort((a, b) => {
        if (empty(a.key) || empty(b.key)) return empty(a.key) - empty(b.key) || a.position - b.position;
        const difference = typeof a.key === "number" ? a.key - b.key : a.key.localeCompare(b.key, "en", { numeric: true });
        return difference * down || a.position - b.position;
      });
    }
    for (const body of bodies) {
      const fragment = document.createDocumentFragment();
      for (const row of list) if (row.body === body) fragment.append(row.element);
      body.append(fragment);
    }
    for (const head of document.querySelectorAll("th[data-sort]")) {
      const here = head.dataset.sort === name && key !== "";
      if (here) head.setAttribute("aria-sort", down > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
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
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const name = head.dataset.sort === "place" ? "" : head.dataset.sort;
      const first = head.classList.contains("number") ? name + "-" : name;
      const second = first.endsWith("-") ? name : name + "-";
      setChoice("sort", sorted === first && name ? second : first);
      apply();
    });
  }

  function setChoice(name, value) {
    const select = byId(name);
    if (select.tagName === "SELECT" && ![...select.options].some((option) => option.value === value)) {
      if (name !== "sort" || !/^[a-z]+-?$/.test(value)) return;
      const option = new Option(value.replace("-", ", descending"), value);
      select.add(option);
    }
    select.value = value;
  }

  // --------------------------------------------------------------------------- one number: its address

  function go() {
    const wanted = decodeURIComponent(location.hash.slice(1));
    const target = wanted && byId(wanted);
    if (pinned) pinned.classList.remove("found");
    const claim = target && target.closest(".claims > li");
    if (claim && claim.hidden) choose(verdicts.firstElementChild);
    if (claim) claim.scrollIntoView({ block: "center" });
    pinned = target ? target.closest(".numbers tbody tr") : null;
    if (pinned) pinned.classList.add("found");
    apply();
    if (pinned) pinned.scrollIntoView({ block: "center" });
  }

  // ------------------------------------------------------------------------------------- citations

  function citation(row) {
    const id = row.id, place = text(row, "p");
    if (row.dataset.k.endsWith("|measured")) {
      const where = row.querySelector(".p b").textContent, sample = row.querySelector(".p span").textContent;
      const what = `${text(row, "v")}: ${text(row, "q").replace(/\u2011/g, "-")}, ${text(row, "o")}, ${sample}`;
      return `${what} (${where}; record ${id} of ${words.artifact}). `
        + `Not a number of the paper that it follows, ${words.paper}`;
    }
    const cell = row.querySelector(".p span");
    const where = cell ? `, row “${cell.textContent}”, column “${row.querySelector(".p i").textContent}”` : "";
    return `${words.paper}, ${row.querySelector(".p b").textContent}${where} (record ${id} of ${words.artifact})`;
  }

  async function copy(content) {
    try {
      await navigator.clipboard.writeText(content);
    } catch {
      const area = document.createElement("textarea");
      area.value = content;
      document.body.append(area);
      area.select();
      document.execCommand("copy");
      area.remove();
    }
  }

  let quiet = 0;
  function say(content) {
    byId("notice").textContent = content;
    byId("notice").classList.add("now");
    clearTimeout(quiet);
    quiet = setTimeout(() => byId("notice").classList.remove("now"), 2500);
  }

  for (const row of rows) {
    const link = row.element.lastElementChild.firstElementChild;
    link.href = "#" + row.element.id;
    link.replaceChildren(...link.textContent.split(/(?<=[.\/])/).flatMap((part) => [part, document.createElement("wbr")]));
    if (row.element.querySelector(".v.none")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Cite";
    button.title = "Copy citation";
    button.setAttribute("aria-label", `Copy citation of ${row.element.id}`);
    row.element.lastElementChild.prepend(button);
  }
  for (const body of bodies) body.addEventListener("click", async (event) => {
    const button = event.target.closest("button.copy");
    if (!button) return;
    const content = citation(button.closest("tr"));
    await copy(content);
    say("Copied: " + content);
  });

  // ---------------------------------------------------------------------------------------- claims

  const verdicts = byId("verdicts");
  function choose(chosen) {
    for (const button of verdicts.children) button.setAttribute("aria-pressed", String(button === chosen));
    for (const claim of document.querySelectorAll(".claims > li")) {
      claim.hidden = chosen.dataset.verdict !== "" && claim.dataset.verdict !== chosen.dataset.verdict;
    }
  }
  verdicts.addEventListener("click", (event) => {
    const chosen = event.target.closest("button");
    if (chosen) choose(chosen);
  });
  // The ids that a claim rests on become links when its details are opened.
  document.addEventListener("toggle", (event) => {
    const ids = event.target.querySelector?.(".ids");
    if (!ids || ids.firstElementChild) return;
    ids.replaceChildren(...ids.textContent.trim().split(" ").flatMap((id) => {
      const link = document.createElement("a");
      link.href = "#" + id;
      link.textContent = id;
      return [link, " "];
    }));
  }, true);

  // ----------------------------------------------------------------------------------------- start

  const bar = byId("bar");
  bar.hidden = false;
  document.documentElement.classList.add("js");
  const given = new URLSearchParams(location.search);
  for (const name of ["q", ...choices, "sort"]) if (given.has(name)) setChoice(name, given.get(name));
  byId("more").addEventListener("click", () => {
    const open = bar.classList.toggle("open");
    byId("more").setAttribute("aria-expanded", String(open));
  });
  bar.addEventListener("input", apply);
  bar.addEventListener("submit", (event) => event.preventDefault());
  bar.addEventListener("reset", () => setTimeout(apply));
  new ResizeObserver(() => document.documentElement.style.setProperty("--bar", bar.offsetHeight + "px")).observe(bar);
  window.addEventListener("hashchange", go);
  go();
})();
