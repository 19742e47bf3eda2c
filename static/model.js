// A model folder served by onnxruntime-web: its files fetched from beside the page, a view's pixels to an answer.

import { decisionOf, flagged, labelSet } from "./decision.js";
import { gateOf } from "./gate.js";
import { Refusal } from "./refusal.js";
import { readTensors } from "./tensors.js";
import * as ort from "./vendor/ort.wasm.bundle.min.mjs";
import { normalise, viewOf } from "./view.js";

const RUNTIME = "vendor/ort-wasm-simd-threaded.wasm.gz";
const ONNX = "onnx/model_int8.onnx";
// Where a page is isolated from others, the browser lets it share memory between threads. More than the cores there
// are, or than such small networks can use, only wait for each other.
ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency ?? 1) : 1;
ort.env.logLevel = "error";

/** Everything of a model folder but its network: what the network is asked about, and how its answer is taken. */
export class Folder {
  /** @param {object} entry of models.json: `name`, and `files` with their sizes in bytes */
  static async load(entry) {
    const json = async (file) => (file in entry.files ? parsed(await fetched(entry, file)) : null);
    const names = ["config.json", "preprocessor_config.json", "metrics.json", "gate.json"];
    const [config, preprocessor, metrics, gate] = await Promise.all(names.map(json));
    const tensors = "gate.safetensors" in entry.files ? readTensors(await fetched(entry, "gate.safetensors")) : null;
    return new Folder(entry, config, viewOf(config, preprocessor), metrics ?? {}, gate && gateOf(gate, tensors));
  }

  constructor(entry, config, view, metrics, gate) {
    this.entry = entry;
    this.labels = config.label_names;
    this.view = view;
    this.metrics = metrics;
    this.gate = gate;
    this.decision = decisionOf(metrics.calibration);
  }
}

/** A model folder with its network. */
export class Model {
  /** @param {(share: number) => void} progress told what share of the files has arrived, 0 to 1 */
  static async load(entry, runtimeSize, progress = () => {}) {
    const total = entry.files[ONNX] + runtimeSize;
    const arrived = [0, 0];
    const tell = (which) => (bytes) => {
      arrived[which] = bytes;
      progress(Math.min(1, (arrived[0] + arrived[1]) / total));
    };
    const [folder, bytes] = await Promise.all([
      Folder.load(entry),
      fetched(entry, ONNX, tell(0)),
      prepareRuntime(runtimeSize, tell(1)),
    ]);
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
    return new Model(folder, await ort.InferenceSession.create(bytes, options));
  }

  constructor(folder, session) {
    this.folder = folder;
    this.session = session;
    this.hasFeatures = session.outputNames.includes("features");
  }

  /**
   * Ask the network.
   *
   * @param {Uint8Array} pixels RGB of a view
   * @returns {Promise<{probabilities: Object<string, number>, label: string, features: Float32Array | null}>}
   */
  async ask(pixels, withFeatures = false) {
    const { view, labels } = this.folder;
    const input = new ort.Tensor("float32", normalise(view, pixels), [1, 3, view.size, view.size]);
    const wanted = withFeatures && this.hasFeatures ? ["logits", "features"] : ["logits"];
    const { logits, features } = await this.session.run({ [this.session.inputNames[0]]: input }, wanted);
    const shares = softmax(logits.data);
    const probabilities = Object.fromEntries(labels.map((label, i) => [label, shares[i]]));
    const label = labels[shares.indexOf(Math.max(...shares))];
    return { probabilities, label, features: features?.data ?? null };
  }

  /** What can be decided from probabilities; nothing about an image that is not of the model's kind. */
  decide(probabilities, fits) {
    if (fits === false) return { flagged: null, labelSet: null };
    const { decision } = this.folder;
    return { flagged: flagged(decision, probabilities), labelSet: labelSet(decision, probabilities) };
  }

  async release() {
    await this.session.release();
  }
}

function softmax(logits) {
  const largest = Math.max(...logits);
  const exponentials = Array.from(logits, (logit) => Math.exp(logit - largest));
  const sum = exponentials.reduce((a, b) => a + b);
  return exponentials.map((value) => value / sum);
}

let runtime = null;

/** Fetch the WebAssembly of onnxruntime-web once; it lies compressed, since many hosts send files as they are. */
function prepareRuntime(size, progress) {
  runtime ??= (async () => {
    const bytes = await download(RUNTIME, progress);
    const isPlain = bytes[0] === 0; // a host that knows the suffix has had the browser unpack it
    ort.env.wasm.wasmBinary = isPlain ? bytes.buffer : await unpacked(bytes);
  })();
  runtime.then(() => progress(size)).catch(() => (runtime = null));
  return runtime;
}

function unpacked(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).arrayBuffer();
}

async function fetched(entry, file, progress) {
  const bytes = await download(`models/${encodeURIComponent(entry.name)}/${file}`, progress);
  if (bytes.length !== entry.files[file]) {
    throw new Refusal(`${file} of ${entry.name} arrived incomplete or is from another version; reload the page.`);
  }
  return bytes;
}

function parsed(bytes) {
  return JSON.parse(new TextDecoder().decode(bytes));
}

/** A file from beside the page. */
async function download(path, progress = () => {}) {
  let response;
  try {
    response = await fetch(new URL(path, import.meta.url));
  } catch {
    throw new Refusal(`${path} could not be fetched; check the connection and reload the page.`);
  }
  if (!response.ok) throw new Refusal(`${path} could not be fetched (${response.status}); reload the page.`);
  const chunks = [];
  let length = 0;
  try {
    for (const reader = response.body.getReader(); ; ) {
      const { done, value } = await reader.read();
      if (done) break;
      chunks.push(value);
      length += value.length;
      progress(length);
    }
  } catch {
    throw new Refusal(`${path} broke off on its way; check the connection and reload the page.`);
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return bytes;
}
