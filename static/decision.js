// What is decided from the probabilities of one image, by the figures in metrics.json: blastlens.thresholds.

/**
 * The thresholds of one model; null stands for what there are no figures for, or none that held up.
 *
 * @param {object | undefined} figures "calibration" of a metrics.json
 */
export function decisionOf(figures) {
  const point = figures?.operating_point;
  const sets = figures?.prediction_sets;
  return {
    leukemic: point?.labels ?? [],
    flagFrom: point?.threshold ?? null,
    thresholds: sets?.holds === true ? sets.thresholds : null,
  };
}

/** Whether an image with these probabilities, by label, is to be looked at; null without a threshold. */
export function flagged({ leukemic, flagFrom }, probabilities) {
  if (flagFrom === null) return null;
  return leukemic.reduce((sum, label) => sum + (probabilities[label] ?? 0), 0) >= flagFrom;
}

/** The labels that cannot be ruled out, the most probable first; null without thresholds. */
export function labelSet({ thresholds }, probabilities) {
  if (thresholds === null) return null;
  const names = Object.keys(probabilities).sort((a, b) => probabilities[b] - probabilities[a]);
  return names.filter((label, place) => place === 0 || probabilities[label] >= (thresholds[label] ?? 0));
}
