/* Metadata of WebP files (RFC 9649): puts it into one that a canvas wrote, and finds the colour profile of one. */

const FLAGS = { "ICCP": 0x20, "EXIF": 0x08, "XMP ": 0x04 };
const ALPHA = 0x10;

/**
 * A WebP file with this metadata in place of any that it had.
 * @param {Uint8Array} bytes
 * @param {{icc: ?Uint8Array, exif: ?Uint8Array, xmp: ?Uint8Array}} metadata
 * @param {{width: number, height: number, hasAlpha: boolean}} picture
 * @returns {Uint8Array}
 */
export function webpWithMetadata(bytes, { icc, exif, xmp }, { width, height, hasAlpha }) {
  if (!icc && !exif && !xmp) return bytes;
  const pixels = [...chunks(bytes)].filter(({ type }) => type !== "VP8X" && !(type in FLAGS));
  const head = new Uint8Array(10);
  head[0] = (icc ? FLAGS.ICCP : 0) | (hasAlpha ? ALPHA : 0) | (exif ? FLAGS.EXIF : 0) | (xmp ? FLAGS["XMP "] : 0);
  for (const [at, size] of [[4, width - 1], [7, height - 1]]) {
    for (let byte = 0; byte < 3; byte++) head[at + byte] = (size >> (8 * byte)) & 255;
  }
  const wanted = [
    { type: "VP8X", data: head }, ...(icc ? [{ type: "ICCP", data: icc }] : []), ...pixels,
    ...(exif ? [{ type: "EXIF", data: exif }] : []), ...(xmp ? [{ type: "XMP ", data: xmp }] : []),
  ];
  const size = wanted.reduce((sum, { data }) => sum + 8 + data.length + (data.length & 1), 4);
  const file = new Uint8Array(8 + size);
  const view = new DataView(file.buffer);
  write(file, 0, "RIFF");
  view.setUint32(4, size, true);
  write(file, 8, "WEBP");
  let at = 12;
  for (const { type, data } of wanted) {
    write(file, at, type);
    view.setUint32(at + 4, data.length, true);
    file.set(data, at + 8);
    at += 8 + data.length + (data.length & 1);
  }
  return file;
}

/** The ICC profile of a WebP file, or null. */
export function webpProfile(bytes) {
  for (const { type, data } of chunks(bytes)) {
    if (type === "ICCP") return data;
  }
  return null;
}

function* chunks(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 12; at + 8 <= bytes.length; ) {
    const length = view.getUint32(at + 4, true);
    if (at + 8 + length > bytes.length) return;
    yield { type: String.fromCharCode(...bytes.subarray(at, at + 4)), data: bytes.subarray(at + 8, at + 8 + length) };
    at += 8 + length + (length & 1);
  }
}

function write(file, at, letters) {
  for (let index = 0; index < letters.length; index++) file[at + index] = letters.charCodeAt(index);
}
