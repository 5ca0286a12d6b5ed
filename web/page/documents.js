/* The open files: their bytes, headers, pictures and small pictures, and the one queue that decodes them. */

import { LoocError, readHeader } from "../client.js";

const KEPT_PIXELS = 80e6; // of decoded pictures: 320 MB
const THUMBNAIL_SIDE = 144; // pixels: 72 CSS pixels on a sharp screen

/**
 * @typedef {object} Document  one open file
 * @property {string} name
 * @property {() => Promise<Uint8Array>} read
 * @property {?Uint8Array} bytes
 * @property {?object} header  as readHeader gives it
 * @property {"waiting"|"decoding"|"ready"|"failed"|"cancelled"} state
 * @property {?string} error  a sentence
 * @property {{fraction: number, stage: string}} progress
 * @property {?object} coarse  {width, height, data}
 * @property {?object} picture  {width, height, data, hasAlpha, isGrey, icc, exif, xmp}
 * @property {?HTMLCanvasElement} thumbnail
 */

/** Events: `change` with `document` for whatever changes about one, `select` when another one is selected. */
export class Documents extends EventTarget {
  #decoder;
  #list = [];
  #selected = null;
  #running = null; // {document, controller, whole}
  #kept = []; // documents with a picture, the last one used at the end

  constructor(decoder) {
    super();
    this.#decoder = decoder;
  }

  get list() { return this.#list; }
  get selected() { return this.#selected; }

  /** Opens files {name, read}; the first of them is selected. */
  add(files) {
    const added = files.map(({ name, read }) => ({
      name, read, bytes: null, header: null, state: "waiting", error: null, progress: { fraction: 0, stage: "" }, coarse: null, picture: null, thumbnail: null,
    }));
    this.#list.push(...added);
    for (const document of added) this.#changed(document);
    if (added.length) this.select(added[0]);
    return added;
  }

  select(document) {
    if (document === this.#selected) return;
    this.#selected = document;
    if (document.state === "cancelled") document.state = "waiting";
    const event = new Event("select");
    event.document = document;
    this.dispatchEvent(event);
    if (this.#running && this.#running.document !== document) this.#running.controller.abort();
    this.#run();
  }

  /** The one `step` places after the selected one, if there is one. */
  selectNext(step) {
    const next = this.#list[this.#list.indexOf(this.#selected) + step];
    if (next) this.select(next);
  }

  /** Stops decoding the selected file. */
  cancel() {
    const running = this.#running;
    if (!running || running.document !== this.#selected) return false;
    running.document.state = "cancelled";
    running.controller.abort();
    this.#changed(running.document);
    return true;
  }

  /** Decodes the selected file again after it was cancelled. */
  resume() {
    if (this.#selected?.state !== "cancelled") return;
    this.#selected.state = "waiting";
    this.#changed(this.#selected);
    this.#run();
  }

  async #run() {
    if (this.#running) return;
    const selected = this.#selected?.state === "waiting" ? this.#selected : null;
    const document = selected ?? this.#list.find((one) => one.state === "waiting" && !one.thumbnail);
    if (!document) return;
    const running = { document, controller: new AbortController(), whole: document === selected };
    this.#running = running;
    try {
      await this.#decode(running);
    } catch (error) {
      if (running.controller.signal.aborted) {
        if (document.state === "decoding") document.state = "waiting";
      } else {
        document.state = "failed";
        document.coarse = document.thumbnail = null;
        document.error = sentence(error);
      }
    }
    this.#running = null;
    this.#changed(document);
    this.#run();
  }

  async #decode({ document, controller, whole }) {
    const { signal } = controller;
    document.state = "decoding";
    document.progress = { fraction: 0, stage: "" };
    this.#changed(document);
    document.bytes ??= await document.read();
    document.header = readHeader(document.bytes);
    this.#changed(document);
    if (signal.aborted) throw signal.reason;
    const decoded = await this.#decoder.decode(document.bytes, {
      signal,
      onProgress: (fraction, stage) => {
        document.progress = { fraction, stage };
        this.#changed(document);
      },
      onCoarse: (coarse) => {
        document.coarse = coarse;
        document.thumbnail ??= thumbnailOf(coarse);
        this.#changed(document);
        // A small picture is all that the strip needs.
        if (!whole && this.#selected !== document) controller.abort();
      },
    });
    const { width, height, data, header } = decoded;
    document.header = header;
    document.picture = { width, height, data, hasAlpha: header.hasAlpha, isGrey: header.isGrey, icc: header.iccProfile, exif: header.exif, xmp: header.xmp };
    document.coarse = null;
    document.state = "ready";
    document.thumbnail = thumbnailOf(decoded);
    this.#keep(document);
  }

  /** Lets pictures go that were not looked at for longest, where there are too many. */
  #keep(document) {
    this.#kept = [...this.#kept.filter((one) => one !== document), document];
    let pixels = this.#kept.reduce((sum, { picture }) => sum + picture.width * picture.height, 0);
    while (pixels > KEPT_PIXELS && this.#kept.length > 1) {
      const oldest = this.#kept.find((one) => one !== this.#selected && one !== document);
      if (!oldest) break;
      pixels -= oldest.picture.width * oldest.picture.height;
      this.#kept = this.#kept.filter((one) => one !== oldest);
      oldest.picture = null;
      oldest.state = "waiting";
    }
  }

  #changed(document) {
    const event = new Event("change");
    event.document = document;
    this.dispatchEvent(event);
  }
}

/** What to tell of an error: the decoder's sentence, or that something is wrong with the page itself. */
export function sentence(error) {
  if (error instanceof LoocError) return error.message;
  if (error instanceof RangeError && /alloc|memory|length/i.test(error.message)) return "there is not enough memory for this picture in the browser";
  return `the page could not show this file (${error?.message ?? error})`;
}

function thumbnailOf({ width, height, data }) {
  const scale = Math.min(1, THUMBNAIL_SIDE / Math.max(width, height));
  const canvas = Object.assign(document.createElement("canvas"), { width: Math.max(1, Math.round(width * scale)), height: Math.max(1, Math.round(height * scale)) });
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  createImageBitmap(new ImageData(data, width, height)).then((bitmap) => {
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    bitmap.close();
  });
  return canvas;
}
