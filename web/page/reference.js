/* The picture that a .looc file is compared with: its bitmap, and how far apart the two are. */

import { bitmapOf, rawBitmapOf } from "./bitmap.js";
import { jpegProfile } from "./jpeg.js";
import { pngProfile } from "./png.js";
import { webpProfile } from "./webp.js";

const STRIP_ROWS = 512;

/**
 * PSNR in dB over the red, green and blue of all pixels, Infinity for equal ones: the figure of `looc report`.
 *
 * Where both have the same colour profile, or none, their numbers are compared, else their colours in sRGB. What is
 * transparent is compared on black.
 * @param {Blob} file  a picture that the browser reads
 * @param {object} picture  of the same size: {width, height, data, hasAlpha, icc}
 */
export async function psnrDb(file, picture) {
  const bytes = new Uint8Array(await file.arrayBuffer());
  const raw = equal(await profileOf(bytes).catch(() => undefined), picture.icc);
  const bitmaps = raw
    ? await Promise.all([createImageBitmap(file, { colorSpaceConversion: "none" }), rawBitmapOf(picture)])
    : await Promise.all([createImageBitmap(file), bitmapOf(picture)]);
  const mean = meanSquaredError(...bitmaps);
  for (const bitmap of bitmaps) bitmap.close();
  return mean === 0 ? Infinity : 10 * Math.log10(255 ** 2 / mean);
}

/** The ICC profile of a picture file, null for none, undefined for a file of another kind. */
async function profileOf(bytes) {
  const letters = (from, to) => String.fromCharCode(...bytes.subarray(from, to));
  if (letters(1, 4) === "PNG") return pngProfile(bytes);
  if (bytes[0] === 0xff && bytes[1] === 0xd8) return jpegProfile(bytes);
  if (letters(8, 12) === "WEBP") return webpProfile(bytes);
  return undefined;
}

function meanSquaredError(first, second) {
  const { width, height } = first;
  // In strips: browsers limit the size of a canvas more than that of a bitmap.
  const rows = Math.min(height, STRIP_ROWS);
  const contexts = [first, second].map(() => new OffscreenCanvas(width, rows).getContext("2d", { willReadFrequently: true }));
  let sum = 0;
  for (let top = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    const [one, two] = contexts.map((context, index) => {
      context.fillStyle = "#000";
      context.fillRect(0, 0, width, rows);
      context.drawImage(index ? second : first, 0, -top);
      return context.getImageData(0, 0, width, count).data;
    });
    for (let at = 0; at < one.length; at += 4) {
      const red = one[at] - two[at];
      const green = one[at + 1] - two[at + 1];
      const blue = one[at + 2] - two[at + 2];
      sum += red * red + green * green + blue * blue;
    }
  }
  return sum / (3 * width * height);
}

function equal(first, second) {
  if (!first || !second) return first === null && !second;
  return first.length === second.length && first.every((byte, index) => byte === second[index]);
}
