/* What people ask of EXIF: when, with what and how a picture was taken. Anything malformed is passed over. */

const SIZES = { 1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 9: 4, 10: 8 };
const MAX_ENTRIES = 512;
const MAX_LETTERS = 200;

const MAIN = { 0x010e: "description", 0x010f: "make", 0x0110: "model", 0x0132: "modified", 0x013b: "artist", 0x8298: "copyright", 0x8769: "exif", 0x8825: "gps" };
const DETAILS = { 0x829a: "exposure", 0x829d: "aperture", 0x8827: "iso", 0x9003: "taken", 0x920a: "focal", 0xa434: "lens" };

/**
 * Rows for people, [label, text], of an EXIF block that begins with its TIFF header.
 * @param {Uint8Array} bytes
 * @returns {[string, string][]}
 */
export function exifRows(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 8) return [];
  const little = bytes[0] === 0x49;
  const main = directory(view, view.getUint32(4, little), little, MAIN);
  const details = typeof main.exif === "number" ? directory(view, main.exif, little, DETAILS) : {};
  const rows = [];
  const add = (label, value) => value && rows.push([label, value]);
  add("Taken", time(details.taken ?? main.modified));
  add("Camera", [...new Set([main.make, main.model].filter((part) => typeof part === "string"))].join(" "));
  add("Lens", words(details.lens));
  add("Exposure", [
    exposure(details.exposure), details.aperture > 0 && `f/${short(details.aperture)}`,
    details.iso > 0 && `ISO ${details.iso}`, details.focal > 0 && `${short(details.focal)} mm`,
  ].filter(Boolean).join(", "));
  add("Description", words(main.description));
  add("Artist", words(main.artist));
  add("Copyright", words(main.copyright));
  if (typeof main.gps === "number") rows.push(["Place", "the file says where it was taken"]);
  return rows;
}

/** The named tags of one directory; numbers, fractions as numbers, and texts. */
function directory(view, offset, little, names) {
  const found = {};
  if (offset + 2 > view.byteLength) return found;
  const count = Math.min(MAX_ENTRIES, view.getUint16(offset, little));
  for (let index = 0; index < count; index++) {
    const at = offset + 2 + 12 * index;
    if (at + 12 > view.byteLength) break;
    const name = names[view.getUint16(at, little)];
    const type = view.getUint16(at + 2, little);
    const length = view.getUint32(at + 4, little);
    if (!name || !(type in SIZES) || length === 0) continue;
    const size = SIZES[type] * length;
    const from = size <= 4 ? at + 8 : view.getUint32(at + 8, little);
    if (from + size > view.byteLength) continue;
    found[name] = value(view, type, from, length, little);
  }
  return found;
}

function value(view, type, from, length, little) {
  if (type === 3) return view.getUint16(from, little);
  if (type === 4) return view.getUint32(from, little);
  if (type === 9) return view.getInt32(from, little);
  if (type === 5) return view.getUint32(from, little) / view.getUint32(from + 4, little);
  if (type === 10) return view.getInt32(from, little) / view.getInt32(from + 4, little);
  const bytes = new Uint8Array(view.buffer, view.byteOffset + from, Math.min(length, MAX_LETTERS));
  return new TextDecoder().decode(bytes).split("\0")[0].trim();
}

function exposure(seconds) {
  if (!(seconds > 0) || seconds === Infinity) return "";
  return seconds < 0.4 ? `1/${Math.round(1 / seconds)} s` : `${short(seconds)} s`;
}

/** 2024:05:17 18:03:22 as people write it. */
function time(text) {
  const match = /^(\d{4}):(\d\d):(\d\d) (\d\d:\d\d)/.exec(typeof text === "string" ? text : "");
  return match ? `${match[1]}-${match[2]}-${match[3]} ${match[4]}` : "";
}

function words(text) {
  return typeof text === "string" ? text : "";
}

function short(number) {
  return String(Math.round(number * 10) / 10);
}
