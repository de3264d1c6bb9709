// Grey values for the viewer: the picture to look at at once, then the original at full depth. No library: a
// browser's own decoder keeps 8 bits of a PNG's 16.
"use strict";

const PNG_HEAD = 8;
const SAMPLES_GREY = 0;
//: The server makes the picture when it is first asked for: milliseconds between two questions, and how many.
const ASK_AGAIN = [400, 600, 1000, 1500, 2000];
const MAX_REQUESTS = 40;

async function inflate(parts) {
  const stream = new Blob(parts).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function paeth(a, b, c) {
  const [da, db, dc] = [Math.abs(b - c), Math.abs(a - c), Math.abs(a + b - 2 * c)];
  if (da <= db && da <= dc) return a;
  return db <= dc ? b : c;
}

// Undo PNG's filters (PNG, 9.2), in place; returns the rows without their filter bytes.
function unfilter(raw, rowBytes, height, step) {
  const out = new Uint8Array(rowBytes * height);
  for (let y = 0; y < height; y += 1) {
    const kind = raw[y * (rowBytes + 1)];
    const from = y * (rowBytes + 1) + 1;
    const to = y * rowBytes;
    const above = to - rowBytes;
    for (let x = 0; x < rowBytes; x += 1) {
      const left = x >= step ? out[to + x - step] : 0;
      let guess = 0;
      if (kind === 1) guess = left;
      else if (kind !== 0) {
        const up = y ? out[above + x] : 0;
        if (kind === 2) guess = up;
        else if (kind === 3) guess = (left + up) >> 1;
        else guess = paeth(left, up, y && x >= step ? out[above + x - step] : 0);
      }
      out[to + x] = raw[from + x] + guess;
    }
  }
  return out;
}

// A grey PNG of 8 or 16 bits, with what its text chunk says of it.
async function readPng(buffer) {
  const view = new DataView(buffer);
  const parts = [];
  let head = null;
  let said = null;
  for (let at = PNG_HEAD; at + 12 <= buffer.byteLength;) {
    const length = view.getUint32(at);
    const kind = String.fromCharCode(...new Uint8Array(buffer, at + 4, 4));
    const body = at + 8;
    if (kind === "IHDR") head = { width: view.getUint32(body), height: view.getUint32(body + 4), depth: view.getUint8(body + 8), colour: view.getUint8(body + 9), woven: view.getUint8(body + 12) };
    else if (kind === "IDAT") parts.push(new Uint8Array(buffer, body, length));
    else if (kind === "tEXt") {
      const [keyword, text] = new TextDecoder("latin1").decode(new Uint8Array(buffer, body, length)).split("\0");
      if (keyword === "fractureai") said = JSON.parse(text);
    }
    at += length + 12;
  }
  if (!head || !said || head.colour !== SAMPLES_GREY || head.woven || head.depth < 8) throw new Error("not a picture at full depth");
  const step = head.depth / 8;
  const bytes = unfilter(await inflate(parts), head.width * step, head.height, step);
  let values = bytes;
  if (step === 2) {
    values = new Uint16Array(head.width * head.height);
    for (let i = 0; i < values.length; i += 1) values[i] = (bytes[2 * i] << 8) | bytes[2 * i + 1];
  }
  return { ...said, levels: [{ width: head.width, height: head.height, values }] };
}

// Half the size, each value the mean of four: what a picture is drawn from that is shown smaller.
function halved({ width, height, values }) {
  const [w, h] = [Math.max(1, width >> 1), Math.max(1, height >> 1)];
  const out = new values.constructor(w * h);
  for (let y = 0; y < h; y += 1) {
    const top = Math.min(2 * y, height - 1) * width;
    const bottom = Math.min(2 * y + 1, height - 1) * width;
    for (let x = 0; x < w; x += 1) {
      const [left, right] = [Math.min(2 * x, width - 1), Math.min(2 * x + 1, width - 1)];
      out[y * w + x] = (values[top + left] + values[top + right] + values[bottom + left] + values[bottom + right] + 2) >> 2;
    }
  }
  return { width: w, height: h, values: out };
}

class Pixels {
  constructor({ levels, bits, windows, spacing = null, plane = "", orientation = [] }) {
    Object.assign(this, { levels, bits, windows, spacing, plane, orientation });
    this.most = 2 ** bits - 1;
  }

  // The level of which the screen shows `scale` pixels for each of its own: at least half a pixel.
  level(scale) {
    let n = 0;
    for (let s = scale; s <= 0.5 && Math.min(this.levels[n].width, this.levels[n].height) > 1; s *= 2) {
      n += 1;
      if (!this.levels[n]) this.levels[n] = halved(this.levels[n - 1]);
    }
    return this.levels[n];
  }

  // Windows of the picture's own values: what is dark is air and soft tissue, what is bright is bone.
  presets() {
    if (this.known) return this.known;
    const counts = new Uint32Array(this.most + 1);
    const { values } = this.levels[this.levels.length > 2 ? 2 : 0];
    for (const value of values) counts[value] += 1;
    counts[0] = 0; // padding and the bare background
    let all = 0;
    for (const n of counts) all += n;
    const at = (share) => {
      let seen = 0;
      for (let value = 0; value <= this.most; value += 1) {
        seen += counts[value];
        if (seen >= share * all) return value;
      }
      return this.most;
    };
    const own = [
      { name: "Bone", low: at(0.45), high: at(0.998) },
      { name: "Soft tissue", low: at(0.02), high: at(0.8) },
      { name: "All values", low: 0, high: this.most },
    ].filter(({ low, high }) => high > low);
    this.known = [...this.windows, ...own.filter(({ name }) => !this.windows.some((w) => w.name === name))];
    return this.known;
  }
}

// The picture to look at, as 256 grey levels.
async function displayPixels(address) {
  const image = new Image();
  image.src = address;
  await image.decode();
  const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const { data, width, height } = context.getImageData(0, 0, canvas.width, canvas.height);
  const values = new Uint8Array(width * height);
  for (let i = 0; i < values.length; i += 1) values[i] = data[4 * i];
  return new Pixels({ levels: [{ width, height, values }], bits: 8, windows: [{ name: "As the AI read it", low: 0, high: 255 }] });
}

// The original at full depth and size; null where it cannot be had.
async function deepPixels(address) {
  for (let n = 0; n < MAX_REQUESTS; n += 1) {
    const answer = await fetch(address);
    if (answer.status === 200) return new Pixels(await readPng(await answer.arrayBuffer()));
    if (answer.status !== 202) return null;
    await sleep(ASK_AGAIN[Math.min(n, ASK_AGAIN.length - 1)]);
  }
  return null;
}
