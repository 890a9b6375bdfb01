"use strict";
(() => {
  const byId = (id) => document.getElementById(id);
  const { charts, points, reports, first } = JSON.parse(byId("content").textContent);
  const select = byId("reduction");
  const boxes = [...byId("models").querySelectorAll("input")];
  const panels = [...document.querySelectorAll(".chart")];
  const tableRows = [...document.querySelectorAll(".points tbody tr")].map((element) => {
    const source = element.closest("table").dataset.source;
    return { element, source, point: points[source][Number(element.dataset.number)] };
  });
  const views = [];

  // --------------------------------------------------------------------------------------------- choices

  const chosen = () => ({ reduction: select.value, models: boxes.filter((box) => box.checked).map((box) => box.value) });

  function apply() {
    const now = chosen();
    const shown = (point) => point.reduction === now.reduction && now.models.includes(point.model);
    for (const row of tableRows) row.element.hidden = !shown(row.point);
    for (const panel of panels) {
      panel.parentElement.querySelector(".nothing").hidden = points[panel.dataset.source].some(shown);
    }
    const counts = Object.keys(points).map((source) => `${points[source].filter(shown).length} ${source}`);
    byId("count").textContent = `Runs: ${counts.join(", ")}`;
    remember(now);
    return Promise.all(views.map((view) => view.signal("reduction", now.reduction).signal("models", now.models).runAsync()));
  }

  function remember(now) {
    const kept = new URLSearchParams();
    if (now.reduction !== first) kept.set("reduction", now.reduction);
    if (now.models.length < boxes.length) kept.set("models", now.models.join(" "));
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

  let opener = null;

  function cite(point, quantity) {
    const ids = quantity === "drop" ? point.drop_ids : [point.id];
    byId("citation-title").textContent = point[quantity + "_said"] + (ids.length > 1 ? ". Not cited by itself; its two numbers:" : "");
    byId("report").replaceChildren(...ids.map((id) => {
      const text = document.createElement("pre");
      text.textContent = reports[id];
      return text;
    }));
    byId("citation").hidden = false;
    byId("report").scrollTop = 0;
  }

  function close() {
    byId("citation").hidden = true;
    if (opener) opener.focus();
    opener = null;
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

  byId("close").addEventListener("click", close);
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && !byId("citation").hidden) close();
  });
  byId("copy").addEventListener("click", async () => {
    const said = [...byId("report").children].map((text) => text.textContent);
    if (said.length > 1) said.unshift(byId("citation-title").textContent);
    await copy(said.join("\n\n"));
    say("Copied");
  });

  for (const { element, point } of tableRows) {
    for (const quantity of point.full ? ["accuracy"] : ["drop", "accuracy"]) {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = quantity;
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
      mode: "vega-lite", renderer: "svg", ast: true, actions: false, tooltip: { theme: "custom" },
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
