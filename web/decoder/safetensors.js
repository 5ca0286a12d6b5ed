/** Reads safetensors files: eight bytes of length, as much JSON, then the tensors' bytes. */

import { LoocError } from "./errors.js";

/** @typedef {{type: string, shape: number[], bytes: Uint8Array}} Stored a tensor as it is stored, little-endian */

const BYTES_OF = { I8: 1, U8: 1, I16: 2, U16: 2, F16: 2, I32: 4, U32: 4, F32: 4 };
const MAX_HEADER_BYTES = 100_000_000;

/**
 * @param {Uint8Array} file
 * @returns {{tensors: Map<string, Stored>, metadata: Record<string, string>}}
 * @throws {LoocError} where the bytes are no such file
 */
export function readSafetensors(file) {
  const view = new DataView(file.buffer, file.byteOffset, file.byteLength);
  if (file.length < 8) throw broken("it is cut short");
  const length = view.getUint32(0, true) + view.getUint32(4, true) * 2 ** 32;
  if (length > MAX_HEADER_BYTES || 8 + length > file.length) throw broken("it is cut short");
  let header;
  try {
    header = JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(file.subarray(8, 8 + length)));
  } catch {
    throw broken("its header is not JSON");
  }
  const data = file.subarray(8 + length);
  const tensors = new Map();
  for (const [name, entry] of Object.entries(header ?? {})) {
    if (name === "__metadata__") continue;
    const [start, end] = entry?.data_offsets ?? [];
    const size = BYTES_OF[/** @type {keyof BYTES_OF} */ (entry?.dtype)];
    const count = Array.isArray(entry?.shape) ? entry.shape.reduce((/** @type {number} */ product, /** @type {number} */ side) => product * side, 1) : NaN;
    if (!(start >= 0 && start <= end && end <= data.length && end - start === size * count)) throw broken(`its tensor ${name} does not fit`);
    tensors.set(name, { type: entry.dtype, shape: entry.shape, bytes: data.subarray(start, end) });
  }
  return { tensors, metadata: header?.__metadata__ ?? {} };
}

/** @param {string} why */
function broken(why) {
  return new LoocError(`the model's weights are not a looc weights file: ${why}; get them again`, "ModelError");
}
