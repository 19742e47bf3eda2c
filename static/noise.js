// Gaussian noise as blastlens.noise adds it: numpy's field of standard normal numbers, drawn here once more.
//
// numpy's default_rng(seed) is SeedSequence and PCG64, and its single-precision normal numbers come from a ziggurat:
//   O'Neill (2014), "PCG: A Family of Simple Fast Space-Efficient Statistically Good Algorithms for Random Number
//   Generation" (XSL-RR 128/64); Marsaglia & Tsang (2000), "The Ziggurat Method for Generating Random Variables".

const { fround, imul } = Math;

/** Words that a seed from 0 to 2^53 becomes: numpy's SeedSequence(seed).generate_state(4, uint64), low words first. */
function seedWords(seed) {
  const entropy = [seed >>> 0, Math.floor(seed / 2 ** 32)];
  let constant = 0x43b0d7e5;
  const hash = (word) => {
    let value = word ^ constant;
    constant = imul(constant, 0x931e8875);
    value = imul(value, constant);
    return value ^ (value >>> 16);
  };
  const mix = (a, b) => {
    const value = imul(a, 0xca01f9dd) - imul(b, 0x4973f715);
    return value ^ (value >>> 16);
  };
  const pool = [0, 1, 2, 3].map((i) => hash(entropy[i] ?? 0));
  for (let from = 0; from < 4; from += 1) {
    for (let to = 0; to < 4; to += 1) if (to !== from) pool[to] = mix(pool[to], hash(pool[from]));
  }
  constant = 0x8b51f9dd;
  return Array.from({ length: 8 }, (_, i) => {
    let value = pool[i % 4] ^ constant;
    constant = imul(constant, 0x58f38ded);
    value = imul(value, constant);
    return (value ^ (value >>> 16)) >>> 0;
  });
}

// A 128-bit number is eight digits of 16 bits, lowest first: their products fit into a double, and need no BigInt.
const digits = (words) => words.flatMap((word) => [word & 0xffff, word >>> 16]);
const [m0, m1, m2, m3, m4, m5, m6, m7] = digits([0x9fccf645, 0x4385df64, 0x1fc65da4, 0x2360ed05]);

/** PCG64 of a seed, as a function that gives its next 32 bits. */
function generator(seed) {
  const words = seedWords(seed);
  // numpy reads each half of a 128-bit number high word first.
  const start = digits([words[2], words[3], words[0], words[1]]);
  const stream = digits([words[6], words[7], words[4], words[5]]);
  const carried = (i) => (i ? stream[i - 1] >> 15 : 1);
  const [i0, i1, i2, i3, i4, i5, i6, i7] = stream.map((digit, i) => ((2 * digit) & 0xffff) | carried(i));
  let [s0, s1, s2, s3, s4, s5, s6, s7] = [0, 0, 0, 0, 0, 0, 0, 0];
  const step = () => {
    // No list in here: this runs for every second number.
    const a = s0, b = s1, c = s2, d = s3, e = s4, f = s5, g = s6;
    let sum = a * m0 + i0;
    s0 = sum & 0xffff;
    sum = Math.floor(sum / 65536) + a * m1 + b * m0 + i1;
    s1 = sum & 0xffff;
    sum = Math.floor(sum / 65536) + a * m2 + b * m1 + c * m0 + i2;
    s2 = sum & 0xffff;
    sum = Math.floor(sum / 65536) + a * m3 + b * m2 + c * m1 + d * m0 + i3;
    s3 = sum & 0xffff;
    sum = Math.floor(sum / 65536) + a * m4 + b * m3 + c * m2 + d * m1 + e * m0 + i4;
    s4 = sum & 0xffff;
    sum = Math.floor(sum / 65536) + a * m5 + b * m4 + c * m3 + d * m2 + e * m1 + f * m0 + i5;
    s5 = sum & 0xffff;
    sum = Math.floor(sum / 65536) + a * m6 + b * m5 + c * m4 + d * m3 + e * m2 + f * m1 + g * m0 + i6;
    s6 = sum & 0xffff;
    sum = Math.floor(sum / 65536) + a * m7 + b * m6 + c * m5 + d * m4 + e * m3 + f * m2 + g * m1 + s7 * m0 + i7;
    s7 = sum & 0xffff;
  };
  step();
  let carry = 0;
  [s0, s1, s2, s3, s4, s5, s6, s7] = [s0, s1, s2, s3, s4, s5, s6, s7].map((digit, i) => {
    const sum = digit + start[i] + carry;
    carry = sum >>> 16;
    return sum & 0xffff;
  });
  step();
  let kept = 0;
  let hasKept = false;
  return () => {
    if (hasKept) {
      hasKept = false;
      return kept;
    }
    step();
    // XSL-RR: the halves combined, and turned right by the topmost six bits.
    const low = (s0 ^ s4) | ((s1 ^ s5) << 16);
    const high = (s2 ^ s6) | ((s3 ^ s7) << 16);
    const turn = s7 >>> 10;
    const a = turn & 32 ? high : low;
    const b = turn & 32 ? low : high;
    const by = turn & 31;
    kept = (by ? (b >>> by) | (a << (32 - by)) : b) >>> 0;
    hasKept = true;
    return (by ? (a >>> by) | (b << (32 - by)) : a) >>> 0;
  };
}

