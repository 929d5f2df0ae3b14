// Publish and subscribe with ioredis, no option changed: a subscriber connection, patterns, a pinned database.
const assert = require("node:assert/strict");
const { once } = require("node:events");
const { Redis } = require("ioredis");

const port = Number(process.argv[2]);

async function work(options) {
  const client = new Redis({ port, ...options });
  const listener = new Redis({ port, ...options });
  assert.equal(await listener.subscribe("io:news", "io:weather"), 2);
  assert.equal(await listener.psubscribe("io:n*"), 3);
  const [message, pmessage] = [once(listener, "message"), once(listener, "pmessage")];
  assert.equal(await client.publish("io:news", "hello"), 2);
  assert.deepEqual(await message, ["io:news", "hello"]);
  assert.deepEqual(await pmessage, ["io:n*", "io:news", "hello"]);
  assert.deepEqual((await client.pubsub("CHANNELS", "io:*")).sort(), ["io:news", "io:weather"]);
  assert.deepEqual(await client.pubsub("NUMSUB", "io:news"), ["io:news", 1]);
  await listener.ping();
  const received = [];
  listener.on("message", (_, text) => received.push(Number(text)));
  const last = new Promise((done) => listener.on("message", (_, text) => text === "499" && done()));
  await Promise.all(Array.from({ length: 500 }, (_, n) => client.publish("io:weather", String(n))));
  await last;
  assert.deepEqual(received, Array.from({ length: 500 }, (_, n) => n));
  assert.equal(await listener.unsubscribe("io:news", "io:weather"), 1);
  assert.equal(await listener.punsubscribe(), 0);
  assert.equal(await listener.get("io:none"), null);
  await Promise.all([client.quit(), listener.quit()]);
}

(async () => {
  for (const options of [{}, { db: 2 }]) await work(options);
  console.log("ok");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
