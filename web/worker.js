/**
 * The web worker in which files are decoded, one at a time; client.js speaks with it.
 *
 * To it: `start` once (where the files are, models, threads), then `decode` (bytes) and `cancel`. From it: `progress`, `coarse`, and at the
 * end of each job `done` or `error`. An error that leaves the runtime in an unknown state says so with `broken`; client.js then ends the worker.
 */

import { asLoocError, decodeFile, Decoder } from "./decoder/decoder.js";
import { started } from "./decoder/engine.js";
import { LoocError } from "./decoder/errors.js";
import { Model } from "./decoder/model.js";
import { fetchWeights, listModels } from "./decoder/weights.js";

/** The part of progress that getting and loading a model takes: over the network, and from the browser's cache. */
const FETCHED_SHARE = 0.3;
const READY_SHARE = 0.05;

/** @type {{base: string, models: import("./decoder/weights.js").ModelEntry[] | undefined, threads: number}} */
let settings = { base: "", models: undefined, threads: 1 };
/** @type {Promise<import("./decoder/engine.js").Runtime> | undefined} */
let runtime;
/** The model that was used last. Only one is kept, since each takes some 200 MB. @type {{fingerprint: string, decoder: Decoder} | undefined} */
let current;
let cancelled = false;

const { port1, port2 } = new MessageChannel();
/** @type {(() => void)[]} */
const waiting = [];
port1.onmessage = () => waiting.shift()?.();

/** Lets messages in, and stops where one of them was `cancel`. */
async function pause() {
  await new Promise((resolve) => {
    waiting.push(() => resolve(undefined));
    port2.postMessage(0);
  });
  if (cancelled) throw new LoocError("decoding was stopped", "AbortError");
}

self.onmessage = async ({ data: message }) => {
  if (message.type === "start") {
    settings = message;
    runtime = loadedRuntime();
    // Who awaits it later gets the error.
    runtime.catch(() => {});
  } else if (message.type === "cancel") {
    cancelled = true;
  } else if (message.type === "decode") {
    cancelled = false;
    await decode(message.bytes);
  }
};

/** @param {Uint8Array} bytes */
async function decode(bytes) {
  let loaded = 0;
  const report = (/** @type {number} */ fraction, /** @type {string} */ stage) => self.postMessage({ type: "progress", fraction: loaded + (1 - loaded) * fraction, stage });
  try {
    const decoderFor = async (/** @type {string} */ fingerprint) => {
      const decoder = await decoderOf(fingerprint, (fraction, fetched) => {
        loaded = (fetched ? FETCHED_SHARE : READY_SHARE) * fraction;
        report(0, "weights");
      });
      return decoder;
    };
    const onCoarse = (/** @type {import("./decoder/decoder.js").Pixels} */ pixels) => self.postMessage({ type: "coarse", pixels }, { transfer: [pixels.data.buffer] });
    const { coding, ...picture } = await decodeFile(bytes, decoderFor, { pause, onProgress: report, onCoarse });
    self.postMessage({ type: "done", picture }, { transfer: [picture.data.buffer] });
  } catch (error) {
    const { message, kind } = asLoocError(error);
    self.postMessage({ type: "error", message, kind, broken: kind === "MemoryError" || kind === "LoocError" });
  }
}

/**
 * The decoder of the model with a fingerprint.
 *
 * @param {string} fingerprint
 * @param {(fraction: number, fetched: boolean) => void} report
 */
async function decoderOf(fingerprint, report) {
  if (current?.fingerprint === fingerprint) return current.decoder;
  report(0, false);
  const models = settings.models ?? (await listModels(settings.base));
  const entry = models.find((model) => model.fingerprint === fingerprint);
  if (!entry) {
    const known = models.map((model) => `${model.name} (${model.fingerprint})`).join(", ");
    throw new LoocError(`the file needs the model with fingerprint ${fingerprint}, which this page does not have; it has ${known || "none"}`, "ModelError");
  }
  const load = (/** @type {Uint8Array} */ file) => {
    const model = new Model(file);
    if (model.fingerprint !== fingerprint) throw new LoocError(`the weights of the model ${entry.name} are those of another one (${model.fingerprint})`, "ModelError");
    return model;
  };
  const [model, loaded] = await Promise.all([fetchWeights(entry, settings.base, load, report, pause), runtime]);
  await current?.decoder.engine.close();
  current = { fingerprint, decoder: new Decoder(/** @type {import("./decoder/engine.js").Runtime} */ (loaded), model) };
  return current.decoder;
}

/** onnxruntime-web with the vendored files. */
async function loadedRuntime() {
  try {
    const folder = new URL("vendor/onnxruntime-web/", settings.base);
    const loaded = await import(new URL("ort.wasm.min.mjs", folder).href);
    loaded.env.wasm.numThreads = settings.threads;
    loaded.env.wasm.wasmPaths = {
      mjs: new URL("ort-wasm-simd-threaded.mjs", folder).href,
      wasm: new URL("ort-wasm-simd-threaded.wasm", folder).href,
    };
    // While the weights come.
    await started(loaded);
    return loaded;
  } catch (error) {
    throw new LoocError(`the decoder's runtime could not be loaded (${error instanceof Error ? error.message : error}); reload the page`, "LoocError");
  }
}
