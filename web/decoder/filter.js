/** The picture's own Wiener filter, from the header's bytes to a 5x5 kernel (looc_codec/format/filter.py). */

import { COLOUR_AXES } from "./constants.js";
import { LoocError } from "./errors.js";

/** Pixels to each side that the filter sees. */
export const REACH = 2;
const SIDE = 2 * REACH + 1;
const AXES = 3;
const GREY_CENTRE = 128;
/** Distances (rows, columns) of a tap's pixels; the first is the pixel itself, the first four are within 3x3. */
const WINDOW = [[0, 0], [0, 1], [1, 0], [1, 1], [0, 2], [2, 0], [1, 2], [2, 1], [2, 2]];
const NEAR = 4;
const TAP_LIMIT = 127;
const EXPONENT_BITS = 4;

/** Axis and window of each tap, null for the constant, and the binary logarithm of its step at exponent 0. */
const TAPS = taps();

function taps() {
  /** @type {{axis: number, source: number, window: number, step: number}[]} */
  const found = [];
  for (let axis = 0; axis < AXES; axis++) {
    for (const source of [axis, ...[0, 1, 2].filter((other) => other !== axis)]) {
      for (let window = 0; window < (source === axis ? WINDOW.length : NEAR); window++) {
        const step = source === 0 ? (window ? -2 : -4) : window ? -1 : -2;
        found.push({ axis, source, window, step });
      }
    }
    found.push({ axis, source: -1, window: -1, step: 2 });
  }
  return found;
}

/**
 * Weights `(3, 3, 5, 5)` and biases `(3,)` of the filter on decoded pixels of 0..255, the picture itself included.
 *
 * @param {Uint8Array} data what the header holds
 * @returns {{weight: Float32Array, bias: Float32Array}}
 * @throws {LoocError} for bytes that no writer makes
 */
export function filterKernel(data) {
  const { exponent, values } = parsed(data);
  const weight = new Float64Array(AXES * AXES * SIDE * SIDE);
  const constant = new Float64Array(AXES);
  values.forEach((tap, index) => {
    const { axis, source, window, step } = TAPS[index];
    const value = tap * 2 ** (step - exponent);
    if (source < 0) {
      constant[axis] += value;
      return;
    }
    const [rows, columns] = WINDOW[window];
    const at = (axis * AXES + source) * SIDE * SIDE;
    for (const y of new Set([-rows, rows])) {
      for (const x of new Set([-columns, columns])) {
        weight[at + (REACH + y) * SIDE + REACH + x] += value;
        // All taps but the first weigh differences from the pixel itself.
        if (window) weight[at + REACH * SIDE + REACH] -= value;
      }
    }
  });
  const turned = new Float64Array(weight.length);
  for (let out = 0; out < AXES; out++) {
    for (let into = 0; into < AXES; into++) {
      for (let at = 0; at < SIDE * SIDE; at++) {
        let sum = 0;
        for (let c = 0; c < AXES; c++) {
          for (let s = 0; s < AXES; s++) sum += COLOUR_AXES[c][out] * weight[(c * AXES + s) * SIDE * SIDE + at] * COLOUR_AXES[s][into];
        }
        turned[(out * AXES + into) * SIDE * SIDE + at] = sum;
      }
    }
    turned[(out * AXES + out) * SIDE * SIDE + REACH * SIDE + REACH] += 1;
  }
  const bias = new Float32Array(AXES);
  for (let out = 0; out < AXES; out++) {
    const own = turned.subarray(out * AXES * SIDE * SIDE, (out + 1) * AXES * SIDE * SIDE);
    const added = constant.reduce((sum, value, axis) => sum + COLOUR_AXES[axis][out] * value, 0);
    bias[out] = added + GREY_CENTRE * (1 - own.reduce((sum, value) => sum + value, 0));
  }
  return { weight: Float32Array.from(turned), bias };
}

/**
 * @param {Uint8Array} data
 * @returns {{exponent: number, values: number[]}}
 */
function parsed(data) {
  let position = 0;
  // A reader supplies ones to the end.
  const bit = () => {
    const byte = position >> 3 < data.length ? data[position >> 3] : 255;
    return (byte >> (7 - (position++ & 7))) & 1;
  };
  let exponent = 0;
  for (let index = 0; index < EXPONENT_BITS; index++) exponent = 2 * exponent + bit();
  const values = [];
  while (values.length < TAPS.length) {
    let zeros = 0;
    while (!bit()) if (++zeros > 7) throw malformed();
    let number = 1;
    for (let index = 0; index < zeros; index++) number = 2 * number + bit();
    values.push(number % 2 ? -(number >> 1) : number >> 1);
  }
  if (values.some((tap) => Math.abs(tap) > TAP_LIMIT) || !values.some(Boolean)) throw malformed();
  // One filter, one spelling: only ones may follow, no byte of ones may end it.
  const written = position;
  const spare = data.length * 8 - written;
  if (spare >= 8 || (data.length > 1 && data[data.length - 1] === 255)) throw malformed();
  while (position < data.length * 8) if (!bit()) throw malformed();
  return { exponent, values };
}

function malformed() {
  return new LoocError("the .looc file is malformed: its filter is not one that looc writes; get a fresh copy", "MalformedError");
}
