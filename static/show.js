// What the page shows of one answer, as elements: warnings, bars, what can be decided, notes.

import { h } from "./dom.js";
import settings from "./settings.js";
import { decisions, eightBit, howGood, labelText, listed, percent, said, sentence, taskOf } from "./words.js";

/** What a model weighs: all that is fetched of it. */
export const megabytes = ({ files }) => (Object.values(files).reduce((a, b) => a + b) / 1e6).toFixed(1);

/** Facts about a model: what it looks at, how good it is and on which evidence, where it comes from. */
export function factsOf({ entry, labels, metrics }) {
  const [figure, evidence] = howGood(metrics, labels);
  const card = h("a", { href: entry.card, target: "_blank", rel: "noopener" }, "its card");
  const from = entry.revision ? `${entry.repo_id}, revision ${entry.revision.slice(0, 7)}; ` : `${entry.name}; `;
  const cost = eightBit(metrics);
  return [
    fact("How good", h("strong", {}, figure), `${evidence}. `, h("strong", {}, entry.external)),
    fact("Looks at", taskOf(labels).looksAt),
    fact("Runs", cost || "its 8-bit file", ` (${megabytes(entry)} MB in all)`),
    fact("From", from, "everything that was measured stands in ", card),
  ];
}

function fact(name, ...text) {
  return h("div", {}, h("dt", {}, name), h("dd", {}, ...text));
}

/** What to know before the answer: the input check, and other warnings. */
export function caution({ warnings, fits }, better, open) {
  const [external, ...lines] = warnings.map((text) => h("li", {}, sentence(text)));
  const note = (...items) => h("div", { class: "warning" }, h("p", {}, "Please note:"), h("ul", {}, ...items));
  if (fits === false) {
    const button = better && h("button", { type: "button" }, `Open it in: ${better.title}`);
    button?.addEventListener("click", () => open(better.entry));
    return [
      note(external),
      h(
        "div",
        { class: "warning" },
        h("p", {}, "Input check: ", h("strong", {}, "refused. Your image is unlike those this model knows.")),
        h("ul", {}, ...lines),
        button && h("p", {}, "It may be an image for another model. ", button),
      ),
    ];
  }
  const told = [note(external, ...lines)];
  if (fits) told.push(h("p", { class: "fits" }, "Input check: your image looks like those this model knows."));
  return told;
}

/** The answer: the most probable label, and a bar for each. */
export function bars(labels, { label, probabilities }) {
  const rows = labels.map((name) => {
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

/** The labels that cannot be ruled out, and whether the image would be flagged; nothing where nobody knows. */
export function decided(answer, figures) {
  const told = decisions(answer, figures);
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
        "Probabilities are calibrated over all answers together, on held-out images like the training images; on " +
          "other stains, microscopes or kinds of image the promise does not hold.",
      ),
    ),
  ];
}

/** What to know after the answer: what it was without noise, whether it is right, how long it took. */
export function notes(answer, clean, example, milliseconds, model) {
  const lines = [];
  if (answer.sigma) lines.push(`Without the noise it says ${said(clean)}.`);
  if (example) {
    const right = answer.label === example.label ? "right" : "wrong";
    lines.push(`Drawn as ${example.label}; the model is ${right} here.`);
  }
  const time = `Answered on this computer in ${Math.round(milliseconds)} ms by ${model}.`;
  return [
    ...(lines.length ? [h("p", {}, lines.join(" "))] : []),
    h("p", {}, `${time} ${settings.disclaimer}`),
  ];
}

/** The answer in one line, for those who hear the page. */
export function spoken(answer, fits) {
  const check = fits === false ? "Input check: refused. " : "";
  const noise = answer.sigma ? `noise ${answer.sigma}` : "no noise";
  const set = answer.labelSet && answer.labelSet.length > 1 ? `, not to be told from ${listed(answer.labelSet)}` : "";
  return `${check}${said(answer)}, ${noise}${set}`;
}
