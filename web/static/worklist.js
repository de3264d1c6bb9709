// The worklist from the keyboard; the study that one stands on is kept in the address.
"use strict";

const rows = [...document.querySelectorAll("[data-row]")];
const help = document.querySelector("[data-keys]");
const keysOn = document.querySelector("[data-keys-on]");
const OFF = "fractureai-keys-off";

function here() {
  return rows.findIndex((row) => row.contains(document.activeElement));
}

function stand(row) {
  if (!row) return;
  row.querySelector("[data-open]").focus();
  row.scrollIntoView({ block: "nearest" });
}

for (const row of rows) {
  row.addEventListener("focusin", () => {
    for (const other of rows) other.removeAttribute("aria-current");
    row.setAttribute("aria-current", "true");
    history.replaceState(null, "", `#${row.id}`);
  });
}

const KEYS = {
  j: () => stand(rows[Math.min(here() + 1, rows.length - 1)]),
  k: () => stand(rows[Math.max(here() - 1, 0)]),
  o: () => rows[here()]?.querySelector("[data-open]").click(),
  1: () => document.querySelector("[data-class=positive]").click(),
  2: () => document.querySelector("[data-class=doubt]").click(),
  3: () => document.querySelector("[data-class=not_read]").click(),
  "/": () => document.querySelector("[data-search]").focus(),
  n: () => document.querySelector(".pager [rel=next]")?.click(),
  "?": () => { help.open = !help.open; help.querySelector("summary").focus(); },
};

keysOn.checked = localStorage.getItem(OFF) === null;
keysOn.addEventListener("change", () => {
  if (keysOn.checked) localStorage.removeItem(OFF);
  else localStorage.setItem(OFF, "1");
});

document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=checkbox]), select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || !keysOn.checked) return;
  const act = KEYS[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

// coming back: stand where one stood
stand(rows.find((row) => `#${row.id}` === location.hash));
