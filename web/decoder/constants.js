/**
 * The numbers that decide how the codes of a file are read, under the names that looc_codec/format/constants.py gives them.
 *
 * They go into the fingerprint of every model (model.js), so a number that differs from the command's finds no model.
 */

export const CONSTANTS = Object.freeze({
  PATCH: 16,
  LATENT_ONE: 16,
  LATENT_LIMIT: 32767,
  ACTIVATION_ONE: 32,
  ACTIVATION_LIMIT: 255,
  COMPANDED_LIMIT: 127,
  WEIGHT_LIMIT: 127,
  NEIGHBOUR_BITS: 7,
  MEAN_GAIN_BITS: 1,
  TABLE_BITS: 24,
  SCALE_LOG_LOW: -192,
  SCALE_LOG_WIDTH: 9,
  RATIO_LOG_SPAN: 110,
  ESCAPE_FACTOR: 32,
  SET_TAPS: 0b1110100,
  PARITY_TAPS: 0b0010011,
  SETS: 2,
  PATH_UNITS: 256,
  TRELLIS_STATES: 128,
  /** Levels of the first channel group: corners (row, column) of lattices, stride, offsets of known neighbours, dilation of the window. */
  PYRAMID: [
    [[[0, 0]], 4, [], 1],
    [[[2, 2]], 4, [[-2, -2], [-2, 2], [2, -2], [2, 2]], 2],
    [[[0, 2], [2, 0]], 4, [[-2, 0], [2, 0], [0, -2], [0, 2]], 2],
    [[[1, 1]], 2, [[-1, -1], [-1, 1], [1, -1], [1, 1]], 1],
    [[[0, 1], [1, 0]], 2, [[-1, 0], [1, 0], [0, -1], [0, 1]], 1],
  ],
  /** Levels of every other group. */
  CHECKERBOARD: [
    [[[0, 0], [1, 1]], 2, [], 1],
    [[[0, 1], [1, 0]], 2, [[-1, 0], [1, 0], [0, -1], [0, 1]], 1],
  ],
  DETAIL_STEP_POSITIONS: 2 ** 14,
});

export const { PATCH, LATENT_ONE, LATENT_LIMIT, TABLE_BITS, ESCAPE_FACTOR, SETS, PATH_UNITS, TRELLIS_STATES } = CONSTANTS;

/** Luma-like axis first, then two opponent axes, orthonormal (looc_codec/config.py). */
export const COLOUR_AXES = Object.freeze([
  [3 ** -0.5, 3 ** -0.5, 3 ** -0.5],
  [2 ** -0.5, 0, -(2 ** -0.5)],
  [6 ** -0.5, -2 * 6 ** -0.5, 6 ** -0.5],
]);
