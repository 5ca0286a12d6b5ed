/* Decoded pixels as bitmaps that a browser draws, in their true colours. */

import { encodePng } from "./png.js";

/**
 * A bitmap of a picture {width, height, data, hasAlpha, icc}, its colours as its profile means them.
 *
 * The browser knows profiles only in files, so a picture with one takes the way through a PNG.
 * @returns {Promise<ImageBitmap>}
 */
export async function bitmapOf(picture) {
  if (!picture.icc) return rawBitmapOf(picture);
  const { width, height, data, hasAlpha, icc } = picture;
  return createImageBitmap(await encodePng({ width, height, data, hasAlpha, icc }, { compressed: false }));
}

/** A bitmap of the numbers as they are, whatever the profile says. */
export async function rawBitmapOf({ width, height, data }) {
  return createImageBitmap(new ImageData(data, width, height), { premultiplyAlpha: "default" });
}
