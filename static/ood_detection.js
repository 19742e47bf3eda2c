// The out-of-distribution check, blastlens.ood_detection: statistics of the untouched view, and the distance of the
// network's features from those of its training images. It warns, and never withholds a prediction.

import settings from "./settings.js";
import { halfEven } from "./view.js";

const { black, toYcc, statistics: STATISTICS } = settings;
// Width of the outermost ring, and sides of the blocks of coarse_detail and large_parts, in sides of the view.
const [RING, BLOCK, LARGE_BLOCK] = [1 / 28, 1 / 56, 1 / 20];
// Below this, in grey levels, a picture is flat, and dividing by its contrast would only magnify rounding.
const FLAT = 0.5;

/** The detector of a record in models.json and the arrays of gate.safetensors; its features are null without these. */
export function detectorOf(record, tensors) {
  return { ...record, features: tensors && { ...featuresOf(tensors), ...record.features } };
}

function featuresOf({ mean, directions, rest }) {
  const [count, length] = directions.shape;
  const rows = Array.from({ length: count }, (_, k) => directions.values.subarray(k * length, (k + 1) * length));
  return { mean: mean.values, directions: rows, rest: rest.values[0] };
}

/**
 * Compare a view with the training images.
 *
 * @param {Uint8Array} pixels RGB of the view, without noise
 * @param {Float32Array | null} features of the network for this view; without them the statistics decide alone
 * @returns {{fits: boolean, reasons: string[]}} the most understandable reason first
 */
export function checkView(detector, pixels, features = null) {
  const found = statisticsOf(pixels);
  const reasons = [];
  for (const { name, low, high, reasons: [below, above] } of detector.ranges) {
    // False of NaN: an all-black view has no lit pixel to measure, and the share of black pixels rejects it.
    if (found[name] < low) reasons.push(below);
    if (found[name] > high) reasons.push(above);
  }
  if (detector.features && features && !(featureScore(detector.features, features) <= detector.features.limit)) {
    reasons.push(detector.features.reason);
  }
  return { fits: reasons.length === 0, reasons };
}

/** Mahalanobis distance to the training images; 1 is what a typical one has. */
export function featureScore({ mean, directions, rest }, features) {
  const centred = Float64Array.from(features, (value, i) => value - mean[i]);
  let inside = 0;
  let outside = dot(centred, centred);
  for (const direction of directions) {
    const scaled = dot(centred, direction);
    inside += scaled ** 2;
    // Of orthonormal directions divided by s, the squared length is 1 / s^2.
    outside -= scaled ** 2 / dot(direction, direction);
  }
  return Math.sqrt((inside + Math.max(outside, 0) / rest ** 2) / mean.length);
}

function dot(a, b) {
  let sum = 0;
  for (let i = 0; i < a.length; i += 1) sum += a[i] * b[i];
  return sum;
}

/** Every statistic of a view, RGB bytes of a square; those of lit pixels are NaN where all is black. */
export function statisticsOf(pixels) {
  const count = pixels.length / 3;
  const side = Math.sqrt(count);
  const mask = new Float64Array(count);
  for (let i = 0; i < count; i += 1) {
    mask[i] = Math.max(pixels[3 * i], pixels[3 * i + 1], pixels[3 * i + 2]) > black ? 1 : 0;
  }
  const area = dot(mask, mask);
  const found = Object.fromEntries(STATISTICS.map((name) => [name, NaN]));
  found.black = 1 - area / count;
  found.black_border = 1 - shareOfRing(mask, side, Math.max(1, halfEven(side * RING)));
  if (!area) return found;

  const { mean, covariance, grey } = colours(pixels, mask, area);
  const [brightness, blue, red] = mean;
  const [contrast, ofBlue, ofRed] = [0, 1, 2].map((i) => Math.sqrt(Math.max(covariance[i][i], 0)));
  const block = Math.max(1, halfEven(side * BLOCK));
  const coarse = blockMeans(grey, side, block);
  const whole = blockMeans(mask, side, block).map((share) => (share === 1 ? 1 : 0));
  const scale = Math.max(contrast, FLAT);
  return {
    ...found,
    ...shape(mask, side, area),
    brightness,
    blue,
    red,
    contrast,
    colours: Math.hypot(ofBlue, ofRed),
    tint: covariance[0][1] / Math.max(contrast * ofBlue, FLAT ** 2),
    fine_detail: detail(grey, mask, side) / scale,
    coarse_detail: detail(coarse, whole, Math.floor(side / block)) / scale,
    large_parts: deviationOfBlocks(grey.map((value) => value - brightness), mask, side) / scale,
  };
}

