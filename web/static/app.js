// What the pages do beyond plain HTML: local times, live batches, uploads with progress.
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

// Live batch: ask with the ETag; slower while nothing changes, not at all while nobody looks.

function valueAt(batch, path) {
  if (path === "ended") {
    const c = batch.counts;
    return c.done + c.rejected + c.failed + c.cancelled;
  }
  if (path === "pace") {
    if (!batch.rate) return "";
    const left = batch.eta_seconds === null ? "" : ` · ${spoken(batch.eta_seconds)} left`;
    return `· ${batch.rate.toFixed(1)} images/s${left}`;
  }
  return path.split(".").reduce((value, key) => value[key], batch);
}

function spoken(seconds) {
  if (seconds < 90) return `${seconds} s`;
  return seconds < 5400 ? `${Math.round(seconds / 60)} min` : `${(seconds / 3600).toFixed(1)} h`;
}

function showCounts(batch) {
  for (const element of document.querySelectorAll("[data-field]")) {
    const value = valueAt(batch, element.dataset.field);
    element.textContent = typeof value === "number" ? figure.format(value) : value;
  }
  for (const bar of document.querySelectorAll("[data-bar]")) {
    bar.max = batch.counts.total || 1;
    bar.value = valueAt(batch, bar.dataset.bar);
  }
  for (const element of document.querySelectorAll("[data-unless-zero]")) {
    element.hidden = !valueAt(batch, element.dataset.unlessZero);
  }
}

async function replaceParts(ids) {
  const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
  if (!answer.ok) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const id of ids) {
    const now = document.getElementById(id);
    const next = fresh.getElementById(id);
    if (!now || !next || now.contains(document.activeElement)) continue;
    now.replaceWith(next);
    showLocalTimes(next);
  }
}

async function follow(head) {
  let etag = `"${head.dataset.etag}"`;
  let status = head.dataset.status;
  let pause = 1000;
  let tableAt = 0;
  let saidAt = 0;
  let stale = false;
  const draft = status === "draft";
  for (;;) {
    await sleep(pause);
    if (document.hidden) {
      await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    }
    let answer;
    try {
      answer = await fetch(head.dataset.live, { headers: { "If-None-Match": etag }, cache: "no-store" });
    } catch {
      pause = Math.min(pause * 2, 30000);
      continue;
    }
    if (answer.status === 401 || answer.status === 404) return;
    if (answer.status === 200) {
      etag = answer.headers.get("ETag");
      const batch = await answer.json();
      pause = 1500;
      if (!draft) {
        showCounts(batch);
        stale = true;
        const said = document.querySelector("[data-announce]");
        if (said && (batch.status !== status || Date.now() - saidAt > 15000)) {
          said.textContent = `${batch.status}: ${valueAt(batch, "ended")} of ${batch.counts.total} images`;
          saidAt = Date.now();
        }
      }
      if (batch.status !== status) {
        status = batch.status;
        await replaceParts(draft ? [] : ["batch-head", "batch-images"]);
        if (draft) return location.reload();
        stale = false;
        tableAt = Date.now();
        if (["done", "partial", "failed", "cancelled"].includes(status)) return;
      }
    } else {
      pause = Math.min(pause * 1.5, 15000);
    }
    if (stale && Date.now() - tableAt > 6000) {
      tableAt = Date.now();
      stale = false;
      await replaceParts(["batch-images"]).catch(() => undefined);
    }
  }
}

// A part of a page that changes by itself: fetched again, ever more slowly, while somebody looks.

async function keepFresh(id) {
  for (let pause = 1500; document.getElementById(id)?.hasAttribute("data-refresh"); pause = Math.min(pause * 1.2, 10000)) {
    await sleep(pause);
    if (document.hidden) await new Promise((seen) => document.addEventListener("visibilitychange", seen, { once: true }));
    await replaceParts([id]).catch(() => undefined);
  }
}

// Upload: many files in a few parallel requests of bounded size; what breaks off is sent again.

const MOST_FILES = 64;
const MOST_BYTES = 32 * 2 ** 20;
const PARALLEL = 3;
const TRIES = 6;

