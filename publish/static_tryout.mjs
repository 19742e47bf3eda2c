// Runs a page's own modules by Node.js: raw pixels to views, noise and answers. static_tryout.py gives the task and
// compares.

import { readFile, writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const { page, entry, images, sigmas } = JSON.parse(await text(process.stdin));
const place = pathToFileURL(`${page}/`);
await writeFile(new URL("package.json", place), '{"type": "module"}'); // so that .js files are taken for modules
globalThis.fetch = async (address) => new Response(await readFile(new URL(address)));

const { Model } = await import(new URL("model.js", place));
const { Look } = await import(new URL("look.js", place));
const { addGaussianNoise } = await import(new URL("noise.js", place));
const model = await Model.load(entry, 1);
const answers = [];
for (const { path, width, height } of images) {
  const look = await Look.at({ width, height, pixels: new Uint8Array(await readFile(path)), notes: [] }, model);
  const ofImage = [];
  for (const sigma of sigmas) {
    const pixels = Buffer.from(addGaussianNoise(look.pixels, sigma, 0).buffer).toString("base64");
    ofImage.push({ pixels, fits: look.fits, ...(await look.answer(sigma, 0)) });
  }
  answers.push(ofImage);
}
process.stdout.write(JSON.stringify(answers));

async function text(stream) {
  let all = "";
  for await (const part of stream) all += part;
  return all;
}
