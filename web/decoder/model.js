/**
 * The model that files are decoded with: integers, tables and graphs of a weights file, all checked (looc_codec/codec/model.py,
 * looc_codec/format/integers.py).
 */

import { hex, Sha256 } from "./checksums.js";
import { CodeTables } from "./codes.js";
import { readConfig } from "./config.js";
import { CONSTANTS, ESCAPE_FACTOR, LATENT_LIMIT, SETS, TABLE_BITS } from "./constants.js";
import { LoocError } from "./errors.js";
import { withTensors } from "./onnx.js";
import { levelsOfGroup } from "./order.js";
import { readSafetensors } from "./safetensors.js";

const CRITICAL = "core.";
const GRAPH = "graph.";
const SCALES = ".scales";
const QUALITIES = 100;
const FINGERPRINT_BYTES = 8;
const EXACT_LIMIT = 2 ** 24;
const WEIGHT_LIMIT_12_BITS = 2047;
const MANTISSA_BITS = 11;
/** Names of types in safetensors files, in numpy, and their arrays. */
const TYPES = /** @type {const} */ ({
  I8: ["int8", Int8Array], U8: ["uint8", Uint8Array], I16: ["int16", Int16Array], I32: ["int32", Int32Array], F32: ["float32", Float32Array], F16: ["float16", Uint16Array],
});
/** What goes into the fingerprint beside constants and integers. */
const SIZES = [
  "channels", "codevector_dim", "codebook_size", "groups", "prior_width", "prior_depth", "scale_classes", "ratio_classes", "trellis_states", "detail_channels", "detail_width",
];

