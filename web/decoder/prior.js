/** The traversal of a latent in coding order, as in looc_codec/codec/prior.py. All of it is exact. */

import { LATENT_LIMIT } from "./constants.js";
import { latticeSize, levelPositions, levelsOfGroup, rowStrips, tableRows } from "./order.js";

/** Networks run over strips of about so many positions, which bounds their memory. */
const STRIP_POSITIONS = 2 ** 14;
/** Rows and columns of zeros around the grid, as far as windows and neighbours reach. */
const FRAME = 2;

/**
 * Progress, and a place to stop at: `pause` lets messages in and throws where the caller gave up.
 * @typedef {{report: (fraction: number) => void, pause: () => Promise<void>}} Hooks
 */

/**
 * Decodes a latent group by group.
 *
 * `read` gets a group's number and the table rows of a step's units, and returns what their codes stand for. After each group
 * `afterGroup` gets its number and the latent so far, zero in later groups.
 *
 * @param {import("./model.js").Model} model
 * @param {import("./engine.js").Engine} engine
 * @param {number} height positions
 * @param {number} width
 * @param {number} quality
 * @param {(group: number, rows: Uint16Array) => Int32Array} read
 * @param {(group: number, latent: Int16Array) => Promise<void>} afterGroup
 * @param {Hooks} hooks
 * @returns {Promise<Int16Array>} quantised latent `(d, height, width)` in 1/16 steps
 */
export async function decodePrior(model, engine, height, width, quality, read, afterGroup, hooks) {
  const { config } = model;
  const dim = config.codevector_dim;
  const cells = height * width;
  const base = model.qualityRow("prior.quality_log_scale", quality);
  const latent = new Int16Array(config.channels * cells);
  // What networks see: zero where nothing is known yet, and beyond the grid.
  const known = new Frame(new Int8Array(config.channels * (height + 2 * FRAME) * (width + 2 * FRAME)), height, width);
  let before = 0;
  for (const [index, group] of config.groups.entries()) {
    const end = before + group;
    const own = new Frame(new Int16Array(group * known.cells), height, width);
    const place = placer(latent, own, known, before, model.companding, height, width);
    const levels = levelsOfGroup(index);
    for (const [number, level] of levels.entries()) {
      const { places, positions } = levelPositions(level, height, width);
      if (!positions) continue;
      const qualityRow = { data: model.qualityRow(`prior.nets.${index}.${number}.quality`, quality), dims: [1, config.prior_width, 1, 1] };
      const rows = new Uint16Array((group / dim) * positions);
      const mean = new Int32Array(group * positions);
      for (const [which, lattice] of level.lattices.entries()) {
        const [count, columns] = latticeSize(lattice, height, width);
        const strips = count && columns ? rowStrips(count, columns, Math.max(1, Math.floor(STRIP_POSITIONS / level.stride ** 2))) : [];
        for (const [top, bottom] of strips) {
          const reach = level.dilation;
          const y = FRAME + lattice.row + top * level.stride - reach;
          const x = FRAME + lattice.column - reach;
          const size = [(bottom - top - 1) * level.stride + 2 * reach + 1, (columns - 1) * level.stride + 2 * reach + 1];
          /** @type {Record<string, import("./engine.js").Array4>} */
          const inputs = { quality_row: qualityRow };
          if (before || number) inputs.context = known.window(number ? end : before, y, x, size[0], size[1]);
          if (number) inputs.own = own.window(group, y, x, size[0], size[1]);
          await hooks.pause();
          const [predicted, scales] = await engine.run(`prior.${index}.${number}`, inputs);
          const part = places[which].subarray(top * columns, bottom * columns);
          const cells = scales.data.length / group;
          takeIn(part, group, positions, predicted.data, mean);
          tableRows(config, scales.data, cells, 0, base.subarray(before, end), part, positions, rows);
        }
      }
      const residuals = read(index, rows);
      // Residuals are those of units: the first d* channels at all positions, then the next.
      for (const [which, lattice] of level.lattices.entries()) {
        for (let channel = 0; channel < group; channel++) {
          const unit = Math.floor(channel / dim) * positions * dim + (channel % dim);
          place(channel, lattice, places[which], mean.subarray(channel * positions, (channel + 1) * positions), residuals.subarray(unit), dim);
        }
      }
      hooks.report((before + (group * (number + 1)) / levels.length) / config.channels);
    }
    before = end;
    await afterGroup(index, latent);
  }
  return latent;
}

