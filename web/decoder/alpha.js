import { LoocError } from "./errors.js";
export async function unpackedAlpha(data, width, height) { throw new LoocError("TODO"); }
