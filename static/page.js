// The page: what the user does, what is then requested of the worker, and what is shown. The rest is in other modules.

import { call } from "./calls.js";
import { curveFigure } from "./chart.js";
import { byId, h } from "./dom.js";
import { addGaussianNoise } from "./noise.js";
import { Refusal } from "./refusal.js";
import settings from "./settings.js";
import { bars, caution, decided, factsOf, megabytes, notes, spoken } from "./show.js";
import { describeCurve, flipOf, labelText } from "./words.js";

const { sigmas, maxSigma } = settings;
const slider = byId("sigma");
const buttons = new Map(); // of the models, by name

let record = null; // models.json
let model = null; // its entry there, once it is loaded
let image = null; // the chosen one: file, name, and its entry among the examples or null
let seen = null; // what the model sees of it, and the prediction without noise
let curve = []; // predictions at `sigmas`, as far as there are any
let seed = 0;
let turn = 0; // counts changes of image, model and pattern: results of an earlier turn are not shown

async function start() {
  byId("disclaimer").textContent = settings.disclaimer;
  record = await (await fetch("models.json")).json();
  byId("models").append(...record.models.map(choice));
  byId("models").hidden = record.models.length < 2;
  await open(record.models[0]);
}

function choice(one, number) {
  const button = h("input", { type: "radio", name: "model", checked: number === 0 });
  button.addEventListener("change", () => guarded(() => open(one)));
  buttons.set(one.name, button);
  const size = h("small", {}, `${one.name}, ${megabytes(one)} MB`);
  return h("label", {}, button, h("span", {}, one.title, size));
}

/** Load a model, and classify the current image or its first example. */
async function open(one) {
  const mine = ++turn;
  model = null;
  buttons.get(one.name).checked = true;
  clear();
  byId("facts").replaceChildren(...factsOf(one));
  offer(one);
  byId("progress").hidden = false;
  byId("doing").textContent = `Loading ${one.name}`;
  const progress = (share) => (byId("share").value = share);
  try {
    await call("open", { entry: one, runtimeSize: record.runtime }, progress);
  } finally {
    if (mine === turn) byId("progress").hidden = true;
  }
  if (mine !== turn) return;
  model = one;
  const examples = examplesOf(one);
  const stays = image && (!image.example || examples.includes(image.example));
  if (stays) await look();
  else if (examples.length) await give(await fromExample(examples[0]));
}

function examplesOf(one) {
  return record.examples[labelsOf(one)] ?? [];
}

const labelsOf = (one) => Object.keys(one.labels).join(",");

function offer(one) {
  const examples = examplesOf(one);
  byId("examples").hidden = examples.length === 0;
  byId("example-list").className = `examples of-${examples.length % 3 ? 4 : 3}`;
  byId("example-list").replaceChildren(
    ...examples.map((example) => {
      const name = example.file.replace(/^.*\/|\.png$/g, "").replaceAll("-", " ");
      const button = h(
        "button",
        { type: "button", "data-file": example.file, "aria-pressed": "false" },
        h("img", { src: example.file, alt: name, loading: "lazy", width: 120, height: 120 }),
        example.label,
      );
      button.addEventListener("click", () => guarded(async () => give(await fromExample(example))));
      return h("li", {}, button);
    }),
  );
}

async function fromExample(example) {
  const response = await fetch(example.file);
  if (!response.ok) throw new Refusal(`${example.file} could not be fetched (${response.status}); reload the page.`);
  return { file: await response.blob(), name: example.file.replace(/^.*\//, ""), example };
}

/** Use an image: `file` a Blob, `name` for messages, `example` its entry among the examples or null. */
async function give(given) {
  image = given;
  byId("given").textContent = given.example ? "" : `Your image: ${given.name}`;
  for (const button of byId("example-list").querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.file === given.example?.file));
  }
  if (model) await look();
}

async function look() {
  const mine = ++turn;
  clear();
  byId("answer").replaceChildren(h("p", { class: "quiet" }, "Classifying …"));
  // Models of the same labels answer the same question, and must not overrule the rejection.
  const others = record.models.filter((one) => labelsOf(one) !== labelsOf(model));
  const begun = performance.now();
  try {
    const found = await call("look", { file: image.file, name: image.name, others });
    if (mine !== turn) return;
    seen = { ...found, milliseconds: performance.now() - begun };
  } catch (error) {
    if (mine === turn) throw error;
    return;
  }
  const better = record.models.find((one) => one.name === seen.better) ?? null;
  byId("caution").replaceChildren(...caution(seen, better, () => guarded(() => open(better))));
  show(seen.answer, seen.milliseconds);
  draw();
  await ask(true);
  await drawCurve(mine);
}

