// Pillow's antialiased resampling of 8-bit images, in its own whole-number arithmetic: equal pixels, not similar ones.
// The algorithm is that of Pillow's src/libImaging/Resample.c (coefficients, their rounding, and two passes).

const BITS = 22; // of a coefficient behind the point: 32, less 8 of a pixel, less 2 against overflow

const cubic = (x) => {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
};
const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

const FILTERS = {
  bilinear: { support: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) },
  bicubic: { support: 2, weight: (x) => cubic(Math.abs(x)) },
  lanczos: { support: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) },
};

export const INTERPOLATIONS = Object.keys(FILTERS);

/**
 * Resize an RGB image as `PIL.Image.resize` does.
 *
 * @param {{width: number, height: number, pixels: Uint8Array}} image
 * @param {number} width of the result
 * @param {number} height of the result
 * @param {string} interpolation one of INTERPOLATIONS
 * @param {number[]} box left, top, right and bottom of the part that is resized, fractions of pixels included
 */
export function resize(image, width, height, interpolation, box = [0, 0, image.width, image.height]) {
  const [left, top, right, bottom] = box.map(Math.fround); // Pillow keeps a box in single precision
  const filter = FILTERS[interpolation];
  const across = coefficients(image.width, left, right, width, filter);
  const down = coefficients(image.height, top, bottom, height, filter);
  let result = image;
  let firstRow = 0;
  if (width !== image.width || left !== 0 || right !== width) {
    firstRow = down.first[0];
    result = resizeAcross(image, across, width, firstRow, down.first[height - 1] + down.count[height - 1]);
  }
  if (height !== image.height || top !== 0 || bottom !== height) result = resizeDown(result, down, height, firstRow);
  return result;
}

/** For each pixel of the result: the first pixel it is made of, how many, and their weights as whole numbers. */
function coefficients(length, from, to, newLength, filter) {
  const scale = Math.fround(to - from) / newLength;
  const stretch = Math.max(scale, 1);
  const support = filter.support * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(newLength);
  const count = new Int32Array(newLength);
  const weights = new Int32Array(newLength * most);
  const row = new Float64Array(most);
  for (let i = 0; i < newLength; i += 1) {
    const centre = from + (i + 0.5) * scale;
    const start = Math.max(0, Math.trunc(centre - support + 0.5));
    const many = Math.min(length, Math.trunc(centre + support + 0.5)) - start;
    let sum = 0;
    for (let j = 0; j < many; j += 1) {
      row[j] = filter.weight((j + start - centre + 0.5) * (1 / stretch));
      sum += row[j];
    }
    for (let j = 0; j < many; j += 1) {
      const share = (sum === 0 ? row[j] : row[j] / sum) * 2 ** BITS;
      weights[i * most + j] = Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    }
    first[i] = start;
    count[i] = many;
  }
  return { first, count, weights, most };
}

function resizeAcross({ width, pixels }, { first, count, weights, most }, newWidth, fromRow, toRow) {
  const result = new Uint8ClampedArray(3 * newWidth * (toRow - fromRow));
  for (let y = fromRow, at = 0; y < toRow; y += 1) {
    for (let x = 0; x < newWidth; x += 1) {
      let red = 1 << (BITS - 1);
      let green = red;
      let blue = red;
      let from = 3 * (y * width + first[x]);
      for (let j = x * most, end = j + count[x]; j < end; j += 1) {
        const weight = weights[j];
        red += weight * pixels[from++];
        green += weight * pixels[from++];
        blue += weight * pixels[from++];
      }
      result[at++] = red >> BITS;
      result[at++] = green >> BITS;
      result[at++] = blue >> BITS;
    }
  }
  return { width: newWidth, height: toRow - fromRow, pixels: new Uint8Array(result.buffer) };
}

function resizeDown({ width, pixels }, { first, count, weights, most }, newHeight, firstRow) {
  const stride = 3 * width;
  const result = new Uint8ClampedArray(stride * newHeight);
  const sums = new Float64Array(stride);
  for (let y = 0; y < newHeight; y += 1) {
    sums.fill(1 << (BITS - 1));
    for (let j = 0; j < count[y]; j += 1) {
      const weight = weights[y * most + j];
      const from = (first[y] + j - firstRow) * stride;
      for (let i = 0; i < stride; i += 1) sums[i] += weight * pixels[from + i];
    }
    for (let i = 0; i < stride; i += 1) result[y * stride + i] = sums[i] >> BITS;
  }
  return { width, height: newHeight, pixels: new Uint8Array(result.buffer) };
}
