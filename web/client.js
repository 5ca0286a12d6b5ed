/**
 * Decodes .looc files in a web worker.
 *
 *     const decoder = createDecoder();
 *     const { width, height, data } = await decoder.decode(await file.arrayBuffer());
 *
 * `readHeader` needs neither worker nor model.
 */

import { readFields, shownHeader } from "./decoder/container.js";
import { LoocError } from "./decoder/errors.js";

export { LoocError };

const MAX_THREADS = 8;
/** How long a job that was given up may go on before its worker is ended. */
const PATIENCE_MS = 3000;

/**
 * @typedef {import("./decoder/container.js").ShownHeader} Header
 * @typedef {{width: number, height: number, data: Uint8ClampedArray}} Pixels RGBA, row by row, not premultiplied
 * @typedef {{signal?: AbortSignal, onProgress?: (fraction: number, stage: string) => void, onCoarse?: (pixels: Pixels) => void}} DecodeOptions
 *   `stage` is "weights", "codes" or "pixels"; `onCoarse` gets smaller pictures of the same, of large ones two
 * @typedef {{bytes: Uint8Array, options: DecodeOptions, resolve: (picture: Pixels & {header: Header}) => void, reject: (error: LoocError) => void,
 *   settled: boolean}} Job
 */

/**
 * What a file says about itself.
 *
 * @param {ArrayBuffer | Uint8Array} bytes
 * @returns {Header}
 * @throws {LoocError} where it is no .looc file
 */
export function readHeader(bytes) {
  const view = viewOf(bytes);
  return shownHeader(readFields(view), view.length);
}

/**
 * A decoder with a web worker of its own, in which jobs wait for each other.
 *
 * `base` is the folder of worker.js; `models` are those of its models.json unless given. More than one of `threads` work only on pages that are
 * cross-origin isolated.
 *
 * @param {{base?: string | URL, models?: import("./decoder/weights.js").ModelEntry[], threads?: number}} [settings]
 */
export function createDecoder({ base = new URL(".", import.meta.url), models, threads } = {}) {
  const folder = new URL(base, globalThis.location?.href).href;
  const usable = globalThis.crossOriginIsolated ? Math.max(1, Math.min(threads ?? navigator.hardwareConcurrency ?? 1, MAX_THREADS)) : 1;
  /** @type {Job[]} */
  const queue = [];
  /** @type {Job | undefined} */
  let running;
  /** @type {Worker | undefined} */
  let worker;
  let closed = false;

  const stop = () => {
    worker?.terminate();
    worker = undefined;
  };

  /**
   * @param {Job} job
   * @param {() => void} settle
   */
  const settled = (job, settle) => {
    if (!job.settled) {
      job.settled = true;
      settle();
    }
  };

  /** @param {string} message */
  const died = (message) => {
    stop();
    const job = running;
    running = undefined;
    if (job) settled(job, () => job.reject(new LoocError(message, "MemoryError")));
    next();
  };

  const started = () => {
    const made = new Worker(new URL("worker.js", folder), { type: "module", name: "looc decoder" });
    made.onmessage = ({ data: message }) => {
      if (made !== worker || !running) return;
      const job = running;
      if (message.type === "progress") {
        if (!job.settled) guarded(job.options.onProgress, message.fraction, message.stage);
        return;
      }
      if (message.type === "coarse") {
        if (!job.settled) guarded(job.options.onCoarse, message.pixels);
        return;
      }
      running = undefined;
      if (message.type === "done") settled(job, () => job.resolve(message.picture));
      else settled(job, () => job.reject(new LoocError(message.message, message.kind)));
      if (message.broken) stop();
      next();
    };
    made.onerror = (event) => {
      event.preventDefault();
      if (made === worker) died(`the decoder stopped (${event.message || "its files could not be loaded"}); try again, or use the looc command`);
    };
    made.onmessageerror = () => {
      if (made === worker) died("the picture is too large to be handed over; use the looc command");
    };
    made.postMessage({ type: "start", base: folder, models, threads: usable });
    return made;
  };

  const next = () => {
    if (running || closed) return;
    running = queue.shift();
    if (!running) return;
    try {
      worker ??= started();
      worker.postMessage({ type: "decode", bytes: running.bytes }, [running.bytes.buffer]);
    } catch (error) {
      died(`the decoder cannot be started (${error instanceof Error ? error.message : error})`);
    }
  };

  /** @param {Job} job */
  const giveUp = (job) => {
    settled(job, () => job.reject(aborted()));
    const place = queue.indexOf(job);
    if (place >= 0) queue.splice(place, 1);
    if (job !== running) return;
    worker?.postMessage({ type: "cancel" });
    const working = worker;
    setTimeout(() => {
      if (running === job && worker === working) died("");
    }, PATIENCE_MS);
  };

  return {
    /**
     * The picture of a file.
     *
     * @param {ArrayBuffer | Uint8Array} bytes are copied
     * @param {DecodeOptions} [options]
     * @returns {Promise<Pixels & {header: Header}>} rejects with a LoocError, whose name is AbortError where `signal` stopped it
     */
    decode(bytes, options = {}) {
      return new Promise((resolve, reject) => {
        if (closed) throw new LoocError("the decoder is closed");
        if (options.signal?.aborted) throw aborted();
        /** @type {Job} */
        const job = { bytes: viewOf(bytes).slice(), options, resolve, reject, settled: false };
        options.signal?.addEventListener("abort", () => giveUp(job), { once: true });
        queue.push(job);
        next();
      });
    },

    /** Ends the worker; jobs that are not done are given up. */
    close() {
      closed = true;
      for (const job of [running, ...queue]) if (job) settled(job, () => job.reject(aborted()));
      running = undefined;
      queue.length = 0;
      stop();
    },
  };
}

/** @param {ArrayBuffer | Uint8Array} bytes */
function viewOf(bytes) {
  if (bytes instanceof Uint8Array) return bytes;
  if (bytes instanceof ArrayBuffer) return new Uint8Array(bytes);
  throw new LoocError("a .looc file is decoded from an ArrayBuffer or a Uint8Array");
}

function aborted() {
  const error = new LoocError("decoding was stopped", "AbortError");
  error.name = "AbortError";
  return error;
}

/**
 * Calls what the page gave; its errors are its own and must not end the job.
 *
 * @param {((...values: any[]) => void) | undefined} callback
 * @param {...any} values
 */
function guarded(callback, ...values) {
  try {
    callback?.(...values);
  } catch (error) {
    globalThis.reportError?.(error);
  }
}
