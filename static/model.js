// A model run by onnxruntime-web: its files are fetched from beside the page; pixels in, probabilities out.

import { detectorOf } from "./ood_detection.js";
import { Refusal } from "./refusal.js";
import { readTensors } from "./tensors.js";
import { flagged, labelSet } from "./thresholds.js";
import * as ort from "./vendor/ort.wasm.bundle.min.mjs";
import { normalise } from "./view.js";

const RUNTIME = "vendor/ort-wasm-simd-threaded.wasm.gz";
const ONNX = "onnx/model_int8.onnx";
const FEATURES = "gate.safetensors";
// Only an isolated page may share memory between threads. More threads than cores, or than such small networks can
// use, only wait for each other.
ort.env.wasm.numThreads = globalThis.crossOriginIsolated ? Math.min(4, navigator.hardwareConcurrency ?? 1) : 1;
ort.env.logLevel = "error";

/** How a model sees and judges images: everything but its network. @param {object} entry of models.json */
export async function loadDetails(entry) {
  const tensors = FEATURES in entry.files ? readTensors(await fetched(entry, FEATURES)) : null;
  const detector = entry.detector && detectorOf(entry.detector, tensors);
  return { entry, labels: Object.keys(entry.labels), view: entry.view, detector };
}

/** A model with its network. */
export class Model {
  /** @param {(share: number) => void} progress called with the share of the files that has arrived, 0 to 1 */
  static async load(entry, runtimeSize, progress = () => {}) {
    const total = entry.files[ONNX] + runtimeSize;
    const arrived = [0, 0];
    const tell = (which) => (bytes) => {
      arrived[which] = bytes;
      progress(Math.min(1, (arrived[0] + arrived[1]) / total));
    };
    const [details, bytes] = await Promise.all([
      loadDetails(entry),
      fetched(entry, ONNX, tell(0)),
      prepareRuntime(runtimeSize, tell(1)),
    ]);
    const options = { executionProviders: ["wasm"], graphOptimizationLevel: "all" };
    return new Model(details, await ort.InferenceSession.create(bytes, options));
  }

  constructor(details, session) {
    this.details = details;
    this.session = session;
    this.hasFeatures = session.outputNames.includes("features");
  }

  /**
   * Run the network.
   *
   * @param {Uint8Array} pixels RGB of a view
   * @returns {Promise<{probabilities: Object<string, number>, label: string, features: Float32Array | null}>}
   */
  async predict(pixels, withFeatures = false) {
    const { view, labels } = this.details;
    const input = new ort.Tensor("float32", normalise(view, pixels), [1, 3, view.size, view.size]);
    const wanted = withFeatures && this.hasFeatures ? ["logits", "features"] : ["logits"];
    const { logits, features } = await this.session.run({ [this.session.inputNames[0]]: input }, wanted);
    const shares = softmax(logits.data);
    const probabilities = Object.fromEntries(labels.map((label, i) => [label, shares[i]]));
    const label = labels[shares.indexOf(Math.max(...shares))];
    return { probabilities, label, features: features?.data ?? null };
  }

  /** What follows from probabilities; nothing for an image that is out of distribution. */
  decide(probabilities, fits) {
    if (fits === false) return { flagged: null, labelSet: null };
    const { flag, sets } = this.details.entry.decision;
    return { flagged: flagged(flag, probabilities), labelSet: labelSet(sets, probabilities) };
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

/** Fetch the WebAssembly of onnxruntime-web once; it is stored compressed, since many hosts do not compress. */
function prepareRuntime(size, progress) {
  runtime ??= (async () => {
    const bytes = await download(RUNTIME, progress);
    const isPlain = bytes[0] === 0; // the host declared the compression, so the browser has decompressed it
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
