// What the page shows of one prediction, as elements: warnings, bars, decisions, notes.

import { h } from "./dom.js";
import settings from "./settings.js";
import { decisions, labelText, listed, percent, said, sentence } from "./words.js";

/** Size of everything that is downloaded of a model. */
export const megabytes = ({ files }) => (Object.values(files).reduce((a, b) => a + b) / 1e6).toFixed(1);

/** Facts about a model, with a link to its card. */
export function factsOf({ facts, card }) {
  const link = h("a", { href: card, target: "_blank", rel: "noopener" }, "Model card with all measurements");
  return [...facts.map(([term, text]) => fact(term, text)), fact("Details", link)];
}

function fact(term, ...text) {
  return h("div", {}, h("dt", {}, term), h("dd", {}, ...text));
}

/** Warnings before the prediction, the out-of-distribution check among them. */
export function caution({ warnings, fits }, better, open) {
  const [external, ...lines] = warnings.map((text) => h("li", {}, sentence(text)));
  const note = (...items) => h("div", { class: "warning" }, h("p", {}, "Please note:"), h("ul", {}, ...items));
  if (fits === false) {
    const button = better && h("button", { type: "button" }, `Open it in: ${better.title}`);
    button?.addEventListener("click", () => open(better));
    return [
      note(external),
      h(
        "div",
        { class: "warning" },
        h("p", {}, "Input check: ", h("strong", {}, "rejected. Your image is out of distribution for this model.")),
        h("ul", {}, ...lines),
        button && h("p", {}, "It may be an image for another model. ", button),
      ),
    ];
  }
  const told = [note(external, ...lines)];
  if (fits) told.push(h("p", { class: "fits" }, "Input check: passed. Your image is similar to the training images."));
  return told;
}

/** The most probable label, and a bar for each. */
export function bars(labels, { label, probabilities }) {
  const rows = Object.keys(labels).map((name) => {
    const bar = h("span", { class: "bar", "aria-hidden": "true" });
    bar.style.setProperty("--share", probabilities[name].toFixed(4));
    return h(
      "li",
      { class: name === label ? "most" : "" },
      h("span", {}, labelText(labels, name)),
      h("span", { class: "number" }, percent(probabilities[name], 1)),
      bar,
    );
  });
  return [h("p", { class: "label" }, labelText(labels, label)), h("ul", { class: "bars" }, ...rows)];
}

/** The labels that cannot be excluded, and whether the image is flagged; nothing without thresholds. */
export function decided(answer, decision) {
  const told = decisions(answer, decision);
  if (!told.length) return [];
  return [
    ...told.map(({ lead, word, rest }) => h("p", {}, lead, h("strong", {}, word), rest)),
    h(
      "details",
      {},
      h("summary", {}, "What this means"),
      ...told.map(({ meaning }) => h("p", {}, meaning)),
      h(
        "p",
        {},
        "Probabilities are calibrated over all predictions together, on held-out images similar to the training " +
          "images; with other stains, microscopes or kinds of image this does not hold.",
      ),
    ),
  ];
}

/** Notes after the prediction: what it was without noise, whether it is right, how long it took. */
export function notes(answer, clean, example, milliseconds, model) {
  const lines = [];
  if (answer.sigma) lines.push(`Without noise: ${said(clean)}.`);
  if (example) {
    const right = answer.label === example.label ? "right" : "wrong";
    lines.push(`Generated as ${example.label}; the prediction is ${right}.`);
  }
  const time = `Classified on this computer in ${Math.round(milliseconds)} ms by ${model}.`;
  return [
    ...(lines.length ? [h("p", {}, lines.join(" "))] : []),
    h("p", {}, `${time} ${settings.disclaimer}`),
  ];
}

/** The prediction in one line, for screen readers. */
export function spoken(answer, fits) {
  const check = fits === false ? "Input check: rejected. " : "";
  const noise = answer.sigma ? `noise ${answer.sigma}` : "no noise";
  const set = answer.labelSet && answer.labelSet.length > 1 ? `, undecided: ${listed(answer.labelSet)}` : "";
  return `${check}${said(answer)}, ${noise}${set}`;
}
