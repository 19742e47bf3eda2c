// The page's side of worker.js: a request and the promise of its result.

import { Refusal } from "./refusal.js";

// A worker made from a file of its own would not be bound by the page's security policy; one made from a blob is.
const source = `import ${JSON.stringify(new URL("./worker.js", import.meta.url).href)};`;
const worker = new Worker(URL.createObjectURL(new Blob([source], { type: "text/javascript" })), { type: "module" });
const waiting = new Map();
let number = 0;
let broken = null;

worker.addEventListener("message", ({ data }) => {
  const call = waiting.get(data.id);
  if ("share" in data) return call.progress(data.share);
  waiting.delete(data.id);
  if ("result" in data) return call.resolve(data.result);
  return call.reject(data.refusal ? new Refusal(data.refusal) : new Error(data.trouble));
});

worker.addEventListener("error", () => {
  broken = new Refusal("This page does not run in this browser; a current Chrome, Edge, Firefox or Safari runs it.");
  for (const call of waiting.values()) call.reject(broken);
  waiting.clear();
});

/**
 * Send a request to the worker.
 *
 * @param {string} request a name of its REQUESTS
 * @param {object} options of that request
 * @param {(share: number) => void} progress called with the share that is done, 0 to 1
 * @throws {Refusal} with the message for the user
 */
export function call(request, options, progress = () => {}) {
  if (broken) return Promise.reject(broken);
  number += 1;
  const id = number;
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject, progress });
    worker.postMessage({ id, request, options });
  });
}
