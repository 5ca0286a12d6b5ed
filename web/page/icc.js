/* The name of a colour profile (ICC.1:2022, the tag `desc` in its two forms). */

const MAX_LETTERS = 100;

/**
 * @param {Uint8Array} bytes  an ICC profile
 * @returns {string}  what it calls itself, empty where that cannot be read
 */
export function profileName(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const letters = (from, length) => String.fromCharCode(...bytes.subarray(from, from + length));
  if (bytes.length < 132) return "";
  const count = Math.min(100, view.getUint32(128));
  for (let index = 0; index < count && 144 + 12 * index <= bytes.length; index++) {
    const at = 132 + 12 * index;
    if (letters(at, 4) !== "desc") continue;
    const from = view.getUint32(at + 4);
    if (from + 28 > bytes.length) return "";
    if (letters(from, 4) === "desc") {
      return letters(from + 12, Math.min(MAX_LETTERS, view.getUint32(from + 8))).split("\0")[0];
    }
    if (letters(from, 4) !== "mluc") return "";
    // The first language is as good as another.
    const start = from + view.getUint32(from + 24);
    const length = Math.min(2 * MAX_LETTERS, view.getUint32(from + 20));
    if (start + length > bytes.length) return "";
    return new TextDecoder("utf-16be").decode(bytes.subarray(start, start + length)).split("\0")[0];
  }
  return "";
}
