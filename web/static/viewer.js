// The image viewer: one large picture or two, a strip of all, windowed from full depth; marks in original pixels.
"use strict";

const SVG = "http://www.w3.org/2000/svg";
const BACKGROUND = 0xff000000; // of what lies beside the picture
const MAX_ZOOM = 32; // screen pixels for one of the original
const LATER = 1000;
const SETTLE = 90; // milliseconds after which a picture that moved is drawn smoothly
const GLASS = { size: 190, times: 3 };
const OPPOSITE = { L: "R", R: "L", A: "P", P: "A", H: "F", F: "H" };

function make(parent, name, attributes = {}) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return parent.appendChild(element);
}

const within = (value, least, most) => Math.min(Math.max(value, least), most);
const figures = (value) => (Math.abs(value) >= 100 ? Math.round(value) : Number(value.toPrecision(3)));

// One picture: its values, how it lies and is windowed, and what is drawn over it.
class Viewport {
  constructor(viewer, root) {
    this.viewer = viewer;
    this.root = root;
    const { width, height, image, number, display, pixels, deep } = root.dataset;
    Object.assign(this, { image, number: Number(number), width: Number(width), height: Number(height) });
    this.addresses = { display, pixels };
    this.wantsDeep = deep === "yes";
    this.screen = root.querySelector("[data-screen]");
    this.stage = root.querySelector("[data-stage]");
    this.lines = [];
    this.pointers = new Map();
    this.build();
    this.reset();
    this.listen();
  }

  part(name) { return this.root.querySelector(`[data-${name}]`); }

  // The page without scripts has the picture and its marks in one drawing; here the marks lie over a canvas.
  build() {
    this.canvas = document.createElement("canvas");
    this.canvas.setAttribute("aria-hidden", "true");
    this.context = this.canvas.getContext("2d", { alpha: false, willReadFrequently: true });
    this.screen.prepend(this.canvas);
    this.part("picture").remove();
    this.space = make(this.stage, "g", { "data-space": "" });
    if (this.root.dataset.heat) {
      this.heat = make(this.space, "image", { width: this.width, height: this.height, preserveAspectRatio: "none", "data-overlay": "" });
    }
    for (const name of ["outlines", "suspected", "marks"]) this.space.append(this.part(name));
    this.measured = make(this.stage, "g", { class: "measured", "data-measured": "" });
    this.stage.removeAttribute("viewBox");
    this.letters = ["top", "right", "bottom", "left"].map((edge) => {
      const letter = document.createElement("span");
      letter.className = `letter letter-${edge}`;
      return this.screen.appendChild(letter);
    });
    this.turned = this.part("turned");
    this.told = this.part("told");
    this.screen.tabIndex = 0;
    this.screen.setAttribute("role", "group");
    this.screen.setAttribute("aria-label", `Image ${this.number}: the picture`);
  }

  reset() {
    Object.assign(this, { turn: 0, mirrored: false, inverted: false, fitted: true, untouched: true });
    if (this.pixels) this.window = { ...this.pixels.windows[0] };
    if (this.shown) this.fit();
  }

  async show() {
    this.shown = true;
    this.heat?.setAttribute("href", this.root.dataset.heat); // not before somebody looks
    if (!this.loading) this.loading = this.load();
    this.resize();
  }

  async load() {
    this.take(await displayPixels(this.addresses.display));
    if (this.wantsDeep) this.deepen();
    else setTimeout(() => this.deepen(), LATER); // it has the letters and the size of a pixel, too
  }

  take(pixels) {
    const before = this.pixels;
    const was = this.window;
    this.pixels = pixels;
    this.window = { ...pixels.windows[0] };
    if (before && !this.untouched) { // the same place between black and white as before
      const first = pixels.windows[0];
      const value = (grey) => first.low + (grey / 255) * (first.high - first.low);
      Object.assign(this.window, { low: value(was.low), high: value(was.high), curve: null, name: was.name });
    }
    this.resize();
    this.viewer.tell(this);
  }

  // The original's own values: at once where there are more than 256, else when the picture has been there for a
  // moment, or somebody looks closely.
  deepen() {
    if (this.deepening || !this.addresses.pixels) return this.deepening;
    this.root.dataset.depth = "coming";
    this.deepening = this.loading.then(() => deepPixels(this.addresses.pixels)).catch(() => null).then((found) => {
      this.root.dataset.depth = found ? String(found.bits) : "none";
      if (found) this.take(found);
    });
    return this.deepening;
  }

