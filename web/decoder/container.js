/**
 * The .looc file: what its bytes mean (docs/FORMAT.md). Mirrors looc_codec/format/container.py check by check and sentence by sentence.
 */

import { crc32, hex } from "./checksums.js";
import { PATCH } from "./constants.js";
import { LoocError } from "./errors.js";

const MAGIC = [0x8c, 0x4c, 0x43];
const FORMAT_VERSION = 1;
const FINGERPRINT_BYTES = 8;
const CHECKSUM_BYTES = 4;
export const DEFAULT_MAX_PIXELS = 250_000_000;
const MAX_SIDE_PIXELS = 2 ** 30 - 1;
const MAX_CHUNKS = 64;
const MAX_VARINT_BYTES = 5;
export const ICC_CHUNK = "iccp";
export const EXIF_CHUNK = "exif";
export const XMP_CHUNK = "xmp_";
export const ALPHA_CHUNK = "ALPH";
const KNOWN_CHUNKS = [ICC_CHUNK, EXIF_CHUNK, XMP_CHUNK, ALPHA_CHUNK];

/** What the decoded planes stand for. */
export const Colour = Object.freeze({ RGB: 0, GREY: 1, GREY_AS_RGB: 2 });

/** @typedef {{type: string, lengthBytes: number, start: number}} ChunkInfo `start` is where its data begins */
/**
 * What a file says about itself, without the payload. `fileBytes` is the length that the whole file must have.
 * @typedef {{width: number, height: number, level: number, fingerprint: string, segmentLengths: number[], codeChecksum: number,
 *   chunks: ChunkInfo[], payloadStart: number, fileBytes: number, colour: number, filter: Uint8Array}} Header
 */
/** @typedef {Header & {segments: Uint8Array[], chunkData: Map<string, Uint8Array>}} Container */

/**
 * The fields of a whole file, all checked.
 *
 * @param {Uint8Array} bytes
 * @param {number} [maxPixels]
 * @returns {Container}
 * @throws {LoocError}
 */
export function unpack(bytes, maxPixels = DEFAULT_MAX_PIXELS) {
  const header = parse(bytes, maxPixels, true);
  const { fileBytes } = header;
  if (bytes.length < fileBytes) throw cutShort(header, bytes);
  const intact = crc32(bytes.subarray(0, fileBytes - CHECKSUM_BYTES)) === uint32(bytes, fileBytes - CHECKSUM_BYTES);
  if (bytes.length > fileBytes && intact) {
    throw new LoocError(`${bytes.length - fileBytes} bytes follow the end of the .looc file at byte ${fileBytes}; cut them off`, "TrailingBytesError");
  }
  for (const chunk of header.chunks) {
    if (!isSound(chunk, bytes)) {
      throw new LoocError(`the .looc file is damaged in its ${chunk.type} chunk at byte ${chunk.start}; get a fresh copy`, "DamagedError");
    }
  }
  if (!intact) throw new LoocError("the .looc file is damaged: its checksum does not match; get a fresh copy", "DamagedError");
  let at = header.payloadStart;
  const segments = header.segmentLengths.map((length) => bytes.subarray(at, (at += length)));
  return { ...header, segments, chunkData: new Map(header.chunks.map((chunk) => [chunk.type, dataOf(chunk, bytes)])) };
}

/**
 * What the file says about itself, from its bytes or any beginning of them that holds header and chunks. Checksums of the file and the
 * payload are not looked at, and chunks that are damaged are listed without their data.
 *
 * @param {Uint8Array} bytes
 * @returns {Header & {chunkData: Map<string, Uint8Array>}}
 * @throws {LoocError}
 */
export function readFields(bytes) {
  const header = parse(bytes, null, false);
  const sound = header.chunks.filter((chunk) => isSound(chunk, bytes));
  return { ...header, chunkData: new Map(sound.map((chunk) => [chunk.type, dataOf(chunk, bytes)])) };
}

/**
 * The header as a page shows it.
 * @typedef {{width: number, height: number, level: number, fingerprint: string, bytes: number, bitsPerPixel: number, groups: number,
 *   hasAlpha: boolean, isGrey: boolean, iccProfile: Uint8Array | null, exif: Uint8Array | null, xmp: Uint8Array | null,
 *   chunks: {kind: string, bytes: number}[]}} ShownHeader
 */

/**
 * @param {Header & {chunkData: Map<string, Uint8Array>}} header
 * @param {number} fileBytes
 * @returns {ShownHeader}
 */
