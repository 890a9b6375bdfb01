(() => {
  const { charts, points, reports, shared, first } = JSON.parse(byId("content").textContent);
  const select = byId("reduction");
  const boxes = [...byId("models").querySelectorAll("input")];
  const panels = [...document.querySelectorAll(".chart")];
  const tableRows = [...document.querySelectorAll(".points tbody tr")].map((element) => {
    const source = element.closest("table").dataset.source;
    return { element, source, point: points[source][Number(element.dataset.number)] };
  });
  const views = [];

  // What a mark says beyond what it has: the ids behind its drop, sentences, and why it has no interval.
  for (const [source, own] of Object.entries(points)) {
    for (const point of own) {
      point.drop_ids ??= [point.id];
      point.drop_from = point.drop_ids[0];
      point.drop_id = point.drop_ids.at(-1);
      for (const quantity of ["drop", "accuracy"]) {
        const interval = point[quantity + "_interval"];
        const name = quantity[0].toUpperCase() + quantity.slice(1);
        const over = interval ? ` ${interval} (95 % over seeds)` : "";
        point[quantity + "_said"] = `${name} ${point[quantity + "_text"]}${over}: `
          + `${point.trained}, ${point.setting}; ${point.where}, ${point.sample}`;
        if (source === "published" || interval) continue;
        point[quantity + "_interval"] = quantity === "drop" && point.full ? "by definition" : "too few seeds";
      }
    }
  }

  // --------------------------------------------------------------------------------------------- choices

  const chosen = () => ({ reduction: select.value, models: boxes.filter((box) => box.checked).map((box) => box.value) });

  function apply() {
    const now = chosen();
    const shown = (point) => point.reduction === now.reduction && now.models.includes(point.model);
    for (const row of tableRows) row.element.hidden = !shown(row.point);
    for (const panel of panels) {
      panel.parentElement.querySelector(".nothing").hidden = points[panel.dataset.source].some(shown);
    }
    const counts = Object.keys(points).map((source) => {
      const where = source === "published" ? "published" : `measured at ${source}`;
      return `${points[source].filter(shown).length} runs ${where}`;
    });
    byId("count").textContent = counts.join(", ");
    remember(now);
    return Promise.all(views.map((view) => view.signal("reduction", now.reduction).signal("models", now.models).runAsync()));
  }

  function remember(now) {
    const kept = new URLSearchParams(location.search);
    kept.set("reduction", now.reduction);
    kept.set("models", now.models.join(" "));
    if (now.reduction === first) kept.delete("reduction");
    if (now.models.length === boxes.length) kept.delete("models");
    const query = kept.toString();
    try {
      history.replaceState(null, "", (query ? "?" + query : location.pathname) + location.hash);
    } catch { /* a browser that keeps the address of local files as it is */ }
  }

  function recall() {
    const given = new URLSearchParams(location.search);
    const reduction = given.get("reduction");
    if ([...select.options].some((option) => option.value === reduction)) select.value = reduction;
    if (given.has("models")) {
      const models = given.get("models").split(" ");
      for (const box of boxes) box.checked = models.includes(box.value);
    }
  }

  // ------------------------------------------------------------------------------------------- citations

  let opener = null, cited = [];

  const linesOf = (id) => reports[id].map(([name, text]) => {
    return [name, text.replace(/[\ue000-\ue0ff]/g, (letter) => shared[letter.charCodeAt(0) - 0xe000])];
  });

  // What `clipa cite ID` prints: the first line has no name, and one without a name goes on with the line before.
  function report(id) {
    const article = document.createElement("article");
    const lines = document.createElement("dl");
    const add = (name, text) => {
      const element = document.createElement(name);
      element.textContent = text;
      return element;
    };
    const [[, head], ...rest] = linesOf(id);
    for (const [name, text] of rest) lines.append(add("dt", name), add("dd", text));
    article.append(add("h3", head), lines);
    return article;
  }

  const asText = (ids) => ids.map((id) => linesOf(id).map(([name, text]) => (name ? `${name}: ${text}` : text)).join("\n"));

  function cite(point, quantity) {
    const ids = cited = quantity === "drop" ? point.drop_ids : [point.id];
    byId("citation-title").textContent = point[quantity + "_said"] + (ids.length > 1 ? ". Not cited by itself; its two numbers:" : "");
    byId("report").replaceChildren(...ids.map(report));
    document.getElementById("vg-tooltip-element")?.classList.remove("visible");
    byId("citation").hidden = false;
    byId("report").scrollTop = 0;
  }

  function close() {
    byId("citation").hidden = true;
    if (opener) opener.focus();
    opener = null;
  }

  byId("close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !byId("citation").hidden) close();
  });
  byId("copy").addEventListener("click", async () => {
    const said = asText(cited);
    if (said.length > 1) said.unshift(byId("citation-title").textContent);
    await copy(said.join("\n\n"));
    say("Copied");
  });

  for (const { element, point } of tableRows) {
    const link = element.querySelector("a"); // an id may break after its dots
    link.replaceChildren(...link.textContent.split(/(?<=[.])/).flatMap((part) => [part, document.createElement("wbr")]));
    for (const quantity of point.full ? ["accuracy"] : ["drop", "accuracy"]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = `Cite ${quantity}`;
      button.setAttribute("aria-label", `Cite the ${quantity} of ${point.id}`);
      button.addEventListener("click", () => {
        opener = button;
        cite(point, quantity);
        byId("citation-title").focus();
      });
      element.lastElementChild.append(button);
    }
  }

  // ---------------------------------------------------------------------------------------------- charts

  async function draw(panel) {
    const { source, view: name } = panel.dataset;
    const specification = structuredClone(charts[source][name]);
    specification.datasets = { ...specification.datasets, points: points[source] };
    const { view } = await vegaEmbed(panel, specification, {
      mode: "vega-lite", renderer: "svg", actions: false, tooltip: { theme: "custom" },
      ast: true, // the page forbids itself code from strings
      logLevel: 1, // errors alone: a choice without bars warns of an axis of nothing
    });
    view.addEventListener("click", (event, item) => {
      const number = item?.datum?.number;
      if (number === undefined || item.mark.marktype !== "symbol") return;
      opener = null;
      cite(points[source][number], /^(length|size)$/.test(name) ? "drop" : "accuracy");
    });
    views.push(view);
  }

  recall();
  byId("bar").hidden = false;
  byId("bar").addEventListener("submit", (event) => event.preventDefault());
  byId("bar").addEventListener("change", apply);
  window.lawIsDrawn = Promise.all(panels.map(draw)).then(apply);
})();