/**
 * Takes the means that a network predicts for a strip into those of a step.
 *
 * @param {Int32Array} places where the strip's positions stand in the step
 * @param {number} group
 * @param {number} positions of the step
 * @param {Float32Array} predicted
 * @param {Int32Array} mean
 */
function takeIn(places, group, positions, predicted, mean) {
  // The very first level knows nothing but the quality, and says one thing of all positions.
  const each = predicted.length === group && places.length > 1 ? 0 : 1;
  const cells = predicted.length / group;
  for (let channel = 0; channel < group; channel++) {
    let from = channel * cells;
    const start = channel * positions;
    for (let at = 0; at < places.length; at++, from += each) mean[start + places[at]] = predicted[from];
  }
}

/**
 * What writes a channel's decoded values at a lattice's positions to a group's maps.
 *
 * @param {Int16Array} latent
 * @param {Frame} own
 * @param {Frame} known
 * @param {number} before channels of earlier groups
 * @param {Int8Array} companding
 * @param {number} height
 * @param {number} width
 */
function placer(latent, own, known, before, companding, height, width) {
  /**
   * @param {number} channel
   * @param {import("./order.js").Lattice} lattice
   * @param {Int32Array} places
   * @param {Int32Array} mean
   * @param {Int32Array} residuals every `dim`-th is one of the channel's
   * @param {number} dim
   */
  return (channel, { row, column, stride }, places, mean, residuals, dim) => {
    for (let y = row, at = 0; y < height; y += stride) {
      const ownRow = own.at(channel, y);
      const knownRow = known.at(before + channel, y);
      const start = ((before + channel) * height + y) * width;
      for (let x = column; x < width; x += stride) {
        const place = places[at++];
        let value = mean[place] + residuals[place * dim];
        if (value > LATENT_LIMIT) value = LATENT_LIMIT;
        else if (value < -LATENT_LIMIT) value = -LATENT_LIMIT;
        own.data[ownRow + x] = value;
        latent[start + x] = value;
        known.data[knownRow + x] = companding[value & 0xffff];
      }
    }
  };
}

/** Integer maps with a frame of zeros. */
class Frame {
  /**
   * @param {Int8Array | Int16Array} data
   * @param {number} height of the grid inside
   * @param {number} width
   */
  constructor(data, height, width) {
    this.data = data;
    this.height = height + 2 * FRAME;
    this.width = width + 2 * FRAME;
    this.cells = this.height * this.width;
  }

  /**
   * Where a row of the grid begins in a channel.
   *
   * @param {number} channel
   * @param {number} y
   */
  at(channel, y) {
    return channel * this.cells + (y + FRAME) * this.width + FRAME;
  }

  /**
   * A window over the first channels, as a network's input.
   *
   * @param {number} channels
   * @param {number} top
   * @param {number} left
   * @param {number} height
   * @param {number} width
   * @returns {import("./engine.js").Array4}
   */
  window(channels, top, left, height, width) {
    const data = new Float32Array(channels * height * width);
    for (let channel = 0, at = 0; channel < channels; channel++) {
      for (let y = top; y < top + height; y++, at += width) {
        const start = channel * this.cells + y * this.width + left;
        data.set(this.data.subarray(start, start + width), at);
      }
    }
    return { data, dims: [1, channels, height, width] };
  }
}