  // how it lies

  get fitting() {
    const [w, h] = this.turn % 180 ? [this.height, this.width] : [this.width, this.height];
    return Math.min(this.size.w / w, this.size.h / h);
  }

  resize() {
    const box = this.screen.getBoundingClientRect();
    if (!this.shown || !box.width || !box.height) return;
    this.size = { w: box.width, h: box.height };
    this.sharp = Math.min(window.devicePixelRatio || 1, 2);
    this.canvas.width = Math.round(box.width * this.sharp);
    this.canvas.height = Math.round(box.height * this.sharp);
    this.held = null;
    if (this.fitted) this.fit(); else this.place();
  }

  fit() {
    Object.assign(this, { x: this.width / 2, y: this.height / 2, fitted: true });
    if (!this.size) return;
    this.scale = this.fitting;
    this.place();
  }

  // `scale`: pixels of the page for one of the original; `x`, `y`: what stands in the middle.
  zoomTo(scale, around = null) {
    const next = within(scale, Math.min(this.fitting, 1) / 2, MAX_ZOOM);
    if (around) {
      const before = this.at(around);
      this.scale = next;
      const after = this.at(around);
      this.x += before.x - after.x;
      this.y += before.y - after.y;
    } else this.scale = next;
    this.fitted = Math.abs(this.scale / this.fitting - 1) < 0.001;
    this.place();
  }

  pan(dx, dy) {
    const inverse = this.matrix().inverse();
    this.x -= inverse.a * dx + inverse.c * dy;
    this.y -= inverse.b * dx + inverse.d * dy;
    this.fitted = false;
    this.place();
  }

  // From pixels of the original to those of the screen.
  matrix() {
    return new DOMMatrix()
      .translate(this.size.w / 2, this.size.h / 2)
      .scale(this.mirrored ? -this.scale : this.scale, this.scale)
      .rotate(this.turn)
      .translate(-this.x, -this.y);
  }

  rotate(by) {
    this.turn = (this.turn + (this.mirrored ? -by : by) + 360) % 360;
    if (this.fitted) this.fit(); else this.place();
  }

  // Left for right, or upside down; the same again undoes it.
  flip(vertical = false) {
    this.mirrored = !this.mirrored;
    if (vertical) this.turn = (this.turn + 180) % 360;
    if (vertical && this.fitted) this.fit(); else this.place();
  }

  straighten() {
    Object.assign(this, { turn: 0, mirrored: false });
    this.fit();
  }

  place() {
    this.x = within(this.x, 0, this.width);
    this.y = within(this.y, 0, this.height);
    const { a, b, c, d, e, f } = this.matrix();
    this.space.setAttribute("transform", `matrix(${a} ${b} ${c} ${d} ${e} ${f})`);
    this.drawMeasured();
    this.label();
    if (this.scale * this.sharp * this.width > this.pixelsWide && !this.wantsDeep) this.deepen();
    this.held = null;
    this.coarse = true; // while it moves; smooth again once it stands still
    clearTimeout(this.settling);
    this.settling = setTimeout(() => { this.coarse = false; this.held = null; this.draw(); }, SETTLE);
    this.draw();
    this.viewer.tell(this);
  }

  get pixelsWide() { return 1.15 * (this.pixels?.levels[0].width ?? Infinity); }

  label() {
    const said = [];
    if (this.mirrored) said.push("flipped");
    if (this.turn) said.push(`turned ${this.turn}°`);
    this.turned.hidden = !said.length;
    this.part("turned-words").textContent = said.join(", ");
    const known = this.pixels?.orientation ?? [];
    const other = (letters) => [...letters].map((letter) => OPPOSITE[letter] ?? "").join("");
    const [row, column] = known.length === 2 ? known : ["", ""];
    // as the file has it: top, right, bottom, left; then turned clockwise, then mirrored
    const edges = [other(column), row, column, other(row)];
    const shown = edges.map((_, n) => edges[(n - this.turn / 90 + 4) % 4]);
    if (this.mirrored) [shown[1], shown[3]] = [shown[3], shown[1]];
    this.letters.forEach((letter, n) => { letter.textContent = shown[n]; });
  }

