// What all pages do beyond plain HTML: local times, and parts that stay fresh.
"use strict";

const csrf = document.querySelector("meta[name=csrf]")?.content ?? "";
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const figure = new Intl.NumberFormat("en");

document.documentElement.classList.add("js");
for (const element of document.querySelectorAll("[data-needs-script]")) element.hidden = false;

// Where the site has set a time zone, the server has written every time in it.
function showLocalTimes(root) {
  if (document.documentElement.dataset.timeZone) return;
  const form = new Intl.DateTimeFormat(undefined, { year: "numeric", month: "short", day: "numeric", hour: "numeric", minute: "2-digit", timeZoneName: "short" });
  for (const time of root.querySelectorAll("time[datetime]")) {
    time.title = time.textContent;
    time.textContent = form.format(new Date(time.dateTime));
  }
}

// Parts of a page that change by themselves: fetched again, ever more slowly, while somebody looks.

async function untilSeen() {
  while (document.hidden) await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
}

// When the server wants to be asked again: the later, the more people watch.
const told = (answer) => 1000 * (Number(answer.headers.get("X-Poll-Interval")) || 0);

// What somebody does in a part does not keep it from changing: what they typed, ticked and opened, and where they
// stand, is carried over to the new one.
const nameOf = (control) => `${control.tagName} ${control.id} ${control.name ?? ""} ${["checkbox", "radio"].includes(control.type) ? control.value : ""} ${control.getAttribute("href") ?? ""} ${control.matches("button, summary") ? control.textContent.trim() : ""}`;

function exchange(now, next) {
  const known = new Map();
  for (const control of next.querySelectorAll("input, select, textarea, button, a, summary")) if (!known.has(nameOf(control))) known.set(nameOf(control), control);
  for (const control of now.querySelectorAll("input, select, textarea")) {
    const twin = known.get(nameOf(control));
    if (!twin || control.type === "file") continue;
    if (["checkbox", "radio"].includes(control.type)) { if (control.checked !== control.defaultChecked) twin.checked = control.checked; }
    else if (control.tagName === "SELECT" ? [...control.options].some((option) => option.selected !== option.defaultSelected) : control.value !== control.defaultValue) twin.value = control.value;
  }
  for (const details of now.querySelectorAll("details[open]")) {
    const summary = details.querySelector("summary");
    const twin = summary && known.get(nameOf(summary));
    if (twin) twin.parentElement.open = true;
  }
  const stood = now.contains(document.activeElement) ? document.activeElement : null;
  const twin = stood && known.get(nameOf(stood));
  const place = stood?.selectionStart ?? null;
  now.replaceWith(next);
  if (!stood) return;
  (twin ?? document.getElementById("main")).focus({ preventScroll: true });
  if (twin && place !== null) twin.setSelectionRange?.(place, stood.selectionEnd);
}

async function replaceParts(ids) {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return 0;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ids) {
    const now = document.getElementById(id);
    const next = fresh.getElementById(id);
    if (!now || !next) continue;
    showLocalTimes(next);
    exchange(now, next);
  }
  return told(answer);
}

async function keepFresh(id) {
  let asked = 0;
  for (let pause = 1500; document.getElementById(id)?.hasAttribute("data-refresh"); pause = Math.min(pause * 1.2, 10000)) {
    await sleep(Math.max(pause, asked));
    await untilSeen();
    asked = await replaceParts([id]).catch(() => 0);
  }
}

showLocalTimes(document);
for (const part of document.querySelectorAll("[data-refresh]")) keepFresh(part.id);
for (const select of document.querySelectorAll("[data-filters] select")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}
