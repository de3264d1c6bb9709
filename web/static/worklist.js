// The worklist from the keyboard; the study that one stands on is kept in the address.
"use strict";

let rows = [...document.querySelectorAll("[data-row]")];
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

// On a phone the list comes first: the filters are folded below the search, unless one of them is set.
const filters = document.querySelector("[data-filters]");
const unfold = filters.querySelector("[data-unfold]");
if (matchMedia("(max-width: 40rem)").matches && !filters.hasAttribute("data-narrowed")) {
  filters.classList.add("folded");
  unfold.hidden = false;
  unfold.addEventListener("click", () => {
    const folded = filters.classList.toggle("folded");
    unfold.setAttribute("aria-expanded", String(!folded));
    unfold.textContent = folded ? "More filters" : "Fewer filters";
  });
}

document.addEventListener("focusin", ({ target }) => {
  const row = target.closest?.("[data-row]");
  if (!row) return;
  for (const other of rows) other.removeAttribute("aria-current");
  row.setAttribute("aria-current", "true");
  history.replaceState(null, "", `#${row.id}`);
});

const KEYS = {
  j: () => stand(rows[Math.min(here() + 1, rows.length - 1)]),
  k: () => stand(rows[Math.max(here() - 1, 0)]),
  o: () => rows[here()]?.querySelector("[data-open]").click(),
  1: () => document.querySelector("[data-class=positive]").click(),
  2: () => document.querySelector("[data-class=doubt]").click(),
  3: () => document.querySelector("[data-class=not_read]").click(),
  x: () => { const box = rows[here()]?.querySelector("[name=study]"); if (box) { box.click(); } },
  z: () => document.querySelector("[data-done] button")?.click(),
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

// Coming back: stand where one stood; where that study has left the list, on the one that came after it.
const ORDER = "fractureai-worklist";
const before = JSON.parse(sessionStorage.getItem(ORDER) ?? "[]");
const stood = before.slice(Math.max(before.indexOf(location.hash.slice(1)), 0));
const place = location.hash && (rows.find((row) => `#${row.id}` === location.hash) ?? rows.find((row) => stood.includes(row.id)) ?? rows.at(-1));
stand(place);
// the browser goes to the address's place once more when all is loaded, and takes the focus away
addEventListener("load", () => setTimeout(() => { if (document.activeElement === document.body) stand(place); }));
const keepOrder = () => sessionStorage.setItem(ORDER, JSON.stringify(rows.map((row) => row.id)));
keepOrder();

// How many are chosen, and all of them at once.
function showChosen() {
  const words = document.querySelector("[data-chosen]");
  const n = document.querySelectorAll("[name=study]:checked").length;
  if (words) words.textContent = n ? `With the ${n} chosen:` : "With the chosen:";
}

document.addEventListener("change", ({ target }) => {
  if (target.matches("[data-choose-all]")) for (const box of document.querySelectorAll("[data-row] [name=study]")) box.checked = target.checked;
  if (target.matches("[data-choose-all], [name=study]")) showChosen();
});
showChosen();

// The list stays fresh by itself, while somebody looks; what must not wait is said aloud, and in the tab's title.
const LIST_EVERY = 8000;
const GRAVE = { amended: "amended after signing", urgent: "urgent", positive: "positive" };
const title = document.title;
const unseen = Object.fromEntries(Object.keys(GRAVE).map((name) => [name, 0]));

const counted = (name) => Number(document.querySelector(`[data-class=${name}] strong`)?.textContent.replace(/\D/g, "")) || 0;

function say(fresh) {
  for (const [name, n] of Object.entries(fresh)) unseen[name] += n;
  const words = Object.keys(GRAVE).filter((name) => unseen[name]).map((name) => `${unseen[name]} ${GRAVE[name]}`).join(", ");
  const all = Object.values(unseen).reduce((sum, n) => sum + n, 0);
  document.querySelector("[data-new]").hidden = !all;
  document.querySelector("[data-new-words]").textContent = `New: ${words}.`;
  document.querySelector("[data-announce]").textContent = all ? `New on the list: ${words}` : "";
  document.title = all ? `(${all}) ${title}` : title;
}

async function keepListFresh() {
  for (let asked = 0; ;) {
    await sleep(Math.max(LIST_EVERY, asked) * (0.9 + 0.2 * Math.random()));
    if (document.visibilityState === "hidden") asked = 4 * LIST_EVERY; // more seldom, and still in the title
    const names = Object.keys(GRAVE);
    const before = names.map(counted);
    asked = await replaceParts(["worklist-tiles", "worklist-rows"]).catch(() => asked);
    rows = [...document.querySelectorAll("[data-row]")];
    for (const box of document.querySelectorAll("#worklist-rows [data-needs-script]")) box.hidden = false;
    keepOrder();
    showChosen();
    const fresh = {};
    names.forEach((name, n) => {
      const more = counted(name) - before[n];
      if (more > 0) fresh[name] = more;
    });
    if (Object.keys(fresh).length) say(fresh);
  }
}

document.querySelector("[data-new-seen]").addEventListener("click", () => {
  for (const name of Object.keys(unseen)) unseen[name] = 0;
  say({});
});
keepListFresh();
