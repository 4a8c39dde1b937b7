/** @file The API key. It stays in this tab, and is gone when the tab is closed. */

const NAME = "etr-api-key";

/** @returns {string} The key, or an empty text. */
export function apiKey() {
  return sessionStorage.getItem(NAME) ?? "";
}

/** @param {string} key An empty text removes the key. */
export function setApiKey(key) {
  if (key) sessionStorage.setItem(NAME, key);
  else sessionStorage.removeItem(NAME);
}

/** @returns {Record<string, string>} The header that carries the key, if there is one. */
export function authorization() {
  return apiKey() ? { authorization: `Bearer ${apiKey()}` } : {};
}
