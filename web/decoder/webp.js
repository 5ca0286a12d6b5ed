/** Decodes the green channel of simple lossless WebP pictures (RFC 9649). Browsers could, but a canvas may be made to change what is read back from it. */

const SIGNATURE = 0x2f;
const HEADER_BYTES = 20;
const LITERALS = 256;
const LENGTHS = 24;
const DISTANCES = 40;
const MAX_CODE_BITS = 15;
const MAX_CACHE_BITS = 11;
const BLACK = 0xff000000;
/** The order in which the lengths of the code of lengths are stored. */
const LENGTH_ORDER = [17, 18, 0, 1, 2, 3, 4, 5, 16, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15];
const PREDICTOR = 0;
const COLOUR = 1;
const SUBTRACT_GREEN = 2;
const PALETTE = 3;
/** What the first distance codes mean: columns to the left and rows up, nearest first, then by columns, the left before the right. */
const NEAR = Array.from({ length: 8 * 16 }, (_, place) => [(place % 16) - 7, place >> 4])
  .filter(([left, up]) => up > 0 || left > 0)
  .sort(([l1, u1], [l2, u2]) => l1 * l1 + u1 * u1 - (l2 * l2 + u2 * u2) || Math.abs(l1) - Math.abs(l2) || l2 - l1);

/**
 * @param {Uint8Array} data whose header was checked
 * @param {number} width
 * @param {number} height
 * @returns {Promise<Uint8Array>} `(height, width)`
 * @throws {Error} for anything that is not such a picture
 */
export async function losslessWebp(data, width, height) {
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  const length = view.getUint32(16, true);
  if (HEADER_BYTES + length > data.length || view.getUint32(4, true) + 8 > data.length) throw new Error("cut short");
  const bits = new Bits(data.subarray(HEADER_BYTES, HEADER_BYTES + length));
  if (bits.read(8) !== SIGNATURE) throw new Error("another signature");
  bits.read(29);
  if (bits.read(3) !== 0) throw new Error("another version");
  const pixels = picture(bits, width, height);
  const plane = new Uint8Array(width * height);
  for (let at = 0; at < plane.length; at++) plane[at] = pixels[at] >>> 8;
  return plane;
}

/** Reads bits, the lowest of a byte first. */
class Bits {
  /** @param {Uint8Array} data */
  constructor(data) {
    this.data = data;
    this.at = 0;
  }

  /** @param {number} count at most 24, or 29 where the position is at a byte's beginning */
  read(count) {
    let value = 0;
    for (let done = 0; done < count; ) {
      const byte = this.at >>> 3;
      if (byte >= this.data.length) throw new Error("cut short");
      const offset = this.at & 7;
      const taken = Math.min(8 - offset, count - done);
      value |= ((this.data[byte] >> offset) & ((1 << taken) - 1)) << done;
      done += taken;
      this.at += taken;
    }
    return value;
  }
}

/** A canonical prefix code. */
class Code {
  /** @param {Uint8Array} lengths bits of each symbol's code, 0 for those that have none */
  constructor(lengths) {
    const counts = new Int32Array(MAX_CODE_BITS + 1);
    let used = 0;
    let share = 0;
    for (const length of lengths) {
      if (!length) continue;
      used++;
      counts[length]++;
      share += 2 ** (MAX_CODE_BITS - length);
    }
    if (!used || (used > 1 && share !== 2 ** MAX_CODE_BITS)) throw new Error("an incomplete code");
    /** Where only one symbol is used, it takes no bits. */
    this.only = used === 1 ? lengths.findIndex(Boolean) : -1;
    this.counts = counts;
    const next = new Int32Array(MAX_CODE_BITS + 2);
    for (let length = 1; length <= MAX_CODE_BITS; length++) next[length + 1] = next[length] + counts[length];
    this.symbols = new Uint16Array(used);
    lengths.forEach((length, symbol) => {
      if (length) this.symbols[next[length]++] = symbol;
    });
  }