export function shownHeader(header, fileBytes) {
  const copy = (/** @type {string} */ type) => header.chunkData.get(type)?.slice() ?? null;
  return {
    width: header.width,
    height: header.height,
    level: header.level,
    fingerprint: header.fingerprint,
    bytes: fileBytes,
    bitsPerPixel: (8 * fileBytes) / (header.width * header.height),
    groups: header.segmentLengths.length,
    hasAlpha: header.chunks.some((chunk) => chunk.type === ALPHA_CHUNK),
    isGrey: header.colour !== Colour.RGB,
    iccProfile: copy(ICC_CHUNK),
    exif: copy(EXIF_CHUNK),
    xmp: copy(XMP_CHUNK),
    chunks: header.chunks.map((chunk) => ({ kind: chunk.type, bytes: chunk.lengthBytes })),
  };
}

/**
 * @param {Uint8Array} bytes
 * @param {number | null} maxPixels
 * @param {boolean} refuseUnknown
 * @returns {Header}
 */
function parse(bytes, maxPixels, refuseUnknown) {
  requireMagic(bytes);
  let at = MAGIC.length;
  const take = (/** @type {number} */ length, /** @type {string} */ name) => {
    if (length > bytes.length - at) {
      throw new LoocError(`the .looc file is truncated: it ends at byte ${bytes.length}, within its ${name}; get the whole file`, "TruncatedError");
    }
    at += length;
    return bytes.subarray(at - length, at);
  };
  const number = (/** @type {string} */ name) => {
    let value = 0;
    for (let index = 0; index < MAX_VARINT_BYTES; index++) {
      const [byte] = take(1, name);
      value += (byte & 127) * 2 ** (7 * index);
      if (byte < 128) {
        // One value, one spelling: otherwise equal files could differ in bytes.
        if (byte === 0 && index > 0) break;
        return value;
      }
    }
    throw malformed(`its ${name} before byte ${at} is not a minimal varint`);
  };
  const [versionByte] = take(1, "version");
  const version = versionByte >> 4;
  let segmentCount = versionByte & 15;
  if (version !== FORMAT_VERSION) {
    throw new LoocError(`the .looc file has format version ${version}, this looc reads version 1; update looc`, "UnsupportedError");
  }
  let colour = Colour.RGB;
  let filtered = false;
  if (segmentCount === 0) {
    const [flags] = take(1, "flags");
    const spelled = flags.toString(16).toUpperCase().padStart(2, "0");
    const wanted = (flags & 0x30) >> 4;
    if (flags & 0x80 || wanted > Colour.GREY_AS_RGB) {
      throw new LoocError(`the .looc file has the flags ${spelled} (byte 4), unknown to this looc; update looc`, "UnsupportedError");
    }
    colour = /** @type {0} */ (wanted);
    filtered = (flags & 0x40) !== 0;
    segmentCount = flags & 15;
    if (segmentCount === 0 || (colour === Colour.RGB && !filtered)) throw malformed(`its flags ${spelled} (byte 4) say nothing`);
  }
  const width = number("width");
  const height = number("height");
  checkSize(width, height, maxPixels);
  const [levelByte] = take(1, "level");
  const level = levelByte & 127;
  if (level < 1 || level > 100) throw malformed(`its level ${level} is not in 1..100`);
  const fingerprint = hex(take(FINGERPRINT_BYTES, "model fingerprint"));
  const segmentLengths = [];
  while (segmentLengths.length < segmentCount) segmentLengths.push(number("segment length"));
  const codeChecksum = uint32(take(CHECKSUM_BYTES, "code checksum"), 0);
  let filter = new Uint8Array(0);
  if (filtered) {
    const [length] = take(1, "filter length");
    if (length === 0) throw malformed(`its filter before byte ${at} is empty`);
    filter = take(length, "filter").slice();
  }
  /** @type {ChunkInfo[]} */
  const chunks = [];
  if (levelByte & 128) {
    const count = number("chunk count");
    if (count < 1 || count > MAX_CHUNKS) throw malformed(`it states ${count} chunks, 1..${MAX_CHUNKS} are allowed`);
    while (chunks.length < count) {
      const type = String.fromCharCode(...take(4, "chunk type"));
      if (!/^[A-Za-z][A-Za-z_]{3}$/.test(type)) throw malformed(`the chunk type at byte ${at - 4} is not four letters`);
      if (KNOWN_CHUNKS.includes(type) && chunks.some((chunk) => chunk.type === type)) throw malformed(`it has two ${type} chunks`);
      if (refuseUnknown && /^[A-Z]/.test(type) && !KNOWN_CHUNKS.includes(type)) {
        throw new LoocError(`the .looc file needs the feature ${type} (byte ${at - 4}), unknown to this looc; update looc`, "UnsupportedError");
      }
      const lengthBytes = number(`${type} chunk length`);
      chunks.push({ type, lengthBytes, start: at });
      take(lengthBytes + CHECKSUM_BYTES, `${type} chunk`);
    }
  }
  const fileBytes = at + segmentLengths.reduce((sum, length) => sum + length, 0) + CHECKSUM_BYTES;
  return { width, height, level, fingerprint, segmentLengths, codeChecksum, chunks, payloadStart: at, fileBytes, colour, filter };
}

