// Sends a file to a server by tus-js-client, the client of the protocol's own authors; prints what came of it.
//
//     node client.mjs FILE OPTIONS   OPTIONS: JSON, as tus-js-client takes them, and ours:
//         stopAt: bytes after which to stop and say so; terminate: take the upload back then
import { createReadStream, statSync } from "node:fs";
import { Upload, isSupported } from "tus-js-client";

const [, , path, given] = process.argv;
const { stopAt, terminate, ...options } = JSON.parse(given);
const answers = [];

const ended = (how, more = {}) => {
  console.log(JSON.stringify({ how, url: upload.url, answers, ...more }));
  process.exit(0);
};

const upload = new Upload(createReadStream(path), {
  ...options,
  uploadSize: options.uploadLengthDeferred ? undefined : statSync(path).size,
  onAfterResponse: (request, answer) => {
    answers.push([request.getMethod(), answer.getStatus()]);
  },
  onProgress: async (sent) => {
    if (stopAt && sent >= stopAt) {
      await upload.abort(Boolean(terminate));
      ended("stopped", { sent });
    }
  },
  onSuccess: () => ended("sent"),
  onError: (error) => ended("failed", { error: String(error) }),
});

if (!isSupported) throw new Error("tus-js-client does not work here");
upload.start();
