/** A model's codebook and tables, and what the symbols of the range coder stand for (looc_codec/format/codes.py). */

import { CONSTANTS, ESCAPE_FACTOR, PATH_UNITS, SETS, TRELLIS_STATES } from "./constants.js";
import { ascending, TableBank } from "./entropy.js";

/** Next state of the trellis by state and parity: `[2 * state + parity]`. */
const NEXT_STATE = Uint8Array.from({ length: 2 * TRELLIS_STATES }, (_, entry) => {
  const state = entry >> 1;
  return (state >> 1) ^ ((state % SETS) * CONSTANTS.SET_TAPS) ^ ((entry & 1) * CONSTANTS.PARITY_TAPS);
});

export class CodeTables {
  /**
   * @param {import("./config.js").Config} config
   * @param {Int16Array} codevectors `(K, d*)`, with a trellis `(2 K, d*)`
   * @param {Uint8Array} digitFactor one a class
   * @param {Uint8Array | null} live one a class; null without a trellis
   * @param {Int32Array} frequencies `(rows, K + 1)`
   */
  constructor(config, codevectors, digitFactor, live, frequencies) {
    this.size = config.codebook_size;
    this.dim = config.codevector_dim;
    this.digitFactor = digitFactor;
    this.live = live ?? new Uint8Array(digitFactor.length);
    this.trellis = live !== null;
    const classes = digitFactor.length;
    const liveCount = this.live.reduce((sum, value) => sum + value, 0);
    const wideCount = digitFactor.reduce((sum, factor) => sum + Number(factor > 1), 0);
    this.rows = classes + liveCount + wideCount + 2;
    let shifted = classes;
    let wide = classes + liveCount;
    /** Row of each class in set 1, of those that are live. */
    this.shiftedRow = Int32Array.from(this.live, (value) => (value ? shifted++ : -1));
    /** Row of each class's first digits, of those that have them. */
    this.firstDigitRow = Int32Array.from(digitFactor, (factor) => (factor > 1 ? wide++ : -1));
    this.escapeRow = this.rows - 2;
    this.bank = new TableBank(frequencies, this.size + 1);
    // A zero after each set, for the escape symbol.
    const set = (this.size + 1) * this.dim;
    this.padded = new Int32Array((this.trellis ? SETS : 1) * set);
    for (let half = 0; half < this.padded.length / set; half++) {
      this.padded.set(codevectors.subarray(half * this.size * this.dim, (half + 1) * this.size * this.dim), half * set);
    }
  }

  /**
   * Reads a step's units of table rows `(n,)`: what they add to the means `(n * d*,)` in 1/16 steps, and all symbols in coding order.
   *
   * @param {Uint16Array} rows
   * @param {import("./entropy.js").SegmentDecoder} decoder
   * @returns {{residuals: Int32Array, symbols: Uint16Array}}
   */
  read(rows, decoder) {
    const { size, dim, padded, digitFactor } = this;
    const units = rows.length;
    const { wide, still, live } = this.#sorted(rows);
    const first = decoder.read(through(wide, rows, this.firstDigitRow));
    const second = new Uint16Array(units);
    const sets = new Uint8Array(units);
    const quiet = decoder.read(live.length ? through(still, rows) : rows);
    for (let at = 0; at < still.length; at++) second[still[at]] = quiet[at];
    const followed = this.#readPaths(live, rows, decoder, second, sets);
    const escaped = [];
    for (let unit = 0; unit < units; unit++) if (second[unit] === size) escaped.push(unit);
    const coarse = decoder.read(new Int32Array(escaped.length).fill(this.escapeRow));
    const fine = decoder.read(new Int32Array(escaped.length).fill(this.escapeRow + 1));
    const residuals = new Int32Array(units * dim);
    for (let unit = 0; unit < units; unit++) {
      // Most codes are 0 of set 0, which stands for zero.
      const place = second[unit] + (size + 1) * sets[unit];
      if (place) for (let axis = 0; axis < dim; axis++) residuals[unit * dim + axis] = padded[place * dim + axis];
    }
    wide.forEach((unit, at) => {
      for (let axis = 0; axis < dim; axis++) residuals[unit * dim + axis] += digitFactor[rows[unit]] * padded[first[at] * dim + axis];
    });
    escaped.forEach((unit, at) => {
      for (let axis = 0; axis < dim; axis++) residuals[unit * dim + axis] = ESCAPE_FACTOR * padded[coarse[at] * dim + axis] + padded[fine[at] * dim + axis];
    });
    return { residuals, symbols: concatenated([first, quiet, followed, coarse, fine]) };
  }

