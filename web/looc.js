/* <looc-img src="photo.looc" alt="...">: shows a .looc file in any page, as <img> shows others.
 *
 *   <script type="module" src="looc.js"></script>
 *   <looc-img src="photo.looc" alt="A jetty in a lake" width="600"><p slot="error">This picture cannot be shown.</p></looc-img>
 *
 * Attributes: `src`; `alt`; `width` and `height` in CSS pixels, by default those of the picture, of which the first bytes of the
 * file tell; `loading`: "lazy" (by default: decoded when it comes near the window) or "eager".
 * Properties: those attributes, and `complete`, `naturalWidth`, `naturalHeight`. Events: `load` and `error`, with a `message`.
 * For styles: `::part(picture)` is the canvas; what is in the slot `error` is shown where the picture cannot be, else `alt`.
 * All elements of a page share one decoder, which this module finds beside itself; the file must lie where scripts of
 * the page may fetch it.
 */

import { createDecoder, LoocError, readHeader } from "./client.js";
import { bitmapOf } from "./page/bitmap.js";

const BASE = new URL("./", import.meta.url);
const FIRST_BYTES = 4096; // enough for size and colour profile of most files
const NEAR = "300px"; // what is so far from the window is decoded
const MAX_CANVAS_PIXELS = 2 ** 24; // the smallest limit of common browsers; larger pictures are shown smaller

const STYLE = `
:host { display: inline-block; position: relative; max-width: 100%; overflow: hidden; vertical-align: bottom; }
:host([hidden]) { display: none; }
canvas { position: absolute; inset: 0; width: 100%; height: 100%; object-fit: contain; }
[hidden] { display: none; }
`;
const style = new CSSStyleSheet();
style.replaceSync(STYLE);

class LoocImage extends HTMLElement {
  static observedAttributes = ["src", "alt", "width", "height", "loading"];

  #canvas = document.createElement("canvas");
  #failure = document.createElement("slot");
  #size = new CSSStyleSheet(); // of this element, below what the page's own style says
  #natural = null; // {width, height}
  #task = null; // AbortController of the file that is on its way
  #near = false;
  #state = "empty"; // "empty", "measuring", "waiting", "decoding", "loaded" or "failed"
  #bytes = null;
  #turn = 0; // of the pictures that are drawn one after another

