// node-redis of any version from 5 on.
//
//     node_redis.cjs PORT DATABASE
const assert = require("node:assert/strict");
const { createClient } = require("redis");
const [, , port, database] = process.argv;
const db = Number(database);
const say = (line) => console.log(line);

async function connect() {
  const client = createClient({ socket: { host: "127.0.0.1", port: Number(port) }, database: db });
  client.on("error", () => {}); // a lost connection is an event; the promises tell the rest
  return client.connect();
}

async function work(client, other) {
  await client.flushDb();
  assert.equal(await client.set("nr:a", "1"), "OK");
  assert.equal(await client.incrBy("nr:a", 41), 42);
  await client.hSet("nr:h", { f: "1" });
  assert.deepEqual({ ...(await client.hGetAll("nr:h")) }, { f: "1" });
  await assert.rejects(client.rPush("nr:a", "x"), /WRONGTYPE/);
  say(`protocol ${/resp=(\d)/.exec(await client.sendCommand(["CLIENT", "INFO"]))?.[1] ?? "?"}`);
  say("did commands");

  const keys = Array.from({ length: 50 }, (_, n) => `nr:m:${n}`);
  await client.mSet(keys.map((key, n) => [key, String(n)]));
  assert.deepEqual(await client.mGet([...keys, "nr:none"]), [...keys.map((_, n) => String(n)), null]);
  assert.equal(await client.del(keys), 50);
  say("did multi-key");

  const replies = await Promise.all(Array.from({ length: 1000 }, (_, n) => client.incr(`nr:p:${n % 100}`)));
  assert.deepEqual(replies, Array.from({ length: 1000 }, (_, n) => Math.floor(n / 100) + 1));
  say("did pipeline");

  const [a, b] = db === 0 ? ["nr:{t}:a", "nr:{t}:b"] : ["nr:t:a", "nr:other:b"];
  assert.deepEqual(await client.multi().set(a, "1").incr(a).set(b, "x").get(b).exec(), ["OK", 2, "OK", "x"]);
  await client.watch(a);
  await other.set(a, "7");
  await assert.rejects(client.multi().set(a, "8").exec(), /watch/i);
  if (db === 0) await assert.rejects(client.multi().set("nr:one", "1").set("nr:two", "2").exec(), /EXECABORT|CROSSSLOT/);
  say("did transaction");

  const heard = await connect();
  const said = [];
  await new Promise((done, fail) => {
    const take = (text) => said.push(text) === 2 && done();
    (async () => {
      await heard.subscribe("nr:channel", take);
      await heard.pSubscribe("nr:pat*", take);
      assert.equal(await client.publish("nr:channel", "one"), 1);
      assert.equal(await client.publish("nr:pattern", "two"), 1);
    })().catch(fail);
  });
  assert.deepEqual(said, ["one", "two"]);
  heard.destroy();
  say("did pub/sub");

  setTimeout(() => other.rPush("nr:list", "job"), 100);
  assert.deepEqual({ ...(await client.blPop("nr:list", 5)) }, { key: "nr:list", element: "job" });
  assert.equal(await client.blPop("nr:list", 1), null);
  say("did blocking pop");

  const script = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
  const sha = await client.scriptLoad(script);
  assert.equal(await client.evalSha(sha, { keys: ["nr:s"], arguments: ["2"] }), 2);
  assert.equal(await client.eval(script, { keys: ["nr:s"], arguments: ["3"] }), 5);
  say("did script");

  const found = new Set();
  for await (const part of client.scanIterator({ MATCH: "nr:p:*", COUNT: 10 })) part.forEach((key) => found.add(key));
  assert.equal(found.size, 100);
  say("did scan");

  const big = "x".repeat(8_000_000);
  await client.set("nr:big", big);
  assert.equal(await client.get("nr:big"), big);
  say("did 8 MB value");

  const mine = Number(await client.sendCommand(["CLIENT", "ID"]));
  const again = new Promise((done) => client.once("ready", done));
  assert.equal(Number(await other.sendCommand(["CLIENT", "KILL", "ID", String(mine)])), 1);
  await again;
  assert.notEqual(Number(await client.sendCommand(["CLIENT", "ID"])), mine);
  assert.equal(await client.get("nr:a"), "42");
  say("did reconnect");

  await client.flushDb();
  assert.equal(await client.dbSize(), 0);
}

(async () => {
  say(`version ${require("redis/package.json").version}`);
  const [client, other] = [await connect(), await connect()];
  await work(client, other);
  await Promise.all([client.close(), other.close()]);
  say("ok");
})().catch((error) => {
  console.error(error);
  process.exit(1);
});