  // what is drawn

  draw() {
    if (this.waiting) return;
    this.waiting = true;
    requestAnimationFrame(() => { this.waiting = false; this.paint(); });
  }

  // Which value each pixel of the screen shows, plus one; 0 beside the picture. Kept while only the window moves.
  sample(matrix, columns, rows, level, held, coarse = false) {
    const inverse = matrix.inverse();
    const [kx, ky] = [level.width / this.width, level.height / this.height];
    const { values, width, height } = level;
    const [ax, ay, bx, by] = [inverse.a * kx, inverse.b * ky, inverse.c * kx, inverse.d * ky];
    const [x0, y0] = [inverse.e * kx - 0.5, inverse.f * ky - 0.5];
    if (coarse) {
      for (let row = 0, at = 0; row < rows; row += 1) {
        let x = x0 + 0.5 + ax * 0.5 + bx * (row + 0.5);
        let y = y0 + 0.5 + ay * 0.5 + by * (row + 0.5);
        for (let column = 0; column < columns; column += 1, at += 1, x += ax, y += ay) {
          held[at] = x < 0 || y < 0 || x >= width || y >= height ? 0 : values[(y | 0) * width + (x | 0)] + 1;
        }
      }
      return;
    }
    for (let row = 0, at = 0; row < rows; row += 1) {
      let x = x0 + ax * 0.5 + bx * (row + 0.5);
      let y = y0 + ay * 0.5 + by * (row + 0.5);
      for (let column = 0; column < columns; column += 1, at += 1, x += ax, y += ay) {
        if (x < -0.5 || y < -0.5 || x > width - 0.5 || y > height - 0.5) { held[at] = 0; continue; }
        const left = x < 0 ? 0 : x | 0;
        const top = y < 0 ? 0 : y | 0;
        const fx = x < left ? 0 : x - left;
        const fy = y < top ? 0 : y - top;
        const i = top * width + left;
        const right = left + 1 < width ? 1 : 0;
        const down = top + 1 < height ? width : 0;
        const upper = values[i] + (values[i + right] - values[i]) * fx;
        const lower = values[i + down] + (values[i + down + right] - values[i + down]) * fx;
        held[at] = (upper + (lower - upper) * fy + 1.5) | 0;
      }
    }
  }

  table() {
    const { low, high, curve } = this.window;
    const table = new Uint32Array(this.pixels.most + 2);
    table[0] = BACKGROUND;
    const slope = 255 / Math.max(high - low, 1e-6);
    for (let value = 0; value <= this.pixels.most; value += 1) {
      let grey = within(Math.round((value - low) * slope), 0, 255);
      if (curve) grey = curve[grey];
      if (this.inverted) grey = 255 - grey;
      table[value + 1] = 0xff000000 | (grey << 16) | (grey << 8) | grey;
    }
    return table;
  }

  paint() {
    if (!this.pixels || !this.size || !this.shown) return;
    const { width: columns, height: rows } = this.canvas;
    if (!this.held) {
      if (this.buffer?.length !== columns * rows) {
        this.buffer = new Int32Array(columns * rows);
        this.picture = this.context.createImageData(columns, rows);
        this.words = new Uint32Array(this.picture.data.buffer);
      }
      const level = this.pixels.level((this.scale * this.sharp * this.width) / this.pixels.levels[0].width);
      this.sample(new DOMMatrix().scale(this.sharp).multiply(this.matrix()), columns, rows, level, this.buffer, this.coarse);
      this.held = this.buffer;
    }
    const table = this.table();
    const { held, words } = this;
    for (let i = 0; i < words.length; i += 1) words[i] = table[held[i]];
    this.context.putImageData(this.picture, 0, 0);
    this.frames = (this.frames ?? 0) + 1;
  }

  // black and white

  setWindow(window, touched = true) {
    const most = this.pixels?.most ?? 255;
    const width = Math.max(window.high - window.low, Math.max(1, most / 512));
    const middle = within((window.low + window.high) / 2, -most / 2, 1.5 * most);
    this.window = { curve: null, name: "", ...window, low: middle - width / 2, high: middle + width / 2 };
    if (touched) this.untouched = false;
    this.draw();
    this.viewer.tell(this);
  }