  /** @param {Bits} bits */
  read(bits) {
    if (this.only >= 0) return this.only;
    let code = 0;
    let first = 0;
    let before = 0;
    for (let length = 1; length <= MAX_CODE_BITS; length++) {
      code = (code << 1) | bits.read(1);
      const count = this.counts[length];
      if (code - first < count) return this.symbols[before + code - first];
      before += count;
      first = (first + count) << 1;
    }
    throw new Error("no such code");
  }
}

/**
 * A whole picture: its transforms, then its pixels.
 *
 * @param {Bits} bits
 * @param {number} width
 * @param {number} height
 * @returns {Uint32Array} alpha, red, green and blue from the highest byte
 */
function picture(bits, width, height) {
  /** @type {{kind: number, size: number, width: number, data: Uint32Array}[]} */
  const transforms = [];
  let stored = width;
  while (bits.read(1)) {
    const kind = bits.read(2);
    if (transforms.some((other) => other.kind === kind)) throw new Error("a transform twice");
    if (kind === PALETTE) {
      const colours = bits.read(8) + 1;
      const size = colours > 16 ? 0 : colours > 4 ? 1 : colours > 2 ? 2 : 3;
      const data = new Uint32Array(LITERALS);
      data.set(entropyCoded(bits, colours, 1, false));
      for (let at = 1; at < colours; at++) data[at] = added(data[at], data[at - 1]);
      transforms.push({ kind, size, width: stored, data });
      stored = Math.ceil(stored / 2 ** size);
    } else if (kind === SUBTRACT_GREEN) {
      transforms.push({ kind, size: 0, width: stored, data: new Uint32Array(0) });
    } else {
      const size = bits.read(3) + 2;
      transforms.push({ kind, size, width: stored, data: entropyCoded(bits, Math.ceil(stored / 2 ** size), Math.ceil(height / 2 ** size), false) });
    }
  }
  let pixels = entropyCoded(bits, stored, height, true);
  for (const { kind, size, width: own, data } of transforms.reverse()) {
    if (kind === PREDICTOR) predict(pixels, own, height, size, data);
    else if (kind === COLOUR) recolour(pixels, own, height, size, data);
    else if (kind === SUBTRACT_GREEN) {
      for (let at = 0; at < pixels.length; at++) {
        const green = (pixels[at] >>> 8) & 255;
        pixels[at] = added(pixels[at], (green << 16) | green);
      }
    } else pixels = paletted(pixels, own, height, size, data);
  }
  return pixels;
}

/**
 * @param {Bits} bits
 * @param {number} width
 * @param {number} height
 * @param {boolean} main whether this is the picture itself, which may change its codes from block to block
 * @returns {Uint32Array}
 */
function entropyCoded(bits, width, height, main) {
  const cacheBits = bits.read(1) ? bits.read(4) : 0;
  if (cacheBits > MAX_CACHE_BITS) throw new Error("too large a cache");
  const cache = new Uint32Array(cacheBits ? 2 ** cacheBits : 0);
  const seen = (/** @type {number} */ pixel) => {
    if (cacheBits) cache[Math.imul(0x1e35a7bd, pixel) >>> (32 - cacheBits)] = pixel;
  };
  let blockBits = 0;
  let blocks = new Uint32Array(0);
  let groups = 1;
  if (main && bits.read(1)) {
    blockBits = bits.read(3) + 2;
    blocks = entropyCoded(bits, Math.ceil(width / 2 ** blockBits), Math.ceil(height / 2 ** blockBits), false).map((pixel) => (pixel >>> 8) & 0xffff);
    groups = blocks.reduce((most, group) => Math.max(most, group), 0) + 1;
  }
  // Codes of groups that no block uses are read too, and not kept.
  const used = new Set(blocks.length ? blocks : [0]);
  /** @type {Map<number, Code[]>} */
  const codes = new Map();
  for (let group = 0; group < groups; group++) {
    const own = [LITERALS + LENGTHS + cache.length, LITERALS, LITERALS, LITERALS, DISTANCES].map((symbols) => prefixCode(bits, symbols));
    if (used.has(group)) codes.set(group, own);
  }
  const acrossBlocks = Math.ceil(width / 2 ** blockBits);
  const pixels = new Uint32Array(width * height);
  for (let at = 0; at < pixels.length; ) {
    const group = blocks.length ? blocks[(Math.floor(at / width) >> blockBits) * acrossBlocks + ((at % width) >> blockBits)] : 0;
    const [green, red, blue, alpha, distance] = /** @type {Code[]} */ (codes.get(group));
    const symbol = green.read(bits);
    if (symbol < LITERALS) {
      const high = red.read(bits) << 16;
      const low = blue.read(bits);
      const pixel = ((alpha.read(bits) << 24) | high | (symbol << 8) | low) >>> 0;
      seen(pixel);
      pixels[at++] = pixel;
    } else if (symbol < LITERALS + LENGTHS) {
      const length = extended(bits, symbol - LITERALS);
      const code = extended(bits, distance.read(bits));
      const [left, up] = NEAR[code - 1] ?? [code - NEAR.length, 0];
      const back = code > NEAR.length ? left : Math.max(1, left + up * width);
      if (back > at || at + length > pixels.length) throw new Error("a copy from beyond");
      for (let end = at + length; at < end; at++) {
        pixels[at] = pixels[at - back];
        seen(pixels[at]);
      }
    } else {
      const pixel = cache[symbol - LITERALS - LENGTHS];
      seen(pixel);
      pixels[at++] = pixel;
    }
  }
  return pixels;
}

