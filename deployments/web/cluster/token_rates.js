/** @file Tokens a second, from two loads of the same replicas. */

/** Keeps the load of the last time. */
export class TokenRates {
  #before = {};
  #rates = {};

  /**
   * @param {Record<string, any>} models With their `load`, which is null if unknown.
   * @returns {Record<string, number | null>} By model; null if there is no rate yet.
   */
  next(models) {
    for (const [name, { load }] of Object.entries(models)) {
      const rate = load && this.#rate(load.replicas, this.#before[name]?.load?.replicas ?? []);
      // Undefined: the router answered from the same reading as the last time.
      if (rate !== undefined) this.#rates[name] = rate;
    }
    this.#before = models;
    return this.#rates;
  }

  #rate(replicas, before) {
    if (!replicas.length) return 0;
    const earlier = new Map(before.map((replica) => [replica.replica, replica]));
    const pairs = replicas.map((now) => [earlier.get(now.replica), now]).filter(([old]) => old);
    if (!pairs.length) return null;
    const moved = pairs.filter(([old, now]) => now.time_s > old.time_s && now.num_tokens >= old.num_tokens);
    if (!moved.length) return undefined;
    // Each replica's tokens, by its own clock.
    return moved.reduce((sum, [old, now]) => sum + (now.num_tokens - old.num_tokens) / (now.time_s - old.time_s), 0);
  }
}
