// TIMELINE.* from ioredis, which has no methods for them: call(), in RESP3 and RESP2.
const assert = require("node:assert/strict");
const { Redis } = require("ioredis");

const port = Number(process.argv[2]);

// A map in RESP3, a flat list in RESP2.
function tally(reply) {
  if (reply instanceof Map) return Object.fromEntries(reply);
  if (!Array.isArray(reply)) return reply;
  const told = {};
  for (let n = 0; n < reply.length; n += 2) told[reply[n]] = reply[n + 1];
  return told;
}

async function work(client) {
  const feeds = Array.from({ length: 200 }, (_, n) => `feed:${n}`);
  await client.del(...feeds, "wrong");
  assert.equal(await client.call("TIMELINE.ADD", "feed:0", "MAXLEN", 3, 1, "a", 2, "b", 3, "c", 4, "d"), 4);
  assert.deepEqual(await client.zrevrange("feed:0", 0, -1), ["d", "c", "b"]);
  assert.deepEqual(await client.call("TIMELINE.RANGE", "feed:0", "COUNT", 2), ["3:c", ["d", "c"]]);
  const [next, rows] = await client.call("TIMELINE.RANGE", "feed:0", "BEFORE", "3:c", "WITHSCORES");
  assert.deepEqual([next, rows.flat().map(String)], [null, ["b", "2"]]);
  await client.set("wrong", "x");
  const told = tally(await client.call("TIMELINE.FANOUT", 201, ...feeds, "wrong", "MAXLEN", 2, 9, "post"));
  assert.deepEqual([told.added, told.unchanged, told.skipped], [200, 0, 0]);
  assert.equal(told.failed[0][0], "wrong");
  assert.match(told.failed[0][1], /^WRONGTYPE/);
  assert.deepEqual(await client.call("TIMELINE.MERGE", 2, "feed:0", "feed:1"), [null, ["post", "d"]]);
  await assert.rejects(client.call("TIMELINE.MERGE", 2, "feed:0", "wrong"), /WRONGTYPE/);
  const pipeline = client.pipeline();
  for (let n = 0; n < 100; n++) {
    pipeline.call("TIMELINE.ADD", `feed:${n}`, "MAXLEN", 2, 10 + n, `late${n}`);
    pipeline.call("TIMELINE.RANGE", `feed:${n}`, "COUNT", 1);
  }
  const replies = await pipeline.exec();
  for (let n = 0; n < 100; n++) assert.deepEqual(replies[2 * n + 1], [null, [`${10 + n}:late${n}`, [`late${n}`]]]);
  await assert.rejects(client.multi().call("TIMELINE.ADD", "feed:0", 1, "m").exec(), /EXECABORT/);
}

(async () => {
  for (const options of [{}, { protocol: 2 }, { db: 2 }]) {
    const client = new Redis({ port, ...options });
    await work(client);
    await client.quit();
  }
  console.log("ok");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