/** Remove everything about an earlier image or model. */
function clear() {
  seen = null;
  curve = [];
  for (const id of ["trouble", "caution", "answer", "decided", "notes", "spoken"]) byId(id).replaceChildren();
  byId("curve").replaceChildren(h("p", { class: "quiet" }, "It appears after the first prediction."));
  const canvas = byId("view");
  canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
  canvas.setAttribute("aria-label", "No image yet");
  byId("seen").textContent = "No image yet.";
}

/** The image with the slider's noise: fast enough for every step of a drag. */
function draw() {
  byId("level").textContent = slider.value;
  if (!seen) return;
  const sigma = slider.valueAsNumber;
  const side = model.view.size;
  const pixels = addGaussianNoise(seen.pixels, sigma, seed);
  const shown = new ImageData(side, side);
  for (let i = 0, from = 0; i < shown.data.length; i += 4, from += 3) {
    shown.data[i] = pixels[from];
    shown.data[i + 1] = pixels[from + 1];
    shown.data[i + 2] = pixels[from + 2];
    shown.data[i + 3] = 255;
  }
  const canvas = byId("view");
  [canvas.width, canvas.height] = [side, side];
  canvas.getContext("2d").putImageData(shown, 0, 0);
  const text = `${side} by ${side} pixels, ${sigma ? `noise ${sigma}` : "unchanged"}.`;
  byId("seen").textContent = text;
  canvas.setAttribute("aria-label", `What the model sees: ${text}`);
  if (curve.length) showCurve();
}

let asking = false;
let wanted = null;

/** The prediction at the slider's level; while one is computed, only the newest request is kept. */
async function ask(isFinal) {
  if (!seen) return;
  wanted = { sigma: slider.valueAsNumber, isFinal };
  if (asking) return;
  asking = true;
  try {
    while (wanted && seen) {
      const { sigma, isFinal: speaks } = wanted;
      const mine = turn;
      wanted = null;
      const begun = performance.now();
      const answer = sigma ? await call("answer", { sigma, seed }) : seen.answer;
      const milliseconds = sigma ? performance.now() - begun : seen.milliseconds;
      if (mine !== turn || !answer) continue;
      show(answer, milliseconds);
      if (speaks && !wanted) byId("spoken").textContent = spoken(answer, seen.fits);
    }
  } finally {
    asking = false;
  }
}

function show(answer, milliseconds) {
  const doubtful = seen.fits === false;
  byId("answer").classList.toggle("doubtful", doubtful);
  byId("answer").replaceChildren(...bars(model.labels, answer));
  const isOpen = byId("decided").querySelector("details")?.open;
  byId("decided").replaceChildren(...decided(answer, model.decision));
  if (isOpen) byId("decided").querySelector("details")?.setAttribute("open", "");
  byId("notes").replaceChildren(...notes(answer, seen.answer, image.example, milliseconds, model.name));
}

/** Predict at every sigma of the curve, one after the other, so that requests of the slider come in between. */
async function drawCurve(mine) {
  curve = [];
  for (const sigma of sigmas) {
    const answer = await call("answer", { sigma, seed });
    if (mine !== turn || !answer) return;
    curve.push(answer);
    showCurve();
  }
}

function showCurve() {
  const { labels } = model;
  const names = Object.keys(labels);
  const done = curve.length === sigmas.length;
  const drawn = {
    names: names.map((label) => labelText(labels, label)),
    sigmas: curve.map(({ sigma }) => sigma),
    rows: curve.map(({ probabilities }) => names.map((label) => probabilities[label])),
    end: maxSigma,
    now: slider.valueAsNumber,
    flip: flipOf(labels, curve)?.place ?? null,
  };
  byId("curve").replaceChildren(curveFigure(drawn, done ? describeCurve(labels, curve) : "Predicting at more noise …"));
}

/** Do something, and show what went wrong on the page. */
async function guarded(work) {
  try {
    await work();
  } catch (error) {
    const text = error instanceof Refusal ? error.message : `Something went wrong (${error.message}); reload the page.`;
    clear();
    byId("trouble").replaceChildren(h("p", { class: "error" }, text));
  }
}

function giveFile(file) {
  if (file) guarded(() => give({ file, name: file.name || "image", example: null }));
}

byId("file").addEventListener("change", (event) => {
  giveFile(event.target.files[0]);
  event.target.value = ""; // the same file may be chosen again
});

document.addEventListener("paste", (event) => giveFile(event.clipboardData?.files[0]));
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  byId("drop").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) byId("drop").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  event.preventDefault(); // or the browser would open the image in place of the page
  byId("drop").classList.remove("over");
  giveFile(event.dataTransfer?.files[0]);
});

slider.addEventListener("input", () => {
  draw();
  guarded(() => ask(false));
});
slider.addEventListener("change", () => guarded(() => ask(true)));

byId("again").addEventListener("click", () =>
  guarded(async () => {
    if (!seen) return;
    seed += 1;
    const mine = ++turn;
    draw();
    await ask(true);
    await drawCurve(mine);
  }),
);

guarded(start);
