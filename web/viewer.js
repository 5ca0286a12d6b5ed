/* A viewer of one picture, or of two to compare: zoom, pan, divider, flicker, difference. It imports nothing, so that a
 * page may also hold it inline.
 *
 *   const viewer = new Viewer(element);                // fills the element, which must have a size
 *   viewer.show({source, width, height, label, transparent});   // source: anything that drawImage takes
 *   viewer.compare({source, width, height, label});   // a second one of equal size, on the left; null takes it away
 *   viewer.mode = "difference";                       // "divider" (at first), "flicker" or "difference"
 *   viewer.fit(); viewer.actualSize(); viewer.zoomBy(2);
 *   viewer.addEventListener("change", () => viewer.zoom);
 *
 * `zoom` counts device pixels for each pixel of the picture: at 1 every pixel is one of the screen, whatever the screen's
 * devicePixelRatio; above 1 pixels are drawn as squares. `width` and `height` are the picture's; a source of fewer pixels
 * (a coarse picture) is stretched. Pixels are only drawn, never read: pictures of other origins can be compared as well.
 * Wheel, pinch, drag and double click work by themselves; keys where the viewer has the focus, or by `viewer.key(event)`.
 */

const MAX_ZOOM = 64;
const STEPS = [1 / 64, 1 / 32, 1 / 16, 1 / 12, 1 / 8, 1 / 6, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64];
const PAN_STEP = 80; // CSS pixels a key press
const SETTLED_MS = 160; // without a change for so long, the picture is drawn at the best quality
const CHECK_SIDE = 8; // CSS pixels of a square of the pattern behind transparent pictures

const STYLE = `
.looc-viewer { position: relative; overflow: hidden; user-select: none; -webkit-user-select: none; }
.looc-viewer canvas { position: absolute; inset: 0; width: 100%; height: 100%; display: block; cursor: grab; }
.looc-viewer canvas:active { cursor: grabbing; }
.looc-viewer canvas:focus-visible { outline: 2px solid var(--accent, Highlight); outline-offset: -2px; }
.looc-viewer-divider { position: absolute; width: 44px; margin-left: -22px; cursor: ew-resize; touch-action: none; outline: none; }
.looc-viewer-divider::before { content: ""; position: absolute; left: 21px; top: 0; bottom: 0; width: 2px; background: #fff; box-shadow: 0 0 3px #000a; }
.looc-viewer-divider::after { content: ""; position: absolute; left: 6px; top: 50%; width: 32px; height: 32px; margin-top: -16px; border-radius: 50%;
  background: linear-gradient(#333 0 0) 13px 11px / 1.5px 10px no-repeat, linear-gradient(#333 0 0) 17.5px 11px / 1.5px 10px no-repeat, #fff; box-shadow: 0 1px 4px #0008; }
.looc-viewer-divider:focus-visible::after { box-shadow: 0 0 0 3px var(--accent, Highlight), 0 1px 4px #0008; }
.looc-viewer-label { position: absolute; padding: 2px 8px; border-radius: 4px; background: #000a; color: #fff;
  font: 12px/1.5 system-ui, sans-serif; white-space: nowrap; overflow: hidden; text-overflow: ellipsis; pointer-events: none; }
.looc-viewer [hidden] { display: none; }
`;

export class Viewer extends EventTarget {
  #host; #canvas; #context; #divider; #leftLabel; #rightLabel; #observer; #inPage;
  #picture = null;
  #other = null;
  #mode = "divider";
  #gain = 8;
  #otherShown = false; // flicker
  #split = 0.5; // the divider's place, as a fraction of the picture's visible part
  #difference = null; // {canvas, gain}
  #zoom = 1;
  #centre = { x: 0, y: 0 }; // of the view, in pixels of the picture
  #fitted = true; // zoom follows the size of the element
  #enlarge = false;
  #frame = 0;
  #settling = 0;
  #pointers = new Map();

