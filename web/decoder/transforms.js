/** The synthesis of whole pictures, tile by tile (looc_codec/codec/transforms.py). */

import { stepOf } from "./config.js";
import { LATENT_ONE, PATCH } from "./constants.js";
import { addDetails } from "./dct.js";
import { REACH } from "./filter.js";
import { rowStrips } from "./order.js";
import { changed, Maps, Tile, tiles } from "./tiles.js";

/** Latent positions along a tile's side; bounds the memory of the transforms. */
const TILE_POSITIONS = 52;
/** The same of the stage at 1/16 of the resolution, whose halo is wider and whose maps are smaller. */
const COARSE_TILE_POSITIONS = 96;
/** Positions whose features at 1/16 are kept while their pixels are made. */
const BAND_POSITIONS = 20_000;
/** Positions around a tile that the lapped transform reaches. */
const LAPPED_HALO = 1;
/** Pixels around a tile that the first window at 1/4 of the resolution reaches. */
const FRAME = 4;
/** Pixels of context that a tile brings for the filter. */
const FILTER_CONTEXT = 4;
const GREY_CENTRE = 128;

/**
 * What a picture is made of.
 * @typedef {{latent: Int16Array, details: Int16Array | null, grid: {height: number, width: number}, width: number, height: number,
 *   quality: number, grey: boolean, kernel: {weight: Float32Array, bias: Float32Array} | null}} Coding
 */

/**
 * Context that the synthesis still needs around its pixels: positions after the blocks at 1/16 of the resolution, and cells of 1/8 after
 * the blocks there.
 *
 * @param {number[]} blocks
 */
function cellsNeeded([, n8, n4]) {
  const at8 = Math.ceil((n4 + 2) / 2);
  return [Math.max(Math.ceil((n8 + at8) / 2), Math.floor((4 * (n4 + 3) + PATCH + PATCH / 2 - 1) / PATCH)), at8];
}

/** A model's synthesis on an engine. */
export class Transforms {
  /**
   * @param {import("./model.js").Model} model
   * @param {import("./engine.js").Engine} engine
   */
  constructor(model, engine) {
    this.model = model;
    this.engine = engine;
    this.config = model.config;
  }

  /**
   * The pixels of a picture, RGBA and opaque.
   *
   * @param {Coding} coding
   * @param {import("./prior.js").Hooks} hooks
   * @returns {Promise<Uint8ClampedArray>}
   */
  async synthesise(coding, hooks) {
    const { grid, width, height } = coding;
    const rgba = new Uint8ClampedArray(4 * width * height);
    const strips = rowStrips(grid.height, grid.width, Math.max(BAND_POSITIONS, TILE_POSITIONS * grid.width));
    for (const [top, bottom] of strips) {
      const corrected = await this.#corrected(coding, new Tile(top, bottom, 0, grid.width), hooks);
      const parts = tiles(bottom - top, grid.width, TILE_POSITIONS);
      for (const [index, part] of parts.entries()) {
        const tile = part.below(top);
        const made = await this.#tilePixels(coding, corrected, tile, hooks);
        const pixels = coding.kernel ? await this.#filtered(coding.kernel, made) : made.pixels;
        await hooks.pause();
        toBytes(pixels, coding.grey, 0, rgba, width, height, tile.top * PATCH, tile.left * PATCH);
        hooks.report((top + ((bottom - top) * (index + 1)) / parts.length) / grid.height);
      }
    }
    return rgba;
  }

