/* PNG files (w3.org/TR/png-3): pixels to bytes, exactly and with their metadata, and the colour profile of a file.
 *
 * A canvas would do neither: it keeps colours multiplied with their transparency, which loses digits, and drops metadata.
 */

const SIGNATURE = Uint8Array.of(0x89, 0x50, 0x4e, 0x47, 0x0d, 0x0a, 0x1a, 0x0a);
const STORED_BLOCK_BYTES = 65535;
const CRC_TABLE = Uint32Array.from({ length: 256 }, (_, number) => {
  for (let bit = 0; bit < 8; bit++) number = number & 1 ? 0xedb88320 ^ (number >>> 1) : number >>> 1;
  return number;
});

/**
 * A picture as a PNG file.
 * @param {{width: number, height: number, data: Uint8ClampedArray, hasAlpha: boolean, isGrey: boolean,
 *   icc: ?Uint8Array, exif: ?Uint8Array, xmp: ?Uint8Array}} picture  data: RGBA, row by row
 * @param {{compressed?: boolean}} options  not compressed: at once and large, for the browser to read back
 * @returns {Promise<Blob>}
 */
export async function encodePng(picture, { compressed = true } = {}) {
  const { width, height, hasAlpha, icc, exif, xmp } = picture;
  // A profile for RGB is wrong for a grey plane.
  const isGrey = picture.isGrey && !icc;
  const channels = (isGrey ? 1 : 3) + (hasAlpha ? 1 : 0);
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = 8; // bits
  header[9] = (isGrey ? 0 : 2) + (hasAlpha ? 4 : 0);
  const parts = [SIGNATURE, ...chunk("IHDR", [header])];
  if (icc) parts.push(...chunk("iCCP", [text("ICC Profile\0\0"), await deflated([icc])]));
  if (exif) parts.push(...chunk("eXIf", [exif]));
  if (xmp) parts.push(...chunk("iTXt", [text("XML:com.adobe.xmp\0\0\0\0\0"), xmp]));
  const rows = rowsOf(picture, channels, isGrey, compressed);
  parts.push(...chunk("IDAT", compressed ? [await deflated([rows])] : stored(rows)), ...chunk("IEND", []));
  return new Blob(parts, { type: "image/png" });
}

/** The ICC profile of a PNG file, or null. */
export async function pngProfile(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 8; at + 12 <= bytes.length; ) {
    const length = view.getUint32(at);
    const type = String.fromCharCode(...bytes.subarray(at + 4, at + 8));
    if (type === "IDAT" || at + 12 + length > bytes.length) return null;
    if (type === "iCCP") {
      const data = bytes.subarray(at + 8, at + 8 + length);
      return inflated(data.subarray(data.indexOf(0) + 2));
    }
    at += 12 + length;
  }
  return null;
}

/** The channels that are kept, each row after the number of its filter. */
function rowsOf({ width, height, data }, channels, isGrey, filtered) {
  const stride = width * channels;
  const rows = new Uint8Array(height * (stride + 1));
  const colours = isGrey ? 1 : 3;
  const hasAlpha = channels > colours;
  let line = new Uint8Array(stride);
  let above = new Uint8Array(stride);
  for (let y = 0, from = 0, to = 0; y < height; y++) {
    for (let x = 0, at = 0; x < width; x++, from += 4) {
      line[at++] = data[from];
      if (!isGrey) {
        line[at++] = data[from + 1];
        line[at++] = data[from + 2];
      }
      if (hasAlpha) line[at++] = data[from + 3];
    }
    rows[to++] = filtered ? 4 : 0;
    if (filtered) paeth(line, above, channels, rows, to);
    else rows.set(line, to);
    to += stride;
    [line, above] = [above, line];
  }
  return rows;
}

/** Each byte less the neighbour (left, above or between) that is nearest to their plane: the best single filter for photographs. */
function paeth(line, above, channels, rows, to) {
  for (let at = 0; at < line.length; at++) {
    const left = at < channels ? 0 : line[at - channels];
    const corner = at < channels ? 0 : above[at - channels];
    const up = above[at];
    const toLeft = Math.abs(up - corner);
    const toUp = Math.abs(left - corner);
    const toCorner = Math.abs(left + up - 2 * corner);
    const near = toLeft <= toUp && toLeft <= toCorner ? left : toUp <= toCorner ? up : corner;
    rows[to + at] = line[at] - near;
  }
}

function chunk(type, parts) {
  const name = text(type);
  const length = new Uint8Array(4);
  new DataView(length.buffer).setUint32(0, parts.reduce((sum, part) => sum + part.length, 0));
  const check = new Uint8Array(4);
  new DataView(check.buffer).setUint32(0, [name, ...parts].reduce(crc32, 0));
  return [length, name, ...parts, check];
}

function crc32(crc, bytes) {
  crc = ~crc;
  for (let at = 0; at < bytes.length; at++) crc = CRC_TABLE[(crc ^ bytes[at]) & 255] ^ (crc >>> 8);
  return ~crc >>> 0;
}

/** The zlib form of bytes that are not compressed (RFC 1950, RFC 1951 section 3.2.4), in parts. */
function stored(bytes) {
  const parts = [Uint8Array.of(0x78, 0x01)];
  for (let at = 0; at < bytes.length || at === 0; at += STORED_BLOCK_BYTES) {
    const block = bytes.subarray(at, at + STORED_BLOCK_BYTES);
    const last = at + STORED_BLOCK_BYTES >= bytes.length;
    parts.push(Uint8Array.of(last ? 1 : 0, block.length & 255, block.length >> 8, ~block.length & 255, (~block.length >> 8) & 255), block);
  }
  const check = new Uint8Array(4);
  new DataView(check.buffer).setUint32(0, adler32(bytes));
  return [...parts, check];
}

function adler32(bytes) {
  let low = 1;
  let high = 0;
  for (let at = 0; at < bytes.length; ) {
    // So many sums stay below 2^32.
    for (const end = Math.min(bytes.length, at + 3800); at < end; at++) {
      low += bytes[at];
      high += low;
    }
    low %= 65521;
    high %= 65521;
  }
  return high * 65536 + low;
}

async function deflated(parts) {
  return collected(new Blob(parts).stream().pipeThrough(new CompressionStream("deflate")));
}

async function inflated(bytes) {
  return collected(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate")));
}

async function collected(stream) {
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

function text(letters) {
  return new TextEncoder().encode(letters);
}