  /**
   * Units with first digits, and those that are live and not, in order.
   *
   * @param {Uint16Array} rows
   */
  #sorted(rows) {
    const [wide, still, live] = [0, 1, 2].map(() => new Int32Array(rows.length));
    let wideCount = 0;
    let stillCount = 0;
    let liveCount = 0;
    for (let unit = 0; unit < rows.length; unit++) {
      if (this.digitFactor[rows[unit]] > 1) wide[wideCount++] = unit;
      if (this.live[rows[unit]]) live[liveCount++] = unit;
      else still[stillCount++] = unit;
    }
    return { wide: wide.subarray(0, wideCount), still: still.subarray(0, stillCount), live: live.subarray(0, liveCount) };
  }

  /**
   * Last digits of live units, one unit of every path at a time, since its set depends on the digit before. Fills `second` and `sets`.
   *
   * @param {Int32Array} live units
   * @param {Uint16Array} rows
   * @param {import("./entropy.js").SegmentDecoder} decoder
   * @param {Uint16Array} second
   * @param {Uint8Array} sets
   * @returns {Uint16Array} the digits in the units' order
   */
  #readPaths(live, rows, decoder, second, sets) {
    const units = live.length;
    const followed = new Uint16Array(units);
    if (!units) return followed;
    const paths = Math.ceil(units / PATH_UNITS);
    // Units in the order of their rows, part by part. Those of set 1 come after those of set 0, and in the same order.
    const byRow = ascending(through(live, rows), this.digitFactor.length);
    const next = Int32Array.from({ length: Math.ceil(units / paths) }, (_, part) => part * paths);
    const order = new Int32Array(units);
    for (let at = 0; at < units; at++) order[next[Math.floor(byRow[at] / paths)]++] = byRow[at];
    const state = new Uint8Array(paths);
    const later = new Int32Array(paths);
    for (let start = 0; start < units; start += paths) {
      const end = Math.min(start + paths, units);
      let waiting = 0;
      for (let at = start; at < end; at++) {
        const number = order[at];
        const now = state[number % paths];
        if (now & 1) {
          later[waiting++] = number;
        } else {
          const digit = decoder.decode(rows[live[number]]);
          followed[number] = digit;
          // K is even, and so is an escape.
          state[number % paths] = NEXT_STATE[2 * now + (digit & 1)];
        }
      }
      for (let at = 0; at < waiting; at++) {
        const number = later[at];
        const digit = decoder.decode(this.shiftedRow[rows[live[number]]]);
        followed[number] = digit;
        sets[live[number]] = 1;
        state[number % paths] = NEXT_STATE[2 * state[number % paths] + (digit & 1)];
      }
    }
    for (let at = 0; at < units; at++) second[live[at]] = followed[at];
    return followed;
  }
}

/**
 * What a table holds for the rows of some units, or the rows themselves.
 *
 * @param {Int32Array} units
 * @param {Uint16Array} rows
 * @param {Int32Array} [table]
 */
function through(units, rows, table) {
  const found = new Uint16Array(units.length);
  for (let at = 0; at < units.length; at++) found[at] = table ? table[rows[units[at]]] : rows[units[at]];
  return found;
}

/** @param {Uint16Array[]} parts */
function concatenated(parts) {
  const whole = new Uint16Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
