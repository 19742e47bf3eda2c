// Runs a page's own modules by Node.js on test vectors; static_check.py gives them and compares the results.

import { readFile, writeFile } from "node:fs/promises";
import { pathToFileURL } from "node:url";

const { page, name, rows } = JSON.parse(await text(process.stdin));
const root = pathToFileURL(`${page}/`);
await writeFile(new URL("package.json", root), '{"type": "module"}'); // so that .js files are loaded as modules
globalThis.fetch = async (address) => new Response(await readFile(new URL(address)));

const { Model } = await import(new URL("model.js", root));
const { Look } = await import(new URL("look.js", root));
const { addGaussianNoise } = await import(new URL("noise.js", root));
const { models } = JSON.parse(await readFile(new URL("models.json", root)));
const model = await Model.load(models.find((one) => one.name === name), 1);
const results = [];
for (const { image, width, height, sigma } of rows) {
  const look = await Look.at({ width, height, pixels: new Uint8Array(Buffer.from(image, "base64")), notes: [] }, model);
  const pixels = Buffer.from(addGaussianNoise(look.pixels, sigma, 0).buffer).toString("base64");
  results.push({ pixels, fits: look.fits, ...(await look.answer(sigma, 0)) });
}
process.stdout.write(JSON.stringify(results));

async function text(stream) {
  let all = "";
  for await (const part of stream) all += part;
  return all;
}
