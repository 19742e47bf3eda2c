// The noise curve of one image as SVG. Across, all is in per cent: it fits any width, and its letters keep their size.

import { h, svg } from "./dom.js";

// The plot area: across in per cent of the width, down in pixels.
const [LEFT, RIGHT, TOP, BOTTOM, HEIGHT] = [9, 98, 54, 236, 278];

/**
 * Draw a line for each label over the sigmas, and vertical lines where it stands now and where the answer flips.
 *
 * @param {{names: string[], sigmas: number[], rows: number[][], end: number, now: number, flip: number | null}} curve
 *   `rows`: for each sigma the probability of each label, 0 to 1; `end`: of the axis
 * @param {string} caption what it shows; all that is read out of it
 */
export function curveFigure({ names, sigmas, rows, end, now, flip }, caption) {
  const across = (sigma) => LEFT + ((RIGHT - LEFT) * sigma) / end;
  const down = (share) => BOTTOM - (BOTTOM - TOP) * share;
  const grid = [0, 0.25, 0.5, 0.75, 1].flatMap((share) => [
    svg("line", { class: "grid", x1: `${LEFT}%`, x2: `${RIGHT}%`, y1: down(share), y2: down(share) }),
    svg("text", { x: `${LEFT - 1.5}%`, y: down(share) + 4, "text-anchor": "end" }, `${100 * share}`),
  ]);
  const feet = [0, 0.2, 0.4, 0.6, 0.8, 1].map((share) =>
    svg("text", { x: `${across(share * end)}%`, y: BOTTOM + 18, "text-anchor": "middle" }, `${share * end}`),
  );
  const lines = names.map((_, label) => {
    const points = rows.map((row, i) => `${(100 * sigmas[i]) / end},${100 * (1 - row[label])}`).join(" ");
    return svg("polyline", { class: `line-${label % 4}`, points });
  });
  const plot = svg(
    "svg",
    {
      x: `${LEFT}%`,
      y: TOP,
      width: `${RIGHT - LEFT}%`,
      height: BOTTOM - TOP,
      viewBox: "0 0 100 100",
      preserveAspectRatio: "none",
    },
    ...lines,
  );
  const picture = svg(
    "svg",
    { width: "100%", height: HEIGHT, "aria-hidden": "true" },
    svg("text", { x: 0, y: 12, class: "axis" }, "probability, per cent"),
    ...grid,
    ...feet,
    svg("text", { x: `${RIGHT}%`, y: HEIGHT - 6, "text-anchor": "end", class: "axis" }, "noise (sigma)"),
    plot,
    ...(flip === null ? [] : [mark(across(flip), "flip", "flips", 46)]),
    mark(across(now), "now", "now", 32),
  );
  return h("figure", { class: "chart" }, legend(names), picture, h("figcaption", {}, caption));
}

function mark(place, kind, word, y) {
  // A word near an edge stays inside of it.
  const anchor = place < 14 ? "start" : place > 94 ? "end" : "middle";
  return svg(
    "g",
    { class: kind },
    svg("line", { x1: `${place}%`, x2: `${place}%`, y1: y + 4, y2: BOTTOM }),
    svg("text", { x: `${place}%`, y, "text-anchor": anchor }, word),
  );
}

function legend(names) {
  const items = names.map((name, label) => {
    const line = svg("line", { class: `line-${label % 4}`, x1: 0, x2: 26, y1: 6, y2: 6 });
    return h("li", {}, svg("svg", { width: 26, height: 12, "aria-hidden": "true" }, line), name);
  });
  return h("ul", { class: "legend" }, ...items);
}
