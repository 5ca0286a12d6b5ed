/**
 * Runs the graphs of a model with onnxruntime-web's WebAssembly build.
 *
 * The sums of the prior are integers below 2^24 in float32, so their order, vectors and fused operations change nothing (docs/WEB.md).
 */

import { LoocError } from "./errors.js";

/** @typedef {typeof import("../vendor/onnxruntime-web/ort.wasm.min.mjs")} Runtime */
/** @typedef {{data: Float32Array, dims: readonly number[]}} Array4 */

/** Graphs run as they are stored: to rewrite them takes 2 s of CPU time at the start and makes them no faster. */
const AS_STORED = /** @type {const} */ ({ executionProviders: ["wasm"], graphOptimizationLevel: "disabled", logSeverityLevel: 4 });

/** What the runtime says when its memory, of 4 GiB at most, cannot grow. */
const OUT_OF_MEMORY = /allocat|memory|out of bounds|unreachable|table index/i;

/** The smallest ONNX model: y = x. */
const NOTHING = Uint8Array.from([
  8, 9, 58, 47, 10, 16, 10, 1, 120, 18, 1, 121, 34, 8, 73, 100, 101, 110, 116, 105, 116, 121, 18, 1, 103, 90, 11, 10, 1, 120, 18, 6, 10, 4, 8, 1, 18,
  0, 98, 11, 10, 1, 121, 18, 6, 10, 4, 8, 1, 18, 0, 66, 4, 10, 0, 16, 20,
]);

/**
 * Fetches and compiles the runtime's WebAssembly, which would otherwise happen with the first graph.
 *
 * @param {Runtime} runtime
 */
export async function started(runtime) {
  await (await runtime.InferenceSession.create(NOTHING, AS_STORED)).release();
}

export class Engine {
  /**
   * @param {Runtime} runtime
   * @param {import("./model.js").Model} model
   */
  constructor(runtime, model) {
    this.runtime = runtime;
    this.model = model;
    /** @type {Map<string, Promise<any>>} */
    this.sessions = new Map();
  }

  /**
   * The outputs of a graph for its inputs by name.
   *
   * @param {string} name
   * @param {Record<string, Array4>} inputs
   * @returns {Promise<Array4[]>}
   */
  async run(name, inputs) {
    const session = await this.session(name);
    try {
      const feed = Object.fromEntries(Object.entries(inputs).map(([key, { data, dims }]) => [key, new this.runtime.Tensor("float32", data, dims)]));
      const found = await session.run(feed);
      return session.outputNames.map((/** @type {string} */ output) => found[output]);
    } catch (error) {
      throw mended(error, `the model's network ${name} fails`);
    }
  }

  /**
   * A graph's session, made when it is first needed.
   *
   * @param {string} name
   */
  session(name) {
    let made = this.sessions.get(name);
    if (!made) {
      made = this.#made(name);
      this.sessions.set(name, made);
      made.catch(() => this.sessions.delete(name));
    }
    return made;
  }

  /** @param {string} name */
  async #made(name) {
    const graph = this.model.graph(name);
    try {
      return await this.runtime.InferenceSession.create(graph, AS_STORED);
    } catch (error) {
      throw mended(error, `the model's network ${name} cannot be run`);
    }
  }

  /** Frees the memory of all sessions. */
  async close() {
    const made = await Promise.allSettled(this.sessions.values());
    this.sessions.clear();
    for (const result of made) if (result.status === "fulfilled") await result.value.release();
  }
}

/**
 * @param {unknown} error
 * @param {string} what
 */
function mended(error, what) {
  if (error instanceof LoocError) return error;
  const message = String(error instanceof Error ? error.message : error).split("\n")[0];
  if (error instanceof RangeError || error instanceof WebAssembly.RuntimeError || OUT_OF_MEMORY.test(message)) {
    return new LoocError("the picture needs more memory than there is; close other pages or use the looc command", "MemoryError");
  }
  return new LoocError(`${what} (${message}); get its weights again`, "ModelError");
}
