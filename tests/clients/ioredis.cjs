// ioredis with no option changed, through preshard: connect, work, pipeline, scan, a pinned database.
const assert = require("node:assert/strict");
const { Redis } = require("ioredis");

const port = Number(process.argv[2]);

async function work(client) {
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.set("io:a", "1"), "OK");
  assert.equal(await client.incrby("io:a", 41), 42);
  assert.equal(await client.mset("io:b", "x", "io:c", "y"), "OK");
  assert.deepEqual(await client.mget("io:b", "io:none", "io:c"), ["x", null, "y"]);
  await client.hset("io:h", { f: "1", g: "2" });
  assert.deepEqual({ ...(await client.hgetall("io:h")) }, { f: "1", g: "2" });
  await client.zadd("io:z", 1.5, "m");
  assert.equal(Number(await client.zscore("io:z", "m")), 1.5);
  const pipeline = client.pipeline();
  for (let n = 0; n < 200; n++) pipeline.incr(`io:p:${n % 10}`);
  const replies = await pipeline.exec();
  assert.deepEqual(replies.map(([error, value]) => [error, value]), Array.from({ length: 200 }, (_, n) => [null, Math.floor(n / 10) + 1]));
  const keys = [];
  for await (const part of client.scanStream({ match: "io:*", count: 100 })) keys.push(...part);
  assert.equal(new Set(keys).size, 15);
  await assert.rejects(client.rpush("io:a", "x"), /WRONGTYPE/);
  assert.equal(await client.del(...keys), 15);
}

async function count(client) {
  assert.equal(await client.call("COUNTER.INCR", "io", "a", 42), 42);
  assert.deepEqual(await client.call("COUNTER.MINCR", "io", "a", 1, "b", 2), [43, 2]);
  const batches = await client.call("COUNTER.TAKE", "io");
  const taken = {};
  // In RESP3 a batch is a map, which comes as a flat array of names and values here.
  const named = (batch) => (batch[0] === "id" ? [batch[1], batch[3], batch[5]] : batch);
  for (const [, attempt, entries] of batches.map(named)) {
    assert.equal(attempt, 1);
    for (let n = 0; n < entries.length; n += 2) taken[entries[n]] = entries[n + 1];
  }
  assert.deepEqual(taken, { a: 43, b: 2 });
  assert.equal(await client.call("COUNTER.ACK", "io", ...batches.map((batch) => named(batch)[0])), batches.length);
  assert.equal(await client.call("COUNTER.GET", "io", "a"), 0);
  await client.call("COUNTER.DEL", "io");
}

(async () => {
  for (const options of [{}, { db: 2 }]) {
    const client = new Redis({ port, ...options });
    await work(client);
    await count(client);
    await client.quit();
  }
  console.log("ok");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
