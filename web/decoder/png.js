/** Decodes PNGs of one grey plane of 8 bits (PNG, third edition). Browsers could, but a canvas may be made to change what is read back from it. */

import { crc32 } from "./checksums.js";

/** First row and column, and distances between them, of the passes of an interlaced picture. */
const PASSES = [[0, 0, 8, 8], [0, 4, 8, 8], [4, 0, 8, 4], [0, 2, 4, 4], [2, 0, 4, 2], [0, 1, 2, 2], [1, 0, 2, 1]];
const WHOLE = [[0, 0, 1, 1]];

/**
 * @param {Uint8Array} data whose header was checked to be of this size, with 8 bits and one grey plane
 * @param {number} width
 * @param {number} height
 * @returns {Promise<Uint8Array>} `(height, width)`
 * @throws {Error} for anything that is not such a picture
 */
export async function greyPng(data, width, height) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const [compression, filtering, interlaced] = data.subarray(26, 29);
  if (view.getUint32(8) !== 13 || compression || filtering || interlaced > 1) throw new Error("another kind of PNG");
  const parts = [];
  for (let at = 8, ended = false; !ended; ) {
    const length = view.getUint32(at);
    const end = at + 8 + length;
    const type = String.fromCharCode(...data.subarray(at + 4, at + 8));
    if (type === "acTL") throw new Error("more than one frame");
    if (parts.length && type !== "IDAT") ended = true;
    else {
      if (end + 4 > data.length || crc32(data.subarray(at + 4, end)) !== view.getUint32(end)) throw new Error("a damaged chunk");
      if (type === "IDAT") parts.push(data.subarray(at + 8, end));
      at = end + 4;
      // Pictures may end without an IEND.
      if (at + 12 > data.length) ended = true;
    }
  }
  const passes = (interlaced ? PASSES : WHOLE).map(([top, left, down, across]) => ({
    top, left, down, across, rows: Math.ceil(Math.max(0, height - top) / down), columns: Math.ceil(Math.max(0, width - left) / across),
  })).filter(({ rows, columns }) => rows && columns);
  const lines = await inflated(parts, passes.reduce((sum, { rows, columns }) => sum + rows * (columns + 1), 0));
  const plane = new Uint8Array(width * height);
  let at = 0;
  for (const { top, left, down, across, rows, columns } of passes) {
    for (let row = 0; row < rows; row++, at += columns + 1) {
      unfilter(lines, at + 1, row ? at - columns : -1, columns, lines[at]);
      const start = (top + row * down) * width + left;
      for (let column = 0; column < columns; column++) plane[start + column * across] = lines[at + 1 + column];
    }
  }
  return plane;
}

/**
 * The first bytes of a zlib stream in parts.
 *
 * @param {Uint8Array[]} parts
 * @param {number} wanted
 */
async function inflated(parts, wanted) {
  const whole = new Uint8Array(wanted);
  const reader = new Blob(/** @type {BlobPart[]} */ (parts)).stream().pipeThrough(new DecompressionStream("deflate")).getReader();
  let at = 0;
  while (at < wanted) {
    const { done, value } = await reader.read();
    if (done) throw new Error("cut short");
    const part = value.subarray(0, wanted - at);
    whole.set(part, at);
    at += part.length;
  }
  reader.cancel().catch(() => {});
  return whole;
}

/**
 * Undoes the filter of a line in place.
 *
 * @param {Uint8Array} lines
 * @param {number} at where the line's pixels begin
 * @param {number} before where those of the line before begin, -1 if there is none
 * @param {number} count
 * @param {number} filter
 */
function unfilter(lines, at, before, count, filter) {
  if (filter > 4) throw new Error("another filter");
  for (let index = 0; filter && index < count; index++) {
    const left = index ? lines[at + index - 1] : 0;
    const up = before < 0 ? 0 : lines[before + index];
    let predicted = left;
    if (filter === 2) predicted = up;
    else if (filter === 3) predicted = (left + up) >> 1;
    else if (filter === 4) {
      const corner = before < 0 || !index ? 0 : lines[before + index - 1];
      const byLeft = Math.abs(up - corner);
      const byUp = Math.abs(left - corner);
      const byCorner = Math.abs(left + up - 2 * corner);
      predicted = byLeft <= byUp && byLeft <= byCorner ? left : byUp <= byCorner ? up : corner;
    }
    lines[at + index] += predicted;
  }
}
