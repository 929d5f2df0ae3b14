// ioredis's Cluster, no option changed: one node with every slot; pipelines, transactions, scripts, sharded channels.
const assert = require("node:assert/strict");
const { once } = require("node:events");
const { Cluster } = require("ioredis");

const port = Number(process.argv[2]);

async function work(options) {
  const client = new Cluster([{ host: "127.0.0.1", port }], options);
  const keys = Array.from({ length: 100 }, (_, number) => `ic:${number}`);
  await Promise.all(keys.map((key, number) => client.set(key, number)));
  assert.deepEqual(client.nodes("master").map((node) => node.options.port), [port]);
  assert.deepEqual(await Promise.all(keys.map((key) => client.get(key))), keys.map((_, number) => String(number)));
  assert.equal(await client.dbsize(), 100);
  const replies = await client.pipeline().incr("{ic}:a").incr("{ic}:b").exec();
  assert.deepEqual(replies, [[null, 1], [null, 1]]);
  const done = await client.multi().set("{ic}:a", "5").incr("{ic}:a").exec();
  assert.deepEqual(done, [[null, "OK"], [null, 6]]);
  client.defineCommand("twice", { numberOfKeys: 1, lua: "return 2 * redis.call('GET', KEYS[1])" });
  assert.equal(await client.twice("{ic}:a"), 12);
  assert.equal(await client.cluster("KEYSLOT", "{ic}:a"), await client.cluster("KEYSLOT", "ic"));
  await assert.rejects(client.rename("ic:1", "ic:2"), /CROSSSLOT/);
  assert.equal(await client.del("{ic}:a", "{ic}:b"), 2);
  assert.equal(await client.del(...keys), 100);
  await client.quit();
}

async function listen() {
  const client = new Cluster([{ host: "127.0.0.1", port }]);
  const listener = new Cluster([{ host: "127.0.0.1", port }], { shardedSubscribers: true });
  await once(listener, "ready");
  assert.equal(await listener.ssubscribe("ic:shard"), 1);
  const message = once(listener, "smessage");
  assert.equal(await client.spublish("ic:shard", "hello"), 1);
  assert.deepEqual((await message).slice(0, 2), ["ic:shard", "hello"]);
  const other = new Cluster([{ host: "127.0.0.1", port }]);
  assert.equal(await other.subscribe("ic:news"), 1);
  const news = once(other, "message");
  assert.equal(await client.publish("ic:news", "hello"), 1);
  assert.deepEqual((await news).slice(0, 2), ["ic:news", "hello"]);
  listener.disconnect();
  other.disconnect();
  await client.quit();
}

(async () => {
  for (const options of [{}, { scaleReads: "slave" }]) await work(options);
  await listen();
  console.log("ok");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
