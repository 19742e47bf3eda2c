// The square of pixels a model looks at, and how they are normalised: blastlens.view.View, pixel for pixel.

import { resize } from "./resize.js";
import settings from "./settings.js";

const { rawCellSide } = settings;

/** Crop and resize an RGB image to what the network sees before normalisation: RGB bytes, `size` by `size`. */
export function applyView(view, image) {
  return view.frame === null ? shortestSide(view, image) : framed(view, image);
}

function shortestSide({ size, interpolation }, image) {
  const short = Math.min(image.width, image.height);
  const width = Math.floor((size * image.width) / short);
  const height = Math.floor((size * image.height) / short);
  const same = width === image.width && height === image.height;
  const resized = same ? image : resize(image, width, height, interpolation);
  return crop(resized, halfEven((width - size) / 2), halfEven((height - size) / 2), size);
}

function framed({ size, frame, interpolation }, image) {
  const [width, height] = thumbnailSize(image.width, image.height, frame);
  // The crop's corner on the shrunk image; negative where the crop reaches into the black around it.
  const margin = Math.floor((frame - size) / 2);
  const left = margin - Math.floor((frame - width) / 2);
  const top = margin - Math.floor((frame - height) / 2);
  if (width === image.width && height === image.height) return crop(image, left, top, size);
  const [x0, x1] = [Math.max(left, 0), Math.min(left + size, width)];
  const [y0, y1] = [Math.max(top, 0), Math.min(top + size, height)];
  const [across, down] = [image.width / width, image.height / height];
  const box = [x0 * across, y0 * down, Math.min(x1 * across, image.width), Math.min(y1 * down, image.height)];
  return crop(resize(image, x1 - x0, y1 - y0, interpolation, box), left - x0, top - y0, size);
}

/** Size after the shrinking step of transformers' DonutImageProcessor. */
function thumbnailSize(width, height, frame) {
  let [newWidth, newHeight] = [Math.min(width, frame), Math.min(height, frame)];
  if (newWidth === width && newHeight === height) return [width, height];
  if (height > width) newWidth = Math.floor((width * newHeight) / height);
  else if (width > height) newHeight = Math.floor((height * newWidth) / width);
  return [newWidth, newHeight];
}

/** A square of an image; black where it reaches beyond. */
function crop({ width, height, pixels }, left, top, side) {
  const result = new Uint8Array(3 * side * side);
  const [x0, x1] = [Math.max(left, 0), Math.min(left + side, width)];
  for (let y = Math.max(top, 0); y < Math.min(top + side, height); y += 1) {
    const row = pixels.subarray(3 * (y * width + x0), 3 * (y * width + x1));
    result.set(row, 3 * ((y - top) * side + x0 - left));
  }
  return result;
}

/** Round to the nearest whole number, halves to the even one, as Python and numpy do. */
export function halfEven(value) {
  const floor = Math.floor(value);
  const rest = value - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
}

/** The network's input, (x / 255 - mean) / std: RGB bytes to single-precision numbers, a plane for each channel. */
export function normalise(view, pixels) {
  const plane = view.size * view.size;
  const batch = new Float32Array(3 * plane);
  for (let channel = 0; channel < 3; channel += 1) {
    const scale = Math.fround(1 / (255 * view.std[channel]));
    const shift = Math.fround(view.mean[channel] / view.std[channel]);
    const levels = Float32Array.from({ length: 256 }, (_, value) => Math.fround(value * scale) - shift);
    for (let i = 0; i < plane; i += 1) batch[channel * plane + i] = levels[pixels[3 * i + channel]];
  }
  return batch;
}

/** Warnings about an image of a size that the model was not trained on. */
export function remarksOnSize({ size, frame }, width, height) {
  const seen = `image is ${width}x${height}`;
  if (frame === null) {
    const remarks = width === height ? [] : [`${seen}; only its centre square was used`];
    return Math.min(width, height) < size ? [...remarks, `${seen}; it was enlarged to ${size}x${size}`] : remarks;
  }
  if (width === height && (width === rawCellSide || width === size)) return [];
  const done = Math.max(width, height) > frame ? "resized and cropped" : "padded or cropped, not resized";
  return [
    `${seen}; the model expects a single segmented cell on black, ${rawCellSide}x${rawCellSide} or prepared ` +
      `${size}x${size}; it was ${done}`,
  ];
}

/** Whether red, green and blue are the same everywhere. */
export function isGrey(pixels) {
  for (let i = 0; i < pixels.length; i += 3) {
    if (pixels[i] !== pixels[i + 1] || pixels[i] !== pixels[i + 2]) return false;
  }
  return true;
}