  shade(dx, dy) {
    if (!this.pixels) return;
    const { low, high, curve } = this.window;
    const step = (this.pixels.windows[0].high - this.pixels.windows[0].low) / 400;
    const [width, middle] = [high - low + dx * step, (low + high) / 2 + dy * step];
    this.setWindow({ low: middle - Math.max(width, 1) / 2, high: middle + Math.max(width, 1) / 2, curve });
  }

  invert() {
    this.inverted = !this.inverted;
    this.draw();
    this.viewer.tell(this);
  }

  // places

  at(point) {
    const inverse = this.matrix().inverse();
    return { x: inverse.a * point.x + inverse.c * point.y + inverse.e, y: inverse.b * point.x + inverse.d * point.y + inverse.f };
  }

  inside(event) {
    const box = this.screen.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  onPicture(event) {
    const place = this.at(this.inside(event));
    return { x: within(place.x, 0, this.width), y: within(place.y, 0, this.height) };
  }

  // distances

  length({ from, to }) {
    const [dx, dy] = [to.x - from.x, to.y - from.y];
    const spacing = this.pixels?.spacing;
    if (!spacing) return `${Math.round(Math.hypot(dx, dy))} px`;
    const plane = { detector: " at the detector", film: " on the film" }[this.pixels.plane] ?? "";
    return `${figures(Math.hypot(dx * spacing[1], dy * spacing[0]))} mm${plane}`;
  }

  drawMeasured() {
    this.measured.replaceChildren();
    const matrix = this.matrix();
    for (const line of this.lines) {
      const [from, to] = [line.from, line.to].map(({ x, y }) => new DOMPoint(x, y).matrixTransform(matrix));
      for (const kind of ["under", "over"]) make(this.measured, "line", { class: kind, x1: from.x, y1: from.y, x2: to.x, y2: to.y });
      const words = make(this.measured, "text", { x: within(to.x + 8, 4, this.size.w - 150), y: within(to.y - 6, 14, this.size.h - 4) });
      words.textContent = this.length(line);
    }
  }

  // the magnifying glass

  magnify(event) {
    if (!this.pixels) return;
    const { size, times } = GLASS;
    if (!this.glass) {
      this.glass = document.createElement("canvas");
      this.glass.className = "glass";
      this.glass.width = this.glass.height = size;
      this.screen.append(this.glass);
    }
    const point = this.inside(event);
    this.glass.hidden = false;
    this.glass.style.translate = `${point.x - size / 2}px ${point.y - size / 2}px`;
    const scale = Math.max(this.scale * times, Math.min(1, this.scale * 2 * times));
    const matrix = new DOMMatrix().translate(size / 2, size / 2).scale(scale / this.scale).translate(-point.x, -point.y).multiply(this.matrix());
    const held = new Int32Array(size * size);
    this.sample(matrix, size, size, this.pixels.level((scale * this.width) / this.pixels.levels[0].width), held);
    const context = this.glass.getContext("2d");
    const picture = context.createImageData(size, size);
    const words = new Uint32Array(picture.data.buffer);
    const table = this.table();
    for (let i = 0; i < words.length; i += 1) words[i] = table[held[i]];
    context.putImageData(picture, 0, 0);
  }

  // mouse and fingers

  listen() {
    this.screen.addEventListener("wheel", (event) => {
      event.preventDefault();
      const unit = [1, 16, 400][event.deltaMode];
      const delta = within(event.deltaY * unit, -240, 240);
      this.viewer.act(this, (one, centre) => one.zoomTo(one.scale * Math.exp(-delta * 0.0016), centre), this.inside(event));
    }, { passive: false });
    this.screen.addEventListener("contextmenu", (event) => event.preventDefault());
    this.screen.addEventListener("pointerdown", (event) => this.down(event));
    this.screen.addEventListener("pointermove", (event) => this.move(event));
    for (const name of ["pointerup", "pointercancel"]) this.screen.addEventListener(name, (event) => this.up(event));
    this.screen.addEventListener("dblclick", () => this.viewer.oneUp(this));
    this.screen.addEventListener("focusin", () => this.viewer.stand(this));
    this.turned.querySelector("button").addEventListener("click", () => this.straighten());
  }

  down(event) {
    this.viewer.stand(this);
    if (event.target.closest("button")) return;
    if (event.pointerType === "mouse") event.preventDefault(); // no scrolling by the middle button, no selection
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    this.tool = { 1: "pan", 2: "zoom" }[event.button] ?? this.viewer.tool;
    if (event.shiftKey && event.button === 0) this.tool = "pan";
    if (event.pointerType === "touch" && this.tool === "window") this.tool = this.fitted ? "none" : "pan";
    if (this.pointers.size > 1) this.tool = "pinch";
    if (this.viewer.marker) this.viewer.marker.begin(this, this.onPicture(event), event);
    else if (this.tool === "measure") {
      const place = this.onPicture(event);
      this.lines.push({ from: place, to: place });
      this.deepen();
    } else if (this.tool === "magnify") { this.deepen(); this.magnify(event); }
    this.from = this.inside(event);
    if (event.pointerType === "mouse" && !this.viewer.marker) this.screen.setPointerCapture(event.pointerId);
  }

  move(event) {
    const before = this.pointers.get(event.pointerId);
    if (!before) return;
    if (this.viewer.marker) { this.viewer.marker.extend(this.onPicture(event)); return; }
    const dx = event.clientX - before.x;
    const dy = event.clientY - before.y;
    if (this.tool === "pinch") {
      const other = [...this.pointers].find(([id]) => id !== event.pointerId)?.[1];
      if (!other) return;
      const far = (place) => Math.max(1, Math.hypot(place.x - other.x, place.y - other.y));
      const times = far({ x: event.clientX, y: event.clientY }) / far(before);
      this.viewer.act(this, (one, centre) => one.zoomTo(one.scale * times, centre), this.inside(event));
    } else if (this.tool === "pan") this.viewer.act(this, (one) => one.pan(dx, dy));
    else if (this.tool === "zoom") this.viewer.act(this, (one, centre) => one.zoomTo(one.scale * Math.exp(-dy * 0.008), centre), this.from);
    else if (this.tool === "window") this.viewer.act(this, (one) => one.shade(dx, dy));
    else if (this.tool === "magnify") this.magnify(event);
    else if (this.tool === "measure") {
      this.lines.at(-1).to = this.onPicture(event);
      this.drawMeasured();
    }
    this.pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
  }

  up(event) {
    this.pointers.delete(event.pointerId);
    if (this.glass) this.glass.hidden = true;
    if (this.tool === "measure") {
      const { from, to } = this.lines.at(-1) ?? {};
      if (from && Math.hypot(to.x - from.x, to.y - from.y) * this.scale < 3) this.lines.pop();
      this.drawMeasured();
    }
    this.tool = null;
  }
}

// All pictures of a page: which are shown, which one the buttons and keys are for, what a person chose before.
class Viewer {
  constructor(root) {
    this.root = root;
    this.tool = "window";
    this.marker = null;
    this.chosen = { map: 50, outlines: true, two: false, linked: true, ...JSON.parse(root.dataset.chosen) };
    this.loud = this.chosen.map || 50;
    this.controls = this.part("controls");
    this.controls.hidden = false;
    this.all = [...root.querySelectorAll("[data-viewport]")].map((figure) => new Viewport(this, figure));
    const first = this.all.find((one) => one.root.hasAttribute("data-first")) ?? this.all[0];
    this.active = first;
    this.makeStrip();
    this.listen();
    this.choose({});
    this.show(this.chosen.two && this.all.length > 1 ? [first, this.all.find((one) => one !== first)] : [first]);
    new ResizeObserver(() => { for (const one of this.shown) one.resize(); }).observe(this.part("viewports"));
    this.byAddress();
    window.addEventListener("hashchange", () => this.byAddress());
  }

