/* Decoded pixels as bitmaps that a browser draws, in their true colours. */

import { encodePng } from "./png.js";

/**
 * A bitmap of a picture {width, height, data, hasAlpha, icc}, its colours as its profile means them.
 *
 * The browser knows profiles only in files, so a picture with one takes the way through a PNG.
 * @param {ImageBitmapOptions} options  for a smaller one
 * @returns {Promise<ImageBitmap>}
 */
export async function bitmapOf(picture, options = {}) {
  const { width, height, data, hasAlpha, icc } = picture;
  if (!icc) return createImageBitmap(new ImageData(data, width, height), options);
  return createImageBitmap(await encodePng({ width, height, data, hasAlpha, icc }, { compressed: false }), options);
}

/** A bitmap of the numbers as they are, whatever the profile says. */
export async function rawBitmapOf({ width, height, data }) {
  return createImageBitmap(new ImageData(data, width, height));
}
