// node-redis with no option changed, through preshard: connect, work, pipeline, scan, a pinned database.
const assert = require("node:assert/strict");
const { createClient } = require("redis");

const port = Number(process.argv[2]);

async function work(client) {
  assert.equal(await client.ping(), "PONG");
  assert.equal(await client.set("nr:a", "1"), "OK");
  assert.equal(await client.incrBy("nr:a", 41), 42);
  assert.equal(await client.mSet({ "nr:b": "x", "nr:c": "y" }), "OK");
  assert.deepEqual(await client.mGet(["nr:b", "nr:none", "nr:c"]), ["x", null, "y"]);
  await client.hSet("nr:h", { f: "1", g: "2" });
  assert.deepEqual({ ...(await client.hGetAll("nr:h")) }, { f: "1", g: "2" });
  await client.zAdd("nr:z", { score: 1.5, value: "m" });
  assert.equal(await client.zScore("nr:z", "m"), 1.5);
  // Commands of one tick go out in one write.
  const replies = await Promise.all(Array.from({ length: 200 }, (_, n) => client.incr(`nr:p:${n % 10}`)));
  assert.deepEqual(replies, Array.from({ length: 200 }, (_, n) => Math.floor(n / 10) + 1));
  const keys = new Set();
  for await (const part of client.scanIterator({ MATCH: "nr:*", COUNT: 100 })) for (const key of part) keys.add(key);
  assert.equal(keys.size, 15);
  await assert.rejects(client.rPush("nr:a", "x"), /WRONGTYPE/);
  assert.equal(await client.del([...keys]), 15);
}

(async () => {
  for (const options of [{}, { database: 2 }]) {
    const client = createClient({ socket: { port }, ...options });
    client.on("error", (error) => console.error(error));
    await client.connect();
    await work(client);
    await client.close();
  }
  console.log("ok");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
