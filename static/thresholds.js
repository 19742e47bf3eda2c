// What follows from the probabilities of one image with a model's thresholds: blastlens.thresholds.

/** Whether an image is flagged; null without a threshold. */
export function flagged(flag, probabilities) {
  return flag && flag.labels.reduce((sum, label) => sum + (probabilities[label] ?? 0), 0) >= flag.from;
}

/** The labels that cannot be excluded, the most probable first; null without thresholds. */
export function labelSet(sets, probabilities) {
  if (!sets) return null;
  const names = Object.keys(probabilities).sort((a, b) => probabilities[b] - probabilities[a]);
  return names.filter((label, place) => place === 0 || probabilities[label] >= (sets.thresholds[label] ?? 0));
}
