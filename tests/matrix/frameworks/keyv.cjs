// Keyv with its Redis store.
//
//     keyv.cjs PORT DATABASE
const assert = require("node:assert/strict");
const [, , port, database] = process.argv;

(async () => {
  const { default: Keyv } = require("keyv");
  const { default: KeyvRedis } = require("@keyv/redis");
  const url = `redis://127.0.0.1:${port}/${database}`;
  const keyv = new Keyv({ store: new KeyvRedis(url, { throwOnErrors: true }), namespace: database === "0" ? "{keyv}" : "keyv" });
  keyv.on("error", (error) => { throw error; });
  assert.equal(await keyv.set("a", { deep: [1] }, 60_000), true);
  assert.deepEqual(await keyv.get("a"), { deep: [1] });
  assert.equal(await keyv.has("a"), true);
  assert.equal(await keyv.delete("a"), true);
  assert.equal(await keyv.get("a"), undefined);
  console.log("did values");
  const entries = Array.from({ length: 50 }, (_, n) => ({ key: `m${n}`, value: n }));
  await keyv.setMany(entries);
  assert.deepEqual(await keyv.getMany(entries.map(({ key }) => key)), entries.map(({ value }) => value));
  console.log("did many values");
  const found = [];
  for await (const [key] of keyv.iterator(keyv.namespace)) found.push(key);
  assert.equal(found.length, 50);
  console.log("did iterator");
  await keyv.set("short", 1, 50);
  for (let n = 0; n < 100 && (await keyv.get("short")) !== undefined; n++) await new Promise((go) => setTimeout(go, 20));
  assert.equal(await keyv.get("short"), undefined);
  console.log("did expiry");
  await keyv.clear();
  assert.equal(await keyv.get("m1"), undefined);
  console.log("did clear");
  await keyv.disconnect();
  console.log("ok");
})().then(() => process.exit(0), (error) => (console.error(error), process.exit(1)));