function shareOfRing(mask, side, ring) {
  let lit = 0;
  let all = 0;
  for (let y = 0, i = 0; y < side; y += 1) {
    for (let x = 0; x < side; x += 1, i += 1) {
      if (Math.min(x, y, side - 1 - x, side - 1 - y) < ring) {
        lit += mask[i];
        all += 1;
      }
    }
  }
  return lit / all;
}

/** Mean and covariance of brightness, blue-yellow and red-green of lit pixels, and the brightness of all. */
function colours(pixels, mask, area) {
  const ycc = [0, 1, 2].map((row) => {
    const [r, g, b] = toYcc[row];
    return Float64Array.from(mask, (_, i) => r * pixels[3 * i] + g * pixels[3 * i + 1] + b * pixels[3 * i + 2]);
  });
  const mean = ycc.map((values) => dot(values, mask) / area);
  const centred = ycc.map((values, row) => values.map((value, i) => (value - mean[row]) * mask[i]));
  const covariance = centred.map((a) => centred.map((b) => dot(a, b) / area));
  return { mean, covariance, grey: ycc[0] };
}

function shape(mask, side, area) {
  const sums = { x: 0, y: 0, xx: 0, yy: 0 };
  for (let i = 0; i < mask.length; i += 1) {
    if (mask[i]) {
      const x = (i % side) - (side - 1) / 2;
      const y = Math.floor(i / side) - (side - 1) / 2;
      sums.x += x;
      sums.y += y;
      sums.xx += x * x;
      sums.yy += y * y;
    }
  }
  const [x, y] = [sums.x / area, sums.y / area];
  const squares = sums.xx / area - x ** 2 + sums.yy / area - y ** 2;
  return { off_centre: Math.hypot(x, y) / side, spread: (2 * Math.PI * squares) / area };
}

/** Root mean squared difference of neighbours in a row whose mask is 1; of a square of values. */
function detail(values, mask, side) {
  let [squares, pairs] = [0, 0];
  for (let i = 0; i < values.length; i += 1) {
    if (i % side < side - 1 && mask[i] && mask[i + 1]) {
      squares += (values[i + 1] - values[i]) ** 2;
      pairs += 1;
    }
  }
  return Math.sqrt(squares / Math.max(pairs, 1));
}

/** Standard deviation of the means of large blocks, of which at least half is lit; NaN where there are none. */
function deviationOfBlocks(differences, mask, side) {
  const block = Math.max(1, halfEven(side * LARGE_BLOCK));
  const shares = blockMeans(mask, side, block);
  const sums = blockMeans(differences.map((value, i) => value * mask[i]), side, block);
  let [weight, sum, squares] = [0, 0, 0];
  const inside = [...shares.keys()].filter((i) => shares[i] >= 0.5);
  for (const i of inside) {
    weight += shares[i];
    sum += sums[i];
  }
  for (const i of inside) squares += shares[i] * (sums[i] / shares[i] - sum / weight) ** 2;
  return Math.sqrt(squares / weight);
}

/** Means of blocks of a square of values; what is left over at the far edges is left out. */
function blockMeans(values, side, block) {
  const across = Math.floor(side / block);
  const means = new Float64Array(across * across);
  for (let y = 0; y < across * block; y += 1) {
    for (let x = 0; x < across * block; x += 1) {
      means[Math.floor(y / block) * across + Math.floor(x / block)] += values[y * side + x];
    }
  }
  return means.map((sum) => sum / block ** 2);
}