  part(name) { return this.root.querySelector(`[data-${name}]`); }

  byAddress() {
    const wanted = this.all.find((one) => `#${one.root.id}` === location.hash);
    if (wanted) this.pick(wanted);
  }

  makeStrip() {
    const strip = this.part("strip");
    if (this.all.length < 2) return;
    strip.hidden = false;
    this.thumbs = new Map(this.all.map((one) => {
      const button = document.createElement("button");
      button.type = "button";
      button.className = "thumb";
      const picture = new Image();
      picture.loading = "lazy";
      picture.src = one.addresses.display;
      picture.alt = "";
      const words = document.createElement("span");
      words.textContent = one.root.dataset.words;
      button.append(picture, words);
      button.addEventListener("click", () => this.pick(one));
      strip.append(button);
      return [one, button];
    }));
  }

  // Put a picture into the place of the one that one stands on.
  pick(one) {
    if (!this.shown.includes(one)) this.show(this.shown.map((other) => (other === this.active ? one : other)), one);
    else this.stand(one);
    this.thumbs?.get(one).scrollIntoView({ block: "nearest", inline: "nearest" });
  }

  show(shown, active = shown.includes(this.active) ? this.active : shown[0]) {
    this.shown = shown;
    for (const one of this.all) {
      one.root.hidden = !shown.includes(one);
      if (one.root.hidden) one.shown = false;
    }
    this.part("viewports").classList.toggle("two", shown.length > 1);
    const two = this.part("two");
    if (two) two.setAttribute("aria-pressed", String(shown.length > 1));
    this.stand(active);
    for (const one of shown) one.show();
  }

