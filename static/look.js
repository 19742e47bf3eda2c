// One image and one model: what the network sees, warnings, and predictions under noise.

import { judge } from "./gate.js";
import { addGaussianNoise } from "./noise.js";
import settings from "./settings.js";
import { applyView, isGrey, remarksOnSize } from "./view.js";

const { incomplete, maxReasons } = settings;

/** An image as one model sees it. The check judges the untouched view: added noise says nothing about the image. */
export class Look {
  /** @param {{width: number, height: number, pixels: Uint8Array, notes: string[]}} image as openImage gives it */
  static async at(image, model) {
    const { entry, view, gate } = model.details;
    const pixels = applyView(view, image);
    const warnings = [entry.external, ...image.notes, ...remarksOnSize(view, image.width, image.height)];
    if (isGrey(pixels)) warnings.push("image has no colour; the model was trained on stained cells in colour");
    if (gate && (gate.incomplete || (gate.features && !model.hasFeatures))) warnings.push(incomplete);
    const clean = await model.predict(pixels, Boolean(gate?.features));
    const verdict = gate && judge(gate, pixels, clean.features);
    if (verdict) warnings.push(...verdict.reasons.slice(0, maxReasons));
    return new Look(model, pixels, warnings, verdict ? verdict.fits : null, clean);
  }

  constructor(model, pixels, warnings, fits, clean) {
    this.model = model;
    this.pixels = pixels;
    this.warnings = warnings;
    this.fits = fits;
    this.clean = clean;
  }

  /** The prediction with noise: `label`, `probabilities` by label, `labelSet` and `flagged` (null: not known). */
  async answer(sigma, seed) {
    const { label, probabilities } = sigma
      ? await this.model.predict(addGaussianNoise(this.pixels, sigma, seed))
      : this.clean;
    return { sigma, label, probabilities, ...this.model.decide(probabilities, this.fits) };
  }
}

/** Whether an image may be one for another model, as far as its statistics tell; null where it has no gate. */
export function mayFit(image, { gate, view }) {
  return gate ? judge(gate, applyView(view, image)).fits : null;
}
