// The image viewer: zoom, pan, window and level, the attention map over the radiograph. All in original pixels.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const MOST_ZOOM = 16;
let filters = 0;

function make(parent, name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return parent.appendChild(element);
}

class Viewer {
  constructor(root) {
    this.root = root;
    this.width = Number(root.dataset.width);
    this.height = Number(root.dataset.height);
    this.stage = root.querySelector("[data-stage]");
    this.picture = root.querySelector("[data-picture]");
    this.outlines = root.querySelector("[data-outlines]");
    this.overlay = root.querySelector("[data-overlay]");
    this.screen = root.querySelector("[data-screen]");
    this.slider = this.part("opacity");
    this.pointers = new Map();
    this.part("controls").hidden = false;
    this.merge();
    this.fit();
    this.listen();
    this.shade();
  }

  part(name) { return this.root.querySelector(`[data-${name}]`); }

  // The map lies over the picture, and the picture's grey values go through a filter of its own.
  merge() {
    if (this.overlay) {
      this.stage.insertBefore(this.overlay, this.outlines);
      this.part("second").remove();
    }
    filters += 1;
    const filter = make(this.stage, "filter", { id: `grey-${filters}`, "color-interpolation-filters": "sRGB", x: 0, y: 0, width: 1, height: 1 });
    const transfer = make(filter, "feComponentTransfer");
    this.ramps = ["feFuncR", "feFuncG", "feFuncB"].map((name) => make(transfer, name, { type: "linear" }));
    this.grey = `url(#grey-${filters})`;
    this.screen.tabIndex = 0;
    this.screen.setAttribute("role", "group");
    this.screen.setAttribute("aria-label", "Picture; plus and minus zoom, arrows move, i inverts");
  }

  listen() {
    for (const name of ["window", "level", "invert"]) this.part(name).addEventListener("input", () => this.shade());
    this.slider?.addEventListener("input", () => this.shade());
    const suspected = this.part("suspected");
    this.part("toggle-suspected")?.addEventListener("change", (event) => {
      suspected.style.display = event.target.checked ? "" : "none";
    });
    this.part("toggle-outlines")?.addEventListener("change", (event) => {
      this.outlines.style.display = event.target.checked ? "" : "none";
    });
    this.part("original")?.addEventListener("change", ({ target }) => {
      this.picture.setAttribute("href", target.checked ? target.dataset.original : target.dataset.display);
    });
    const acts = { in: () => this.zoom(1.5), out: () => this.zoom(1 / 1.5), fit: () => this.fit(), reset: () => this.reset() };
    for (const button of this.root.querySelectorAll("[data-do]")) button.addEventListener("click", acts[button.dataset.do]);
    this.screen.addEventListener("keydown", (event) => this.key(event));
    this.screen.addEventListener("wheel", (event) => {
      if (!event.ctrlKey && document.activeElement !== this.screen) return;
      event.preventDefault();
      this.zoom(event.deltaY < 0 ? 1.2 : 1 / 1.2, this.at(event));
    }, { passive: false });
    this.screen.addEventListener("pointerdown", (event) => this.down(event));
    this.screen.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) {
      this.screen.addEventListener(name, (event) => this.pointers.delete(event.pointerId));
    }
    this.screen.addEventListener("dblclick", () => this.fit());
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const step = 0.1;
    const nudge = (input, by) => { input.value = Number(input.value) + by; this.shade(); };
    const flip = (input) => input?.click();
    const acts = {
      "+": () => this.zoom(1.5), "=": () => this.zoom(1.5), "-": () => this.zoom(1 / 1.5), 0: () => this.fit(),
      ArrowLeft: () => this.pan(-step * this.box.w, 0), ArrowRight: () => this.pan(step * this.box.w, 0),
      ArrowUp: () => this.pan(0, -step * this.box.h), ArrowDown: () => this.pan(0, step * this.box.h),
      w: () => nudge(this.part("level"), 8), s: () => nudge(this.part("level"), -8),
      a: () => nudge(this.part("window"), -16), d: () => nudge(this.part("window"), 16),
      i: () => flip(this.part("invert")), r: () => this.reset(),
      h: () => { if (this.slider) { this.slider.value = this.slider.value > 0 ? 0 : 50; this.shade(); } },
    };
    const act = acts[event.key];
    if (!act || (event.key.startsWith("Arrow") && this.scale() === 1)) return;
    event.preventDefault();
    event.stopPropagation();
    act();
  }

  // Window and level as a straight line through the grey values 0 to 255.
  shade() {
    const slope = 256 / Number(this.part("window").value);
    const start = 0.5 - (slope * Number(this.part("level").value)) / 256;
    const inverted = this.part("invert").checked;
    for (const ramp of this.ramps) {
      ramp.setAttribute("slope", inverted ? -slope : slope);
      ramp.setAttribute("intercept", inverted ? 1 - start : start);
    }
    if (slope === 1 && start === 0 && !inverted) this.picture.removeAttribute("filter");
    else this.picture.setAttribute("filter", this.grey);
    if (this.overlay) this.overlay.style.opacity = this.slider.value / 100;
  }

  reset() {
    this.part("window").value = 256;
    this.part("level").value = 128;
    this.part("invert").checked = false;
    if (this.slider) this.slider.value = 50;
    this.shade();
    this.fit();
  }

  scale() { return this.width / this.box.w; }

  fit() {
    this.box = { x: 0, y: 0, w: this.width, h: this.height };
    this.show();
  }

  zoom(factor, around = { x: this.box.x + this.box.w / 2, y: this.box.y + this.box.h / 2 }) {
    const scale = Math.min(MOST_ZOOM, Math.max(1, this.scale() * factor));
    const w = this.width / scale;
    const h = this.height / scale;
    const share = { x: (around.x - this.box.x) / this.box.w, y: (around.y - this.box.y) / this.box.h };
    this.box = { x: around.x - share.x * w, y: around.y - share.y * h, w, h };
    this.show();
  }

  pan(x, y) {
    this.box.x += x;
    this.box.y += y;
    this.show();
  }

  show() {
    const { box } = this;
    box.x = Math.min(Math.max(box.x, 0), this.width - box.w);
    box.y = Math.min(Math.max(box.y, 0), this.height - box.h);
    this.stage.setAttribute("viewBox", `${box.x} ${box.y} ${box.w} ${box.h}`);
    this.part("zoom").textContent = `${Math.round(100 * this.scale())}%`;
    this.screen.classList.toggle("zoomed", this.scale() > 1);
  }

  // A place on the screen in pixels of the original.
  at(event) {
    const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(this.stage.getScreenCTM().inverse());
    const within = (value, most) => Math.min(Math.max(value, 0), most);
    return { x: within(point.x, this.width), y: within(point.y, this.height) };
  }

  down(event) {
    if (event.button !== 0) return;
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.marker) this.marker.begin(this, this.at(event), event);
    else if (event.pointerType === "mouse") this.screen.setPointerCapture(event.pointerId);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    if (this.marker) { this.marker.extend(this.at(event)); return; }
    const dx = event.clientX - before.x;
    const dy = event.clientY - before.y;
    const others = [...this.pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    if (others.length) {
      const far = (place) => Math.hypot(place.x - others[0].x, place.y - others[0].y);
      this.zoom(far({ x: event.clientX, y: event.clientY }) / Math.max(1, far(before)), this.at(event));
    } else if (event.shiftKey) {
      this.part("window").value = Number(this.part("window").value) + dx;
      this.part("level").value = Number(this.part("level").value) - dy;
      this.shade();
    } else if (this.scale() > 1) {
      const unit = 1 / this.stage.getScreenCTM().a;
      this.pan(-dx * unit, -dy * unit);
    }
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }
}

