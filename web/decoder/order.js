/** The coding order: which units are coded when, and which table row a unit has (looc_codec/format/order.py). */

import { CONSTANTS, PATCH } from "./constants.js";

/** @typedef {{row: number, column: number, stride: number}} Lattice every `stride`-th position of every `stride`-th row from (`row`, `column`) on */
/** @typedef {{lattices: Lattice[], stride: number, dilation: number, neighbours: number}} Level `neighbours` is their number */

/**
 * @param {readonly any[]} declared
 * @returns {Level[]}
 */
function levels(declared) {
  return declared.map(([corners, stride, neighbours, dilation]) => ({
    lattices: corners.map((/** @type {[number, number]} */ [row, column]) => ({ row, column, stride })),
    stride,
    dilation,
    neighbours: neighbours.length,
  }));
}

const PYRAMID = levels(CONSTANTS.PYRAMID);
const CHECKERBOARD = levels(CONSTANTS.CHECKERBOARD);

/** @param {number} group */
export function levelsOfGroup(group) {
  return group === 0 ? PYRAMID : CHECKERBOARD;
}

/**
 * Rows and columns of a lattice in a grid.
 *
 * @param {Lattice} lattice
 * @param {number} height
 * @param {number} width
 * @returns {[number, number]}
 */
export function latticeSize({ row, column, stride }, height, width) {
  return [Math.ceil(Math.max(0, height - row) / stride), Math.ceil(Math.max(0, width - column) / stride)];
}

/**
 * For each lattice of a level, where its positions stand among all of the level's, which are coded row by row; and how many those are.
 *
 * @param {Level} level
 * @param {number} height
 * @param {number} width
 * @returns {{places: Int32Array[], positions: number}}
 */
export function levelPositions(level, height, width) {
  const numbers = new Int32Array(height * width);
  for (const lattice of level.lattices) {
    for (let y = lattice.row; y < height; y += lattice.stride) {
      for (let x = lattice.column; x < width; x += lattice.stride) numbers[y * width + x] = 1;
    }
  }
  let positions = 0;
  for (let at = 0; at < numbers.length; at++) if (numbers[at]) numbers[at] = positions++;
  const places = level.lattices.map((lattice) => {
    const [rows, columns] = latticeSize(lattice, height, width);
    const found = new Int32Array(rows * columns);
    let at = 0;
    for (let y = lattice.row; y < height; y += lattice.stride) {
      for (let x = lattice.column; x < width; x += lattice.stride) found[at++] = numbers[y * width + x];
    }
    return found;
  });
  return { places, positions };
}

/**
 * First and last-plus-one rows of strips of at most so many positions, or of one row where rows are longer.
 *
 * @param {number} height
 * @param {number} width
 * @param {number} positions
 * @returns {[number, number][]}
 */
export function rowStrips(height, width, positions) {
  const rows = Math.max(1, Math.floor(positions / width));
  /** @type {[number, number][]} */
  const strips = [];
  for (let top = 0; top < height; top += rows) strips.push([top, Math.min(top + rows, height)]);
  return strips;
}

/**
 * Latent rows and columns of a picture.
 *
 * @param {number} width
 * @param {number} height
 * @returns {[number, number]}
 */
export function gridSize(width, height) {
  return [Math.ceil(height / PATCH), Math.ceil(width / PATCH)];
}

/**
 * Table rows of units from the log scales (1/32) of their channels: the class of the mean, and of the ratio of two.
 *
 * @param {import("./config.js").Config} config
 * @param {Float32Array} scales whole numbers, one map of `stride` cells a channel
 * @param {number} stride
 * @param {number} skipped cells of each map before the first position
 * @param {Float32Array} base is added, one number a channel
 * @param {Int32Array} places where the positions stand among the `positions` of a step
 * @param {number} positions
 * @param {Uint16Array} rows of the step, unit by unit; filled
 */
export function tableRows(config, scales, stride, skipped, base, places, positions, rows) {
  const { SCALE_LOG_LOW, SCALE_LOG_WIDTH, RATIO_LOG_SPAN } = CONSTANTS;
  const { codevector_dim: dim, scale_classes: classes, ratio_classes: ratios } = config;
  const half = ratios >> 1;
  const width = Math.floor(RATIO_LOG_SPAN / ratios);
  const step = dim * SCALE_LOG_WIDTH;
  // One map of a single cell stands for all positions.
  const each = stride === 1 && places.length > 1 ? 0 : 1;
  for (let first = 0; first < base.length; first += dim) {
    const unit = (first / dim) * positions;
    let start = first * stride + skipped;
    let offset = 0;
    for (let axis = 0; axis < dim; axis++) offset += base[first + axis];
    for (let at = 0; at < places.length; at++, start += each) {
      let sum = offset;
      for (let axis = 0, cell = start; axis < dim; axis++, cell += stride) sum += scales[cell];
      // Floors of what may be negative, but counts as class 0 then.
      const above = 2 * sum - dim * SCALE_LOG_LOW;
      let row = above < step ? 0 : Math.min(classes - 1, (above / step) | 0);
      if (ratios > 1) {
        const difference = 2 * (scales[start] + base[first]) - sum + (width >> 1) + half * width;
        row = row * ratios + (difference < width ? 0 : Math.min(ratios - 1, (difference / width) | 0));
      }
      rows[unit + places[at]] = row;
    }
  }
}
