// Publish and subscribe with node-redis, no option changed: a duplicate that subscribes, patterns, shard channels.
const assert = require("node:assert/strict");
const { createClient } = require("redis");

const port = Number(process.argv[2]);

async function work(options) {
  const client = await createClient({ socket: { port }, ...options }).connect();
  const listener = client.duplicate();
  await listener.connect();
  const got = [];
  let wake = () => {};
  const note = (text, channel) => {
    got.push(`${channel} ${text}`);
    wake();
  };
  const until = async (count) => {
    while (got.length < count) await new Promise((done) => (wake = done));
  };
  await listener.subscribe("nr:news", note);
  await listener.pSubscribe("nr:w*", note);
  await listener.sSubscribe("nr:shard", note);
  assert.equal(await client.publish("nr:news", "one"), 1);
  await until(1);
  assert.equal(await client.publish("nr:weather", "two"), 1);
  await until(2);
  assert.equal(await client.sPublish("nr:shard", "three"), 1);
  await until(3);
  assert.deepEqual(got, ["nr:news one", "nr:weather two", "nr:shard three"]);
  await listener.unsubscribe("nr:news");
  await listener.pUnsubscribe();
  await listener.sUnsubscribe();
  assert.equal(await listener.get("nr:none"), null);
  assert.equal(await client.publish("nr:news", "nobody"), 0);
  await Promise.all([client.close(), listener.close()]);
}

(async () => {
  for (const options of [{}, { database: 2 }]) await work(options);
  console.log("ok");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