/**
 * A length or distance code, from its first symbol.
 *
 * @param {Bits} bits
 * @param {number} symbol
 */
function extended(bits, symbol) {
  if (symbol < 4) return symbol + 1;
  const more = (symbol - 2) >> 1;
  return ((2 + (symbol & 1)) << more) + bits.read(more) + 1;
}

/**
 * @param {Bits} bits
 * @param {number} symbols
 */
function prefixCode(bits, symbols) {
  const lengths = new Uint8Array(symbols);
  if (bits.read(1)) {
    const two = bits.read(1);
    const given = [bits.read(bits.read(1) ? 8 : 1)];
    if (two) given.push(bits.read(8));
    for (const symbol of given) {
      if (symbol >= symbols) throw new Error("no such symbol");
      lengths[symbol] = 1;
    }
    return new Code(lengths);
  }
  const ofLengths = new Uint8Array(LENGTH_ORDER.length);
  const stored = bits.read(4) + 4;
  for (let index = 0; index < stored; index++) ofLengths[LENGTH_ORDER[index]] = bits.read(3);
  const code = new Code(ofLengths);
  let left = bits.read(1) ? 2 + bits.read(2 + 2 * bits.read(3)) : symbols;
  if (left > symbols) throw new Error("too many lengths");
  for (let at = 0, before = 8; at < symbols && left > 0; left--) {
    const length = code.read(bits);
    if (length <= MAX_CODE_BITS) {
      lengths[at++] = length;
      if (length) before = length;
      continue;
    }
    const repeated = length === 16 ? 3 + bits.read(2) : length === 17 ? 3 + bits.read(3) : 11 + bits.read(7);
    if (at + repeated > symbols) throw new Error("too many lengths");
    if (length === 16) lengths.fill(before, at, at + repeated);
    at += repeated;
  }
  return new Code(lengths);
}

/**
 * The sum of two pixels, channel by channel, each modulo 256.
 *
 * @param {number} first
 * @param {number} second
 */
function added(first, second) {
  const outer = ((first & 0xff00ff00) >>> 0) + ((second & 0xff00ff00) >>> 0);
  const inner = (first & 0x00ff00ff) + (second & 0x00ff00ff);
  return ((outer & 0xff00ff00) | (inner & 0x00ff00ff)) >>> 0;
}

/**
 * A pixel of which each channel is a function of the same channel of three.
 *
 * @param {number} a
 * @param {number} b
 * @param {number} c
 * @param {(a: number, b: number, c: number) => number} channel
 */
function mixed(a, b, c, channel) {
  let pixel = 0;
  for (let shift = 0; shift < 32; shift += 8) {
    pixel |= (channel((a >>> shift) & 255, (b >>> shift) & 255, (c >>> shift) & 255) & 255) << shift;
  }
  return pixel >>> 0;
}

