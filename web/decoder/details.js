/** Decodes the details of a file: what the synthesis leaves over in channels of the DCT (looc_codec/codec/details.py). */

import { CONSTANTS, LATENT_LIMIT } from "./constants.js";
import { rowStrips, tableRows } from "./order.js";

/**
 * @param {import("./model.js").Model} model
 * @param {import("./engine.js").Engine} engine
 * @param {Int16Array} latent the decoded latent `(d, height, width)`
 * @param {number} height positions
 * @param {number} width
 * @param {number} quality
 * @param {(rows: Uint16Array) => Int32Array} read gets the table rows of a step's units, returns what their codes stand for
 * @param {import("./prior.js").Hooks} hooks
 * @returns {Promise<Int16Array>} `(detail_channels, height, width)` in 1/16 steps
 */
export async function decodeDetails(model, engine, latent, height, width, quality, read, hooks) {
  const { config } = model;
  const channels = config.detail_channels;
  const dim = config.codevector_dim;
  const qualityRow = { data: model.qualityRow("details.quality", quality), dims: [1, config.detail_width, 1, 1] };
  const base = { data: model.qualityRow("details.quality_log_scale", quality), dims: [1, channels, 1, 1] };
  const none = new Float32Array(channels);
  const details = new Int16Array(channels * height * width);
  for (const [top, bottom] of rowStrips(height, width, CONSTANTS.DETAIL_STEP_POSITIONS)) {
    const from = Math.max(0, top - 1);
    const until = Math.min(height, bottom + 1);
    const magnitudes = new Float32Array(config.channels * (until - from) * width);
    for (let channel = 0, at = 0; channel < config.channels; channel++) {
      const start = (channel * height + from) * width;
      for (let cell = start; cell < start + (until - from) * width; cell++) magnitudes[at++] = Math.abs(model.companding[latent[cell] & 0xffff]);
    }
    await hooks.pause();
    const [scales] = await engine.run("details.scales", {
      magnitudes: { data: magnitudes, dims: [1, config.channels, until - from, width] }, quality_row: qualityRow, base,
    });
    const positions = (bottom - top) * width;
    const rows = new Uint16Array((channels / dim) * positions);
    // The network has added the stored log scales of the quality already.
    tableRows(config, scales.data, (until - from) * width, (top - from) * width, none, Int32Array.from({ length: positions }, (_, place) => place), positions, rows);
    const values = read(rows);
    for (let channel = 0; channel < channels; channel++) {
      const start = (channel * height + top) * width;
      const unit = Math.floor(channel / dim) * positions;
      for (let position = 0; position < positions; position++) {
        const value = values[(unit + position) * dim + (channel % dim)];
        details[start + position] = Math.min(LATENT_LIMIT, Math.max(-LATENT_LIMIT, value));
      }
    }
    hooks.report(bottom / height);
  }
  return details;
}
