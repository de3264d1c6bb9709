// Uploads of files and folders: a few requests of bounded size at a time; what the draft has already is not sent
// again, whatever broke off: the line, the page, the laptop. Large files go in pieces (tus).
"use strict";

const MAX_FILES = 64;
const MAX_BYTES = 32 * 2 ** 20;
const PIECE_BYTES = 16 * 2 ** 20;
const LANES = 3;
const HASHERS = 2;
const ROWS = 100;
const NO_ANSWER = [0, 429, 502, 503, 504];

function bytesSpoken(n) {
  if (n < 2 ** 20) return `${Math.ceil(n / 1024)} KB`;
  return n < 2 ** 30 ? `${(n / 2 ** 20).toFixed(n < 10 * 2 ** 20 ? 1 : 0)} MB` : `${(n / 2 ** 30).toFixed(1)} GB`;
}

const byName = new Intl.Collator("en", { numeric: true });
const counted = (n, word) => `${figure.format(n)} ${word}${n === 1 ? "" : "s"}`;

// asking the server

function problemOf(status, problem) {
  const said = problem?.detail ?? problem?.title;
  const text = said ? `${said} ${problem.advice ?? ""}` : status ? `The server answered ${status}.` : "The connection broke off.";
  const again = status === 401 || status === 403 ? " Reload this page and choose the same files again: what arrived is not sent again." : "";
  return Object.assign(new Error(text.trim() + again), { status, problem });
}

async function postJson(url, body, headers = {}) {
  let answer;
  try {
    answer = await fetch(url, {
      method: "POST",
      headers: { "Content-Type": "application/json", "X-CSRF-Token": csrf, ...headers },
      body: JSON.stringify(body),
    });
  } catch {
    throw problemOf(0);
  }
  const document_ = await answer.json().catch(() => null);
  if (!answer.ok) throw problemOf(answer.status, document_);
  return document_;
}

function sendForm(url, form, onBytes) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", url);
    request.setRequestHeader("X-CSRF-Token", csrf);
    request.responseType = "json";
    request.upload.onprogress = (event) => onBytes(event.loaded);
    request.onload = () => (request.status < 300 ? resolve(request.response) : reject(problemOf(request.status, request.response)));
    request.onerror = () => reject(problemOf(0));
    request.send(form);
  });
}

// hashing, in workers; null where it cannot be done (a file that went away, a page that is not served securely)

class Hashers {
  constructor(url) {
    this.waiting = new Map();
    this.next = 0;
    this.workers = globalThis.isSecureContext ? Array.from({ length: HASHERS }, () => new Worker(url)) : [];
    for (const worker of this.workers) {
      worker.onmessage = ({ data }) => {
        this.waiting.get(data.id)(data.sha256);
        this.waiting.delete(data.id);
      };
    }
  }

  hash(file) {
    if (!this.workers.length) return Promise.resolve(null);
    const id = this.next++;
    this.workers[id % this.workers.length].postMessage({ id, file });
    return new Promise((done) => this.waiting.set(id, done));
  }
}

// the list of files: a page of rows at a time, drawn a few times a second

const STATES = { waiting: "waiting", sending: "sending", accepted: "accepted", here: "here already", skipped: "passed over", rejected: "not accepted", failed: "not sent" };
const BAD = ["rejected", "failed"];

class FileList {
  constructor(box) {
    this.box = box;
    this.items = [];
    this.page = 0;
    this.drawn = 0;
    this.show = box.querySelector("[data-show]");
    this.show.addEventListener("change", () => { this.page = 0; this.draw(); });
    for (const button of box.querySelectorAll("[data-turn]")) {
      button.addEventListener("click", () => { this.page += Number(button.dataset.turn); this.draw(); });
    }
  }

  count(...states) { return this.items.filter((item) => states.includes(item.state)).length; }

  set(item, state, reason = null) {
    item.state = state;
    item.reason = reason;
    this.changed();
  }

  changed() {
    if (this.timer) return;
    this.timer = setTimeout(() => { this.timer = null; this.draw(); }, 250);
  }

