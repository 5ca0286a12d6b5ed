/**
 * An error that a file, a model or the machine can cause. Each message is one sentence: what is wrong and what to do.
 *
 * `kind` is the name of the class that the command raises for the same (looc_codec/errors.py), `MemoryError` where memory ran out, or
 * `AbortError` where the caller gave up.
 */
export class LoocError extends Error {
  /**
   * @param {string} message
   * @param {string} [kind]
   */
  constructor(message, kind = "LoocError") {
    super(message);
    this.name = "LoocError";
    this.kind = kind;
  }
}
