// The pages of research: a cut that is moved along the ROC curves, plots saved as SVG, and keys between changed images.
"use strict";

function readRoc(slider) {
  const svg = slider.closest("figure").querySelector("svg");
  const cut = Number(slider.querySelector("input").value);
  slider.querySelector("[data-roc-cut]").textContent = cut.toFixed(2);
  const lines = [];
  for (const dot of svg.querySelectorAll("[data-roc]")) {
    const points = JSON.parse(dot.dataset.points);
    const cuts = JSON.parse(dot.dataset.cuts);
    let at = 0; // the last point whose scores all lie at the cut or above
    while (at + 1 < cuts.length && cuts[at + 1] >= cut) at += 1;
    const [x, y] = points[at];
    dot.setAttribute("cx", 40 + 240 * x);
    dot.setAttribute("cy", 250 - 240 * y);
    dot.removeAttribute("hidden");
    const line = document.createElement("li");
    line.textContent = `${dot.dataset.roc}: sensitivity ${y.toFixed(3)}, specificity ${(1 - x).toFixed(3)}`;
    lines.push(line);
  }
  slider.querySelector("[data-roc-said]").replaceChildren(...lines);
}

for (const slider of document.querySelectorAll("[data-roc-slider]")) {
  slider.querySelector("input").addEventListener("input", () => readRoc(slider));
  readRoc(slider);
}

// A plot as a file of its own: what the style sheet says of it is written into it.
const KEPT = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-dasharray", "opacity", "font-size", "font-weight", "font-family", "text-anchor"];

function saved(svg) {
  const copy = svg.cloneNode(true);
  const shapes = [...svg.querySelectorAll("*")];
  [...copy.querySelectorAll("*")].forEach((shape, n) => {
    const style = getComputedStyle(shapes[n]);
    for (const name of KEPT) shape.setAttribute(name, style.getPropertyValue(name));
  });
  for (const shape of copy.querySelectorAll("[hidden]")) shape.remove();
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  return new Blob([new XMLSerializer().serializeToString(copy)], { type: "image/svg+xml" });
}

for (const svg of document.querySelectorAll("figure > svg.plot")) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "quiet save-plot";
  button.textContent = "Save as SVG";
  const name = svg.getAttribute("aria-label");
  button.setAttribute("aria-label", `Save as SVG: ${name}`);
  button.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(saved(svg));
    link.download = `${name.toLowerCase().replace(/[^a-z0-9]+/g, "-").slice(0, 60)}.svg`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
  svg.parentElement.append(button);
}

// From one changed image to the next.
document.addEventListener("keydown", (event) => {
  if (event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
  const rel = { n: "next", p: "prev" }[event.key];
  const link = rel && document.querySelector(`.pager [rel=${rel}]`);
  if (!link) return;
  event.preventDefault();
  link.click();
});