  draw() {
    const bad = this.show.value === "bad";
    const shown = bad ? this.items.filter((item) => BAD.includes(item.state)) : this.items;
    const last = Math.max(0, Math.ceil(shown.length / ROWS) - 1);
    this.page = Math.min(Math.max(0, this.page), last);
    const start = this.page * ROWS;
    const rows = shown.slice(start, start + ROWS).map((item) => {
      const row = document.createElement("tr");
      row.insertCell().textContent = item.path;
      const chip = document.createElement("span");
      chip.className = `chip upload-${item.state}`;
      chip.textContent = STATES[item.state];
      const size = row.insertCell();
      size.className = "nowrap number";
      size.textContent = item.file.size ? bytesSpoken(item.file.size) : "";
      row.insertCell().append(chip);
      const last = row.insertCell();
      last.textContent = item.reason ?? "";
      if (this.remove) {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "quiet";
        button.textContent = "Remove";
        button.setAttribute("aria-label", `Remove ${item.path}`);
        button.addEventListener("click", () => this.remove(item));
        last.append(button);
      }
      return row;
    });
    this.box.querySelector("[data-files-list]").replaceChildren(...rows);
    this.box.querySelector("[data-range]").textContent = shown.length ? `${figure.format(start + 1)} to ${figure.format(Math.min(start + ROWS, shown.length))} of ${figure.format(shown.length)}` : "none";
    this.box.querySelector("[data-turn='-1']").disabled = this.page === 0;
    this.box.querySelector("[data-turn='1']").disabled = this.page === last;
  }
}

// files out of a drop

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

// Whether a file was chosen before. Two folders, of two CDs, may hold different files of the same name.
const EDGE = 2 ** 16;
const edges = (file) => new Blob([file.slice(0, EDGE), file.slice(-EDGE)]).arrayBuffer();

async function isSameFile(one, other) {
  if (one.size !== other.size || one.lastModified !== other.lastModified) return false;
  const [a, b] = (await Promise.all([edges(one), edges(other)]).catch(() => [[], []])).map((bytes) => new Uint8Array(bytes));
  return a.every((byte, n) => byte === b[n]);
}

const isAlone = (item) => item.file.size > MAX_BYTES || item.path.toLowerCase().endsWith(".zip");