  constructor() {
    super();
    const root = this.attachShadow({ mode: "open" });
    root.adoptedStyleSheets = [style, this.#size];
    this.#canvas.part = "picture";
    this.#canvas.setAttribute("role", "img");
    this.#failure.name = "error";
    this.#failure.hidden = true;
    this.#canvas.width = this.#canvas.height = 1;
    root.append(this.#canvas, this.#failure);
  }

  get src() { return this.hasAttribute("src") ? new URL(this.getAttribute("src"), document.baseURI).href : ""; }
  set src(text) { this.setAttribute("src", text); }
  get alt() { return this.getAttribute("alt") ?? ""; }
  set alt(text) { this.setAttribute("alt", text); }
  get loading() { return this.getAttribute("loading") === "eager" ? "eager" : "lazy"; }
  set loading(text) { this.setAttribute("loading", text); }
  get width() { return this.#given("width") ?? this.offsetWidth; }
  set width(pixels) { this.setAttribute("width", pixels); }
  get height() { return this.#given("height") ?? this.offsetHeight; }
  set height(pixels) { this.setAttribute("height", pixels); }
  get naturalWidth() { return this.#natural?.width ?? 0; }
  get naturalHeight() { return this.#natural?.height ?? 0; }
  /** Whether nothing is on its way: the picture is shown, has failed, or there is none. */
  get complete() { return ["empty", "loaded", "failed"].includes(this.#state); }

  connectedCallback() {
    nearness.observe(this);
    if (this.#state === "empty") this.#start();
  }

  disconnectedCallback() {
    nearness.unobserve(this);
    this.#near = false;
    if (!this.complete) this.#stop();
  }

  attributeChangedCallback(name, before, now) {
    if (name === "src" && before !== now && this.isConnected) {
      this.#stop();
      this.#start();
    } else if (name === "loading") this.#ask();
    else this.#layOut();
  }

  /** Called when the element comes near the window, or leaves it. */
  set near(near) {
    this.#near = near;
    this.#ask();
  }

  #start() {
    if (!this.hasAttribute("src")) return;
    this.#task = new AbortController();
    this.#measure(this.#task.signal).catch((error) => this.#fail(error));
  }

  #stop() {
    this.#task?.abort();
    queue.delete(this);
    this.#task = this.#natural = this.#bytes = null;
    this.#state = "empty";
    this.#canvas.hidden = false;
    this.#canvas.width = this.#canvas.height = 1;
    this.#failure.hidden = true;
    this.#layOut();
  }

  /** Reserves the room that the picture will take. */
  async #measure(signal) {
    this.#state = "measuring";
    const eager = this.loading === "eager" || this.#near;
    const { header, bytes } = await fetchHeader(this.src, signal, eager);
    this.#natural = { width: header.width, height: header.height };
    this.#bytes = bytes;
    this.#state = "waiting";
    this.#layOut();
    this.#ask();
  }

  #ask() {
    if (this.#state !== "waiting") return;
    if (this.#near || this.loading === "eager") queue.add(this);
    else queue.delete(this);
    next();
  }

  /** Called by the queue. */
  async decode() {
    const { signal } = this.#task;
    this.#state = "decoding";
    try {
      const bytes = this.#bytes ?? (await fetchBytes(this.src, signal));
      const decoder = await sharedDecoder();
      const decoded = await decoder.decode(bytes, {
        signal,
        onCoarse: (coarse) => this.#draw({ ...coarse, icc: readHeader(bytes).iccProfile, hasAlpha: true }, "coarse", signal),
      });
      const { width, height, data, header } = decoded;
      await this.#draw({ width, height, data, icc: header.iccProfile, hasAlpha: header.hasAlpha }, "whole", signal);
      if (signal.aborted) return;
      this.#state = "loaded";
      this.#bytes = null;
      this.dispatchEvent(new Event("load"));
    } catch (error) {
      if (!signal.aborted) this.#fail(error);
    }
  }

  async #draw(pixels, stage, signal) {
    const turn = ++this.#turn;
    const shrink = Math.min(1, Math.sqrt(MAX_CANVAS_PIXELS / (pixels.width * pixels.height)));
    const size = shrink < 1 ? { resizeWidth: Math.floor(pixels.width * shrink), resizeHeight: Math.floor(pixels.height * shrink), resizeQuality: "high" } : {};
    const bitmap = await bitmapOf(pixels, size);
    // A coarser one may be ready later.
    if (signal.aborted || turn !== this.#turn) return bitmap.close();
    this.#canvas.width = bitmap.width;
    this.#canvas.height = bitmap.height;
    this.#canvas.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
    this.#canvas.dataset.stage = stage;
  }

  #fail(error) {
    if (error.name === "AbortError") return;
    this.#state = "failed";
    this.#canvas.hidden = true;
    this.#failure.hidden = false;
    this.#layOut();
    const message = error instanceof LoocError ? error.message : `the picture could not be shown (${error.message})`;
    this.dispatchEvent(new ErrorEvent("error", { message, error }));
  }

  #layOut() {
    this.#canvas.setAttribute("aria-label", this.alt);
    this.#failure.textContent = this.alt;
    const { width, height } = (this.#state !== "failed" && this.#natural) || {};
    const [across, down] = [this.#given("width"), this.#given("height")];
    const rules = [];
    if (across && down) rules.push(`width: ${across}px`, `aspect-ratio: ${across} / ${down}`);
    else if (width) rules.push(`width: ${across ?? (down ? (down * width) / height : width)}px`, `aspect-ratio: ${width} / ${height}`);
    else if (across) rules.push(`width: ${across}px`);
    this.#size.replaceSync(`:host { ${rules.join("; ")} }`);
  }

  #given(name) {
    const number = Number.parseFloat(this.getAttribute(name));
    return number > 0 ? number : null;
  }
}

// --- what all elements share -----------------------------------------------------------------------------------------

const nearness = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) target.near = isIntersecting;
}, { rootMargin: NEAR });

const queue = new Set();
let decoding = false;
let decoder = null;

/** Decodes one picture after another, the one nearest to the middle of the window first. */
async function next() {
  if (decoding || !queue.size) return;
  const distance = (element) => {
    const box = element.getBoundingClientRect();
    return Math.abs((box.top + box.bottom - innerHeight) / 2);
  };
  const nearest = [...queue].reduce((best, one) => (distance(one) < distance(best) ? one : best));
  queue.delete(nearest);
  decoding = true;
  await nearest.decode();
  decoding = false;
  next();
}

function sharedDecoder() {
  decoder ??= (async () => {
    const answer = await fetch(new URL("models.json", BASE)).catch(() => null);
    if (!answer?.ok) throw new LoocError("there is no models.json beside looc.js; put the folder that `looc web` writes there as a whole");
    return createDecoder({ base: BASE, models: await answer.json() });
  })();
  return decoder;
}

/** A file's header, from its first bytes; the bytes as well where the whole file has come or is `wanted`. */
async function fetchHeader(url, signal, wanted) {
  for (const range of wanted ? [null] : [`bytes=0-${FIRST_BYTES - 1}`, null]) {
    const inner = new AbortController();
    const answer = await ask(url, AbortSignal.any([signal, inner.signal]), range);
    const whole = answer.status === 200;
    const reader = answer.body.getReader();
    let bytes = new Uint8Array(0);
    let header = null;
    for (;;) {
      const { done, value } = await reader.read();
      if (value) bytes = joined(bytes, value);
      try {
        header ??= readHeader(bytes);
      } catch (error) {
        if (error.kind !== "TruncatedError" || (done && whole)) throw error;
      }
      if (done) break;
      if (header && !wanted) {
        inner.abort(); // a server that gives no ranges need not send the rest
        return { header, bytes: null };
      }
    }
    const total = whole ? bytes.length : Number(answer.headers.get("Content-Range")?.split("/")[1]);
    if (header) return { header, bytes: bytes.length === total ? bytes : null };
  }
  throw new LoocError("the .looc file has no end");
}

async function fetchBytes(url, signal) {
  return new Uint8Array(await (await ask(url, signal)).arrayBuffer());
}

async function ask(url, signal, range = null) {
  const answer = await fetch(url, { signal, headers: range ? { Range: range } : {} }).catch((error) => {
    if (signal.aborted) throw error;
    throw new LoocError(`${url} cannot be fetched`);
  });
  // 416: an empty file has no first byte.
  if (!answer.ok) throw new LoocError(`the server has no ${url} (${answer.status})`);
  return answer;
}

function joined(first, second) {
  const both = new Uint8Array(first.length + second.length);
  both.set(first);
  both.set(second, first.length);
  return both;
}

customElements.define("looc-img", LoocImage);
