/** @file Numbers as people read them. */

/** A share between 0 and 1 in percent. @param {number} share @returns {string} */
export function percent(share) {
  const digits = share > 0 && share < 0.1 ? 1 : 0;
  return `${(100 * share).toFixed(digits)} %`;
}

/** @param {number} ms @returns {string} */
export function duration(ms) {
  if (ms < 1000) return `${ms.toFixed(ms < 10 ? 1 : 0)} ms`;
  return ms < 120_000 ? `${(ms / 1000).toFixed(1)} s` : `${(ms / 60_000).toFixed(0)} min`;
}

/** A number with its noun. @param {number} number @param {string} noun @returns {string} */
export function count(number, noun) {
  return `${number} ${noun}${number === 1 ? "" : "s"}`;
}
