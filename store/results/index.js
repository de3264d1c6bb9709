"use strict";
const body = document.querySelector("tbody");
const said = document.querySelector("[role=status]");
const heads = [...document.querySelectorAll("th[aria-sort]")];
const order = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });
const keyOf = (row, at) => row.cells[at].dataset.sort ?? row.cells[at].textContent.trim();

function sortBy(head) {
  const at = head.cellIndex;
  const up = head.getAttribute("aria-sort") !== "ascending";
  for (const other of heads) other.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", up ? "ascending" : "descending");
  const rows = [...body.rows].map((row) => [keyOf(row, at), row]);
  rows.sort(([a], [b]) => (a === "") - (b === "") || (up ? 1 : -1) * order.compare(a, b)); // the empty last, both ways
  body.append(...rows.map(([, row]) => row));
  said.textContent = `Sorted by ${head.textContent.trim()}, ${up ? "ascending" : "descending"}`;
}

for (const head of heads) head.querySelector("button").addEventListener("click", () => sortBy(head));

const field = document.querySelector("input");
field.closest("p").hidden = false;
field.addEventListener("input", () => {
  const words = field.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const row of body.rows) {
    const text = row.textContent.toLowerCase();
    row.hidden = !words.every((word) => text.includes(word));
    shown += !row.hidden;
  }
  said.textContent = `${shown} studies shown`;
});