  stand(one) {
    this.active = one;
    for (const other of this.all) other.root.toggleAttribute("data-active", other === one && this.shown.length > 1);
    for (const [other, button] of this.thumbs ?? []) {
      if (this.shown.includes(other)) button.setAttribute("aria-current", other === one ? "true" : "false");
      else button.removeAttribute("aria-current");
      button.classList.toggle("on", this.shown.includes(other));
    }
    this.tell(one);
  }

  // Do it to a picture, and to the other one that is linked with it; `centre` is a place on the screen.
  act(one, deed, centre = null) {
    deed(one, centre);
    if (!this.chosen.linked) return;
    for (const other of this.shown) {
      if (other === one || !other.size) continue;
      deed(other, centre && { x: (centre.x / one.size.w) * other.size.w, y: (centre.y / one.size.h) * other.size.h });
    }
  }

  oneUp(one) {
    if (this.shown.length > 1) { this.pair = this.shown; this.show([one]); }
    else if (this.pair?.includes(one)) this.show(this.pair, one);
    else if (this.all.length < 2) this.act(one, (it) => it.fit());
    else this.toggleTwo();
  }

  toggleTwo() {
    if (this.all.length < 2) return;
    const beside = this.all[(this.all.indexOf(this.active) + 1) % this.all.length];
    const order = [this.active, beside].sort((a, b) => this.all.indexOf(a) - this.all.indexOf(b));
    this.show(this.shown.length > 1 ? [this.active] : order);
    this.choose({ two: this.shown.length > 1 });
  }

  step(by) {
    const next = this.all[this.all.indexOf(this.active) + by];
    if (next) this.pick(next);
  }

  // what the person chose, kept for the next page

  choose(said) {
    Object.assign(this.chosen, said);
    const { map, outlines, linked } = this.chosen;
    if (map) this.loud = map;
    for (const one of this.all) {
      if (one.heat) one.heat.style.opacity = map / 100;
      one.part("outlines").style.display = outlines && map ? "" : "none";
      one.part("suspected").style.display = outlines ? "" : "none";
    }
    const [slider, lines, link] = ["opacity", "toggle-outlines", "linked"].map((name) => this.part(name));
    if (slider) slider.value = map;
    if (lines) lines.checked = outlines;
    if (link) link.checked = linked;
    if (!Object.keys(said).length || !this.root.dataset.keep) return;
    clearTimeout(this.keeping);
    this.keeping = setTimeout(() => this.keep(), 400);
  }

  keep() {
    this.keeping = null;
    const { map, outlines, two, linked } = this.chosen;
    const body = new URLSearchParams({ map, outlines, two, linked });
    fetch(this.root.dataset.keep, { method: "POST", keepalive: true, headers: { "X-CSRF-Token": csrf }, body }).catch(() => null); // only a habit
  }

  setTool(name) {
    this.tool = name;
    for (const button of this.root.querySelectorAll("[data-tool]")) button.setAttribute("aria-pressed", String(button.dataset.tool === name));
    this.part("viewports").dataset.using = name;
  }

