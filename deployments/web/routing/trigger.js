/** @file The trigger curve: hand-overs, right and false, at other call biases. */

import { h, svg } from "../lib/dom.js";
import { percent } from "../lib/format.js";

const WIDTH = 640;
const HEIGHT = 300;
const LEFT = 52;
const RIGHT = 12;
const TOP = 12;
const BOTTOM = 44;
const CURVES = [
  { field: "accuracy", className: "curve-right", name: "experts' queries, right hand-over (solid)" },
  { field: "false_trigger_rate", className: "curve-false", name: "general queries, false hand-over (dashed)" },
];

/**
 * @param {any[]} points With `call_bias`, `accuracy` and `false_trigger_rate`; a share is null if undefined.
 * @param {number} callBias The one of the cluster.
 * @returns {HTMLElement}
 */
export function triggerFigure(points, callBias) {
  const biases = points.map((point) => point.call_bias);
  const [low, high] = [Math.min(...biases), Math.max(...biases)];
  const x = (bias) => LEFT + ((bias - low) / (high - low || 1)) * (WIDTH - LEFT - RIGHT);
  const y = (share) => TOP + (1 - share) * (HEIGHT - TOP - BOTTOM);
  const picture = svg(
    "svg",
    { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": described(points, callBias) },
    ...shareAxis(y),
    ...biasAxis(x, low, high),
    svg("line", { class: "now", x1: x(callBias), x2: x(callBias), y1: y(1), y2: y(0) }),
    ...CURVES.map(({ field, className }) => {
      const known = points.filter((point) => point[field] !== null);
      const places = known.map((point) => `${x(point.call_bias)},${y(point[field])}`);
      return svg("polyline", { class: `curve ${className}`, points: places.join(" ") });
    }),
  );
  const names = CURVES.map(({ className, name }) => h("li", {}, svgKey(className), ` ${name}`));
  const now = h("li", {}, `dotted line: the call bias now, ${callBias}`);
  return h("figure", {}, h("figcaption", {}, "More hand-overs, right and false"), picture, h("ul", {}, ...names, now));
}

function shareAxis(y) {
  return [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
    svg("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(share), y2: y(share) }),
    svg("text", { x: LEFT - 6, y: y(share) + 4, "text-anchor": "end" }, percent(share)),
  ]);
}

function biasAxis(x, low, high) {
  const bottom = HEIGHT - BOTTOM;
  const labels = [low, (low + high) / 2, high].map((bias, index) => {
    const anchor = ["start", "middle", "end"][index];
    return svg("text", { x: x(bias), y: bottom + 16, "text-anchor": anchor }, bias.toFixed(1));
  });
  const title = svg("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 8, "text-anchor": "middle" }, "call bias");
  return [svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: bottom, y2: bottom }), ...labels, title];
}

function svgKey(className) {
  const key = svg("svg", { viewBox: "0 0 30 8", class: "key", "aria-hidden": "true" });
  key.append(svg("line", { class: `curve ${className}`, x1: 0, x2: 30, y1: 4, y2: 4 }));
  return key;
}

function described(points, callBias) {
  const nearest = points.reduce((best, point) => (distance(point) < distance(best) ? point : best));
  const share = (value) => (value === null ? "unknown" : percent(value));
  return `At the call bias now, ${share(nearest.accuracy)} right and ${share(nearest.false_trigger_rate)} false hand-overs`;

  function distance(point) {
    return Math.abs(point.call_bias - callBias);
  }
}
