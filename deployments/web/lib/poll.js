/** @file Something that is repeated while a part of the page can be seen. */

/** Calls `step` at once and then `periodMs` after each end, while it is on and the tab is visible. */
export class Poll {
  #step;
  #periodMs;
  #isOn = false;
  #timer = 0;
  #isRunning = false;

  /** @param {() => Promise<void>} step Handles its own errors. @param {number} periodMs */
  constructor(step, periodMs) {
    this.#step = step;
    this.#periodMs = periodMs;
    document.addEventListener("visibilitychange", () => this.#next(0));
  }

  /** @param {boolean} isOn */
  turn(isOn) {
    this.#isOn = isOn;
    this.#next(0);
  }

  #next(waitMs) {
    clearTimeout(this.#timer);
    if (this.#isOn && !document.hidden && !this.#isRunning) this.#timer = setTimeout(() => this.#run(), waitMs);
  }

  async #run() {
    this.#isRunning = true;
    await this.#step();
    this.#isRunning = false;
    this.#next(this.#periodMs);
  }
}
