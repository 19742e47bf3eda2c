// Sentences about predictions. Strings and numbers only; texts about models come with models.json.

export const percent = (share, decimals = 0) => `${(100 * share).toFixed(decimals)}\u00a0%`; // never on two lines
export const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;

export function listed(names, word = "or") {
  return names.length > 1 ? `${names.slice(0, -1).join(", ")} ${word} ${names.at(-1)}` : names[0];
}

/** A label with its meaning; `labels` has the meanings. */
export function labelText(labels, label) {
  return labels[label] ? `${label} · ${labels[label]}` : label;
}

export function said({ label, probabilities }) {
  return `${label} (${percent(probabilities[label])})`;
}

/**
 * What follows from a prediction, as sentences in three parts, the middle one emphasized, and their meanings.
 *
 * @param {object} decision of models.json
 */
export function decisions({ sigma, labelSet, flagged }, { sets, flag }) {
  const found = [];
  if (labelSet) {
    const rest = labelSet.length > 1 ? ", undecided." : ".";
    found.push({ lead: `At ${sets.share}: `, word: listed(labelSet), rest, meaning: explained(sets, sigma) });
  }
  if (flagged !== null) {
    const word = flagged ? "flagged" : "not flagged";
    found.push({ lead: "High sensitivity: ", word, rest: ".", meaning: explained(flag, sigma) });
  }
  return found;
}

/** A meaning, and what was measured at the nearest noise level; nothing beyond the levels that were measured. */
function explained({ meaning, measured }, sigma) {
  if (sigma > Math.max(0, ...measured.map((row) => row.sigma)) || !measured.length) return meaning;
  const nearest = measured.reduce((a, b) => (Math.abs(b.sigma - sigma) < Math.abs(a.sigma - sigma) ? b : a));
  return `${meaning} ${nearest.text}`;
}

/** Where along a curve the prediction flips: the sigmas on both sides, where between them, and to which label. */
export function flipOf(labels, answers) {
  const flipped = answers.findIndex((answer) => answer.label !== answers[0].label);
  if (flipped < 0) return null;
  const [before, after] = [answers[flipped - 1], answers[flipped]];
  const lead = [before, after].map((one) => one.probabilities[before.label] - one.probabilities[after.label]);
  const share = lead[0] / (lead[0] - lead[1]);
  return {
    before: before.sigma,
    after: after.sigma,
    place: before.sigma + share * (after.sigma - before.sigma),
    to: labelText(labels, after.label),
  };
}

/** A curve as text: its caption, which screen readers read instead of it. */
export function describeCurve(labels, answers) {
  const [first, last] = [answers[0], answers.at(-1)];
  const probability = percent(first.probabilities[first.label]);
  const start = `Without noise the prediction is ${labelText(labels, first.label)} (${probability})`;
  const flip = flipOf(labels, answers);
  if (!flip) return `${start}, and it stays the same up to a sigma of ${last.sigma}.`;
  return `${start}; between a sigma of ${flip.before} and ${flip.after} it flips to ${flip.to}.`;
}
