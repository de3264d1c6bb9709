// What all pages do beyond plain HTML: local times, and parts that stay fresh.
"use strict";

const csrf = document.querySelector("meta[name=csrf]")?.content ?? "";
const sleep = (ms) => new Promise((done) => setTimeout(done, ms));
const figure = new Intl.NumberFormat("en");

document.documentElement.classList.add("js");
for (const element of document.querySelectorAll("[data-needs-script]")) element.hidden = false;

function showLocalTimes(root) {
  const form = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
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

async function replaceParts(ids) {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return 0;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ids) {
    const now = document.getElementById(id);
    const next = fresh.getElementById(id);
    if (!now || !next || now.contains(document.activeElement)) continue;
    now.replaceWith(next);
    showLocalTimes(next);
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