const mean = (/** @type {number} */ a, /** @type {number} */ b) => mixed(a, b, 0, (x, y) => (x + y) >> 1);
const clamped = (/** @type {number} */ value) => Math.min(255, Math.max(0, value));

/**
 * Whichever of left and top is nearer to left + top - corner.
 *
 * @param {number} left
 * @param {number} top
 * @param {number} corner
 */
function selected(left, top, corner) {
  let byLeft = 0;
  let byTop = 0;
  for (let shift = 0; shift < 32; shift += 8) {
    const middle = (corner >>> shift) & 255;
    byLeft += Math.abs(((top >>> shift) & 255) - middle);
    byTop += Math.abs(((left >>> shift) & 255) - middle);
  }
  return byLeft < byTop ? left : top;
}

/**
 * @param {number} mode
 * @param {number} left
 * @param {number} top
 * @param {number} corner above on the left
 * @param {number} next above on the right
 */
function predicted(mode, left, top, corner, next) {
  switch (mode) {
    case 1: return left;
    case 2: return top;
    case 3: return next;
    case 4: return corner;
    case 5: return mean(mean(left, next), top);
    case 6: return mean(left, corner);
    case 7: return mean(left, top);
    case 8: return mean(corner, top);
    case 9: return mean(top, next);
    case 10: return mean(mean(left, corner), mean(top, next));
    case 11: return selected(left, top, corner);
    case 12: return mixed(left, top, corner, (a, b, c) => clamped(a + b - c));
    // Halves are rounded towards zero.
    case 13: return mixed(mean(left, top), corner, 0, (a, b) => clamped(a + Math.trunc((a - b) / 2)));
    default: return BLACK;
  }
}

/**
 * @param {Uint32Array} pixels
 * @param {number} width
 * @param {number} height
 * @param {number} size
 * @param {Uint32Array} modes
 */
function predict(pixels, width, height, size, modes) {
  const across = Math.ceil(width / 2 ** size);
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      let guess;
      if (!y) guess = x ? pixels[at - 1] : BLACK;
      else if (!x) guess = pixels[at - width];
      else {
        const mode = (modes[(y >> size) * across + (x >> size)] >>> 8) & 15;
        // At the end of a row the pixel above on the right is the first one of this row.
        guess = predicted(mode, pixels[at - 1], pixels[at - width], pixels[at - width - 1], pixels[at - width + 1]);
      }
      pixels[at] = added(pixels[at], guess);
    }
  }
}

/**
 * @param {Uint32Array} pixels
 * @param {number} width
 * @param {number} height
 * @param {number} size
 * @param {Uint32Array} factors
 */
function recolour(pixels, width, height, size, factors) {
  const across = Math.ceil(width / 2 ** size);
  const signed = (/** @type {number} */ value) => (value << 24) >> 24;
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const factor = factors[(y >> size) * across + (x >> size)];
      const pixel = pixels[at];
      const green = signed(pixel >>> 8);
      const red = ((pixel >>> 16) + ((signed(factor) * green) >> 5)) & 255;
      const blue = (pixel + ((signed(factor >>> 8) * green) >> 5) + ((signed(factor >>> 16) * signed(red)) >> 5)) & 255;
      pixels[at] = ((pixel & 0xff00ff00) | (red << 16) | blue) >>> 0;
    }
  }
}

/**
 * @param {Uint32Array} packed
 * @param {number} width
 * @param {number} height
 * @param {number} size of the bundles: binary logarithm of their pixels
 * @param {Uint32Array} colours
 */
function paletted(packed, width, height, size, colours) {
  const across = Math.ceil(width / 2 ** size);
  const pixels = new Uint32Array(width * height);
  const each = 8 >> size;
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at++) {
      const bundle = (packed[y * across + (x >> size)] >>> 8) & 255;
      pixels[at] = colours[(bundle >> (each * (x & (2 ** size - 1)))) & (2 ** each - 1)];
    }
  }
  return pixels;
}
