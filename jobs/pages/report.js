"use strict";
const all = (selector, root = document) => [...root.querySelectorAll(selector)];
const json = (id) => JSON.parse(document.getElementById(id).textContent);

// -- table: a header sorts, numbers by size, and empty cells stay last --

for (const head of all("#table thead th")) {
  head.querySelector("button").addEventListener("click", () => {
    const column = head.cellIndex, number = head.classList.contains("number");
    const first = number ? "descending" : "ascending", other = number ? "ascending" : "descending";
    const order = head.getAttribute("aria-sort") === first ? other : first;
    for (const one of all("#table thead th")) one.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", order);
    const sign = order === "ascending" ? 1 : -1;
    const text = (row) => row.cells[column].textContent.trim();
    const compare = (a, b) => number ? parseFloat(a) - parseFloat(b) : a.localeCompare(b, "en", {numeric: true});
    const body = document.querySelector("#table tbody");
    body.append(...[...body.rows].sort((one, two) => {
      const [a, b] = [text(one), text(two)];
      return (a === "") - (b === "") || sign * compare(a, b) || 0;
    }));
  });
}

// -- charts --

const plots = [];
const dark = matchMedia("(prefers-color-scheme: dark)");

function paint(plot) {
  const style = getComputedStyle(document.documentElement);
  const colour = (name) => style.getPropertyValue(name).trim();
  for (const axis of [...plot.left, ...plot.below].filter((one) => "axis_label" in one)) {
    axis.axis_label_text_color = axis.major_label_text_color = colour("--quiet");
    axis.axis_line_color = axis.major_tick_line_color = colour("--line");
  }
  for (const legend of [...plot.below].filter((one) => "items" in one)) legend.label_text_color = colour("--ink");
  for (const grid of plot.center.filter((one) => "grid_line_color" in one)) grid.grid_line_color = colour("--line");
  for (const {glyph} of plot.renderers) {  // black is drawn in ink, which is light on dark paper
    for (const name of ["line_color", "fill_color"]) {
      const value = glyph[name]?.value;
      if (value === "#000000" || value === glyph.inked) {
        glyph.inked = colour("--ink");
        glyph[name] = {value: glyph.inked};
      }
    }
  }
}

async function draw(item, element) {
  const views = await Bokeh.embed.embed_item(item, element);
  const plot = [...(views.roots ?? views)][0].model;
  plots.push(plot);
  paint(plot);
  return plot;
}

dark.addEventListener("change", () => plots.forEach(paint));

for (const details of all("details.behind")) {  // drawn when it is opened
  details.addEventListener("toggle", () => {
    const place = details.querySelector("[data-training]:empty");
    if (details.open && place) draw(json(`training-${place.dataset.training}`), place);
  });
}

// -- the slider tells the curves' numbers --

draw(json("curves-data"), document.getElementById("chart")).then((plot) => {
  const slider = document.getElementById("radius");
  const sources = new Map(plot.renderers.map((one) => [one.data_source.name, one.data_source.data]));
  slider.max = Math.ceil(100 * plot.x_range.end) / 100;

  const certified = ({at, y}, radius) => {  // at a radius between two of the grid: what is certified at the larger one
    let place = 0;
    while (place < at.length && at[place] < radius) place++;
    return place < at.length ? `${y[place].toFixed(1)} %` : "0.0 %";
  };
  let speaking;
  const tell = () => {
    const radius = parseFloat(slider.value), said = [];
    document.getElementById("radius-value").textContent = radius.toFixed(2);
    for (const output of all("[data-row]")) {
      output.textContent = certified(sources.get(`curve-${output.dataset.row}`), radius);
      if (said.length < 5) said.push(`${output.parentNode.querySelector(".name").textContent} ${output.textContent}`);
    }
    slider.setAttribute("aria-valuetext", `radius ${radius.toFixed(2)}`);
    clearTimeout(speaking);  // a reader hears where the slider comes to rest
    speaking = setTimeout(() => {
      document.getElementById("spoken").textContent = `Certified at radius ${radius.toFixed(2)}: ${said.join(", ")}`;
    }, 400);
  };
  slider.addEventListener("input", tell);
  tell();

  for (const box of all("[data-curve]")) {
    box.addEventListener("change", () => {
      for (const one of plot.renderers) if (one.tags[0] === Number(box.dataset.curve)) one.visible = box.checked;
    });
  }
  document.documentElement.dataset.ready = "yes";
});

// -- links open what they lead to; paper shows all --

const reveal = () => {
  const target = location.hash && document.getElementById(location.hash.slice(1));
  if (target?.tagName === "DETAILS") target.open = true;
};
addEventListener("hashchange", reveal);
reveal();

let closed = [];
addEventListener("beforeprint", () => {
  closed = all("details.gallery:not([open])");
  for (const details of closed) details.open = true;
});
addEventListener("afterprint", () => { for (const details of closed) details.open = false; });