  /**
   * @param {HTMLElement} host  gets a canvas and a divider
   * @param {{inPage?: boolean}} options  inPage: the viewer is a part of a page that scrolls, so the wheel zooms with
   *   Ctrl only, and a finger scrolls the page while the whole picture is seen
   */
  constructor(host, { inPage = false } = {}) {
    super();
    adoptStyle();
    this.#host = host;
    this.#inPage = inPage;
    host.classList.add("looc-viewer");
    this.#canvas = element("canvas", { tabIndex: 0 });
    this.#canvas.setAttribute("role", "img");
    const wide = matchMedia("(color-gamut: p3)").matches;
    this.#context = this.#canvas.getContext("2d", { colorSpace: wide ? "display-p3" : "srgb" });
    this.#divider = element("div", { className: "looc-viewer-divider", tabIndex: 0, hidden: true });
    for (const [name, value] of Object.entries({ role: "slider", "aria-label": "Divider", "aria-valuemin": 0, "aria-valuemax": 100 })) {
      this.#divider.setAttribute(name, value);
    }
    this.#leftLabel = element("div", { className: "looc-viewer-label", hidden: true });
    this.#rightLabel = element("div", { className: "looc-viewer-label", hidden: true });
    host.append(this.#canvas, this.#divider, this.#leftLabel, this.#rightLabel);
    this.#listen();
  }

  /** The part of the viewer that takes the focus. */
  get canvas() { return this.#canvas; }
  get zoom() { return this.#zoom; }
  get fitted() { return this.#fitted; }
  get mode() { return this.#mode; }
  /** How many times larger than it is the difference is shown: a power of two. */
  get gain() { return this.#gain; }
  /** Whether a flicker shows the second picture at the moment. */
  get otherShown() { return this.#otherShown; }
  /** The part of the visible picture that lies left of the divider, 0 to 1. */
  get split() { return this.#split; }

  set mode(mode) {
    if (!["divider", "flicker", "difference"].includes(mode)) throw new RangeError(`no mode ${mode}`);
    this.#mode = mode;
    this.#otherShown = false;
    this.#changed();
  }

  set gain(gain) {
    this.#gain = gain;
    this.#changed();
  }

  set split(split) {
    this.#split = Math.min(1, Math.max(0, split));
    this.#changed();
  }

  /** Shows a picture {source, width, height, label}, or nothing for null. The view stays where the size is the same. */
  show(picture) {
    const same = picture && this.#picture && picture.width === this.#picture.width && picture.height === this.#picture.height;
    this.#picture = picture;
    this.#difference = null;
    if (!same) {
      this.#other = null;
      this.#otherShown = false;
      this.fit({ enlarge: false });
    }
    this.#changed();
  }

  /** A second picture of the size of the first, or null. RangeError for one of another size. */
  compare(other) {
    if (other && !(this.#picture && other.width === this.#picture.width && other.height === this.#picture.height)) {
      throw new RangeError("pictures of different sizes cannot be compared");
    }
    this.#other = other;
    this.#otherShown = false;
    this.#difference = null;
    this.#changed();
  }

  /** Flicker: the other of the two pictures. */
  swap() {
    if (!this.#other) return;
    const shown = !this.#otherShown;
    if (this.#mode !== "flicker") this.mode = "flicker";
    this.#otherShown = shown;
    this.#changed();
  }

  /** The whole picture; with `enlarge` small ones fill the element, too. */
  fit({ enlarge = true } = {}) {
    this.#fitted = true;
    this.#enlarge = enlarge;
    this.#changed();
  }

  /** One pixel of the screen for each of the picture. `at` {x, y}, in CSS pixels of the element, stays where it is. */
  actualSize(at) {
    this.#zoomTo(1, at);
  }

  zoomBy(factor, at) {
    this.#zoomTo(this.#zoom * factor, at);
  }

  /** To the next of some even steps: 1 for larger, -1 for smaller. */
  zoomStep(direction) {
    const steps = direction > 0 ? STEPS : [...STEPS].reverse();
    const next = steps.find((step) => direction * (step - this.#zoom) > 0.001 * this.#zoom);
    if (next) this.#zoomTo(next);
  }

  /** Moves the view, in CSS pixels. */
  panBy(x, y) {
    const scale = this.#scale() / this.#zoom;
    this.#centre.x += x * scale;
    this.#centre.y += y * scale;
    this.#changed();
  }

  /** Handles a key; whether it was one of the viewer's. */
  key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.#picture) return false;
    const pans = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    if (event.key in pans) this.panBy(...pans[event.key].map((part) => part * PAN_STEP));
    else if (event.key === "+" || event.key === "=") this.zoomStep(1);
    else if (event.key === "-") this.zoomStep(-1);
    else if (event.key === "0") this.fit();
    else if (event.key === "1") this.actualSize();
    else if (this.#other && event.key === "f") this.swap();
    else if (this.#other && event.key === "v") this.mode = "divider";
    else if (this.#other && event.key === "d") this.mode = this.#mode === "difference" ? "divider" : "difference";
    else return false;
    event.preventDefault();
    return true;
  }

  /** Takes everything out of the element again. */
  destroy() {
    this.#observer.disconnect();
    cancelAnimationFrame(this.#frame);
    clearTimeout(this.#settling);
    this.#host.replaceChildren();
    this.#host.classList.remove("looc-viewer");
  }

  // --- input ---------------------------------------------------------------------------------------------------------

  #listen() {
    const canvas = this.#canvas;
    this.#observer = new ResizeObserver(([entry]) => this.#resize(entry));
    try {
      this.#observer.observe(canvas, { box: "device-pixel-content-box" });
    } catch {
      this.#observer.observe(canvas); // Safari
    }
    canvas.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    canvas.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      canvas.setPointerCapture(event.pointerId);
      this.#pointers.set(event.pointerId, this.#place(event));
    });
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
      canvas.addEventListener(type, (event) => this.#pointers.delete(event.pointerId));
    }
    canvas.addEventListener("dblclick", (event) => (this.#fitted ? this.actualSize(this.#place(event)) : this.fit({ enlarge: false })));
    canvas.addEventListener("keydown", (event) => this.key(event) && event.stopPropagation());
    const divider = this.#divider;
    divider.addEventListener("pointerdown", (event) => {
      divider.setPointerCapture(event.pointerId);
      divider.focus({ preventScroll: true });
      event.preventDefault();
    });
    divider.addEventListener("pointermove", (event) => {
      if (!divider.hasPointerCapture(event.pointerId)) return;
      const { left, right } = this.#visible();
      this.split = (this.#place(event).x * this.#scale() - left) / Math.max(1, right - left);
    });
    divider.addEventListener("wheel", (event) => this.#wheel(event), { passive: false });
    divider.addEventListener("keydown", (event) => {
      const step = event.shiftKey ? 0.1 : 0.01;
      const places = {
        ArrowLeft: this.#split - step, ArrowDown: this.#split - step, ArrowRight: this.#split + step, ArrowUp: this.#split + step,
        PageDown: this.#split - 0.1, PageUp: this.#split + 0.1, Home: 0, End: 1,
      };
      if (event.key in places && !event.ctrlKey && !event.altKey && !event.metaKey) {
        this.split = places[event.key];
        event.preventDefault();
        event.stopPropagation();
      }
    });
  }

  #wheel(event) {
    if (!this.#picture || (this.#inPage && !event.ctrlKey && !event.metaKey)) return;
    event.preventDefault();
    const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 16 : event.deltaMode === WheelEvent.DOM_DELTA_PAGE ? 400 : 1;
    // A pinch on a touchpad arrives as a wheel with Ctrl and small numbers.
    const speed = event.ctrlKey ? 0.01 : 0.002;
    const delta = Math.max(-250, Math.min(250, event.deltaY * lines));
    this.zoomBy(Math.exp(-delta * speed), this.#place(event));
  }

  #move(event) {
    const before = this.#pointers.get(event.pointerId);
    if (!before || !this.#picture) return;
    const now = this.#place(event);
    const others = [...this.#pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    this.#pointers.set(event.pointerId, now);
    if (others.length === 0) {
      this.panBy(before.x - now.x, before.y - now.y);
    } else if (others.length === 1) {
      const [still] = others;
      const distance = (place) => Math.hypot(place.x - still.x, place.y - still.y);
      const middle = { x: (now.x + still.x) / 2, y: (now.y + still.y) / 2 };
      if (distance(before) > 0) this.zoomBy(distance(now) / distance(before), middle);
      this.panBy((before.x - now.x) / 2, (before.y - now.y) / 2);
    }
  }

  /** Where a pointer is, in CSS pixels of the element. */
  #place(event) {
    const box = this.#canvas.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  // --- view ----------------------------------------------------------------------------------------------------------

  /** Device pixels for each CSS pixel. */
  #scale() {
    return this.#canvas.clientWidth ? this.#canvas.width / this.#canvas.clientWidth : devicePixelRatio;
  }

  #resize(entry) {
    const box = entry.devicePixelContentBoxSize?.[0];
    const width = box ? box.inlineSize : Math.round(entry.contentRect.width * devicePixelRatio);
    const height = box ? box.blockSize : Math.round(entry.contentRect.height * devicePixelRatio);
    if (width !== this.#canvas.width || height !== this.#canvas.height) {
      this.#canvas.width = width;
      this.#canvas.height = height;
      this.#draw(true); // setting the size has emptied the canvas, and it must not be seen empty
    }
  }

  #zoomTo(zoom, at) {
    if (!this.#picture) return;
    const scale = this.#scale();
    const place = at ?? { x: this.#canvas.clientWidth / 2, y: this.#canvas.clientHeight / 2 };
    const away = { x: place.x * scale - this.#canvas.width / 2, y: place.y * scale - this.#canvas.height / 2 };
    const next = Math.min(MAX_ZOOM, Math.max(Math.min(this.#wholeZoom(false), 1) / 2, zoom));
    // What lies under the place stays there.
    this.#centre.x += away.x / this.#zoom - away.x / next;
    this.#centre.y += away.y / this.#zoom - away.y / next;
    this.#zoom = next;
    this.#fitted = false;
    this.#changed();
  }

  /** The zoom at which the whole picture is seen. */
  #wholeZoom(enlarge) {
    const { width, height } = this.#picture;
    const whole = Math.min(this.#canvas.width / width, this.#canvas.height / height);
    // Small pictures are as large as an <img> would be: a pixel of CSS for each of theirs.
    return Math.min(MAX_ZOOM, enlarge ? whole : Math.min(whole, Math.max(1, this.#scale()))) || 1;
  }

  #settle() {
    if (!this.#picture) return;
    const { width, height } = this.#picture;
    if (this.#fitted) {
      this.#zoom = this.#wholeZoom(this.#enlarge);
      this.#centre = { x: width / 2, y: height / 2 };
    }
    for (const [axis, size, room] of [["x", width, this.#canvas.width], ["y", height, this.#canvas.height]]) {
      const half = room / 2 / this.#zoom;
      this.#centre[axis] = 2 * half >= size ? size / 2 : Math.min(size - half, Math.max(half, this.#centre[axis]));
    }
  }

  /** The picture's place in device pixels: whole ones, so that its pixels meet those of the screen. */
  #box() {
    const { width, height } = this.#picture;
    const left = Math.round(this.#canvas.width / 2 - this.#centre.x * this.#zoom);
    const top = Math.round(this.#canvas.height / 2 - this.#centre.y * this.#zoom);
    return { left, top, width: Math.max(1, Math.round(width * this.#zoom)), height: Math.max(1, Math.round(height * this.#zoom)) };
  }

  /** The part of the canvas that the picture covers, in device pixels. */
  #visible() {
    const box = this.#box();
    return {
      left: Math.max(0, box.left), right: Math.min(this.#canvas.width, box.left + box.width),
      top: Math.max(0, box.top), bottom: Math.min(this.#canvas.height, box.top + box.height),
    };
  }

  // --- drawing -------------------------------------------------------------------------------------------------------

  #changed() {
    clearTimeout(this.#settling);
    this.#settling = setTimeout(() => this.#draw(true), SETTLED_MS);
    if (!this.#frame) {
      this.#frame = requestAnimationFrame(() => {
        this.#frame = 0;
        this.#draw(false);
        this.dispatchEvent(new Event("change"));
      });
    }
  }

  #draw(best) {
    const context = this.#context;
    context.clearRect(0, 0, this.#canvas.width, this.#canvas.height);
    if (this.#picture && this.#canvas.width && this.#canvas.height) {
      this.#settle();
      const seen = this.#visible();
      const middle = Math.round(seen.left + this.#split * (seen.right - seen.left));
      const mode = this.#other ? this.#mode : null;
      if (mode === "difference") {
        this.#drawPart({ ...this.#picture, source: this.#differences() }, seen, best);
      } else if (mode === "divider") {
        this.#drawPart(this.#other, { ...seen, right: middle }, best);
        this.#drawPart(this.#picture, { ...seen, left: middle }, best);
      } else {
        this.#drawPart(this.#otherShown ? this.#other : this.#picture, seen, best);
      }
      this.#placeMarks(mode, seen, middle);
    }
    this.#describe();
  }

  /** A part of a picture, given in device pixels. */
  #drawPart(picture, part, best) {
    const { left, right, top, bottom } = part;
    if (right <= left || bottom <= top) return;
    const context = this.#context;
    const box = this.#box();
    context.save();
    context.beginPath();
    context.rect(left, top, right - left, bottom - top);
    context.clip();
    if (picture.transparent) this.#drawChecks(part);
    // Squares above 1:1, but for a coarse picture, which has no pixels to show.
    context.imageSmoothingEnabled = this.#zoom < 1 || (picture.source.naturalWidth ?? picture.source.width) < picture.width;
    context.imageSmoothingQuality = best ? "high" : "low";
    context.drawImage(picture.source, box.left, box.top, box.width, box.height);
    context.restore();
  }

  #drawChecks({ left, right, top, bottom }) {
    const context = this.#context;
    const side = Math.round(CHECK_SIDE * this.#scale());
    context.fillStyle = "#fff";
    context.fillRect(left, top, right - left, bottom - top);
    context.fillStyle = "#ddd";
    for (let y = Math.floor(top / side); y * side < bottom; y++) {
      for (let x = Math.floor(left / side); x * side < right; x++) {
        if ((x + y) % 2) context.fillRect(x * side, y * side, side, side);
      }
    }
  }

  /** The absolute difference of the two, on black, times the gain. */
  #differences() {
    if (this.#difference?.gain !== this.#gain) {
      const { width, height } = this.#picture;
      const canvas = element("canvas", { width, height });
      const context = canvas.getContext("2d");
      context.fillRect(0, 0, width, height);
      context.drawImage(this.#picture.source, 0, 0, width, height);
      context.globalCompositeOperation = "difference";
      context.drawImage(this.#other.source, 0, 0, width, height);
      context.globalCompositeOperation = "lighter";
      for (let gain = 1; gain < this.#gain; gain *= 2) context.drawImage(canvas, 0, 0);
      this.#difference = { canvas, gain: this.#gain };
    }
    return this.#difference.canvas;
  }

  #placeMarks(mode, seen, middle) {
    const scale = this.#scale();
    this.#divider.hidden = mode !== "divider";
    Object.assign(this.#divider.style, {
      left: `${middle / scale}px`, top: `${seen.top / scale}px`, height: `${(seen.bottom - seen.top) / scale}px`,
    });
    const top = `${seen.top / scale + 8}px`;
    Object.assign(this.#leftLabel.style, { left: `${seen.left / scale + 8}px`, top, maxWidth: `${(seen.right - seen.left) / scale / 2 - 16}px` });
    Object.assign(this.#rightLabel.style, { right: `${(this.#canvas.width - seen.right) / scale + 8}px`, top, maxWidth: this.#leftLabel.style.maxWidth });
    this.#divider.setAttribute("aria-valuenow", Math.round(100 * this.#split));
    this.#canvas.style.touchAction = this.#inPage && this.#fitted ? "pan-y" : "none";
  }

  #describe() {
    const [picture, other] = [this.#picture, this.#other];
    if (!picture) this.#divider.hidden = true;
    const left = !other ? "" : this.#mode === "difference" ? `difference × ${this.#gain}` : this.#mode === "divider" || this.#otherShown ? other.label : "";
    const right = !other || this.#mode === "difference" || (this.#mode === "flicker" && this.#otherShown) ? "" : picture.label;
    for (const [label, text] of [[this.#leftLabel, left], [this.#rightLabel, right]]) {
      label.hidden = !text;
      if (label.textContent !== text) label.textContent = text ?? "";
    }
    const words = !picture ? "No picture" : !other ? picture.label : {
      divider: `${other.label} left of the divider, ${picture.label} right of it`,
      flicker: this.#otherShown ? other.label : picture.label,
      difference: `Difference of ${other.label} and ${picture.label}, ${this.#gain} times`,
    }[this.#mode];
    if (this.#canvas.getAttribute("aria-label") !== words) this.#canvas.setAttribute("aria-label", words ?? "");
    this.#divider.setAttribute("aria-valuetext", `${Math.round(100 * this.#split)} percent ${other?.label ?? ""}`);
  }
}

let adopted = false;

/** Style sheets that are made by script need no permission of a content security policy. */
function adoptStyle() {
  if (adopted) return;
  const sheet = new CSSStyleSheet();
  sheet.replaceSync(STYLE);
  document.adoptedStyleSheets = [...document.adoptedStyleSheets, sheet];
  adopted = true;
}

function element(name, properties) {
  return Object.assign(document.createElement(name), properties);
}
