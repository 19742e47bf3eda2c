// One image and one model: what the network sees, warnings, and predictions under noise.

import { addGaussianNoise } from "./noise.js";
import { checkView } from "./ood_detection.js";
import settings from "./settings.js";
import { applyView, isGrey, remarksOnSize } from "./view.js";

const { incomplete, maxReasons } = settings;

/** An image as one model sees it. The check judges the untouched view: added noise says nothing about the image. */
export class Look {
  /** @param {{width: number, height: number, pixels: Uint8Array, notes: string[]}} image as openImage gives it */
  static async at(image, model) {
    const { entry, view, detector } = model.details;
    const pixels = applyView(view, image);
    const warnings = [entry.external, ...image.notes, ...remarksOnSize(view, image.width, image.height)];
    if (isGrey(pixels)) warnings.push("image has no colour; the model was trained on stained cells in colour");
    if (detector && (detector.incomplete || (detector.features && !model.hasFeatures))) warnings.push(incomplete);
    const clean = await model.predict(pixels, Boolean(detector?.features));
    const found = detector && checkView(detector, pixels, clean.features);
    if (found) warnings.push(...found.reasons.slice(0, maxReasons));
    return new Look(model, pixels, warnings, found ? found.fits : null, clean);
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

/** Whether an image may be one for another model, as far as its statistics tell; null where it has no detector. */
export function mayFit(image, { detector, view }) {
  return detector ? checkView(detector, applyView(view, image)).fits : null;
}
