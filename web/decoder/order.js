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
 * What gives a unit's table row, from the sum of its channels' log scales (1/32) and, for two channels, their difference.
 *
 * @param {import("./config.js").Config} config
 * @returns {(sum: number, difference: number) => number}
 */
export function tableRow(config) {
  const { SCALE_LOG_LOW, SCALE_LOG_WIDTH, RATIO_LOG_SPAN } = CONSTANTS;
  const { codevector_dim: dim, scale_classes: classes, ratio_classes: ratios } = config;
  const half = Math.floor(ratios / 2);
  const width = Math.floor(RATIO_LOG_SPAN / ratios);
  return (sum, difference) => {
    const row = Math.min(classes - 1, Math.max(0, Math.floor((2 * sum - dim * SCALE_LOG_LOW) / (dim * SCALE_LOG_WIDTH))));
    if (ratios === 1) return row;
    const ratio = Math.min(half, Math.max(-half, Math.floor((difference + Math.floor(width / 2)) / width)));
    return row * ratios + ratio + half;
  };
}
