/** The decoder: the bytes of a .looc file to pixels. Runs in a web worker and in Node. */

import { unpackedAlpha } from "./alpha.js";
import { CodeChecksum, SegmentDecoder } from "./entropy.js";
import { ALPHA_CHUNK, Colour, DEFAULT_MAX_PIXELS, shownHeader, unpack } from "./container.js";
import { decodeDetails } from "./details.js";
import { Engine } from "./engine.js";
import { LoocError } from "./errors.js";
import { filterKernel } from "./filter.js";
import { gridSize } from "./order.js";
import { decodePrior } from "./prior.js";
import { Transforms } from "./transforms.js";

/** The part of progress that the codes take. */
const CODES_SHARE = 0.25;
/** After which channel group a coarse picture is shown, and how much smaller it is; groups of higher frequencies do not show there. */
const COARSE_GROUP = 1;
const COARSE_SHRINK = 8;
/** Of a picture of more positions than these, an even coarser one is shown after the first group. */
const MANY_POSITIONS = 16_000;
const OTHER_CODES = "the decoded codes do not match the checksum in the file: it is damaged, or arithmetic on this machine is not exact";

/**
 * @typedef {{width: number, height: number, data: Uint8ClampedArray}} Pixels RGBA, row by row, not premultiplied
 * @typedef {{onProgress?: (fraction: number, stage: string) => void, onCoarse?: (pixels: Pixels) => void, pause?: () => Promise<void>,
 *   maxPixels?: number}} Options `pause` is awaited between steps; it may throw to stop
 */

/** Restores pictures with one model. */
export class Decoder {
  /**
   * @param {import("./engine.js").Runtime} runtime
   * @param {import("./model.js").Model} model
   */
  constructor(runtime, model) {
    this.model = model;
    this.engine = new Engine(runtime, model);
    this.transforms = new Transforms(model, this.engine);
  }

  /**
   * Latent and details of a file, checked.
   *
   * @param {import("./container.js").Container} file
   * @param {Options} [options]
   * @returns {Promise<import("./transforms.js").Coding>}
   * @throws {LoocError} for codes that are not those that were written
   */
  async codes(file, options = {}) {
    const { model, engine } = this;
    const { config, tables } = model;
    const count = config.groups.length;
    const kernel = file.filter.length ? filterKernel(file.filter) : null;
    const detailed = config.detail_channels > 0 && file.segments.length === count + 1;
    if (!detailed && file.segments.length !== count) {
      throw new LoocError(`the file has ${file.segments.length} segments where its model writes ${count}; it is damaged`, "FormatError");
    }
    const [height, width] = gridSize(file.width, file.height);
    const pause = options.pause ?? (async () => {});
    const share = detailed ? CODES_SHARE / 2 : CODES_SHARE;
    const hooks = { pause, report: (/** @type {number} */ fraction) => options.onProgress?.(fraction * share, "codes") };
    const decoders = file.segments.slice(0, count).map((segment) => new SegmentDecoder(tables.bank, segment));
    const checksum = new CodeChecksum(count);
    /** @type {import("./transforms.js").Coding} */
    const coding = {
      latent: new Int16Array(0), details: null, grid: { height, width }, width: file.width, height: file.height, quality: file.level,
      grey: file.colour !== Colour.RGB, kernel,
    };
    const read = (/** @type {number} */ group, /** @type {Uint16Array} */ rows) => {
      const { residuals, symbols } = tables.read(rows, decoders[group]);
      checksum.update(group, symbols);
      return residuals;
    };
    const afterGroup = async (/** @type {number} */ group, /** @type {Int16Array} */ latent) => {
      const shrink = group === Math.min(COARSE_GROUP, count - 1) ? COARSE_SHRINK : group === 0 && height * width > MANY_POSITIONS ? 16 : 0;
      if (!shrink || !options.onCoarse) return;
      options.onCoarse(await this.transforms.small({ ...coding, latent }, /** @type {8 | 16} */ (shrink), hooks));
    };
    coding.latent = await decodePrior(model, engine, height, width, file.level, read, afterGroup, hooks);
    decoders.forEach((decoder) => decoder.finish());
    if (!checksum.agrees(file.codeChecksum, count)) throw new LoocError(OTHER_CODES, "FormatError");
    if (detailed) {
      const report = (/** @type {number} */ fraction) => options.onProgress?.((1 + fraction) * share, "codes");
      coding.details = await this.#details(file.segments[count], coding, { pause, report });
    }
    return coding;
  }

  /**
   * The picture of a file.
   *
   * @param {import("./container.js").Container} file
   * @param {Options} [options]
   * @returns {Promise<Pixels & {coding: import("./transforms.js").Coding}>}
   */
  async decode(file, options = {}) {
    const coding = await this.codes(file, options);
    const hooks = {
      pause: options.pause ?? (async () => {}),
      report: (/** @type {number} */ fraction) => options.onProgress?.(CODES_SHARE + fraction * (1 - CODES_SHARE), "pixels"),
    };
    hooks.report(0);
    const data = await this.transforms.synthesise(coding, hooks);
    const alpha = file.chunkData.get(ALPHA_CHUNK);
    if (alpha) {
      const plane = await unpackedAlpha(alpha, file.width, file.height);
      for (let at = 0; at < plane.length; at++) data[4 * at + 3] = plane[at];
    }
    return { width: file.width, height: file.height, data, coding };
  }

  /**
   * @param {Uint8Array} segment
   * @param {import("./transforms.js").Coding} coding
   * @param {import("./prior.js").Hooks} hooks
   */
  async #details(segment, { latent, grid, quality }, hooks) {
    if (!segment.length) throw new LoocError("the .looc file is malformed: its details are empty; get a fresh copy", "FormatError");
    const { tables } = this.model;
    const checksum = new CodeChecksum(1);
    const decoder = new SegmentDecoder(tables.bank, segment.subarray(1));
    const read = (/** @type {Uint16Array} */ rows) => {
      const { residuals, symbols } = tables.read(rows, decoder);
      checksum.update(0, symbols);
      return residuals;
    };
    const details = await decodeDetails(this.model, this.engine, latent, grid.height, grid.width, quality, read, hooks);
    decoder.finish();
    if ((checksum.after[0] & 255) !== segment[0]) throw new LoocError(OTHER_CODES, "FormatError");
    return details;
  }
}

/**
 * Whole files to pictures: parses, picks the decoder of the file's model and restores.
 *
 * @param {Uint8Array} bytes
 * @param {(fingerprint: string) => Promise<Decoder>} decoderFor throws a LoocError where there is no such model
 * @param {Options} [options]
 * @returns {Promise<Pixels & {header: import("./container.js").ShownHeader, coding: import("./transforms.js").Coding}>}
 * @throws {LoocError} whatever goes wrong
 */
export async function decodeFile(bytes, decoderFor, options = {}) {
  try {
    const file = unpack(bytes, options.maxPixels ?? DEFAULT_MAX_PIXELS);
    const decoder = await decoderFor(file.fingerprint);
    return { ...(await decoder.decode(file, options)), header: shownHeader(file, bytes.length) };
  } catch (error) {
    throw asLoocError(error);
  }
}

/**
 * Any error as one sentence.
 *
 * @param {unknown} error
 * @returns {LoocError}
 */
export function asLoocError(error) {
  if (error instanceof LoocError) return error;
  if (error instanceof RangeError) {
    return new LoocError("the picture needs more memory than there is; close other pages or use the looc command", "MemoryError");
  }
  return new LoocError(`the decoder failed (${error instanceof Error ? error.message : error}); please report it with the file`, "LoocError");
}
