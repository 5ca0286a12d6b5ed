/** Tiles: how a grid is worked on part by part, so that memory is bounded whatever the picture's size (looc_codec/codec/tiles.py). */

/** @typedef {[top: number, bottom: number, left: number, right: number]} Sides margins in cells */

/** Rows `top` to `bottom` less one and columns `left` to `right` less one of a grid. */
export class Tile {
  /**
   * @param {number} top
   * @param {number} bottom
   * @param {number} left
   * @param {number} right
   */
  constructor(top, bottom, left, right) {
    this.top = top;
    this.bottom = bottom;
    this.left = left;
    this.right = right;
  }

  get height() {
    return this.bottom - this.top;
  }

  get width() {
    return this.right - this.left;
  }

  /**
   * With so many cells more on each side, as far as a grid has them.
   *
   * @param {number} cells
   * @param {number} height
   * @param {number} width
   */
  widened(cells, height, width) {
    return new Tile(Math.max(0, this.top - cells), Math.min(height, this.bottom + cells), Math.max(0, this.left - cells), Math.min(width, this.right + cells));
  }

  /** @param {number} rows */
  below(rows) {
    return new Tile(this.top + rows, this.bottom + rows, this.left, this.right);
  }

  /**
   * How far this tile reaches beyond an inner one.
   *
   * @param {Tile} inner
   * @returns {Sides}
   */
  margins(inner) {
    return [inner.top - this.top, this.bottom - inner.bottom, inner.left - this.left, this.right - inner.right];
  }
}

/**
 * @param {Sides} sides
 * @param {(side: number, index: number) => number} change
 * @returns {Sides}
 */
export function changed(sides, change) {
  return /** @type {Sides} */ (sides.map(change));
}

/**
 * The tiles of a grid, row by row: as equal as may be, of at most `side` x `side` cells, or one where it has no more cells.
 *
 * @param {number} height
 * @param {number} width
 * @param {number} side
 * @returns {Tile[]}
 */
export function tiles(height, width, side) {
  if (height * width <= side ** 2) return [new Tile(0, height, 0, width)];
  return parts(height, side).flatMap(([top, bottom]) => parts(width, side).map(([left, right]) => new Tile(top, bottom, left, right)));
}

/**
 * @param {number} length
 * @param {number} side
 */
function parts(length, side) {
  const count = Math.ceil(length / side);
  return Array.from({ length: count }, (_, index) => [Math.floor((length * index) / count), Math.floor((length * (index + 1)) / count)]);
}

/** Maps `(channels, height, width)` of numbers, row by row. */
export class Maps {
  /**
   * @param {Float32Array} data
   * @param {number} height
   * @param {number} width
   */
  constructor(data, height, width) {
    this.data = data;
    this.height = height;
    this.width = width;
    this.channels = data.length / (height * width);
  }

  /**
   * Of a network's output `(1, channels, height, width)`.
   *
   * @param {import("./engine.js").Array4} output
   */
  static of({ data, dims }) {
    return new Maps(data, dims[2], dims[3]);
  }

  /** As a network's input. */
  get input() {
    return { data: this.data, dims: [1, this.channels, this.height, this.width] };
  }

  /**
   * Without margins. A negative margin adds as many cells of zero.
   *
   * @param {Sides} sides
   * @returns {Maps}
   */
  cut([top, bottom, left, right]) {
    if (!top && !bottom && !left && !right) return this;
    const cut = new Maps(new Float32Array(this.channels * (this.height - top - bottom) * (this.width - left - right)), this.height - top - bottom, this.width - left - right);
    cut.paste(this, -top, -left);
    return cut;
  }

  /**
   * Puts other maps over these, their first cell at `row`, `column`; what lies beyond the edges is left out.
   *
   * @param {Maps} other
   * @param {number} row
   * @param {number} column
   */
  paste(other, row, column) {
    const first = Math.max(0, -row);
    const last = Math.min(other.height, this.height - row);
    const from = Math.max(0, -column);
    const until = Math.min(other.width, this.width - column);
    for (let channel = 0; channel < this.channels; channel++) {
      for (let y = first; y < last; y++) {
        const source = (channel * other.height + y) * other.width;
        this.data.set(other.data.subarray(source + from, source + until), (channel * this.height + row + y) * this.width + column + from);
      }
    }
  }
}
