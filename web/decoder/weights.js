/** Fetches weights files, once: they are kept in the browser's cache. */

import { LoocError } from "./errors.js";

/** @typedef {{name: string, fingerprint: string, url: string, bytes?: number}} ModelEntry `url` may be relative to the list */

const CACHE = "looc-weights-1";
const LIST = "models.json";
/** No weights file is larger; one that is must not fill the memory. */
const MAX_BYTES = 256 * 2 ** 20;

/**
 * The models that the page has, of its models.json.
 *
 * @param {string} base address of the page's folder
 * @returns {Promise<ModelEntry[]>}
 */
export async function listModels(base) {
  const address = new URL(LIST, base);
  const list = await (await fetched(address)).json().catch(() => null);
  const sound = Array.isArray(list) && list.every((entry) => typeof entry?.fingerprint === "string" && typeof entry.url === "string");
  if (!sound) throw new LoocError(`${address.href} is not a list of models`, "ModelError");
  return list;
}

/**
 * What `load` makes of a model's weights file.
 *
 * A file from the cache that `load` refuses is fetched anew once.
 *
 * @template T
 * @param {ModelEntry} entry
 * @param {string} base
 * @param {(file: Uint8Array) => T} load throws a LoocError for a file that is damaged
 * @param {(fraction: number, fetched: boolean) => void} report
 * @param {() => Promise<void>} pause
 * @returns {Promise<T>}
 */
export async function fetchWeights(entry, base, load, report, pause) {
  const address = new URL(entry.url, base);
  const cache = await openedCache();
  // The parameters are only a key: another model, or another file of it, is another entry.
  const key = new URL(address);
  key.searchParams.set("fingerprint", entry.fingerprint);
  key.searchParams.set("bytes", String(entry.bytes ?? 0));
  const kept = await cache?.match(key.href).catch(() => undefined);
  if (kept) {
    try {
      const model = load(new Uint8Array(await kept.arrayBuffer()));
      report(1, false);
      return model;
    } catch (error) {
      if (!(error instanceof LoocError)) throw error;
      await cache?.delete(key.href);
    }
  }
  // What was refused may have come from the browser's other cache, that of addresses.
  const { file, storable } = await downloaded(address, kept ? "reload" : "default", entry.bytes ?? 0, (fraction) => report(fraction, true), pause);
  const model = load(file);
  if (!storable) return model;
  // Kept only once it is known to be sound; older files of the same address go. A full disk is no reason to stop.
  for (const other of (await cache?.keys().catch(() => [])) ?? []) {
    if (new URL(other.url).pathname === address.pathname) await cache?.delete(other);
  }
  await cache?.put(key.href, new Response(/** @type {BodyInit} */ (file))).catch(() => {});
  return model;
}

/** The browser's cache; none outside secure contexts and where the user forbids it. */
async function openedCache() {
  try {
    return typeof caches === "undefined" ? null : await caches.open(CACHE);
  } catch {
    return null;
  }
}

/**
 * @param {URL} address
 * @param {RequestCache} cache
 * @param {number} expected bytes, 0 where that is not known
 * @param {(fraction: number) => void} report
 * @param {() => Promise<void>} pause
 */
async function downloaded(address, cache, expected, report, pause) {
  const response = await fetched(address, cache);
  const reader = response.body?.getReader();
  if (!reader) throw new LoocError(`the model's weights cannot be read from ${address.href}`, "ModelError");
  const parts = [];
  let length = 0;
  for (;;) {
    const { done, value } = await reader.read().catch(() => {
      throw new LoocError(`the model's weights stopped coming from ${address.href}; check the connection and try again`, "ModelError");
    });
    if (done) break;
    parts.push(value);
    length += value.length;
    if (length > MAX_BYTES) throw new LoocError(`the weights file at ${address.href} is larger than any of looc's`, "ModelError");
    if (expected) report(Math.min(1, length / expected));
    await pause();
  }
  const file = new Uint8Array(length);
  let at = 0;
  for (const part of parts) {
    file.set(part, at);
    at += part.length;
  }
  // `looc view` has another address each time: what it left in the cache would be of no use.
  return { file, storable: !/no-store/i.test(response.headers.get("Cache-Control") ?? "") };
}

/**
 * @param {URL} address
 * @param {RequestCache} [cache]
 */
async function fetched(address, cache = "default") {
  let response;
  try {
    response = await fetch(address, { cache });
  } catch {
    throw new LoocError(`${address.href} cannot be reached; check the connection and try again`, "ModelError");
  }
  if (!response.ok) throw new LoocError(`${address.href} is not there (status ${response.status})`, "ModelError");
  return response;
}
