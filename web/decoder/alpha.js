/** Alpha planes of files: a grey PNG or a simple lossless WebP (looc_codec/images/alpha.py). */

import { LoocError } from "./errors.js";
import { greyPng } from "./png.js";
import { losslessWebp } from "./webp.js";

const PNG_SIGNATURE = "\x89PNG\r\n\x1a\n";

/**
 * @param {Uint8Array} data
 * @param {number} width
 * @param {number} height
 * @returns {Promise<Uint8Array>} `(height, width)`; kind and size are checked on the bytes before anything is decoded
 * @throws {LoocError}
 */
export async function unpackedAlpha(data, width, height) {
  const text = String.fromCharCode(...data.subarray(0, 26));
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  let claimed;
  let decode;
  if (text.startsWith(PNG_SIGNATURE) && text.slice(12, 16) === "IHDR" && text.slice(24, 26) === "\x08\0") {
    decode = greyPng;
    claimed = [view.getUint32(16), view.getUint32(20)];
  } else if (text.startsWith("RIFF") && text.slice(8, 16) === "WEBPVP8L" && data.length >= 25) {
    decode = losslessWebp;
    const bits = view.getUint32(21, true);
    claimed = [(bits & 0x3fff) + 1, ((bits >> 14) & 0x3fff) + 1];
  } else {
    throw new LoocError("the alpha plane of the .looc file is neither a grey PNG nor a lossless WebP; get a fresh copy", "FormatError");
  }
  if (claimed[0] !== width || claimed[1] !== height) {
    throw new LoocError(`the alpha plane of the .looc file has ${claimed.join("x")} pixels, the picture ${width}x${height}; get a fresh copy`, "FormatError");
  }
  try {
    return await decode(data, width, height);
  } catch (error) {
    // Whatever a decoder throws is about these bytes, but for memory.
    if (error instanceof RangeError && /alloc/i.test(error.message)) throw error;
    throw new LoocError("the alpha plane of the .looc file cannot be decoded; get a fresh copy", "FormatError");
  }
}