// The ziggurat: 256 layers of the same area under exp(-x^2 / 2), the lowest with the tail beyond R.
const R = 3.6541528853610088;
const INVERSE_R = fround(1 / R);
const R_SINGLE = fround(R);
const { HEIGHTS, SURE, WIDTHS } = layers();

function layers() {
  const density = (x) => Math.exp(-0.5 * x * x);
  // The tail by its continued fraction, 1 / (R + 1 / (R + 2 / (R + ...))).
  let fraction = 0;
  for (let k = 100; k >= 1; k -= 1) fraction = k / (R + fraction);
  const area = density(R) * (R + 1 / (R + fraction));
  const edges = new Float64Array(257); // of the layers, from the lowest, whose width holds the tail, to the top
  edges[0] = area / density(R);
  edges[1] = R;
  for (let i = 2; i < 256; i += 1) edges[i] = Math.sqrt(-2 * Math.log(area / edges[i - 1] + density(edges[i - 1])));
  edges[256] = 0;
  const bits = 2 ** 23;
  const [heights, sure, widths] = [new Float32Array(256), new Float64Array(256), new Float32Array(256)];
  // Layer 0 is the lowest, and the others are counted from the top: so are numpy's.
  for (let layer = 0; layer < 256; layer += 1) {
    const i = layer === 0 ? 0 : 256 - layer;
    widths[layer] = edges[i] / bits;
    sure[layer] = Math.round((edges[i + 1] / edges[i]) * bits);
    heights[layer] = layer === 0 ? 1 : density(edges[i]);
  }
  return { HEIGHTS: heights, SURE: sure, WIDTHS: widths };
}

/** numpy.random.default_rng(seed).standard_normal(count, dtype=float32). */
export function standardNormal(count, seed) {
  const next = generator(seed);
  const share = () => (next() >>> 8) / 2 ** 24; // exact in single precision
  const field = new Float32Array(count);
  for (let i = 0; i < count; i += 1) {
    for (;;) {
      const bits = next();
      const layer = bits & 255;
      const distance = bits >>> 9;
      const size = fround(distance * WIDTHS[layer]);
      const value = bits & 256 ? -size : size;
      if (distance < SURE[layer]) {
        field[i] = value;
        break;
      }
      if (layer === 0) {
        field[i] = beyond(share, distance);
        break;
      }
      const drop = fround(fround(HEIGHTS[layer - 1] - HEIGHTS[layer]) * share());
      if (fround(drop + HEIGHTS[layer]) < Math.exp(-0.5 * value * value)) {
        field[i] = value;
        break;
      }
    }
  }
  return field;
}

/** A number from the tail. */
function beyond(share, bits) {
  const logarithm = () => fround(Math.log1p(-share()));
  for (;;) {
    const x = fround(-INVERSE_R * logarithm());
    const y = -logarithm();
    if (fround(y + y) > fround(x * x)) return (bits >>> 8) & 1 ? -fround(R_SINGLE + x) : fround(R_SINGLE + x);
  }
}

const drawn = new Map();

function fieldOf(count, seed) {
  const key = `${count} ${seed}`;
  if (!drawn.has(key)) {
    if (drawn.size >= 8) drawn.delete(drawn.keys().next().value);
    drawn.set(key, standardNormal(count, seed));
  }
  return drawn.get(key);
}

/**
 * Add zero-mean Gaussian noise, independent per pixel and channel: blastlens.noise.add_gaussian_noise.
 *
 * @param {Uint8Array} pixels
 * @param {number} sigma on the 0 to 255 scale
 * @param {number} seed whole number from 0 to 2^53
 * @returns {Uint8ClampedArray} rounded to nearest, halves to even, which is what such an array does
 */
export function addGaussianNoise(pixels, sigma, seed = 0) {
  const noisy = new Uint8ClampedArray(pixels);
  if (sigma === 0) return noisy;
  const field = fieldOf(pixels.length, seed);
  const strength = fround(sigma);
  for (let i = 0; i < noisy.length; i += 1) noisy[i] = fround(fround(field[i] * strength) + pixels[i]);
  return noisy;
}
