// ioredis of any version, and iovalkey, its fork.
//
//     ioredis.cjs MODULE PORT DATABASE
const assert = require("node:assert/strict");
const [, , name, port, database] = process.argv;
const library = require(name);
const db = Number(database);
const connect = () => new (library.Redis ?? library)({ host: "127.0.0.1", port: Number(port), db });
const say = (line) => console.log(line);

async function work(client, other) {
  await client.flushdb();
  assert.equal(await client.set("io:a", "1"), "OK");
  assert.equal(await client.incrby("io:a", 41), 42);
  await client.hset("io:h", { f: "1" });
  assert.deepEqual({ ...(await client.hgetall("io:h")) }, { f: "1" });
  await assert.rejects(client.rpush("io:a", "x"), /WRONGTYPE/);
  say(`protocol ${/resp=(\d)/.exec(await client.client("INFO"))?.[1] ?? "?"}`);
  say("did commands");

  const keys = Array.from({ length: 50 }, (_, n) => `io:m:${n}`);
  await client.mset(...keys.flatMap((key, n) => [key, n]));
  assert.deepEqual(await client.mget(...keys, "io:none"), [...keys.map((_, n) => String(n)), null]);
  assert.equal(await client.del(...keys), 50);
  say("did multi-key");

  const pipeline = client.pipeline();
  for (let n = 0; n < 1000; n++) pipeline.incr(`io:p:${n % 100}`);
  assert.deepEqual(await pipeline.exec(), Array.from({ length: 1000 }, (_, n) => [null, Math.floor(n / 100) + 1]));
  say("did pipeline");

  const [a, b] = db === 0 ? ["io:{t}:a", "io:{t}:b"] : ["io:t:a", "io:other:b"];
  assert.deepEqual(await client.multi().set(a, "1").incr(a).set(b, "x").get(b).exec(), [[null, "OK"], [null, 2], [null, "OK"], [null, "x"]]);
  await client.watch(a);
  await other.set(a, "7");
  assert.equal(await client.multi().set(a, "8").exec(), null);
  if (db === 0) await assert.rejects(client.multi().set("io:one", 1).set("io:two", 2).exec(), /EXECABORT|CROSSSLOT/);
  say("did transaction");

  const heard = connect();
  const said = [];
  const both = new Promise((done) => {
    const take = (text) => said.push(text) === 2 && done();
    heard.on("message", (_, text) => take(text));
    heard.on("pmessage", (_, __, text) => take(text));
  });
  await heard.subscribe("io:channel");
  await heard.psubscribe("io:pat*");
  assert.equal(await client.publish("io:channel", "one"), 1);
  assert.equal(await client.publish("io:pattern", "two"), 1);
  await both;
  assert.deepEqual(said, ["one", "two"]);
  heard.disconnect();
  say("did pub/sub");

  setTimeout(() => other.rpush("io:list", "job"), 100);
  assert.deepEqual(await client.blpop("io:list", 5), ["io:list", "job"]);
  assert.equal(await client.blpop("io:list", 1), null);
  say("did blocking pop");

  client.defineCommand("raise", { numberOfKeys: 1, lua: "return redis.call('INCRBY', KEYS[1], ARGV[1])" });
  assert.equal(await client.raise("io:s", 2), 2);
  await client.script("FLUSH");
  assert.equal(await client.raise("io:s", 3), 5);
  say("did script");

  const found = new Set();
  for await (const part of client.scanStream({ match: "io:p:*", count: 10 })) part.forEach((key) => found.add(key));
  assert.equal(found.size, 100);
  say("did scan");

  const big = "x".repeat(8_000_000);
  await client.set("io:big", big);
  assert.equal(await client.get("io:big"), big);
  say("did 8 MB value");

  const mine = await client.client("ID");
  const again = new Promise((done) => client.once("ready", done));
  assert.equal(await other.client("KILL", "ID", mine), 1);
  await again;
  assert.notEqual(await client.client("ID"), mine);
  assert.equal(await client.get("io:a"), "42");
  say("did reconnect");

  await client.flushdb();
  assert.equal(await client.dbsize(), 0);
}

(async () => {
  say(`version ${require(`${name}/package.json`).version}`);
  const [client, other] = [connect(), connect()];
  await work(client, other);
  await Promise.all([client.quit(), other.quit()]);
  say("ok");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
