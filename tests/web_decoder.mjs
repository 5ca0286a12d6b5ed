/**
 * Runs the page's decoder (web/decoder) in Node: a job in each line of standard input, its result in a line of standard output.
 *
 * A job names a weights file, a .looc file and where to put what comes out: NAME.rgba, NAME.latent, NAME.details, NAME.coarse and the chunks.
 */

import { readFileSync, writeFileSync } from "node:fs";
import { createInterface } from "node:readline";
import { gunzipSync } from "node:zlib";
import { readHeader } from "../web/client.js";
import { decodeFile, Decoder } from "../web/decoder/decoder.js";
import { started } from "../web/decoder/engine.js";
import { LoocError } from "../web/decoder/errors.js";
import { Model } from "../web/decoder/model.js";

const VENDOR = new URL("../web/vendor/onnxruntime-web/", import.meta.url);
const wasm = gunzipSync(readFileSync(new URL("ort-wasm-simd-threaded.wasm.gz", VENDOR)));
const runtime = await import(new URL("ort.wasm.min.mjs", VENDOR).href);
runtime.env.wasm.numThreads = 1;
runtime.env.wasm.wasmPaths = { mjs: new URL("ort-wasm-simd-threaded.mjs", VENDOR).href };
runtime.env.wasm.wasmBinary = wasm;
await started(runtime);

/** Four instructions of which the last is a relaxed one. */
const RELAXED = Uint8Array.from([
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 19, 1, 17, 0, 65, 1, 253, 15, 65, 2, 253, 15, 65, 3, 253, 15, 253, 147, 2, 11,
]);
/** @type {Map<string, Decoder>} */
const decoders = new Map();

/** @param {string} weights */
function decoderOf(weights) {
  let decoder = decoders.get(weights);
  if (!decoder) {
    decoder = new Decoder(runtime, new Model(new Uint8Array(readFileSync(weights))));
    decoders.set(weights, decoder);
  }
  return decoder;
}

/** @param {{weights: string, file: string, out?: string, maxPixels?: number, header?: boolean}} job */
async function done({ weights, file, out, maxPixels, header }) {
  const bytes = new Uint8Array(readFileSync(file));
  if (header) {
    const { iccProfile, exif, xmp, ...rest } = readHeader(bytes);
    const [icc, ...others] = [iccProfile, exif, xmp].map((part) => (part ? Buffer.from(part).toString("base64") : null));
    return { ...rest, icc, exif: others[0], xmp: others[1] };
  }
  const decoder = decoderOf(weights);
  const decoderFor = async (/** @type {string} */ fingerprint) => {
    if (fingerprint !== decoder.model.fingerprint) throw new LoocError("another model", "ModelError");
    return decoder;
  };
  let coarse;
  const stages = new Set();
  const onProgress = (/** @type {number} */ fraction, /** @type {string} */ stage) => stages.add(fraction >= 0 && fraction <= 1 ? stage : "outside");
  const made = await decodeFile(bytes, decoderFor, { maxPixels, onProgress, onCoarse: (picture) => (coarse = picture) });
  if (out) {
    writeFileSync(`${out}.rgba`, made.data);
    writeFileSync(`${out}.latent`, made.coding.latent);
    writeFileSync(`${out}.details`, made.coding.details ?? new Uint8Array(0));
    writeFileSync(`${out}.coarse`, coarse.data);
  }
  return { width: made.width, height: made.height, coarse: [coarse.width, coarse.height], stages: [...stages] };
}

for await (const line of createInterface({ input: process.stdin })) {
  const job = JSON.parse(line);
  let result;
  try {
    result = job.relaxed ? { known: WebAssembly.validate(RELAXED), needed: !WebAssembly.validate(wasm) } : await done(job);
  } catch (error) {
    result = { error: error.message, kind: error instanceof LoocError ? error.kind : `uncaught ${error.stack}` };
  }
  process.stdout.write(`${JSON.stringify(result)}\n`);
}
process.exit(0);
