// A batch that is read: asked for with its ETag, the slower the less changes and the more people watch. While nobody
// looks once a minute, for the tab's title, and somewhat sooner for who wants to be notified.
"use strict";

const QUICK = 1500;
const SLOWEST = 20000;
const UNSEEN = 60000;
const TABLE_EVERY = 15000;
const ENDED = ["done", "partial", "failed", "cancelled"];

function valueAt(batch, path) {
  if (path === "ended") {
    const c = batch.counts;
    return c.done + c.rejected + c.failed + c.cancelled;
  }
  if (path === "pace") {
    if (batch.cancelled_at) return ENDED.includes(batch.status) ? "" : "· being cancelled";
    if (!batch.rate || batch.waits_for) return "";
    return `· ${batch.rate.toFixed(1)} images/s · ${batch.time_left ?? "estimating the time left"}`;
  }
  return path.split(".").reduce((value, key) => value[key], batch);
}

const batchTitle = document.title;

function showTitle(status, ended, total) {
  document.title = ENDED.includes(status) ? batchTitle : `${Math.floor((100 * ended) / (total || 1))}% · ${batchTitle}`;
}

function showCounts(batch) {
  showTitle(batch.status, valueAt(batch, "ended"), batch.counts.total);
  for (const element of document.querySelectorAll("[data-field]")) {
    const value = valueAt(batch, element.dataset.field);
    element.textContent = typeof value === "number" ? figure.format(value) : value;
  }
  for (const bar of document.querySelectorAll("[data-bar]")) {
    bar.max = batch.counts.total || 1;
    bar.value = valueAt(batch, bar.dataset.bar);
  }
  const waits = document.querySelector("[data-waits]");
  if (waits) {
    waits.hidden = !batch.waits_for;
    waits.textContent = batch.waits_for ? `${batch.waits_for.sentence} ${batch.waits_for.advice}` : "";
  }
  for (const element of document.querySelectorAll("[data-unless-zero]")) {
    element.hidden = !valueAt(batch, element.dataset.unlessZero);
  }
}

function isSeen(id) {
  const box = document.getElementById(id)?.getBoundingClientRect();
  return Boolean(box) && box.top < innerHeight && box.bottom > 0;
}

async function follow(head) {
  let etag = `"${head.dataset.etag}"`;
  let { status } = head.dataset;
  let reasons = null;
  let pause = QUICK;
  let tableSince = Date.now();
  let saidAt = 0;
  let stale = false;
  for (;;) {
    const spread = 0.8 + 0.4 * Math.random(); // many watchers do not ask in step
    await sleep(pause * spread);
    if (document.hidden) await Promise.race([sleep((isWanted() ? SLOWEST : UNSEEN) * spread), untilSeen()]);
    let answer;
    try {
      answer = await fetch(head.dataset.live, { headers: { "If-None-Match": etag }, cache: "no-store" });
    } catch {
      pause = Math.min(pause * 2, SLOWEST);
      continue;
    }
    if (answer.status === 401 || answer.status === 404) return;
    if (answer.status === 200) {
      etag = answer.headers.get("ETag");
      const batch = await answer.json();
      pause = Math.max(QUICK, told(answer));
      showCounts(batch);
      stale = true;
      const said = document.querySelector("[data-announce]");
      if (said && (batch.status !== status || Date.now() - saidAt > 15000)) {
        said.textContent = `${batch.status}: ${valueAt(batch, "ended")} of ${batch.counts.total} images`;
        saidAt = Date.now();
      }
      const why = JSON.stringify(batch.reasons);
      const parts = batch.status !== status ? ["batch-head", "batch-summary", "batch-images"] : reasons !== null && why !== reasons ? ["batch-reasons"] : [];
      reasons = why;
      if (parts.length) await replaceParts(parts).catch(() => undefined);
      if (batch.status !== status) {
        status = batch.status;
        stale = false;
        tableSince = Date.now();
        if (ENDED.includes(status)) {
          if (bell) bell.hidden = true;
          notify(`${batch.status}: ${batch.counts.done} of ${batch.counts.total} images read`);
          return;
        }
      }
    } else {
      pause = Math.max(Math.min(pause * 1.5, SLOWEST), told(answer));
    }
    const tableEvery = Math.max(TABLE_EVERY, 5 * told(answer)); // it costs the server five times as much
    if (stale && Date.now() - tableSince > tableEvery && isSeen("batch-images")) {
      stale = false;
      await replaceParts(["batch-images"]).catch(() => undefined);
      tableSince = Date.now();
    }
  }
}

// A browser's own notification when the batch has ended, for who asked for it on this page; kept while its tab is.
const bell = document.querySelector("[data-notify]");
const asked = bell?.textContent;
const bellKey = `notify ${location.pathname}`;

function isWanted() {
  return bell?.getAttribute("aria-pressed") === "true" && Notification.permission === "granted";
}

function ring(on) {
  bell.setAttribute("aria-pressed", String(on));
  bell.textContent = on ? "You are notified when it is done" : Notification.permission === "denied" ? "The browser allows no notifications here" : asked;
  if (on) sessionStorage.setItem(bellKey, "1");
  else sessionStorage.removeItem(bellKey);
}

function notify(words) {
  if (!isWanted()) return;
  sessionStorage.removeItem(bellKey);
  const shown = new Notification(batchTitle, { body: words, icon: document.querySelector("link[rel=icon]").href, tag: bellKey });
  shown.addEventListener("click", () => { window.focus(); shown.close(); });
}

if (bell && "Notification" in window) {
  bell.hidden = false;
  if (sessionStorage.getItem(bellKey) && Notification.permission === "granted") ring(true);
  bell.addEventListener("click", async () => {
    ring(bell.getAttribute("aria-pressed") !== "true" && (await Notification.requestPermission()) === "granted");
  });
}

const head = document.querySelector("[data-live]");
const bar = document.querySelector("[data-bar=ended]");
if (head && bar) showTitle(head.dataset.status, bar.value, bar.max);
if (head && head.dataset.status !== "draft") follow(head);

document.addEventListener("change", (event) => {
  if (!event.target.matches("[data-choose-all]")) return;
  for (const box of document.querySelectorAll("[name=image]")) box.checked = event.target.checked;
});
