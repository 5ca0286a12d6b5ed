/** The decoder in Node, for tests and tools: the runtime from the vendored files. */

import { readFileSync } from "node:fs";
import { gunzipSync } from "node:zlib";
import { fileURLToPath } from "node:url";

const VENDOR = new URL("../vendor/onnxruntime-web/", import.meta.url);

/**
 * @param {number} [threads]
 * @returns {Promise<import("./engine.js").Runtime>}
 */
export async function nodeRuntime(threads = 1) {
  const runtime = await import(new URL("ort.wasm.min.mjs", VENDOR).href);
  runtime.env.wasm.numThreads = threads;
  runtime.env.wasm.wasmPaths = { mjs: new URL("ort-wasm-simd-threaded.mjs", VENDOR).href };
  runtime.env.wasm.wasmBinary = gunzipSync(readFileSync(fileURLToPath(new URL("ort-wasm-simd-threaded.wasm.gz", VENDOR))));
  return runtime;
}
