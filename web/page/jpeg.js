/* Metadata of JPEG files: puts it into one that a canvas wrote, and finds the colour profile of one. */

const SEGMENT_BYTES = 65533; // of data: two of the length's 65,535 are its own
const EXIF = "Exif\0\0";
const XMP = "http://ns.adobe.com/xap/1.0/\0";
const ICC = "ICC_PROFILE\0";

/**
 * A JPEG file with this metadata in place of any that it had.
 * @param {Uint8Array} bytes
 * @param {{icc: ?Uint8Array, exif: ?Uint8Array, xmp: ?Uint8Array}} metadata
 * @returns {{bytes: Uint8Array, lost: string[]}}  lost: what is too long for a segment
 */
export function jpegWithMetadata(bytes, { icc, exif, xmp }) {
  const added = [];
  const lost = [];
  for (const [name, data, prefix] of [["EXIF", exif, EXIF], ["XMP", xmp, XMP]]) {
    if (!data) continue;
    if (prefix.length + data.length > SEGMENT_BYTES) lost.push(name);
    else added.push(segment(0xe1, prefix, data));
  }
  if (icc) {
    const room = SEGMENT_BYTES - ICC.length - 2;
    const count = Math.ceil(icc.length / room);
    if (count > 255) lost.push("colour profile");
    else {
      for (let number = 1; number <= count; number++) {
        const part = icc.subarray((number - 1) * room, number * room);
        added.push(segment(0xe2, ICC + String.fromCharCode(number, count), part));
      }
    }
  }
  const kept = [];
  let at = 2;
  for (const { start, end, marker } of segments(bytes)) {
    if (marker !== 0xe1 && marker !== 0xe2) kept.push(bytes.subarray(start, end));
    at = end;
  }
  // JFIF wants its own segment, APP0, first.
  const jfif = kept.length && kept[0][1] === 0xe0 ? [kept.shift()] : [];
  const parts = [bytes.subarray(0, 2), ...jfif, ...added, ...kept, bytes.subarray(at)];
  return { bytes: joined(parts), lost };
}

/** The ICC profile of a JPEG file, or null. */
export function jpegProfile(bytes) {
  const parts = [];
  for (const { start, end, marker } of segments(bytes)) {
    const data = bytes.subarray(start + 4, end);
    if (marker === 0xe2 && letters(data, ICC.length) === ICC) parts.push(data.subarray(ICC.length));
  }
  if (!parts.length) return null;
  return joined(parts.sort((first, second) => first[0] - second[0]).map((part) => part.subarray(2)));
}

/** The segments before the picture's own data. */
function* segments(bytes) {
  for (let at = 2; at + 4 <= bytes.length && bytes[at] === 0xff; ) {
    const marker = bytes[at + 1];
    const end = at + 2 + bytes[at + 2] * 256 + bytes[at + 3];
    if (marker === 0xda || end > bytes.length) return;
    yield { start: at, end, marker };
    at = end;
  }
}

function segment(marker, prefix, data) {
  const length = 2 + prefix.length + data.length;
  const head = Uint8Array.of(0xff, marker, length >> 8, length & 255);
  return joined([head, Uint8Array.from(prefix, (letter) => letter.charCodeAt(0)), data]);
}

function letters(bytes, length) {
  return String.fromCharCode(...bytes.subarray(0, length));
}

function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
