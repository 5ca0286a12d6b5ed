/** Details: coefficients of the colour DCT of 16x16 blocks that are added to the synthesised pixels (looc_codec/format/dct.py). */

import { COLOUR_AXES, PATCH } from "./constants.js";

const CELLS = PATCH * PATCH;

/** `[frequency * 16 + position]` */
const COSINES = Float64Array.from({ length: CELLS }, (_, entry) => {
  const frequency = Math.floor(entry / PATCH);
  const position = entry % PATCH;
  const scale = Math.sqrt(2 / PATCH) / (frequency ? 1 : Math.SQRT2);
  return Math.cos((Math.PI * (position + 0.5) * frequency) / PATCH) * scale;
});

/**
 * Adds what details stand for to pixels.
 *
 * Channels are transformed one colour axis after the other, rows of frequencies before columns; what is zero is left out.
 *
 * @param {Float32Array} pixels `(3, 16 h, 16 w)` of a part of the picture, which begins at block `top`, `left` of the grid; changed
 * @param {{top: number, left: number, height: number, width: number, cutTop: number, cutLeft: number, pixelHeight: number, pixelWidth: number}} part
 *   blocks of the part; how many pixels of the first ones are cut off; the size of `pixels`
 * @param {Int16Array} details `(channels, gridHeight, gridWidth)`
 * @param {{height: number, width: number}} grid
 * @param {Int16Array} chosen numbers of the channels: colour axis, vertical and horizontal frequency
 * @param {number} step of a unit of details, in pixels
 */
export function addDetails(pixels, part, details, grid, chosen, step) {
  const coefficients = new Float64Array(CELLS);
  const rows = new Float64Array(CELLS);
  const block = new Float64Array(3 * CELLS);
  const { pixelHeight, pixelWidth } = part;
  // Channels of each axis, by their number.
  const byAxis = [0, 1, 2].map((axis) => Array.from(chosen.keys()).filter((channel) => Math.floor(chosen[channel] / CELLS) === axis));
  for (let y = 0; y < part.height; y++) {
    for (let x = 0; x < part.width; x++) {
      const position = (part.top + y) * grid.width + part.left + x;
      let any = false;
      block.fill(0);
      for (let axis = 0; axis < 3; axis++) {
        coefficients.fill(0);
        let lines = 0;
        for (const channel of byAxis[axis]) {
          const value = details[channel * grid.height * grid.width + position];
          if (!value) continue;
          const place = chosen[channel] % CELLS;
          coefficients[place] = value * step;
          lines |= 1 << (place >> 4);
        }
        if (!lines) continue;
        any = true;
        for (let u = 0; u < PATCH; u++) {
          if (!(lines & (1 << u))) continue;
          for (let j = 0; j < PATCH; j++) {
            let sum = 0;
            for (let v = 0; v < PATCH; v++) sum += coefficients[u * PATCH + v] * COSINES[v * PATCH + j];
            rows[u * PATCH + j] = sum;
          }
        }
        for (let i = 0; i < PATCH; i++) {
          for (let j = 0; j < PATCH; j++) {
            let sum = 0;
            for (let u = 0; u < PATCH; u++) if (lines & (1 << u)) sum += rows[u * PATCH + j] * COSINES[u * PATCH + i];
            for (let plane = 0; plane < 3; plane++) block[plane * CELLS + i * PATCH + j] += COLOUR_AXES[axis][plane] * sum;
          }
        }
      }
      if (!any) continue;
      for (let plane = 0; plane < 3; plane++) {
        for (let i = 0; i < PATCH; i++) {
          const row = y * PATCH + i - part.cutTop;
          if (row < 0 || row >= pixelHeight) continue;
          for (let j = 0; j < PATCH; j++) {
            const column = x * PATCH + j - part.cutLeft;
            if (column < 0 || column >= pixelWidth) continue;
            pixels[(plane * pixelHeight + row) * pixelWidth + column] += block[plane * CELLS + i * PATCH + j];
          }
        }
      }
    }
  }
}
