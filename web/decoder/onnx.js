/**
 * Puts the tensors of the weights file into a stored graph.
 *
 * Graphs are ONNX models whose initializers name tensors of the weights file instead of holding values. The command hands those
 * to the runtime by name, which the runtime's web build cannot; so the bytes are written into the graph before it is loaded. Only the few
 * fields of the protocol buffers that lie on the way are understood; everything else is copied as it is.
 */

import { LoocError } from "./errors.js";

/** Numbers of the fields of ModelProto, GraphProto and TensorProto (onnx.proto). */
const MODEL_GRAPH = 7;
const GRAPH_INITIALIZER = 5;
const TENSOR_NAME = 8;
const TENSOR_RAW_DATA = 9;
const TENSOR_EXTERNAL_DATA = 13;
const TENSOR_DATA_LOCATION = 14;
const LENGTH_DELIMITED = 2;

/**
 * A graph with the values of its external initializers inside.
 *
 * @param {Uint8Array} graph an ONNX model
 * @param {(name: string) => Uint8Array} bytesOf the little-endian values of a tensor by its name
 * @returns {Uint8Array}
 * @throws {LoocError} where the bytes are no such model
 */
export function withTensors(graph, bytesOf) {
  /** @type {Uint8Array[]} */
  const model = [];
  for (const field of fields(graph)) {
    if (field.number !== MODEL_GRAPH) {
      model.push(field.whole);
      continue;
    }
    /** @type {Uint8Array[]} */
    const parts = [];
    for (const part of fields(field.content)) {
      parts.push(...(part.number === GRAPH_INITIALIZER ? initializer(part, bytesOf) : [part.whole]));
    }
    model.push(...message(MODEL_GRAPH, parts));
  }
  return joined(model);
}

/** @typedef {{number: number, content: Uint8Array, whole: Uint8Array}} Field `content` is empty but for length-delimited fields */

/**
 * @param {Field} field
 * @param {(name: string) => Uint8Array} bytesOf
 * @returns {Uint8Array[]}
 */
function initializer(field, bytesOf) {
  const inside = fields(field.content);
  if (!inside.some((part) => part.number === TENSOR_EXTERNAL_DATA)) return [field.whole];
  const name = inside.find((part) => part.number === TENSOR_NAME);
  const values = bytesOf(name ? new TextDecoder().decode(name.content) : "");
  const kept = inside.filter((part) => part.number !== TENSOR_EXTERNAL_DATA && part.number !== TENSOR_DATA_LOCATION);
  return message(GRAPH_INITIALIZER, [...kept.map((part) => part.whole), ...message(TENSOR_RAW_DATA, [values])]);
}

/**
 * @param {Uint8Array} bytes
 * @returns {Field[]}
 */
function fields(bytes) {
  const found = [];
  let at = 0;
  while (at < bytes.length) {
    const start = at;
    const [key, afterKey] = varint(bytes, at);
    at = afterKey;
    let content = bytes.subarray(at, at);
    const kind = key & 7;
    if (kind === 0) at = varint(bytes, at)[1];
    else if (kind === 1) at += 8;
    else if (kind === 5) at += 4;
    else if (kind === LENGTH_DELIMITED) {
      const [length, from] = varint(bytes, at);
      content = bytes.subarray(from, from + length);
      at = from + length;
    } else at = bytes.length + 1;
    if (at > bytes.length) throw malformed();
    found.push({ number: Math.floor(key / 8), content, whole: bytes.subarray(start, at) });
  }
  return found;
}

/**
 * @param {Uint8Array} bytes
 * @param {number} at
 * @returns {[number, number]} the value (exact below 2^53) and the position after it
 */
function varint(bytes, at) {
  let value = 0;
  for (let index = 0; index < 10 && at + index < bytes.length; index++) {
    const byte = bytes[at + index];
    value += (byte & 127) * 2 ** (7 * index);
    if (byte < 128) return [value, at + index + 1];
  }
  throw malformed();
}

/**
 * @param {number} number
 * @param {Uint8Array[]} parts
 * @returns {Uint8Array[]}
 */
function message(number, parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  return [Uint8Array.from([...encoded(number * 8 + LENGTH_DELIMITED), ...encoded(length)]), ...parts];
}

/** @param {number} value */
function encoded(value) {
  const bytes = [];
  for (; value >= 128; value = Math.floor(value / 128)) bytes.push((value & 127) | 128);
  return [...bytes, value];
}

/** @param {Uint8Array[]} parts */
function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

function malformed() {
  return new LoocError("the weights file holds a network that cannot be read; get it again", "ModelError");
}
