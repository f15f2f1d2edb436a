import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import * as callModule from "../call.js";
import * as signalingModule from "../signaling.js";

const INTERNAL = /\/\*\* @internal.*?\*\/\s+(?:get )?(\w+)/gs;

for (const [name, module, file] of [["signaling", signalingModule, "signaling"], ["call", callModule, "call"]]) {
  test(`everything public of ${name}.js is declared in ${name}.d.ts`, async () => {
    const types = await readFile(new URL(`../${file}.d.ts`, import.meta.url), "utf8");
    const source = await readFile(new URL(`../${file}.js`, import.meta.url), "utf8");
    const internal = new Set([...source.matchAll(INTERNAL)].map(([, member]) => member));
    const members = Object.entries(module).flatMap(([exported, value]) => [exported, ...Object.getOwnPropertyNames(value.prototype ?? {})]);
    const missing = members.filter((member) => !internal.has(member) && !new RegExp(`\\b${member}\\b`).test(types) && member !== "constructor");
    assert.deepEqual(missing, []);
  });
}
