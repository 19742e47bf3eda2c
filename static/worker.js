// The page's second thread: it opens images and runs models, so that the page never waits.
// It handles one request of `calls.js` at a time, in their order.

import { Look, mayFit } from "./look.js";
import { loadDetails, Model } from "./model.js";
import { openImage } from "./open.js";
import { Refusal } from "./refusal.js";

let model = null;
let look = null;

const REQUESTS = {
  /** Load a model in place of the last one. */
  async open({ entry, runtimeSize }, progress) {
    look = null;
    await model?.release();
    model = null;
    model = await Model.load(entry, runtimeSize, progress);
  },

  /** Classify an image; if it is out of distribution, name the first of `others` that it may fit. */
  async look({ file, name, others }) {
    look = null;
    const image = await openImage(file, name);
    look = await Look.at(image, model);
    const better = look.fits === false ? await betterOf(image, others) : null;
    const answer = await look.answer(0, 0);
    return { pixels: look.pixels, warnings: look.warnings, fits: look.fits, better, answer };
  },

  /** The prediction for the last image with noise; null without one. */
  async answer({ sigma, seed }) {
    return look && look.answer(sigma, seed);
  },
};

async function betterOf(image, entries) {
  for (const entry of entries) {
    if (mayFit(image, await loadDetails(entry))) return entry.name;
  }
  return null;
}

let last = Promise.resolve();

self.addEventListener("message", ({ data: { id, request, options } }) => {
  last = last.then(async () => {
    const progress = (share) => self.postMessage({ id, share });
    try {
      self.postMessage({ id, result: await REQUESTS[request](options, progress) });
    } catch (error) {
      const ours = error instanceof Refusal;
      self.postMessage({ id, refusal: ours ? error.message : null, trouble: ours ? null : String(error) });
    }
  });
});