const viewers = [...document.querySelectorAll("[data-viewer]")].map((root) => new Viewer(root));

// Marking a place for the review: a click is a point, a drag a box; the form's fields hold it.

class Marker {
  constructor(form) {
    this.fields = Object.fromEntries(["image_id", "x", "y", "width", "height"].map((name) => [name, form.elements[name]]));
    this.button = form.querySelector("[data-mark]");
    this.button.addEventListener("click", () => this.toggle());
    form.querySelector("[data-unmark]").addEventListener("click", () => {
      for (const field of Object.values(this.fields)) field.value = "";
      this.draw();
    });
    for (const field of Object.values(this.fields)) field.addEventListener("input", () => this.draw());
    document.addEventListener("pointerup", () => { if (this.viewer) this.toggle(false); });
  }

  toggle(on = this.button.getAttribute("aria-pressed") !== "true") {
    this.button.setAttribute("aria-pressed", String(on));
    this.viewer = null;
    for (const viewer of viewers) {
      viewer.marker = on ? this : null;
      viewer.screen.classList.toggle("marking", on);
    }
  }

  begin(viewer, place, event) {
    event.preventDefault();
    this.viewer = viewer;
    this.from = place;
    this.extend(place);
  }

  extend(place) {
    const left = Math.round(Math.min(this.from.x, place.x));
    const top = Math.round(Math.min(this.from.y, place.y));
    const width = Math.round(Math.abs(this.from.x - place.x));
    const height = Math.round(Math.abs(this.from.y - place.y));
    const point = Math.max(width, height) < this.viewer.width / 100; // a hand is never quite still
    const values = { image_id: this.viewer.root.dataset.image, x: left, y: top, width: point ? 0 : width, height: point ? 0 : height };
    for (const [name, value] of Object.entries(values)) this.fields[name].value = value;
    this.draw();
  }

  draw() {
    this.drawn?.remove();
    const { image_id: image, x, y, width, height } = this.fields;
    const viewer = viewers.find((one) => one.root.dataset.image === image.value);
    if (!viewer || x.value === "" || y.value === "") return;
    const marks = viewer.part("marks");
    if (Number(width.value) || Number(height.value)) {
      this.drawn = make(marks, "rect", { x: x.value, y: y.value, width: width.value || 0, height: height.value || 0 });
    } else {
      const arm = viewer.width / 40;
      this.drawn = make(marks, "path", { d: `M${x.value - arm} ${y.value}h${2 * arm}M${x.value} ${y.value - arm}v${2 * arm}` });
    }
    this.drawn.classList.add("new");
  }
}

const review = document.querySelector("[data-review]");
if (review?.querySelector("[data-mark]")) new Marker(review);

// Enter in the password's field signs: the form's first button would record without a signature.
review?.querySelector("[data-password]")?.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  review.querySelector("[name=sign]").click();
});

// Keys of the page: 1 to 4 choose an answer, n goes on, u back to the list.
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=radio], [type=checkbox]), select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || localStorage.getItem("fractureai-keys-off")) return;
  const answer = review?.querySelectorAll("[data-answer]")[Number(event.key) - 1];
  if (answer) {
    answer.checked = true;
    answer.focus();
  } else if (event.key === "n") document.querySelector("[data-next]")?.click();
  else if (event.key === "u") document.querySelector("[data-back]")?.click();
  else return;
  event.preventDefault();
});
