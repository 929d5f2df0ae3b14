// ioredis's commands of one's own in pipelines and transactions: nothing is called alone before.
const assert = require("node:assert/strict");
const { createHash } = require("node:crypto");
const { Redis } = require("ioredis");

const [port, key] = [Number(process.argv[2]), process.argv[3]];
const lua = "return redis.call('INCRBY', KEYS[1], ARGV[1] * 2)";

(async () => {
  const client = new Redis({ port });
  client.defineCommand("double", { numberOfKeys: 1, lua });
  for (const batch of [client.pipeline(), client.multi()]) {
    const replies = await batch.set(key, "1").double(key, 2).double(key, 3).exec();
    assert.deepEqual(replies, [[null, "OK"], [null, 5], [null, 11]]);
  }
  await client.watch(key);
  assert.deepEqual(await client.multi().double(key, 1).exec(), [[null, 13]]);
  await client.quit();
  console.log(`ok ${createHash("sha1").update(lua).digest("hex")}`);
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
