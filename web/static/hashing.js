// A worker that hashes files one after the other, so that the page stays quick and one file at a time is in memory.
"use strict";

onmessage = async ({ data: { id, file } }) => {
  try {
    const digest = await crypto.subtle.digest("SHA-256", await file.arrayBuffer());
    postMessage({ id, sha256: [...new Uint8Array(digest)].map((byte) => byte.toString(16).padStart(2, "0")).join("") });
  } catch {
    postMessage({ id, sha256: null });
  }
};
