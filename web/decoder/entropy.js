/**
 * The range decoder: constriction's `stream.queue.RangeDecoder` with words of 32 bits, a state of 64 and 24 bits of precision, and its
 * `Categorical` models of stored frequencies, exact.
 *
 * The coder keeps `lower`, `range` and `point`, 64 bits each. Decoding only needs range and point - lower, which are kept here as two
 * halves of 32 bits each in float64; products with 24-bit frequencies are made of parts that stay below 2^53, so nothing is rounded.
 */

import { crc32 } from "./checksums.js";
import { TABLE_BITS } from "./constants.js";
import { LoocError } from "./errors.js";

const WORD_BYTES = 4;
const HALF = 2 ** 32;
const TOTAL = 2 ** TABLE_BITS;
/** Log2 of the entries of a row's index. */
const INDEX_BITS = 8;
const INDEX_STRIDE = 2 ** INDEX_BITS + 1;
const INDEX_SHIFT = TABLE_BITS - INDEX_BITS;

/** Cumulative frequencies of all rows, as the coder's models have them, with an index of where to look. */
export class TableBank {
  /**
   * @param {Int32Array} frequencies `rows * symbols`, each row adding up to 2^24
   * @param {number} symbols
   */
  constructor(frequencies, symbols) {
    const rows = frequencies.length / symbols;
    this.rows = rows;
    this.symbols = symbols;
    this.stride = symbols + 1;
    this.cumulative = new Int32Array(rows * this.stride);
    /** For each row and 65,536 quantiles: the symbol of the first. */
    this.index = new Uint16Array(rows * INDEX_STRIDE);
    // The models give every symbol 1 first, and share what is left of 2^24 by the frequencies.
    const scale = (TOTAL - symbols) / TOTAL;
    for (let row = 0; row < rows; row++) {
      const start = row * this.stride;
      let sum = 0;
      for (let symbol = 0; symbol < symbols; symbol++) {
        this.cumulative[start + symbol] = Math.floor(sum * scale) + symbol;
        sum += frequencies[row * symbols + symbol];
      }
      this.cumulative[start + symbols] = TOTAL;
      for (let entry = 0, symbol = 0; entry < INDEX_STRIDE; entry++) {
        while (symbol < symbols - 1 && this.cumulative[start + symbol + 1] <= entry * 2 ** INDEX_SHIFT) symbol++;
        this.index[row * INDEX_STRIDE + entry] = symbol;
      }
    }
  }
}

/** Reads the symbols of one payload segment. */
export class SegmentDecoder {
  /**
   * @param {TableBank} bank
   * @param {Uint8Array} data
   */
  constructor(bank, data) {
    this.bank = bank;
    const words = Math.ceil(data.length / WORD_BYTES);
    this.words = new Uint32Array(words);
    for (let word = 0, at = 0; word < words; word++, at += WORD_BYTES) {
      // Beyond the data undefined counts as 0: trailing zero bytes are not stored.
      this.words[word] = (data[at] << 24) | (data[at + 1] << 16) | (data[at + 2] << 8) | data[at + 3];
    }
    this.position = Math.min(2, words);
    /** Point less lower, high and low half; range, high and low half. */
    this.state = Float64Array.of(this.words[0] ?? 0, this.words[1] ?? 0, HALF - 1, HALF - 1);
  }