function sendForm(url, form, onBytes) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    request.setRequestHeader("X-CSRF-Token", csrf);
    request.responseType = "json";
    request.upload.onprogress = (event) => onBytes(event.loaded);
    request.onload = () => {
      const problem = request.response ?? {};
      if (request.status < 300) resolve(problem);
      else reject(Object.assign(new Error(problem.detail ?? `The server answered ${request.status}.`), { status: request.status, problem }));
    };
    request.onerror = () => reject(Object.assign(new Error("The connection broke off."), { status: 0 }));
    request.send(form);
  });
}

async function persist(task, onWait) {
  for (let tries = 1; ; tries += 1) {
    try {
      return await task();
    } catch (error) {
      if (![0, 429, 502, 503, 504].includes(error.status) || tries === TRIES) throw error;
      onWait(error);
      await sleep(Math.min(1000 * 2 ** tries, 20000));
    }
  }
}

async function post(url, body, headers = {}) {
  let answer;
  try {
    answer = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf, ...headers },
      body: JSON.stringify(body),
    });
  } catch {
    throw Object.assign(new Error("The connection broke off."), { status: 0 });
  }
  const document_ = await answer.json().catch(() => ({}));
  if (!answer.ok) throw Object.assign(new Error(document_.detail ?? `The server answered ${answer.status}.`), { status: answer.status });
  return document_;
}

function inGroups(files) {
  const groups = [];
  let group = [];
  let bytes = 0;
  for (const item of files) {
    if (group.length && (group.length >= MOST_FILES || bytes + item.file.size > MOST_BYTES)) {
      groups.push(group);
      group = [];
      bytes = 0;
    }
    group.push(item);
    bytes += item.file.size;
  }
  if (group.length) groups.push(group);
  return groups;
}

async function filesOf(entry, path = "") {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    return [{ file, path: path + entry.name }];
  }
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    const entries = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!entries.length) return found;
    for (const inner of entries) found.push(...(await filesOf(inner, `${path}${entry.name}/`)));
  }
}

function bytesSpoken(n) {
  return n < 2 ** 20 ? `${Math.ceil(n / 1024)} KB` : `${(n / 2 ** 20).toFixed(n < 10 * 2 ** 20 ? 1 : 0)} MB`;
}

