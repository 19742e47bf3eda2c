// Open untrusted image files as blastlens.images.open_image does: 8-bit RGB, upright, on black, in plain refusals.

import { ACCEPTED, describe } from "./formats.js";
import { Refusal } from "./refusal.js";
import settings from "./settings.js";

const { maxPixels, minSide, maxAspect } = settings;
const MEGAPIXELS = Math.floor(maxPixels / 1e6);
// Four bytes a pixel and something for the header: no accepted image needs a larger file.
const MAX_BYTES = 4 * maxPixels + 1_000_000;
// Pixels are read in strips: some phones have no canvas of more than 16 megapixels.
const STRIP = 4_000_000;
// Pixels as the file has them: no colour management, nothing multiplied by opacity before it is shown on black.
const AS_THEY_ARE = { colorSpaceConversion: "none", premultiplyAlpha: "none", imageOrientation: "from-image" };

/**
 * Open one image file.
 *
 * @param {Blob} file
 * @param {string} name what messages call it
 * @returns {Promise<{width: number, height: number, pixels: Uint8Array, notes: string[]}>} RGB, row by row, and notes
 *   on what was flattened or left out
 * @throws {Refusal} empty, no image, damaged, over 50 megapixels (known before it is decoded), a side under 16 px, or
 *   one side over 20 times the other
 */
export async function openImage(file, name) {
  if (file.size === 0) throw new Refusal(`${name} is empty (0 bytes); give a ${ACCEPTED} file.`);
  if (file.size > MAX_BYTES) {
    throw new Refusal(`${name} is larger than ${Math.floor(MAX_BYTES / 1e6)} MB; give a smaller ${ACCEPTED} file.`);
  }
  const bytes = new Uint8Array(await file.arrayBuffer());
  let about;
  let bitmap;
  try {
    about = describe(bytes, name);
    checkSize(about.width, about.height, name);
    bitmap = await createImageBitmap(new Blob([about.turned === 1 ? bytes : withoutExif(bytes)]), AS_THEY_ARE);
  } catch (error) {
    if (error instanceof Refusal) throw error;
    throw new Refusal(`${name} is truncated or damaged; give an intact ${ACCEPTED} file.`);
  }
  try {
    // What was decoded is checked, too: a file may say one size and hold another.
    checkSize(bitmap.width, bitmap.height, name);
    const { pixels, transparent } = read(bitmap);
    refuseUnusable(name, about, pixels, transparent);
    const image = turn({ width: bitmap.width, height: bitmap.height, pixels }, about.turned);
    return { ...image, notes: notesOn(about, pixels, transparent) };
  } finally {
    bitmap.close();
  }
}

function checkSize(width, height, name) {
  const size = `${name} is ${width} x ${height} pixels`;
  if (width * height > maxPixels) throw new Refusal(`${size}; at most ${MEGAPIXELS} megapixels are accepted.`);
  if (Math.min(width, height) < minSide) throw new Refusal(`${size}; each side must have at least ${minSide}.`);
  if (Math.max(width, height) > maxAspect * Math.min(width, height)) {
    throw new Refusal(`${size}; the long side may be at most ${maxAspect} times the short one.`);
  }
}

/** RGB of a bitmap on black, and whether anything of it was transparent. */
function read(bitmap) {
  const { width, height } = bitmap;
  const pixels = new Uint8Array(3 * width * height);
  const rows = Math.max(1, Math.min(height, Math.floor(STRIP / width)));
  const canvas = new OffscreenCanvas(width, rows);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  refuseFalsePixels(context);
  let transparent = false;
  for (let top = 0, to = 0; top < height; top += rows) {
    const count = Math.min(rows, height - top);
    context.globalCompositeOperation = "copy";
    context.drawImage(bitmap, 0, top, width, count, 0, 0, width, count);
    let strip = context.getImageData(0, 0, width, count).data;
    if (!isOpaque(strip)) {
      transparent = true;
      context.globalCompositeOperation = "destination-over";
      context.fillStyle = "#000";
      context.fillRect(0, 0, width, rows);
      strip = context.getImageData(0, 0, width, count).data;
    }
    for (let from = 0; from < strip.length; from += 4) {
      pixels[to++] = strip[from];
      pixels[to++] = strip[from + 1];
      pixels[to++] = strip[from + 2];
    }
  }
  return { pixels, transparent };
}

function isOpaque(rgba) {
  for (let i = 3; i < rgba.length; i += 4) if (rgba[i] !== 255) return false;
  return true;
}

/** Some browsers change the pixels that pages read, against tracking; the model would be asked about another image. */
function refuseFalsePixels(context) {
  const known = new ImageData(16, 16);
  for (let i = 0; i < known.data.length; i += 1) known.data[i] = i % 4 === 3 ? 255 : (37 * i) & 255;
  context.putImageData(known, 0, 0);
  const back = context.getImageData(0, 0, 16, 16).data;
  context.clearRect(0, 0, 16, 16);
  if (known.data.some((value, i) => back[i] !== value)) {
    throw new Refusal(
      "This browser changes the pixels that a page may read, as a protection against tracking; allow canvas access " +
        "for this page, or use another browser.",
    );
  }
}

/** What Python can still read, and a browser cannot: it keeps the upper 8 of 16 bits, and no color under alpha 0. */
function refuseUnusable(name, about, pixels, transparent) {
  if (about.deep && pixels.every((value) => value < 64)) {
    throw new Refusal(`${name} holds 14-bit values or fewer in 16 bits, which a browser shows too dark; save it with 8.`);
  }
  if (transparent && pixels.every((value) => value === 0)) {
    throw new Refusal(`${name} is transparent everywhere; save it without transparency.`);
  }
}

function notesOn(about, pixels, transparent) {
  const notes = [];
  if (about.animated) notes.push("only the first of its frames was used");
  if (about.palette) notes.push("its colours come from a palette of at most 256");
  if (about.deep) notes.push("its 16-bit values were cut to 8 bits");
  if (transparent) notes.push("its transparent pixels were shown on black");
  return notes;
}

/** The same WebP file with its EXIF under a name that no reader looks for: its orientation is applied here. */
function withoutExif(bytes) {
  const copy = bytes.slice();
  const view = new DataView(copy.buffer);
  for (let at = 12; at + 8 <= copy.length; at += 8 + (view.getUint32(at + 4, true) + 1 & ~1)) {
    if (String.fromCharCode(...copy.subarray(at, at + 4)) === "EXIF") copy[at] = "x".charCodeAt(0);
  }
  return copy;
}

/** Apply an EXIF orientation, as the standard numbers them. */
function turn(image, orientation) {
  if (orientation === 1) return image;
  const { width, height, pixels } = image;
  const swapped = orientation > 4;
  const [newWidth, newHeight] = swapped ? [height, width] : [width, height];
  const result = new Uint8Array(pixels.length);
  const fromRight = [2, 3, 7, 8].includes(orientation);
  const fromBelow = [3, 4, 6, 7].includes(orientation);
  for (let y = 0, to = 0; y < newHeight; y += 1) {
    for (let x = 0; x < newWidth; x += 1, to += 3) {
      const [across, down] = swapped ? [y, x] : [x, y];
      const column = fromRight ? width - 1 - across : across;
      const row = fromBelow ? height - 1 - down : down;
      const from = 3 * (row * width + column);
      result[to] = pixels[from];
      result[to + 1] = pixels[from + 1];
      result[to + 2] = pixels[from + 2];
    }
  }
  return { width: newWidth, height: newHeight, pixels: result };
}
