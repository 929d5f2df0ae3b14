// node-redis's createCluster, no option changed: one node with every slot; transactions, scripts, sharded channels.
const assert = require("node:assert/strict");
const { createCluster } = require("redis");

const port = Number(process.argv[2]);

async function work(options) {
  const client = await createCluster({ rootNodes: [{ url: `redis://127.0.0.1:${port}` }], ...options }).connect();
  assert.deepEqual(client.masters.map((node) => node.address), [`127.0.0.1:${port}`]);
  const keys = Array.from({ length: 100 }, (_, number) => `nc:${number}`);
  await Promise.all(keys.map((key, number) => client.set(key, String(number))));
  assert.deepEqual(await Promise.all(keys.map((key) => client.get(key))), keys.map((_, number) => String(number)));
  assert.deepEqual(await client.multi().set("{nc}:a", "5").incr("{nc}:a").exec(), ["OK", 6]);
  assert.equal(await client.eval("return redis.call('GET', KEYS[1])", { keys: ["{nc}:a"] }), "6");
  await assert.rejects(client.rename("nc:1", "nc:2"), /CROSSSLOT/);
  assert.equal(await client.del(["{nc}:a"]), 1);
  await Promise.all(keys.map((key) => client.del(key)));

  const got = [];
  let wake = () => {};
  const note = (text, channel) => {
    got.push(`${channel} ${text}`);
    wake();
  };
  const until = async (count) => {
    while (got.length < count) await new Promise((done) => (wake = done));
  };
  await client.sSubscribe("nc:shard", note);
  await client.subscribe("nc:news", note);
  assert.equal(await client.sPublish("nc:shard", "one"), 1);
  await until(1);
  assert.equal(await client.publish("nc:news", "two"), 1);
  await until(2);
  assert.deepEqual(got, ["nc:shard one", "nc:news two"]);
  await client.sUnsubscribe("nc:shard", note);
  await client.unsubscribe("nc:news", note);
  await client.close();
}

(async () => {
  for (const options of [{}, { useReplicas: true }, { RESP: 2 }]) await work(options);
  console.log("ok");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
