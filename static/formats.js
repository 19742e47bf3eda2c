// What an image file says of itself, read before anything is decoded: format, size, frames, palette. No pixels here.

import { Refusal } from "./refusal.js";

export const ACCEPTED = "PNG, JPEG, BMP, GIF or WebP";

/**
 * Read a file's own description.
 *
 * @param {Uint8Array} bytes the whole file
 * @param {string} name what messages call it
 * @returns {{format: string, width: number, height: number, animated: boolean, palette: boolean, deep: boolean,
 *   turned: number}} `animated`: of several frames; `palette`: in colours from a palette; `deep`: of 16 bits;
 *   `turned`: EXIF orientation of a WebP file, which browsers leave to the page (of others they apply it), else 1
 * @throws {Refusal} no image of a format that is read here; RangeError where the file ends too early
 */
export function describe(bytes, name) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const starts = (text, at = 0) => [...text].every((letter, i) => bytes[at + i] === letter.charCodeAt(0));
  const plain = { animated: false, palette: false, deep: false, turned: 1 };
  if (starts("\x89PNG\r\n\x1a\n")) return { ...plain, format: "PNG", ...png(view) };
  if (starts("\xff\xd8\xff")) return { ...plain, format: "JPEG", ...jpeg(view) };
  if (starts("GIF87a") || starts("GIF89a")) return { ...plain, format: "GIF", ...gif(view) };
  if (starts("BM")) return { ...plain, format: "BMP", ...bmp(view) };
  if (starts("RIFF") && starts("WEBP", 8)) return { ...plain, format: "WebP", ...webp(view) };
  if (starts("II*\0") || starts("MM\0*")) {
    throw new Refusal(`${name} is a TIFF file, which browsers do not open; save it as PNG and give that.`);
  }
  throw new Refusal(`${name} is not an image that can be read; give a ${ACCEPTED} file.`);
}

function png(view) {
  let frames = 1;
  for (let at = 8; ; at += 12 + view.getUint32(at)) {
    const type = tag(view, at + 4);
    if (type === "acTL") frames = view.getUint32(at + 8);
    if (type === "IDAT" || type === "IEND") break;
  }
  return {
    width: view.getUint32(16),
    height: view.getUint32(20),
    deep: view.getUint8(24) === 16,
    palette: view.getUint8(25) === 3,
    animated: frames > 1,
  };
}

function jpeg(view) {
  for (let at = 2; ; ) {
    if (view.getUint8(at) !== 0xff) {
      at += 1;
      continue;
    }
    const marker = view.getUint8(at + 1);
    const isFrame = marker >= 0xc0 && marker <= 0xcf && ![0xc4, 0xc8, 0xcc].includes(marker);
    if (isFrame) return { width: view.getUint16(at + 7), height: view.getUint16(at + 5) };
    const alone = marker === 0xff || marker === 0x01 || (marker >= 0xd0 && marker <= 0xd9);
    at += alone ? (marker === 0xff ? 1 : 2) : 2 + view.getUint16(at + 2);
  }
}

function gif(view) {
  const size = { width: view.getUint16(6, true), height: view.getUint16(8, true) };
  const tableAt = (flags, at) => (flags & 0x80 ? { at, colours: 2 << (flags & 7) } : null);
  const global = tableAt(view.getUint8(10), 13);
  let at = 13 + (global ? 3 * global.colours : 0);
  let frames = 0;
  let palette = false;
  const skipBlocks = () => {
    while (view.getUint8(at)) at += 1 + view.getUint8(at);
    at += 1;
  };
  while (at < view.byteLength && view.getUint8(at) !== 0x3b) {
    if (view.getUint8(at) === 0x21) {
      at += 2;
    } else {
      const local = tableAt(view.getUint8(at + 9), at + 10);
      if (frames === 0) palette = isColoured(view, local ?? global, 3);
      frames += 1;
      at += 11 + (local ? 3 * local.colours : 0);
    }
    skipBlocks();
  }
  return { ...size, palette, animated: frames > 1 };
}

function bmp(view) {
  const header = view.getUint32(14, true);
  if (header === 12) {
    const bits = view.getUint16(24, true);
    const table = bits <= 8 ? { at: 26, colours: 1 << bits } : null;
    const size = { width: view.getUint16(18, true), height: view.getUint16(20, true) };
    return { ...size, palette: isColoured(view, table, 3) };
  }
  const bits = view.getUint16(28, true);
  const table = bits <= 8 ? { at: 14 + header, colours: view.getUint32(46, true) || 1 << bits } : null;
  const size = { width: Math.abs(view.getInt32(18, true)), height: Math.abs(view.getInt32(22, true)) };
  return { ...size, palette: isColoured(view, table, 4) };
}

/** Whether a table of colours, `step` bytes each, is anything but the row of greys that stands for no palette. */
function isColoured(view, table, step) {
  if (!table) return false;
  for (let i = 0; i < table.colours; i += 1) {
    const grey = table.colours === 2 && step !== 3 ? 255 * i : i;
    for (let channel = 0; channel < 3; channel += 1) {
      if (view.getUint8(table.at + step * i + channel) !== grey) return true;
    }
  }
  return false;
}

function webp(view) {
  let found = {};
  let frames = 0;
  let turned = 1;
  const end = Math.min(8 + view.getUint32(4, true), view.byteLength);
  for (let at = 12; at + 8 <= end; at += 8 + (view.getUint32(at + 4, true) + 1 & ~1)) {
    const type = tag(view, at);
    const inside = at + 8;
    if (type === "VP8X") {
      found = { width: 1 + uint24(view, inside + 4), height: 1 + uint24(view, inside + 7) };
    } else if (type === "VP8L" && !found.width) {
      const bits = view.getUint32(inside + 1, true);
      found = { width: 1 + (bits & 0x3fff), height: 1 + ((bits >> 14) & 0x3fff) };
    } else if (type === "VP8 " && !found.width) {
      const both = [6, 8].map((offset) => view.getUint16(inside + offset, true) & 0x3fff);
      found = { width: both[0], height: both[1] };
    } else if (type === "ANMF") {
      frames += 1;
    } else if (type === "EXIF") {
      turned = orientation(view, inside, view.getUint32(at + 4, true));
    }
  }
  if (!found.width) throw new RangeError("no picture in it");
  return { ...found, turned, animated: frames > 1 };
}

/** EXIF orientation, 1 to 8, of a block of EXIF; 1 where it says none that can be understood. */
function orientation(view, start, length) {
  try {
    const at = tag(view, start) === "Exif" ? start + 6 : start;
    const little = view.getUint16(at) === 0x4949;
    const table = at + view.getUint32(at + 4, little);
    for (let i = 0; i < view.getUint16(table, little); i += 1) {
      const entry = table + 2 + 12 * i;
      if (entry + 12 > start + length) return 1;
      if (view.getUint16(entry, little) === 0x0112) {
        const value = view.getUint16(entry + 8, little);
        return value >= 1 && value <= 8 ? value : 1;
      }
    }
  } catch {
    // broken metadata says nothing against the pixels
  }
  return 1;
}

function tag(view, at) {
  return String.fromCharCode(...[0, 1, 2, 3].map((i) => view.getUint8(at + i)));
}

function uint24(view, at) {
  return view.getUint16(at, true) + 65536 * view.getUint8(at + 2);
}