  listen() {
    const all = (deed) => () => this.act(this.active, deed);
    const acts = {
      in: all((one) => one.zoomTo(one.scale * 1.25)), out: all((one) => one.zoomTo(one.scale / 1.25)), fit: all((one) => one.fit()),
      full: all((one) => one.zoomTo(1)), left: all((one) => one.rotate(-90)), right: all((one) => one.rotate(90)),
      mirror: all((one) => one.flip()), tumble: all((one) => one.flip(true)), invert: all((one) => one.invert()),
      clear: all((one) => { one.lines = []; one.drawMeasured(); }), reset: all((one) => { one.lines = []; one.reset(); one.draw(); }),
      two: () => this.toggleTwo(),
    };
    this.acts = acts;
    for (const button of this.root.querySelectorAll("[data-do]")) button.addEventListener("click", acts[button.dataset.do]);
    for (const button of this.root.querySelectorAll("[data-tool]")) button.addEventListener("click", () => this.setTool(button.dataset.tool));
    this.setTool("window");
    const [width, level, preset] = ["window", "level", "preset"].map((name) => this.part(name));
    for (const slider of [width, level]) {
      slider.addEventListener("input", () => {
        const [w, l] = [Math.max(1, Number(width.value)) / 1000, Number(level.value) / 1000];
        this.act(this.active, (one) => {
          const most = one.pixels?.most ?? 255;
          one.setWindow({ low: (l - w / 2) * most, high: (l + w / 2) * most });
        });
      });
    }
    preset.addEventListener("change", () => this.usePreset(preset.value));
    this.part("opacity")?.addEventListener("input", (event) => this.choose({ map: Number(event.target.value) }));
    this.part("toggle-outlines")?.addEventListener("change", (event) => this.choose({ outlines: event.target.checked }));
    this.part("linked")?.addEventListener("change", (event) => this.choose({ linked: event.target.checked }));
    document.addEventListener("keydown", (event) => this.key(event));
    window.addEventListener("pagehide", () => { if (this.keeping) this.keep(); });
  }

  usePreset(name) {
    this.act(this.active, (one) => {
      const wanted = one.pixels?.presets().find((preset) => preset.name === name);
      if (wanted) one.setWindow(wanted, wanted !== one.pixels.windows[0]);
    });
  }

  nextPreset() {
    const known = this.active.pixels?.presets() ?? [];
    if (!known.length) return;
    const now = known.findIndex(({ name }) => name === this.active.window.name);
    this.usePreset(known[(now + 1) % known.length].name);
  }

  // The toolbar says what holds for the picture that one stands on.
  tell(one) {
    if (one.told && one.pixels && one.window) {
      const { low, high } = one.window;
      const near = (value) => Math.round(value);
      one.told.textContent = `W ${near(high - low)} L ${near((low + high) / 2)}\n${one.pixels.bits} bit${one.size ? ` · ${Math.round(100 * one.scale)}%` : ""}`;
    }
    if (one !== this.active || !one.size) return;
    this.part("zoom").textContent = `${Math.round(100 * one.scale)}%`;
    this.part("invert").setAttribute("aria-pressed", String(one.inverted));
    if (!one.pixels) return;
    const scale = 1000 / one.pixels.most;
    this.part("window").value = (one.window.high - one.window.low) * scale;
    this.part("level").value = ((one.window.low + one.window.high) / 2) * scale;
    const preset = this.part("preset");
    const names = one.pixels.presets().map(({ name }) => name);
    if (preset.dataset.names !== names.join("|")) {
      preset.dataset.names = names.join("|");
      preset.replaceChildren(new Option("Own", ""), ...names.map((name) => new Option(name, name)));
    }
    preset.value = names.includes(one.window.name) ? one.window.name : "";
  }

