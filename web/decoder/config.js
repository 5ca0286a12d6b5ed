/** The sizes of a model, as its weights file states them (looc_codec/config.py). */

import { TRELLIS_STATES } from "./constants.js";
import { LoocError } from "./errors.js";

/**
 * @typedef {{name: string, channels: number, codevector_dim: number, codebook_size: number, groups: number[], prior_width: number,
 *   prior_depth: number, scale_classes: number, ratio_classes: number, trellis_states: number, detail_channels: number,
 *   detail_width: number, synthesis_widths: number[], synthesis_blocks: number[], step_coarsest: number, step_finest: number}} Config
 */

/** @type {Record<string, [number, number, number]>} smallest and largest value, and how many numbers (0: not a list, -1: any) */
const LIMITS = {
  channels: [1, 768, 0], codevector_dim: [1, 16, 0], codebook_size: [16, 32767, 0], groups: [1, 768, -1], prior_width: [1, 512, 0],
  prior_depth: [0, 8, 0], scale_classes: [1, 256, 0], ratio_classes: [1, 63, 0], trellis_states: [1, TRELLIS_STATES, 0],
  detail_channels: [0, 768, 0], detail_width: [1, 512, 0], synthesis_widths: [1, 1024, 3], synthesis_blocks: [0, 32, 3],
};
const QUALITIES = 100;
const MAX_GROUPS = 14;

/**
 * @param {any} values a parsed JSON object
 * @returns {Config}
 * @throws {LoocError} for sizes that no model has
 */
export function readConfig(values) {
  const config = { trellis_states: 1, detail_channels: 0, detail_width: 40, ...values };
  for (const [name, [low, high, length]] of Object.entries(LIMITS)) {
    const numbers = length ? config[name] : [config[name]];
    const fits = Array.isArray(numbers) && (length < 1 || numbers.length === length) && numbers.every((number) => Number.isInteger(number) && number >= low && number <= high);
    if (!fits) throw invalid(`${name} is outside ${low}..${high}`);
  }
  const { channels, codevector_dim: dim, groups } = config;
  const steps = [config.step_coarsest, config.step_finest];
  const sound =
    groups.length >= 1 && groups.length <= MAX_GROUPS && groups.reduce((/** @type {number} */ sum, /** @type {number} */ group) => sum + group, 0) === channels &&
    [...groups, config.detail_channels].every((count) => count % dim === 0) && config.ratio_classes % 2 === 1 && (dim === 2 || config.ratio_classes === 1) &&
    [1, TRELLIS_STATES].includes(config.trellis_states) && (config.trellis_states === 1 || (dim <= 2 && config.codebook_size % 2 === 0)) &&
    steps.every((step) => typeof step === "number" && step > 0 && step < 1e6);
  if (!sound) throw invalid("its sizes do not fit each other");
  return config;
}

/**
 * Nominal quantisation step in pixel units at a quality.
 *
 * @param {Config} config
 * @param {number} quality
 */
export function stepOf(config, quality) {
  return config.step_coarsest * (config.step_finest / config.step_coarsest) ** ((quality - 1) / (QUALITIES - 1));
}

/** @param {string} why */
function invalid(why) {
  return new LoocError(`invalid model configuration: ${why}`, "ModelError");
}
