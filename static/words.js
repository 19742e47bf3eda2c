// What the page says about models and answers, in whole sentences. Strings and numbers only; no elements.

/** What the models of one label set are asked: see blastlens.dataset_info. */
export const TASKS = {
  "ALL,HEM": {
    question: "One cell: leukemic or healthy?",
    looksAt: "one stained white cell, cut out on black",
    meanings: { ALL: "leukemic blast", HEM: "healthy precursor cell" },
    unseen: "cells of people it had never seen",
  },
  "Benign,Early,Pre,Pro": {
    question: "A smear field: benign, or which subtype?",
    looksAt: "a microscope field with many stained cells",
    meanings: {
      Benign: "no leukemia",
      Early: "early pre-B leukemia",
      Pre: "pre-B leukemia",
      Pro: "pro-B leukemia",
    },
    unseen: "slides that look unlike its training slides (the set does not say which patient is which)",
  },
};

/** The task of a model with these labels; one with others gets a task that says no more than the labels. */
export function taskOf(labels) {
  const others = labels.length > 4 ? `${labels.slice(0, 3).join(", ")} or one of ${labels.length - 3} others` : null;
  return (
    TASKS[labels.join(",")] ?? {
      question: others ?? labels.join(" or "),
      looksAt: "images like those it was trained on",
      meanings: {},
      unseen: "groups of images it had never seen",
    }
  );
}

export const percent = (share, decimals = 0) => `${(100 * share).toFixed(decimals)}\u00a0%`; // never on two lines
export const sentence = (text) => `${text[0].toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;

export function listed(names, word = "or") {
  return names.length > 1 ? `${names.slice(0, -1).join(", ")} ${word} ${names.at(-1)}` : names[0];
}

export function labelText(labels, label) {
  const meaning = taskOf(labels).meanings[label];
  return meaning ? `${label} · ${meaning}` : label;
}

/** How good a model is and on which evidence, in two parts: the figure, and what it was measured on. */
export function howGood(metrics, labels) {
  const { weighted_f1: f1, auroc_per_donor: byDonor, protocol = "" } = metrics.headline ?? {};
  const [name, score] = byDonor ? ["AUROC per donor", byDonor] : ["weighted F1", f1];
  if (typeof score?.value !== "number") {
    return ["", "not measured, as far as this page knows: its answers mean nothing yet"];
  }
  const hasEnds = [score.low, score.high].every((end) => typeof end === "number");
  const interval = hasEnds ? ` (95 % interval ${score.low.toFixed(2)} to ${score.high.toFixed(2)})` : "";
  const evidence = String(protocol).startsWith("group")
    ? `on ${taskOf(labels).unseen}; group-level, by ${protocol}`
    : `image-level, by ${protocol}: flattered by a split by image`;
  return [`${name} ${score.value.toFixed(2)}`, `${interval} ${evidence}`];
}

/** What the 8-bit file that runs here costs in accuracy; empty where that was not measured. */
export function eightBit(metrics) {
  const { weighted_f1_fp32: full, weighted_f1_int8: small } = metrics.int8 ?? {};
  if (typeof full !== "number" || typeof small !== "number") return "";
  return `its 8-bit file, weighted F1 ${small.toFixed(3)} where the full one has ${full.toFixed(3)}`;
}

export function said({ label, probabilities }) {
  return `${label} (${percent(probabilities[label])})`;
}

/**
 * What can be decided by an answer, for which there are figures in metrics.json.
 *
 * @returns {{lead: string, word: string, rest: string, meaning: string}[]} sentences in three parts, of which the
 *   middle one carries the weight, and what each means
 */
export function decisions(answer, figures) {
  const told = [];
  if (answer.labelSet) {
    const sets = figures.prediction_sets;
    const [on, found] = measured(answer.sigma, sets);
    const covered = numberOf(found.coverage);
    told.push({
      lead: `At ${percent(sets.asked)}: `,
      word: listed(answer.labelSet),
      rest: answer.labelSet.length > 1 ? ", it cannot tell which." : ".",
      meaning:
        `At ${percent(sets.asked)} stands every label that cannot be left out if the true one is to be among them ` +
        `${percent(sets.asked)} of the time.` +
        (covered === null ? "" : ` On held-out images${on} it was ${percent(covered, 1)} of the time.`),
    });
  }
  if (answer.flagged !== null) {
    const point = figures.operating_point;
    const [on, found] = measured(answer.sigma, point);
    const reached = numberOf(found.sensitivity);
    const target = typeof point.target === "number" ? ` at least ${percent(point.target)} of` : "";
    told.push({
      lead: "Set to miss few: ",
      word: answer.flagged ? "flagged" : "not flagged",
      rest: ".",
      meaning:
        `Set to miss few flags from a probability of leukemia of ${percent(point.threshold, 1)} on, chosen to ` +
        `find${target} leukemic images.` +
        (reached === null ? "" : ` Of held-out ones${on} it found ${percent(reached, 1)}.`) +
        " It raises more false alarms than the answer alone.",
    });
  }
  return told;
}

/** What was measured on images with the nearest noise, and in words on which; nothing beyond what was measured. */
function measured(sigma, figures) {
  const rows = figures.by_sigma ?? [];
  if (!sigma) return ["", figures];
  if (sigma > Math.max(0, ...rows.map((row) => row.sigma))) return ["", {}];
  const nearest = rows.reduce((a, b) => (Math.abs(b.sigma - sigma) < Math.abs(a.sigma - sigma) ? b : a));
  return [nearest.sigma ? ` with noise of sigma ${nearest.sigma}` : "", nearest];
}

const numberOf = (score) => (typeof score?.value === "number" ? score.value : null);

/** Where along a curve the answer turns: the sigmas on both sides, where between them the lines cross, and to what. */
export function turnOf(labels, answers) {
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

/** What a curve shows, for those who cannot see it and as its caption. */
export function describeCurve(labels, answers) {
  const [first, last] = [answers[0], answers.at(-1)];
  const sure = percent(first.probabilities[first.label]);
  const start = `Without noise the answer is ${labelText(labels, first.label)} (${sure})`;
  const turn = turnOf(labels, answers);
  if (!turn) return `${start}, and it stays so up to a sigma of ${last.sigma}.`;
  return `${start}; between a sigma of ${turn.before} and ${turn.after} it turns to ${turn.to}.`;
}
