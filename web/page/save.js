/* A decoded picture as a file of another format, with its colour profile and metadata. */

import { rawBitmapOf } from "./bitmap.js";
import { jpegWithMetadata } from "./jpeg.js";
import { encodePng } from "./png.js";
import { webpWithMetadata } from "./webp.js";

export const KINDS = {
  png: { name: "PNG", suffix: ".png" },
  jpeg: { name: "JPEG", suffix: ".jpg" },
  webp: { name: "WebP", suffix: ".webp" },
};
const JPEG_QUALITY = 0.95;

/**
 * @param {object} picture  {width, height, data, hasAlpha, isGrey, icc, exif, xmp}
 * @param {"png"|"jpeg"|"webp"} kind
 * @returns {Promise<{blob: Blob, lost: string[]}>}  lost: metadata that the format cannot hold
 * @throws {Error} with a sentence where this browser or the format cannot do it
 */
export async function encode(picture, kind) {
  if (kind === "png") return { blob: await encodePng(picture), lost: [] };
  const { name } = KINDS[kind];
  if (kind === "jpeg" && picture.hasAlpha) throw new Error("JPEG cannot hold the transparency of this picture; choose PNG or WebP");
  const canvas = new OffscreenCanvas(picture.width, picture.height);
  const bitmap = await rawBitmapOf(picture);
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  bitmap.close();
  // WebP of quality 1 is lossless.
  const blob = await canvas.convertToBlob({ type: `image/${kind}`, quality: kind === "jpeg" ? JPEG_QUALITY : 1 }).catch(() => null);
  if (blob?.type !== `image/${kind}`) throw new Error(`this browser cannot write this picture as ${name}; choose PNG`);
  const bytes = new Uint8Array(await blob.arrayBuffer());
  const done = kind === "jpeg" ? jpegWithMetadata(bytes, picture) : { bytes: webpWithMetadata(bytes, picture, picture), lost: [] };
  return { blob: new Blob([done.bytes], { type: blob.type }), lost: done.lost };
}

/** Hands a file to the browser's downloads. */
export function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  // Not at once: some browsers read it only after the click is over.
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}