  /**
   * A picture of 1/`shrink` of the size, rounded up, RGBA: means of the linear synthesis.
   *
   * @param {Coding} coding
   * @param {4 | 8 | 16} shrink
   * @param {import("./prior.js").Hooks} hooks
   * @returns {Promise<{width: number, height: number, data: Uint8ClampedArray}>}
   */
  async small(coding, shrink, hooks) {
    const { grid } = coding;
    const width = Math.ceil(coding.width / shrink);
    const height = Math.ceil(coding.height / shrink);
    const data = new Uint8ClampedArray(4 * width * height);
    const factor = PATCH / shrink;
    for (const tile of tiles(grid.height, grid.width, 2 * TILE_POSITIONS)) {
      const outer = tile.widened(LAPPED_HALO, grid.height, grid.width);
      await hooks.pause();
      const [made] = await this.engine.run(`synthesis.small${shrink}`, { latent: this.#steps(coding, outer).input, quality: level(coding) });
      const pixels = Maps.of(made).cut(changed(outer.margins(tile), (side) => side * factor));
      toBytes(pixels, coding.grey, GREY_CENTRE, data, width, height, tile.top * factor, tile.left * factor);
    }
    return { width, height, data };
  }

  /**
   * The first stage of the synthesis, at 1/16 of the resolution, for the pixels of an area: the corrected latent and features.
   *
   * @param {Coding} coding
   * @param {Tile} wanted
   * @param {import("./prior.js").Hooks} hooks
   * @returns {Promise<{area: Tile, latent: Maps, features: Maps | null}>}
   */
  async #corrected(coding, wanted, hooks) {
    const { config } = this;
    const { height, width } = coding.grid;
    const area = wanted.widened(cellsNeeded(config.synthesis_blocks)[0], height, width);
    if (!config.synthesis_blocks.some(Boolean)) return { area, latent: this.#steps(coding, area), features: null };
    const found = [config.channels, config.synthesis_widths[0]].map((channels) => new Maps(new Float32Array(channels * area.height * area.width), area.height, area.width));
    for (const part of tiles(area.height, area.width, COARSE_TILE_POSITIONS)) {
      const tile = new Tile(part.top + area.top, part.bottom + area.top, part.left + area.left, part.right + area.left);
      const outer = tile.widened(config.synthesis_blocks[0], height, width);
      await hooks.pause();
      const made = await this.engine.run("synthesis.corrected", { latent: this.#steps(coding, outer).input, quality: level(coding) });
      made.forEach((output, index) => found[index].paste(Maps.of(output).cut(outer.margins(tile)), part.top, part.left));
    }
    return { area, latent: found[0], features: found[1] };
  }

  /**
   * Pixels of a tile of positions, with context around them where a filter needs it and the picture goes on.
   *
   * @param {Coding} coding
   * @param {{area: Tile, latent: Maps, features: Maps | null}} corrected
   * @param {Tile} tile
   * @param {import("./prior.js").Hooks} hooks
   * @returns {Promise<{pixels: Maps, context: import("./tiles.js").Sides}>}
   */
  async #tilePixels(coding, corrected, tile, hooks) {
    const made = await this.#synthesised(coding, corrected, tile, hooks);
    if (coding.details) {
      // One position more where there is context, of which the outer pixels are cut off again.
      const sides = changed(made.context, (side) => Number(side > 0));
      const outer = new Tile(tile.top - sides[0], tile.bottom + sides[1], tile.left - sides[2], tile.right + sides[3]);
      const part = {
        top: outer.top, left: outer.left, height: outer.height, width: outer.width,
        cutTop: sides[0] * PATCH - made.context[0], cutLeft: sides[2] * PATCH - made.context[2], pixelHeight: made.pixels.height, pixelWidth: made.pixels.width,
      };
      addDetails(made.pixels.data, part, coding.details, coding.grid, this.model.chosenDetails, stepOf(this.config, coding.quality) / LATENT_ONE);
    }
    return made;
  }

  /**
   * The stages after the first. What the next stage does not need of the context is cut off before it.
   *
   * @param {Coding} coding
   * @param {{area: Tile, latent: Maps, features: Maps | null}} corrected
   * @param {Tile} tile
   * @param {import("./prior.js").Hooks} hooks
   * @returns {Promise<{pixels: Maps, context: import("./tiles.js").Sides}>}
   */
  async #synthesised(coding, corrected, tile, hooks) {
    const [at16, at8] = cellsNeeded(this.config.synthesis_blocks);
    const outer = tile.widened(at16, coding.grid.height, coding.grid.width);
    const margins = outer.margins(tile);
    const within = corrected.area.margins(outer);
    const context = changed(margins, (margin) => (coding.kernel && margin > 0 ? FILTER_CONTEXT : 0));
    await hooks.pause();
    const [linear] = await this.engine.run("synthesis.linear", { latent: corrected.latent.cut(within).input, quality: level(coding) });
    if (!corrected.features) {
      const pixels = Maps.of(linear).cut(changed(margins, (margin, side) => margin * PATCH - context[side]));
      pixels.data = pixels.data.map((value) => value + GREY_CENTRE);
      return { pixels, context };
    }
    await hooks.pause();
    const [features] = await this.engine.run("synthesis.features8", { features: corrected.features.cut(within).input });
    const kept = changed(margins, (margin) => Math.min(2 * margin, at8));
    // Where the margin ends with the picture, zeros are what lies beyond.
    const framed = Maps.of(linear).cut(changed(margins, (margin, side) => margin * PATCH - kept[side] * 8 - FRAME));
    await hooks.pause();
    const [finished] = await this.engine.run("synthesis.finished", {
      features: Maps.of(features).cut(changed(margins, (margin, side) => 2 * margin - kept[side])).input, framed: framed.input, quality: level(coding),
    });
    return { pixels: Maps.of(finished).cut(changed(kept, (cells, side) => cells * 8 - context[side])), context };
  }

  /**
   * A tile's pixels through the picture's filter, without the context.
   *
   * @param {{weight: Float32Array, bias: Float32Array}} kernel
   * @param {{pixels: Maps, context: import("./tiles.js").Sides}} made
   * @returns {Promise<Maps>}
   */
  async #filtered(kernel, { pixels, context }) {
    const { height, width } = pixels;
    // A frame of exactly two pixels: of the context, or, where the picture ends, its last pixels repeated.
    const [top, bottom, left, right] = changed(context, (side) => (side ? REACH - side : REACH));
    const framed = new Maps(new Float32Array(3 * (height + top + bottom) * (width + left + right)), height + top + bottom, width + left + right);
    for (let plane = 0, at = 0; plane < 3; plane++) {
      for (let y = -top; y < height + bottom; y++) {
        const row = (plane * height + Math.min(height - 1, Math.max(0, y))) * width;
        for (let x = -left; x < width + right; x++) framed.data[at++] = pixels.data[row + Math.min(width - 1, Math.max(0, x))];
      }
    }
    const [filtered] = await this.engine.run("filter", { pixels: framed.input, weight: { data: kernel.weight, dims: [3, 3, 5, 5] }, bias: { data: kernel.bias, dims: [3] } });
    return Maps.of(filtered);
  }

  /**
   * A tile of the latent in steps.
   *
   * @param {Coding} coding
   * @param {Tile} tile
   */
  #steps({ latent, grid }, tile) {
    const steps = new Float32Array(this.config.channels * tile.height * tile.width);
    for (let channel = 0, at = 0; channel < this.config.channels; channel++) {
      for (let y = tile.top; y < tile.bottom; y++) {
        const row = (channel * grid.height + y) * grid.width;
        for (let x = tile.left; x < tile.right; x++) steps[at++] = latent[row + x] / LATENT_ONE;
      }
    }
    return new Maps(steps, tile.height, tile.width);
  }
}