function inGroups(items) {
  const groups = [];
  let group = [];
  let bytes = 0;
  for (const item of items) {
    if (group.length && (group.length >= MAX_FILES || bytes + item.file.size > MAX_BYTES)) {
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

// where a large file went on to; under a hash, since its name may be a person's

const resumeStore = {
  findAllUploads: async () => [],
  findUploadsByFingerprint: async (fingerprint) => {
    const kept = localStorage.getItem(fingerprint);
    return kept ? [{ uploadUrl: kept, urlStorageKey: fingerprint, size: null, metadata: {}, creationTime: "" }] : [];
  },
  removeUpload: async (key) => localStorage.removeItem(key),
  addUpload: async (fingerprint, upload) => { localStorage.setItem(fingerprint, upload.uploadUrl); return fingerprint; },
};

class Upload {
  constructor(form) {
    this.form = form;
    this.chosen = new Map();
    this.adding = Promise.resolve();
    this.title = document.title;
    this.key = crypto.randomUUID ? crypto.randomUUID() : `${Date.now()}-${Math.random()}`;
    this.box = document.querySelector("[data-progress]");
    this.list = new FileList(this.box);
    this.waits = 0;
    this.wakers = [];
    this.batch = form.dataset.batch ?? null;
    this.mayBeHere = Boolean(Number(form.dataset.bytes ?? 0)) || form.dataset.batch !== undefined;
    this.bytesHere = Number(form.dataset.bytes ?? 0);
    this.button = form.querySelector("button:not([type=button])");
    const drop = form.querySelector("[data-drop]");
    for (const input of form.querySelectorAll("[data-files], [data-folder]")) input.addEventListener("change", () => this.choose(input));
    // Anywhere on the page: a drop beside the box would leave the page for the file, and lose what was chosen.
    const isOfFiles = (event) => event.dataTransfer.types.includes("Files");
    let within = 0; // elements that were entered and not left
    addEventListener("dragenter", () => { within += 1; });
    addEventListener("dragleave", () => { within -= 1; if (within <= 0) drop.classList.remove("over"); });
    for (const name of ["dragenter", "dragover"]) {
      addEventListener(name, (event) => {
        if (!isOfFiles(event)) return;
        event.preventDefault();
        drop.classList.add("over");
      });
    }
    addEventListener("drop", (event) => {
      within = 0;
      if (!isOfFiles(event)) return;
      event.preventDefault();
      drop.classList.remove("over");
      const entries = [...event.dataTransfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
      const plain = [...event.dataTransfer.files];
      this.addLater(async () => {
        if (!entries.length) await this.add(plain.map((file) => ({ file, path: file.name })));
        for (const entry of entries) await this.add(await filesOf(entry));
      });
    });
    this.part("now").addEventListener("click", () => this.wake());
    addEventListener("online", () => this.wake());
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.run().catch((error) => this.fail(error));
    });
  }

  part(name) { return this.box.querySelector(`[data-progress-${name}]`); }

  say(name, text) { if (this.part(name).textContent !== text) this.part(name).textContent = text; }

  choose(input) {
    const files = [...input.files];
    input.value = "";
    this.addLater(() => this.add(files.map((file) => ({ file, path: file.webkitRelativePath || file.name }))));
  }

  // One drop after the other: a second one, while a large folder is still listed, does not displace the first.
  addLater(task) {
    this.adding = this.adding.then(task).catch((error) => {
      this.box.hidden = false;
      this.say("trouble", `Something that was chosen cannot be read, and is not in the list: ${error.message}`);
    });
  }

  async add(items) {
    for (const item of items) {
      let key = item.path;
      while (this.chosen.has(key) && !(await isSameFile(this.chosen.get(key).file, item.file))) key += "/"; // no name ends so
      this.chosen.set(key, { ...item, state: "waiting", reason: null });
    }
    this.showChosen();
  }

  showChosen() {
    const items = [...this.chosen.values()].sort((a, b) => byName.compare(a.path, b.path)); // a folder comes in any order
    this.total = items.reduce((sum, item) => sum + item.file.size, 0);
    this.form.querySelector("[data-chosen]").textContent = items.length ? `${counted(items.length, "file")} chosen, ${bytesSpoken(this.total)}` : "";
    if (this.running) return;
    this.box.hidden = !items.length;
    this.say("text", "Chosen, and not sent yet");
    this.part("bar").hidden = true;
    this.list.items = items;
    this.list.remove = (item) => this.leaveOut(item);
    this.list.draw();
  }

  leaveOut(item) {
    const place = [...this.box.querySelectorAll("[data-files-list] button")].indexOf(document.activeElement);
    for (const [key, other] of this.chosen) if (other === item) this.chosen.delete(key);
    this.showChosen();
    const left = this.box.querySelectorAll("[data-files-list] button");
    (left[Math.min(place, left.length - 1)] ?? this.button).focus();
  }

  // Waits ever longer after a failure that may pass, until it does: an hour without a network costs nothing.
  async persist(task, beforeNext = () => undefined) {
    for (let pause = 1000; ; pause = Math.min(pause * 2, 30000)) {
      try {
        return await task();
      } catch (error) {
        if (!NO_ANSWER.includes(error.status)) throw error;
        this.say("text", "Waiting for the connection");
        this.say("trouble", `${error.message} Trying again by itself; nothing that arrived is lost.`);
        this.waits += 1;
        this.part("now").hidden = false;
        await Promise.race([sleep(pause), new Promise((woken) => { this.wakers.push(woken); })]);
        this.waits -= 1;
        this.part("now").hidden = this.waits === 0;
        beforeNext();
      }
    }
  }

  wake() {
    for (const woken of this.wakers.splice(0)) woken();
  }

  flowing() {
    if (this.waits) return; // another lane still says why it waits
    this.say("text", "Uploading");
    this.say("trouble", "");
  }

  async run() {
    await this.adding;
    const items = [...this.chosen.values()].sort((a, b) => (a.path < b.path ? -1 : 1));
    const manifest = this.form.querySelector("[data-manifest]").files[0];
    if (!items.length && !manifest) {
      this.form.querySelector("[data-chosen]").textContent = "Choose files first.";
      return;
    }
    const options = new FormData(this.form);
    const guard = (event) => event.preventDefault();
    window.addEventListener("beforeunload", guard);
    this.button.disabled = true;
    this.running = true;
    this.list.remove = null;
    this.part("bar").hidden = false;
    this.box.hidden = false;
    this.part("actions").hidden = true;
    this.list.items = [...items];
    this.list.draw();
    this.flowing();
    this.box.scrollIntoView({ block: "nearest" });
    try {
      if (!this.batch) {
        const body = {
          label: options.get("label"),
          priority: options.get("priority"),
          report: options.has("report"),
          heatmap: options.has("heatmap"),
          ...(options.has("bundle") ? { bundle: options.get("bundle") } : {}),
        };
        this.batch = (await this.persist(() => postJson("/api/v1/batches", body, { "Idempotency-Key": this.key }))).id;
        history.replaceState(null, "", `/batches/${this.batch}`); // a reload goes on with this draft
      }
      this.here = `/api/v1/batches/${this.batch}`;
      await this.persist(() => postJson(`${this.here}/known`, { bytes: Math.max(0, this.total - this.bytesHere) }));
      if (manifest) {
        const form = new FormData();
        form.append("manifest", manifest, "manifest.csv");
        await this.persist(() => sendForm(`${this.here}/files`, form, () => undefined));
      }
      await this.sendAll(items);
      this.mayBeHere = true;
      for (let more = await this.chosenBeside(items); more.length; more = await this.chosenBeside(items)) {
        items.push(...more);
        this.list.items.push(...more);
        await this.persist(() => postJson(`${this.here}/known`, { bytes: more.reduce((sum, item) => sum + item.file.size, 0) }));
        await this.sendAll(items);
      }
      if (options.has("start")) await this.persist(() => postJson(`${this.here}/submit`, {}));
    } catch (error) {
      this.mayBeHere = true;
      throw error;
    } finally {
      window.removeEventListener("beforeunload", guard);
      this.button.disabled = false;
      this.running = false;
      document.title = this.title;
      this.list.draw();
    }
    const page = `/batches/${this.batch}`;
    const bad = this.list.count(...BAD);
    if (!bad) { location.href = page; return; }
    this.say("text", "Uploaded; some files were not accepted");
    this.say("trouble", `${counted(bad, "file")} of ${figure.format(items.length)} will not be read; the list says why.`);
    this.list.show.value = "bad";
    this.list.draw();
    this.part("link").href = page;
    this.part("actions").hidden = false;
  }

  // Files that were chosen while the others went: they are sent too, before the reading starts.
  async chosenBeside(items) {
    await this.adding;
    const sent = new Set(items);
    return [...this.chosen.values()].filter((item) => !sent.has(item));
  }

  async sendAll(items) {
    this.hashers ??= new Hashers(this.form.dataset.hashing);
    this.done = 0;
    this.flying = new Map();
    const open = items.filter((item) => !["accepted", "here", "skipped", "rejected"].includes(item.state));
    this.done = this.total - open.reduce((sum, item) => sum + item.file.size, 0);
    const jobs = inGroups(open.filter((item) => !isAlone(item))).map((group) => () => this.sendGroup(group));
    for (const item of open.filter(isAlone)) jobs.push(() => (item.file.size > MAX_BYTES ? this.sendLarge(item) : this.sendGroup([item])));
    this.progress();
    const lane = async () => {
      for (let job = jobs.shift(); job; job = jobs.shift()) await job();
    };
    const lanes = Array.from({ length: LANES }, lane);
    try {
      await Promise.all(lanes);
    } catch (error) {
      jobs.length = 0;
      await Promise.allSettled(lanes);
      throw error;
    }
  }

  progress() {
    const loaded = Math.min(this.total, this.done + [...this.flying.values()].reduce((sum, n) => sum + n, 0));
    this.part("bar").value = this.total ? (100 * loaded) / this.total : 100;
    document.title = `${Math.floor(this.part("bar").value)}% sent · ${this.title}`;
    const here = this.list.count("here");
    const parts = [`${bytesSpoken(loaded)} of ${bytesSpoken(this.total)}`, `${figure.format(this.list.items.length - this.list.count("waiting", "sending"))} of ${counted(this.list.items.length, "file")}`];
    if (here) parts.push(`${figure.format(here)} here already`);
    if (this.list.count(...BAD)) parts.push(`${figure.format(this.list.count(...BAD))} not accepted`);
    this.say("detail", parts.join(" · "));
  }

  settle(item, state, reason) {
    this.list.set(item, state, reason && `${reason.sentence} ${reason.advice}`);
    this.done += item.file.size;
  }

  // Takes out of a group what the draft has already, and what can no longer be read.
  async leaveOutKnown(group) {
    const hashed = await Promise.all(group.map(async (item) => ({ item, sha256: await this.hashers.hash(item.file) })));
    if (!this.hashers.workers.length) return group;
    const gone = hashed.filter(({ sha256 }) => !sha256);
    for (const { item } of gone) this.settle(item, "failed", { sentence: "The file cannot be read any more.", advice: "Choose it again." });
    const asked = hashed.filter(({ sha256 }) => sha256);
    const files = asked.map(({ item, sha256 }) => ({ filename: item.path, sha256 }));
    const known = (await this.persist(() => postJson(`${this.here}/known`, { files }))).files;
    const byName = new Map(known.map((file) => [`${file.sha256}/${file.filename}`, file]));
    return asked.filter(({ item, sha256 }) => {
      const file = byName.get(`${sha256}/${item.path}`);
      if (file) this.settle(item, file.status === "rejected" ? "rejected" : "here", file.reason);
      return !file;
    }).map(({ item }) => item);
  }

  async sendGroup(group) {
    let ask = this.mayBeHere && !group.some(isAlone);
    let left = group;
    for (const item of group) this.list.set(item, "sending");
    const answer = await this.persist(async () => {
      if (ask) left = await this.leaveOutKnown(left);
      this.progress();
      if (!left.length) return null;
      const bytes = left.reduce((sum, item) => sum + item.file.size, 0);
      const form = new FormData();
      for (const item of left) form.append("files", item.file, item.path);
      return sendForm(`${this.here}/files`, form, (n) => { this.flying.set(group, Math.min(n, bytes)); this.flowing(); this.progress(); });
    }, () => { ask = !group.some(isAlone); this.flying.delete(group); this.progress(); });
    this.flying.delete(group);
    if (answer) this.take(left, answer.files);
    this.flowing();
    this.progress();
  }

  take(items, files) {
    if (items.length === files.length) {
      files.forEach((file, n) => this.settle(items[n], file.status === "duplicate" && !file.reason ? "here" : file.reason ? "rejected" : file.status, file.reason));
      return;
    }
    const [archive] = items; // of an archive one answer a member: those not accepted get rows of their own
    const refused = files.filter((file) => file.reason);
    this.settle(archive, "accepted", { sentence: `${counted(files.length - refused.length, "file")} of it accepted.`, advice: "" });
    this.list.items.push(...refused.map((file) => ({ path: `${archive.path} › ${file.filename}`, file: { size: 0 }, state: "rejected", reason: `${file.reason.sentence} ${file.reason.advice}` })));
    this.list.changed();
  }

  async fingerprint(item) {
    if (!globalThis.crypto.subtle) return null;
    const named = [this.batch, item.path, item.file.size, item.file.lastModified].join("\n");
    const bytes = await new Blob([named, await edges(item.file).catch(() => "")]).arrayBuffer();
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    return `upload-${[...digest].slice(0, 12).join("-")}`;
  }

  async sendLarge(item) {
    this.list.set(item, "sending");
    const fingerprint = await this.fingerprint(item);
    const address = await this.persist(() => this.sendPieces(item, fingerprint));
    this.say("text", `Unpacking ${item.path}`);
    const answer = await this.persist(() => postJson(`${new URL(address, location.href).pathname}/take`, {}));
    this.flying.delete(item);
    this.take([item], answer.files);
    this.flowing();
    this.progress();
  }

  sendPieces(item, fingerprint) {
    return new Promise((resolve, reject) => {
      const upload = new tus.Upload(item.file, {
        endpoint: `${this.here}/uploads`,
        chunkSize: PIECE_BYTES,
        retryDelays: [],
        headers: { "X-CSRF-Token": csrf },
        metadata: { filename: item.path },
        fingerprint: async () => fingerprint,
        urlStorage: resumeStore,
        removeFingerprintOnSuccess: true,
        onProgress: (sent) => { this.flying.set(item, sent); this.flowing(); this.progress(); },
        onSuccess: () => resolve(upload.url),
        onError: (error) => {
          const answer = error.originalResponse;
          let problem = null;
          try { problem = JSON.parse(answer?.getBody() ?? ""); } catch { problem = null; }
          reject(problemOf(answer ? answer.getStatus() : 0, problem));
        },
      });
      upload.findPreviousUploads().then((previous) => {
        if (previous.length) upload.resumeFromPreviousUpload(previous[0]);
        upload.start();
      }, reject);
    });
  }

  fail(error) {
    this.box.hidden = false;
    this.say("text", "The upload stopped");
    this.say("trouble", `${error.message} What arrived is kept; press the button to go on.`);
  }
}

for (const form of document.querySelectorAll("[data-upload]")) new Upload(form);
