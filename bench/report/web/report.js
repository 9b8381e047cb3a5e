"use strict";
(() => {
  const table = document.getElementById("cells");
  const form = document.getElementById("filters");
  const search = document.getElementById("search");
  const shown = document.getElementById("shown");
  // A cell of the table is a tbody of two rows: its figures, and what is told when it is opened.
  const cells = [...table.tBodies];
  const axes = new Map(cells.map((cell) => [cell, JSON.parse(cell.dataset.axes)]));

  const filter = () => {
    const asked = [...form.querySelectorAll("select")].filter((choice) => choice.value);
    const text = search.value.trim().toLowerCase();
    let count = 0;
    for (const cell of cells) {
      const fits = asked.every((choice) => axes.get(cell)[choice.dataset.filter] === choice.value);
      cell.hidden = !(fits && cell.dataset.text.includes(text));
      count += !cell.hidden;
    }
    shown.textContent = `${count} of ${cells.length} cells`;
  };
  form.addEventListener("input", filter);
  form.addEventListener("reset", () => setTimeout(filter));
  form.addEventListener("submit", (event) => event.preventDefault());

  const heads = [...table.tHead.rows[0].cells];
  const valueOf = (cell, column) => {
    const text = cell.rows[0].cells[column].dataset.sort;
    return text === "" || Number.isNaN(Number(text)) ? text : Number(text);
  };
  const compare = (a, b) =>
    typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
  for (const head of heads) {
    head.querySelector("button")?.addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") === "descending";
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const keyed = cells.map((cell) => [valueOf(cell, head.cellIndex), cell]);
      keyed.sort(([a], [b]) => {
        if (a === "" || b === "") return (a === "") - (b === ""); // what is missing comes last
        return up ? compare(a, b) : compare(b, a);
      });
      table.append(...keyed.map(([, cell]) => cell));
    });
  }

  table.addEventListener("click", (event) => {
    const row = event.target.closest("tbody > tr:not(.more)");
    if (!row || getSelection().toString()) return; // who selects text does not ask for more
    const more = row.nextElementSibling;
    more.hidden = !more.hidden;
    row.querySelector(".open").setAttribute("aria-expanded", String(!more.hidden));
  });

  for (const button of document.querySelectorAll(".copy")) {
    button.addEventListener("click", async () => {
      const source = document.getElementById(button.dataset.copy);
      try {
        await navigator.clipboard.writeText(source.textContent);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(source); // a page from disk may not be allowed to copy
        button.textContent = "selected";
      }
      setTimeout(() => (button.textContent = "copy"), 1500);
    });
  }

  const timelines = JSON.parse(document.getElementById("timelines").textContent);
  const choice = document.getElementById("trial");
  const make = (parent, name, attributes, text) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  };
  const draw = () => {
    const { label, at_s, utilization_percent, memory_gib, phases } = timelines[choice.value];
    const [width, height, left, right, top, bottom] = [720, 300, 52, 60, 12, 44];
    const end = Math.max(...at_s, 1e-9);
    const most = Math.max(...memory_gib.filter((value) => value !== null), 1e-9) * 1.15;
    const x = (seconds) => left + ((width - left - right) * seconds) / end;
    const y = (share) => height - bottom - (height - top - bottom) * share;
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    const look = { viewBox: `0 0 ${width} ${height}`, role: "img", "font-size": 12, fill: "currentColor" };
    for (const [key, value] of Object.entries(look)) svg.setAttribute(key, value);
    make(svg, "title", {}, `Utilization and memory of ${label}`);
    for (const share of [0, 0.25, 0.5, 0.75, 1]) {
      const line = { x1: left, x2: width - right, y1: y(share), y2: y(share) };
      make(svg, "line", { ...line, stroke: "currentColor", opacity: 0.15 });
      make(svg, "text", { x: left - 7, y: y(share) + 4, "text-anchor": "end" }, `${100 * share} %`);
      make(svg, "text", { x: width - right + 7, y: y(share) + 4 }, `${(most * share).toFixed(2)}`);
    }
    make(svg, "text", { x: width - right + 7, y: y(0) + 18 }, "GiB");
    const begins = Object.entries(phases).sort(([, one], [, other]) => one - other);
    let named = -Infinity;
    for (const [name, at] of begins) {
      const line = { x1: x(at), x2: x(at), y1: y(1), y2: y(0) };
      make(svg, "line", { ...line, stroke: "currentColor", opacity: 0.35 });
      if (x(at) - named < 14) continue; // its name would lie upon the last one
      named = x(at);
      const turn = `translate(${x(at) + 11} ${y(0) - 6}) rotate(-90)`;
      make(svg, "text", { transform: turn, "font-size": 10, opacity: 0.8 }, name.replaceAll("_", " "));
    }
    const line = (values, scale, look) => {
      const known = values.map((value, place) => [value, place]).filter(([value]) => value !== null);
      const points = known.map(([value, place]) => `${x(at_s[place])},${y(scale(value))}`).join(" ");
      make(svg, "polyline", { points, fill: "none", "stroke-width": 2, ...look });
    };
    line(utilization_percent, (value) => Math.min(value, 105) / 100, { stroke: "#0072b2" });
    line(memory_gib, (value) => value / most, { stroke: "#d55e00", "stroke-dasharray": "6 4" });
    const rough = end / 6;
    const unit = 10 ** Math.floor(Math.log10(rough));
    const step = [1, 2, 5, 10].find((times) => times * unit >= rough) * unit;
    for (let at = 0; at <= end; at += step) {
      const text = at.toFixed(step < 1 ? 1 : 0);
      make(svg, "text", { x: x(at), y: height - bottom + 17, "text-anchor": "middle" }, text);
    }
    make(svg, "text", { x: width / 2, y: height - 6, "text-anchor": "middle" }, "seconds since the trial began");
    document.getElementById("timeline").replaceChildren(svg);
  };
  if (choice) {
    choice.addEventListener("input", draw);
    draw();
  }
  filter();
})();