  key(event) {
    const { target } = event;
    if (target.closest("input:not([type=radio], [type=checkbox], [type=range]), select, textarea")) return;
    if (event.ctrlKey || event.metaKey || event.altKey || localStorage.getItem("fractureai-keys-off")) return;
    const onControl = target.closest("input, button, a, summary");
    if (event.key === " " && onControl) return;
    if (event.key.startsWith("Arrow") && target.closest("input")) return;
    const one = this.active;
    const arrow = (x, y, by) => () => {
      if (event.shiftKey) this.act(one, (it) => it.shade(8 * x, -8 * y));
      else if (one.fitted) { if (by) this.step(by); else return false; }
      else this.act(one, (it) => it.pan(-0.1 * x * it.size.w, -0.1 * y * it.size.h));
      return true;
    };
    const acts = {
      "+": this.acts.in, "-": this.acts.out, "=": this.acts.fit, 0: this.acts.full, " ": this.acts.reset,
      r: this.acts.right, l: this.acts.left, h: this.acts.mirror, v: this.acts.tumble, i: this.acts.invert,
      m: () => this.choose({ map: this.chosen.map ? 0 : this.loud }), o: () => this.choose({ outlines: !this.chosen.outlines }),
      p: () => this.nextPreset(), t: () => this.toggleTwo(),
      w: () => this.setTool("window"), d: () => this.setTool("measure"), g: () => this.setTool("magnify"),
      ArrowLeft: arrow(-1, 0, -1), ArrowRight: arrow(1, 0, 1), ArrowUp: arrow(0, -1, 0), ArrowDown: arrow(0, 1, 0),
      "[": () => this.step(-1), "]": () => this.step(1), Delete: this.acts.clear,
    };
    const act = acts[event.key];
    if (!act || !one.size || act() === false) return;
    event.preventDefault();
  }
}

const viewerRoot = document.querySelector("[data-viewer]");
const viewer = viewerRoot && viewerRoot.querySelector("[data-viewport]") ? new Viewer(viewerRoot) : null;

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
    document.addEventListener("pointerup", () => { if (this.viewport) this.toggle(false); });
    this.draw();
  }

  toggle(on = this.button.getAttribute("aria-pressed") !== "true") {
    this.button.setAttribute("aria-pressed", String(on));
    this.viewport = null;
    viewer.marker = on ? this : null;
    viewer.part("viewports").classList.toggle("marking", on);
  }

  begin(viewport, place, event) {
    event.preventDefault();
    this.viewport = viewport;
    this.from = place;
    this.extend(place);
  }

  extend(place) {
    if (!this.viewport) return;
    const left = Math.round(Math.min(this.from.x, place.x));
    const top = Math.round(Math.min(this.from.y, place.y));
    const width = Math.round(Math.abs(this.from.x - place.x));
    const height = Math.round(Math.abs(this.from.y - place.y));
    const point = Math.max(width, height) * this.viewport.scale < 6; // a hand is never quite still
    const values = { image_id: this.viewport.image, x: left, y: top, width: point ? 0 : width, height: point ? 0 : height };
    for (const [name, value] of Object.entries(values)) this.fields[name].value = value;
    this.draw();
  }

  draw() {
    this.drawn?.remove();
    const { image_id: image, x, y, width, height } = this.fields;
    const viewport = viewer.all.find((one) => one.image === image.value);
    if (!viewport || x.value === "" || y.value === "") return;
    const marks = viewport.part("marks");
    if (Number(width.value) || Number(height.value)) {
      this.drawn = make(marks, "rect", { x: x.value, y: y.value, width: width.value || 0, height: height.value || 0 });
    } else {
      const arm = viewport.width / 40;
      this.drawn = make(marks, "path", { d: `M${x.value - arm} ${y.value}h${2 * arm}M${x.value} ${y.value - arm}v${2 * arm}` });
    }
    this.drawn.classList.add("new");
  }
}

const review = document.querySelector("[data-review]");
if (viewer && review?.querySelector("[data-mark]")) new Marker(review);

// Enter in the password's field signs: the form's first button would record without a signature.
review?.querySelector("[data-password]")?.addEventListener("keydown", (event) => {
  if (event.key !== "Enter") return;
  event.preventDefault();
  review.querySelector("[name=sign]").click();
});

// Keys of the page: 1 to 4 choose an answer, n goes on, u back to the list.
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input:not([type=radio], [type=checkbox], [type=range]), select, textarea");
  if (typing || event.ctrlKey || event.metaKey || event.altKey || localStorage.getItem("fractureai-keys-off")) return;
  const answer = review?.querySelectorAll("[data-answer]")[Number(event.key) - 1];
  if (answer) {
    answer.checked = true;
    answer.focus();
  } else if (event.key === "n") document.querySelector("[data-next]")?.click();
  else if (event.key === "u") document.querySelector("[data-back]")?.click();
  else if (event.key === "z") document.querySelector("[data-done] button")?.click();
  else return;
  event.preventDefault();
});