/** @param {Uint8Array} bytes */
function requireMagic(bytes) {
  if (MAGIC.every((byte, index) => bytes[index] === byte)) return;
  if (bytes.length === 0) throw new LoocError("the .looc file is truncated: it is empty; get the whole file", "TruncatedError");
  if (bytes.length < MAGIC.length && bytes.every((byte, index) => MAGIC[index] === byte)) throw truncated(MAGIC.length, bytes.length);
  throw new LoocError("this is not a .looc file: it does not begin with the bytes 8C 4C 43; pass a file that looc wrote", "NotLoocError");
}

/**
 * @param {number} width
 * @param {number} height
 * @param {number | null} maxPixels
 */
function checkSize(width, height, maxPixels) {
  const claims = `the .looc file claims ${width}x${height} pixels`;
  if (width === 0 || height === 0) {
    throw new LoocError(`the .looc file claims a picture of ${width}x${height} pixels, which has none; get a fresh copy`, "LimitError");
  }
  if (Math.max(width, height) > MAX_SIDE_PIXELS) throw new LoocError(`${claims}; the format ends at ${MAX_SIDE_PIXELS} a side`, "LimitError");
  if (maxPixels === null) return;
  const advice = "raise the limit (--max-pixels) if you trust the file";
  if (width * height > maxPixels) throw new LoocError(`${claims}, more than the limit of ${maxPixels}; ${advice}`, "LimitError");
  // 250 million pixels in one row are as much work as 4 billion.
  const blockPixels = Math.ceil(width / PATCH) * Math.ceil(height / PATCH) * PATCH ** 2;
  if (blockPixels > Math.max(4 * maxPixels, 2 ** 24)) {
    throw new LoocError(`${claims}, a strip that takes the memory of more than the limit of ${maxPixels}; ${advice}`, "LimitError");
  }
}

/**
 * @param {Header} header
 * @param {Uint8Array} bytes a file that ends too early
 */
function cutShort(header, bytes) {
  let end = header.payloadStart;
  const ends = header.segmentLengths.map((length) => (end += length));
  let held = ends.filter((position) => position <= bytes.length).length;
  for (let count = ends.length; count > 0; count--) {
    // A file that `looc truncate` cut has a checksum of its own behind its last segment.
    const position = ends[count - 1];
    if (bytes.length === position + CHECKSUM_BYTES && crc32(bytes.subarray(0, position)) === uint32(bytes, position)) {
      held = count;
      break;
    }
  }
  if (held === 0) return truncated(header.fileBytes, bytes.length);
  return new LoocError(
    `the .looc file is truncated: it needs ${header.fileBytes} bytes and ends after ${bytes.length}, with ${held} of` +
      ` ${ends.length} channel groups; get the whole file, or --allow-truncated for a preview`,
    "TruncatedError",
  );
}

/**
 * @param {number} needed
 * @param {number} present
 */
function truncated(needed, present) {
  return new LoocError(`the .looc file is truncated: it needs ${needed} bytes and ends after ${present}; get the whole file`, "TruncatedError");
}

/** @param {string} why */
function malformed(why) {
  return new LoocError(`the .looc file is malformed: ${why}; get a fresh copy`, "MalformedError");
}

/**
 * @param {ChunkInfo} chunk
 * @param {Uint8Array} bytes
 */
function isSound(chunk, bytes) {
  const data = dataOf(chunk, bytes);
  const type = Uint8Array.from(chunk.type, (letter) => letter.charCodeAt(0));
  return crc32(data, crc32(type)) === uint32(bytes, chunk.start + chunk.lengthBytes);
}

/**
 * @param {ChunkInfo} chunk
 * @param {Uint8Array} bytes
 */
function dataOf(chunk, bytes) {
  return bytes.subarray(chunk.start, chunk.start + chunk.lengthBytes);
}

/**
 * @param {Uint8Array} bytes
 * @param {number} at
 */
function uint32(bytes, at) {
  return ((bytes[at] << 24) | (bytes[at + 1] << 16) | (bytes[at + 2] << 8) | bytes[at + 3]) >>> 0;
}
