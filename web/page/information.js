/* What the page tells about a file, as rows of [label, text]. */

import { exifRows } from "./exif.js";
import { profileName } from "./icc.js";

const NAMES = { exif: "EXIF", iccp: "colour profile", xmp_: "XMP", ALPH: "transparency" };

/**
 * @param {object} header  as readHeader gives it
 * @param {{name: string, fingerprint: string}[]} models  those that the page has
 * @returns {[string, string][]}
 */
export function informationRows(header, models) {
  const { width, height, level, bytes, bitsPerPixel, fingerprint, isGrey, hasAlpha, iccProfile, exif, chunks } = header;
  const model = models.find((one) => one.fingerprint === fingerprint);
  const rows = [
    ["Size", `${width} × ${height} pixels, ${megapixels(width * height)}`],
    ["File", `${sizeText(bytes)}, ${bitsPerPixel.toFixed(3)} bits per pixel`],
    ["Quality level", String(level)],
    ["Model", model ? model.name : `not on this page (${fingerprint})`],
    ["Colours", [isGrey ? "grey" : "colour", iccProfile ? profileName(iccProfile) || "a profile of its own" : "sRGB", hasAlpha && "transparent"].filter(Boolean).join(", ")],
    ["Metadata", chunks.map(({ kind, bytes: length }) => `${NAMES[kind] ?? kind} ${sizeText(length)}`).join(", ") || "none"],
  ];
  if (exif) {
    try {
      rows.push(...exifRows(exif));
    } catch (error) {
      // Written by anything from cameras to scripts: a block that cannot be read is not worth more than its line above.
      if (!(error instanceof RangeError)) throw error;
    }
  }
  return rows;
}

/** A size for people, as `looc info` gives it. */
export function sizeText(bytes) {
  if (bytes < 1000) return `${bytes} B`;
  if (bytes < 1e6) return `${(bytes / 1000).toFixed(1)} kB`;
  return `${(bytes / 1e6).toFixed(2)} MB`;
}

function megapixels(pixels) {
  return pixels < 1e5 ? `${pixels.toLocaleString("en")} in all` : `${(pixels / 1e6).toFixed(1)} MP`;
}