class Upload {
  constructor(form) {
    this.form = form;
    this.chosen = new Map();
    this.key = crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`;
    this.box = document.querySelector("[data-progress]");
    this.batch = form.dataset.batch ?? null;
    const drop = form.querySelector("[data-drop]");
    form.querySelector("[data-files]").addEventListener("change", (event) => this.choose(event.target));
    form.querySelector("[data-folder]").addEventListener("change", (event) => this.choose(event.target));
    for (const name of ["dragenter", "dragover"]) {
      drop.addEventListener(name, (event) => { event.preventDefault(); drop.classList.add("over"); });
    }
    drop.addEventListener("dragleave", () => drop.classList.remove("over"));
    drop.addEventListener("drop", async (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
      const plain = [...event.dataTransfer.files];
      if (!entries.length) this.add(plain.map((file) => ({ file, path: file.name })));
      for (const entry of entries) this.add(await filesOf(entry));
    });
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run().catch((error) => this.fail(error));
    });
  }

  part(name) { return this.box.querySelector(`[data-progress-${name}]`); }

  choose(input) {
    this.add([...input.files].map((file) => ({ file, path: file.webkitRelativePath || file.name })));
    input.value = "";
  }

  add(items) {
    for (const item of items) this.chosen.set(item.path, item);
    const bytes = [...this.chosen.values()].reduce((sum, item) => sum + item.file.size, 0);
    const n = this.chosen.size;
    this.form.querySelector("[data-chosen]").textContent = `${figure.format(n)} file${n === 1 ? "" : "s"} chosen, ${bytesSpoken(bytes)}`;
  }

  async run() {
    const files = [...this.chosen.values()];
    const manifest = this.form.querySelector("[data-manifest]").files[0];
    if (!files.length && !manifest) {
      this.form.querySelector("[data-chosen]").textContent = "Choose files first.";
      return;
    }
    const options = new FormData(this.form);
    const button = this.form.querySelector("button:not([type=button])");
    const guard = (event) => event.preventDefault();
    window.addEventListener("beforeunload", guard);
    button.disabled = true;
    this.box.hidden = false;
    this.part("text").textContent = "Uploading";
    this.box.scrollIntoView({ block: "nearest" });
    try {
      if (!this.batch) {
        const wish = {
          label: options.get("label"),
          priority: options.get("priority"),
          report: options.has("report"),
          heatmap: options.has("heatmap"),
          ...(options.has("bundle") ? { bundle: options.get("bundle") } : {}),
        };
        this.batch = (await this.again(() => post("/api/v1/batches", wish, { "Idempotency-Key": this.key }))).id;
      }
      if (manifest) {
        const form = new FormData();
        form.append("manifest", manifest, "manifest.csv");
        await this.again(() => sendForm(`/api/v1/batches/${this.batch}/files`, form, () => undefined));
      }
      await this.send(files);
      if (options.has("start")) await this.again(() => post(`/api/v1/batches/${this.batch}/submit`, {}));
    } finally {
      window.removeEventListener("beforeunload", guard);
      button.disabled = false;
    }
    const page = `/batches/${this.batch}`;
    if (!this.refused) { location.href = page; return; }
    this.part("text").textContent = "Uploaded; some files were not accepted";
    this.part("link").href = page;
    this.part("actions").hidden = false;
  }

  again(task) {
    return persist(task, (error) => { this.part("detail").textContent = `${error.message} Trying again.`; });
  }

  async send(files) {
    const all = files.reduce((sum, item) => sum + item.file.size, 0);
    const groups = inGroups(files);
    const flying = new Map();
    let sent = 0;
    let answered = 0;
    let accepted = 0;
    this.refused = 0;
    const show = () => {
      const loaded = Math.min(all, sent + [...flying.values()].reduce((sum, n) => sum + n, 0));
      this.part("bar").value = all ? (100 * loaded) / all : 100;
      this.part("detail").textContent = `${bytesSpoken(loaded)} of ${bytesSpoken(all)} · ${figure.format(answered)} of ${figure.format(files.length)} files taken`;
    };
    const lane = async () => {
      for (let group = groups.shift(); group; group = groups.shift()) {
        const bytes = group.reduce((sum, item) => sum + item.file.size, 0);
        const answer = await this.again(() => {
          const form = new FormData();
          for (const item of group) form.append("files", item.file, item.path);
          return sendForm(`/api/v1/batches/${this.batch}/files`, form, (n) => { flying.set(group, Math.min(n, bytes)); show(); });
        });
        flying.delete(group);
        sent += bytes;
        answered += group.length;
        accepted += answer.counts.accepted;
        for (const file of answer.files) if (file.status === "rejected") this.reject(file);
        show();
      }
    };
    show();
    await Promise.all(Array.from({ length: PARALLEL }, lane));
  }

  reject(file) {
    this.refused += 1;
    this.box.querySelector("[data-rejections]").hidden = false;
    this.box.querySelector("[data-rejections-more]").textContent = `${figure.format(this.refused)} file${this.refused === 1 ? "" : "s"}${this.refused > 200 ? ", the first 200 of them below" : ""}`;
    if (this.refused > 200) return;
    const row = this.box.querySelector("[data-rejections-list]").insertRow();
    for (const text of [file.filename, file.reason.sentence, file.reason.advice]) row.insertCell().textContent = text;
  }

  fail(error) {
    this.box.hidden = false;
    this.part("text").textContent = "The upload stopped";
    this.part("detail").textContent = `${error.message} What arrived is kept; press the button to go on.`;
  }
}

showLocalTimes(document);
const head = document.querySelector("[data-live]");
if (head) follow(head);
for (const part of document.querySelectorAll("[data-refresh]")) keepFresh(part.id);
for (const form of document.querySelectorAll("[data-upload]")) new Upload(form);
for (const select of document.querySelectorAll("[data-filters] select")) {
  select.addEventListener("change", () => select.form.requestSubmit());
}