/** @param {{quality: number}} coding */
function level({ quality }) {
  return { data: Float32Array.of(quality), dims: [1] };
}

/**
 * Pixels `(3, H, W)` into a part of an RGBA picture, as far as that reaches; with `grey` all planes are the mean of the three.
 *
 * Numbers put into a Uint8ClampedArray are clamped and rounded to the nearest, halves to even, as the command rounds.
 *
 * @param {Maps} pixels
 * @param {boolean} grey
 * @param {number} centre is added
 * @param {Uint8ClampedArray} rgba
 * @param {number} width
 * @param {number} height
 * @param {number} top
 * @param {number} left
 */
function toBytes(pixels, grey, centre, rgba, width, height, top, left) {
  const { data } = pixels;
  const plane = pixels.height * pixels.width;
  const columns = Math.min(pixels.width, width - left);
  for (let y = 0; y < Math.min(pixels.height, height - top); y++) {
    let from = y * pixels.width;
    let to = 4 * ((top + y) * width + left);
    for (let x = 0; x < columns; x++, from++, to += 4) {
      let red = Math.fround(data[from] + centre);
      let green = Math.fround(data[from + plane] + centre);
      let blue = Math.fround(data[from + 2 * plane] + centre);
      if (grey) red = green = blue = Math.fround(Math.fround(Math.fround(red + green) + blue) / 3);
      rgba[to] = red;
      rgba[to + 1] = green;
      rgba[to + 2] = blue;
      rgba[to + 3] = 255;
    }
  }
}
