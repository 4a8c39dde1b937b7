/** @file The tabs of the page; the address says which one is open. */

import { byId } from "./dom.js";

/**
 * @param {string[]} names Each has a tab with the id `NAME-tab` and a panel with the id `NAME-panel`. No element has
 *   the id NAME: the browser would scroll to it, and move the focus there.
 * @param {(name: string) => void} onOpen
 */
export function setUpTabs(names, onOpen) {
  const open = (name) => {
    for (const other of names) {
      const isOpen = other === name;
      byId(`${other}-panel`).hidden = !isOpen;
      byId(`${other}-tab`).setAttribute("aria-selected", String(isOpen));
      byId(`${other}-tab`).tabIndex = isOpen ? 0 : -1;
    }
    onOpen(name);
  };
  const fromAddress = () => open(names.find((name) => location.hash === `#${name}`) ?? names[0]);
  for (const name of names) byId(`${name}-tab`).addEventListener("click", () => (location.hash = name));
  byId("tabs").addEventListener("keydown", (event) => moveFocus(event, names));
  addEventListener("hashchange", fromAddress);
  fromAddress();
}

function moveFocus(event, names) {
  const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
  const at = names.findIndex((name) => event.target.id === `${name}-tab`);
  if (!step || at < 0) return;
  event.preventDefault();
  const next = names[(at + step + names.length) % names.length];
  location.hash = next;
  byId(`${next}-tab`).focus();
}