  /**
   * The next symbol under a row's table.
   *
   * @param {number} row
   * @returns {number}
   * @throws {LoocError} for data that cannot have been encoded so
   */
  decode(row) {
    const { bank, state } = this;
    const { cumulative } = bank;
    const last = bank.symbols - 1;
    const start = row * bank.stride;
    const dHigh = state[0];
    const dLow = state[1];
    const rangeHigh = state[2];
    // The scale is the range without its lowest 24 bits: 40 bits, here in parts of 8, 16 and 16.
    const scaleHigh = Math.floor(rangeHigh / 2 ** 24);
    const scaleRest = ((rangeHigh % 2 ** 24) * 256 + Math.floor(state[3] / 2 ** 24)) >>> 0;
    const scaleMiddle = scaleRest >>> 16;
    const scaleLow = scaleRest & 0xffff;
    // The quotient may be off in its last place, which matters only next to a boundary; that is put right below.
    const quantile = Math.min(TOTAL - 1, Math.floor((dHigh * HALF + dLow) / (scaleHigh * HALF + scaleRest)));
    const entry = row * INDEX_STRIDE + (quantile >>> INDEX_SHIFT);
    let symbol = bank.index[entry];
    let high = bank.index[entry + 1];
    while (symbol < high) {
      const middle = (symbol + high + 1) >>> 1;
      if (cumulative[start + middle] <= quantile) symbol = middle;
      else high = middle - 1;
    }
    for (;;) {
      const left = cumulative[start + symbol];
      const share = cumulative[start + symbol + 1] - left;
      // Point less the new lower.
      let middle = scaleMiddle * left;
      let carried = Math.floor(middle / 65536);
      let low = scaleLow * left + (middle - carried * 65536) * 65536;
      let carry = Math.floor(low / HALF);
      let newLow = dLow - (low - carry * HALF);
      let newHigh = dHigh - (carried + scaleHigh * left + carry);
      if (newLow < 0) {
        newLow += HALF;
        newHigh -= 1;
      }
      if (newHigh < 0) {
        symbol--;
        continue;
      }
      // The new range.
      middle = scaleMiddle * share;
      carried = Math.floor(middle / 65536);
      low = scaleLow * share + (middle - carried * 65536) * 65536;
      carry = Math.floor(low / HALF);
      const newRangeLow = low - carry * HALF;
      const newRangeHigh = carried + scaleHigh * share + carry;
      if (newHigh > newRangeHigh || (newHigh === newRangeHigh && newLow >= newRangeLow)) {
        if (symbol === last) throw damaged();
        symbol++;
        continue;
      }
      if (newRangeHigh === 0) {
        state[0] = newLow;
        state[1] = this.position < this.words.length ? this.words[this.position++] : 0;
        state[2] = newRangeLow;
        state[3] = 0;
      } else {
        state[0] = newHigh;
        state[1] = newLow;
        state[2] = newRangeHigh;
        state[3] = newRangeLow;
      }
      return symbol;
    }
  }

  /**
   * One symbol for each row, in ascending order of rows and the order given within a row.
   *
   * @param {Uint16Array | Int32Array} rows
   * @returns {Uint16Array} in the order of `rows`
   */
  read(rows) {
    const symbols = new Uint16Array(rows.length);
    for (const unit of ascending(rows, this.bank.rows)) symbols[unit] = this.decode(rows[unit]);
    return symbols;
  }

  /** To be called after the last symbol: throws when the segment has more data than they take. */
  finish() {
    const [dHigh, dLow, rangeHigh, rangeLow] = this.state;
    const untouched = rangeHigh === HALF - 1 && rangeLow === HALF - 1;
    // Less than 2^33 - 1, in halves.
    const close = dHigh < 1 || (dHigh === 1 && dLow < HALF - 1);
    if (this.position < this.words.length || !(untouched || close)) {
      throw new LoocError("the coded data does not end where its codes do: it is damaged; get the file again", "FormatError");
    }
  }
}

/**
 * Where numbers below `limit` stand in ascending order; equal ones keep theirs.
 *
 * @param {Uint16Array | Int32Array} numbers
 * @param {number} limit
 * @returns {Int32Array}
 */
export function ascending(numbers, limit) {
  const next = new Int32Array(limit + 1);
  for (let at = 0; at < numbers.length; at++) next[numbers[at] + 1]++;
  for (let number = 0; number < limit; number++) next[number + 1] += next[number];
  const order = new Int32Array(numbers.length);
  for (let at = 0; at < numbers.length; at++) order[next[numbers[at]]++] = at;
  return order;
}

/** Checks the codes segment by segment: each of n segments has a share of 32 bits, of the CRC32 of all symbols up to its end. */
export class CodeChecksum {
  /** @param {number} segments */
  constructor(segments) {
    this.after = new Array(segments).fill(0);
  }

  /**
   * Takes in the next symbols, which belong to a segment; segments come in order.
   *
   * @param {number} segment
   * @param {Uint16Array} symbols
   */
  update(segment, symbols) {
    const crc = crc32(littleEndian(symbols), this.after[segment]);
    this.after.fill(crc, segment);
  }

  /**
   * Whether the first `segments` segments are those of a file with the checksum `expected`.
   *
   * @param {number} expected
   * @param {number} segments
   */
  agrees(expected, segments) {
    const count = this.after.length;
    const share = Math.floor(32 / count);
    const last = 32 - share * (count - 1);
    for (let index = 0; index < segments; index++) {
      const bits = index < count - 1 ? share : last;
      const low = index < count - 1 ? last + share * (count - 2 - index) : 0;
      const mask = bits === 32 ? 0xffffffff : 2 ** bits - 1;
      if ((((expected >>> low) ^ this.after[index]) & mask) !== 0) return false;
    }
    return true;
  }
}

/**
 * @param {Uint16Array} symbols
 * @returns {Uint8Array}
 */
function littleEndian(symbols) {
  // WebAssembly is little-endian, and so is every machine that browsers run on.
  return new Uint8Array(symbols.buffer, symbols.byteOffset, symbols.byteLength);
}

function damaged() {
  return new LoocError("the coded data is damaged and cannot be decoded; get the file again", "FormatError");
}