export class Model {
  /**
   * @param {Uint8Array} file a weights file
   * @throws {LoocError} where it is none, or damaged
   */
  constructor(file) {
    const { tensors, metadata } = readSafetensors(file);
    let meta;
    try {
      meta = JSON.parse(metadata.looc);
    } catch {
      throw new LoocError("the model's weights are not a looc weights file: it does not describe itself; get them again", "ModelError");
    }
    this.tensors = tensors;
    this.config = readConfig(meta?.config);
    this.name = this.config.name;
    /** @type {Record<string, number[]>} */
    this.shapes = meta.shapes ?? {};
    /** @type {Record<string, string[]>} */
    this.graphs = meta.graphs ?? {};
    this.#requireGraphs(meta.graphs_sha256);
    this.#requireLegal();
    this.fingerprint = this.#fingerprint();
    if (this.fingerprint !== meta.fingerprint) throw damaged("its tensors do not match their fingerprint");
    const { config } = this;
    const trellis = config.trellis_states > 1;
    const frequencies = unpackedFrequencies(/** @type {Int16Array} */ (this.#core("codebook.frequencies")), config.codebook_size + 1);
    const live = trellis ? /** @type {Uint8Array} */ (this.#core("codebook.live")) : null;
    const factors = /** @type {Uint8Array} */ (this.#core("codebook.digit_factor"));
    const codevectors = /** @type {Int16Array} */ (this.#core("codebook.codevectors"));
    const legal =
      factors.every((factor) => factor <= ESCAPE_FACTOR) && (live === null || live.every((value) => value <= 1)) &&
      [...Array(trellis ? SETS : 1).keys()].every((set) =>
        codevectors.subarray(set * config.codebook_size * config.codevector_dim, set * config.codebook_size * config.codevector_dim + config.codevector_dim).every((value) => value === 0),
      );
    if (!legal) throw illegalTables();
    this.tables = new CodeTables(config, codevectors, factors, live, frequencies);
    if (this.tables.rows * (config.codebook_size + 1) !== frequencies.length) throw illegalTables();
    this.companding = signedCompanding(/** @type {Uint8Array} */ (this.#core("prior.companding")));
    this.chosenDetails = config.detail_channels ? /** @type {Int16Array} */ (this.#core("details.chosen")) : new Int16Array(0);
  }

  /**
   * The stored row of a quality of one of the core's quality tables.
   *
   * @param {string} name
   * @param {number} quality
   * @returns {Float32Array}
   */
  qualityRow(name, quality) {
    const table = this.#core(name);
    const width = table.length / QUALITIES;
    return Float32Array.from(table.subarray((quality - 1) * width, quality * width));
  }

  /** @param {string} name */
  has(name) {
    return Object.hasOwn(this.graphs, name);
  }

  /**
   * A graph with its tensors inside, as a whole ONNX model.
   *
   * @param {string} name
   * @returns {Uint8Array}
   */
  graph(name) {
    if (!this.has(name)) throw new LoocError(`the model has no network ${name}; get its weights again`, "ModelError");
    return withTensors(this.#stored(GRAPH + name).bytes, (tensor) => this.#graphTensor(tensor));
  }

  /**
   * The bytes of a tensor as graphs read it: integers as they are, parameters of the transforms as float32.
   *
   * @param {string} name
   * @returns {Uint8Array}
   */
  #graphTensor(name) {
    if (name.startsWith(CRITICAL)) return this.#stored(name).bytes;
    const shape = Object.hasOwn(this.shapes, name) ? this.shapes[name] : null;
    const scales = shape ? /** @type {Float32Array} */ (this.#values(name + SCALES, "F32")) : Float32Array.from(/** @type {Uint16Array} */ (this.#values(name, "F16")), half);
    if (!scales.every(Number.isFinite)) throw damaged("it holds weights that are not finite numbers");
    const values = shape ? unpackedWeights(/** @type {Uint8Array} */ (this.#values(name, "U8")), scales, shape) : scales;
    return new Uint8Array(values.buffer);
  }

  /** @param {string} name */
  #stored(name) {
    const stored = this.tensors.get(name);
    if (!stored) throw damaged(`it has no tensor ${name}`);
    return stored;
  }

  /** @param {string} name */
  #core(name) {
    return this.#values(CRITICAL + name);
  }

  /**
   * A tensor's numbers, as a copy, since they may begin at any byte of the file.
   *
   * @param {string} name
   * @param {string} [type]
   */
  #values(name, type) {
    const stored = this.#stored(name);
    const known = TYPES[/** @type {keyof typeof TYPES} */ (stored.type)];
    if (!known || (type && stored.type !== type)) throw damaged(`its tensor ${name} is of another type`);
    return new known[1](stored.bytes.slice().buffer);
  }

  /** @param {unknown} expected */
  #requireGraphs(expected) {
    const digest = new Sha256();
    for (const name of Object.keys(this.graphs).sort()) {
      const { bytes, type } = this.#stored(GRAPH + name);
      if (type !== "U8") throw damaged(`its network ${name} is not bytes`);
      digest.update(new TextEncoder().encode(`${name} ${bytes.length}\n`)).update(bytes);
    }
    if (hex(digest.digest()) !== expected) throw damaged("its graphs do not match their checksum");
  }

  /** Throws unless the integers are those of a model of the configuration and its sums are exact. */
  #requireLegal() {
    const layers = layersOf(this.config);
    const expected = layoutOf(this.config, layers);
    const names = [...this.tensors.keys()].filter((name) => name.startsWith(CRITICAL)).map((name) => name.slice(CRITICAL.length));
    for (const name of new Set([...names, ...expected.keys(), "codebook.frequencies"])) {
      const stored = this.tensors.get(CRITICAL + name);
      const [type, shape] = expected.get(name) ?? ["I16", null];
      const fits = stored && stored.type === type && (shape ? String(stored.shape) === String(shape) : name === "codebook.frequencies" && stored.shape.length === 2 && stored.shape[1] === this.config.codebook_size + 1);
      if (!fits) throw new LoocError(`the weights file holds other integers than its configuration needs (${name})`, "ModelError");
    }
    for (const [name, { gainBits }] of layers) this.#requireExact(name, gainBits);
    if (this.#core("prior.companding").some((value) => value > CONSTANTS.COMPANDED_LIMIT)) throw damaged("it holds companded values out of range");
    if (this.config.detail_channels) {
      const chosen = /** @type {Int16Array} */ (this.#core("details.chosen"));
      if (chosen.some((channel) => channel < 0 || channel >= 768) || new Set(chosen).size !== chosen.length) throw damaged("it holds channels of details that there are not");
    }
  }

  /**
   * Throws unless every sum that a layer's integers can give stays below 2^24, where float32 is exact.
   *
   * @param {string} layer
   * @param {number} gainBits
   */
  #requireExact(layer, gainBits) {
    const weight = this.#core(`${layer}.weight`);
    const bias = this.#core(`${layer}.bias`);
    const exponent = this.#core(`${layer}.exponent`);
    const inputs = weight.length / bias.length;
    for (let output = 0; output < bias.length; output++) {
      let sum = 0;
      for (let at = output * inputs; at < (output + 1) * inputs; at++) {
        if (weight[at] < -CONSTANTS.WEIGHT_LIMIT) throw damaged("it holds integer weights out of range");
        sum += Math.abs(weight[at]);
      }
      const most = sum * CONSTANTS.ACTIVATION_LIMIT + Math.abs(bias[output]) + 2 ** Math.max(exponent[output] - gainBits, 0) / 2;
      if (most >= EXACT_LIMIT || exponent[output] < -8 || exponent[output] > 20) {
        throw new LoocError(`layer ${layer} can reach sums at which float32 is not exact`, "ModelError");
      }
    }
  }

  /** Names how files are read: of the constants of the format, the sizes, and every format-critical integer. */
  #fingerprint() {
    const text = new TextEncoder();
    const digest = new Sha256().update(new Sha256().update(text.encode(pythonJson(CONSTANTS))).digest());
    const { config } = this;
    digest.update(text.encode(pythonJson(Object.fromEntries(SIZES.map((key) => [key, config[/** @type {keyof typeof config} */ (key)]])))));
    for (const name of [...this.tensors.keys()].filter((key) => key.startsWith(CRITICAL)).sort()) {
      const { type, shape, bytes } = this.#stored(name);
      const tuple = `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;
      digest.update(text.encode(`${name.slice(CRITICAL.length)} ${TYPES[/** @type {keyof typeof TYPES} */ (type)]?.[0]} ${tuple}\n`)).update(bytes);
    }
    return hex(digest.digest().subarray(0, FINGERPRINT_BYTES));
  }
}

/**
 * The integer layers of a model by name.
 *
 * @param {import("./config.js").Config} config
 * @returns {Map<string, {into: number, out: number, side: number, gainBits: number}>}
 */
function layersOf(config) {
  const layers = new Map();
  const add = (/** @type {string} */ name, /** @type {number} */ into, /** @type {number} */ out, side = 1, gainBits = 0) => layers.set(name, { into, out, side, gainBits });
  let before = 0;
  config.groups.forEach((group, index) => {
    levelsOfGroup(index).forEach((_, number) => {
      const name = `prior.nets.${index}.${number}`;
      const known = before + (number ? group : 0);
      if (known) add(`${name}.entry`, known, config.prior_width, 3);
      for (let depth = 0; depth < config.prior_depth; depth++) add(`${name}.hidden.${depth}`, config.prior_width, config.prior_width);
      add(`${name}.mean`, config.prior_width, group, 1, CONSTANTS.MEAN_GAIN_BITS);
      add(`${name}.log_scale`, config.prior_width, group);
    });
    before += group;
  });
  if (config.detail_channels) {
    add("details.entry", config.channels, config.detail_width, 3);
    add("details.hidden", config.detail_width, config.detail_width);
    add("details.log_scale", config.detail_width, config.detail_channels);
  }
  return layers;
}

/**
 * Type and shape of every integer tensor but the frequencies.
 *
 * @param {import("./config.js").Config} config
 * @param {ReturnType<typeof layersOf>} layers
 * @returns {Map<string, [string, number[]]>}
 */
function layoutOf(config, layers) {
  /** @type {Map<string, [string, number[]]>} */
  const tensors = new Map();
  for (const [name, { into, out, side }] of layers) {
    tensors.set(`${name}.weight`, ["I8", [out, into, side, side]]).set(`${name}.bias`, ["I32", [out]]).set(`${name}.exponent`, ["I8", [out]]);
  }
  config.groups.forEach((group, index) => {
    levelsOfGroup(index).forEach((level, number) => {
      tensors.set(`prior.nets.${index}.${number}.quality`, ["I16", [QUALITIES, config.prior_width]]);
      if (number) tensors.set(`prior.neighbours.${index}.${number - 1}`, ["I8", [group, level.neighbours]]);
    });
  });
  const classes = config.scale_classes * config.ratio_classes;
  const trellis = config.trellis_states > 1;
  tensors.set("prior.quality_log_scale", ["I16", [QUALITIES, config.channels]]);
  tensors.set("prior.companding", ["U8", [LATENT_LIMIT + 1]]);
  tensors.set("codebook.codevectors", ["I16", [(trellis ? SETS : 1) * config.codebook_size, config.codevector_dim]]);
  tensors.set("codebook.digit_factor", ["U8", [classes]]);
  if (trellis) tensors.set("codebook.live", ["U8", [classes]]);
  if (config.detail_channels) {
    tensors.set("details.chosen", ["I16", [config.detail_channels]]);
    tensors.set("details.quality", ["I16", [QUALITIES, config.detail_width]]);
    tensors.set("details.quality_log_scale", ["I16", [QUALITIES, config.detail_channels]]);
  }
  return tensors;
}

/**
 * Weights of 12 bits, two in three bytes, times the scale of their row.
 *
 * @param {Uint8Array} packed
 * @param {Float32Array} scales
 * @param {number[]} shape
 * @returns {Float32Array}
 */
function unpackedWeights(packed, scales, shape) {
  const count = shape.reduce((product, side) => product * side, 1);
  if (packed.length !== Math.floor((3 * count + 1) / 2) || scales.length !== shape[0]) throw damaged("it holds packed weights of another size");
  const weights = new Float32Array(count);
  const row = count / shape[0];
  for (let start = 0, index = 0; index < scales.length; index++, start += row) {
    for (let at = start; at < start + row; at++) {
      const byte = (at >> 1) * 3;
      const value = at & 1 ? (packed[byte + 1] >> 4) | (packed[byte + 2] << 4) : packed[byte] | ((packed[byte + 1] & 15) << 8);
      weights[at] = (value - WEIGHT_LIMIT_12_BITS) * scales[index];
    }
  }
  return weights;
}

/**
 * Rows of frequencies: an entry is 2048 times its shift plus its mantissa, 0 what is left of the row's sum of 2^24.
 *
 * @param {Int16Array} packed
 * @param {number} symbols
 * @returns {Int32Array}
 */
function unpackedFrequencies(packed, symbols) {
  const frequencies = new Int32Array(packed.length);
  for (let start = 0; start < packed.length; start += symbols) {
    let rest = -1;
    let sum = 0;
    for (let at = start; at < start + symbols; at++) {
      const entry = packed[at];
      if (entry < 0 || (entry === 0 && rest >= 0)) throw illegalTables();
      if (entry === 0) rest = at;
      const value = (entry & (2 ** MANTISSA_BITS - 1)) << Math.min(entry >> MANTISSA_BITS, TABLE_BITS - MANTISSA_BITS);
      if (entry !== 0 && value < 1) throw illegalTables();
      frequencies[at] = value;
      sum += value;
    }
    if (rest < 0 || sum >= 2 ** TABLE_BITS) throw illegalTables();
    frequencies[rest] = 2 ** TABLE_BITS - sum;
  }
  return frequencies;
}

/**
 * Companded values of latents as unsigned 16-bit numbers: of 0 to 32767, then of -32768 to -1.
 *
 * @param {Uint8Array} positive
 */
function signedCompanding(positive) {
  const table = new Int8Array(2 ** 16);
  for (let value = 0; value <= LATENT_LIMIT; value++) {
    table[value] = positive[value];
    if (value) table[2 ** 16 - value] = -positive[value];
  }
  table[2 ** 15] = -positive[LATENT_LIMIT];
  return table;
}

/** @param {number} bits of a float16 */
function half(bits) {
  const exponent = (bits >> 10) & 31;
  const mantissa = bits & 1023;
  const size = exponent === 31 ? (mantissa ? NaN : Infinity) : exponent ? (1 + mantissa / 1024) * 2 ** (exponent - 15) : mantissa * 2 ** -24;
  return bits & 0x8000 ? -size : size;
}

/**
 * JSON as Python's json.dumps(value, sort_keys=True) writes it, of whole numbers and lists.
 *
 * @param {any} value
 * @returns {string}
 */
function pythonJson(value) {
  if (Array.isArray(value)) return `[${value.map(pythonJson).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.keys(value).sort().map((key) => `"${key}": ${pythonJson(value[key])}`).join(", ")}}`;
  }
  return String(value);
}

/** @param {string} why */
function damaged(why) {
  return new LoocError(`the weights file is damaged: ${why}; get it again`, "ModelError");
}

function illegalTables() {
  return new LoocError("the weights file holds an illegal codebook or table bank", "ModelError");
}
