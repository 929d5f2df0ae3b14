// redlock: locks over one and over several resources.
//
//     redlock.cjs PORT DATABASE
const assert = require("node:assert/strict");
const { Redis } = require("ioredis");
const Redlock = require("redlock");
const [, , port, database] = process.argv;

(async () => {
  const client = new Redis({ host: "127.0.0.1", port: Number(port), db: Number(database) });
  const redlock = new Redlock([client], { retryCount: 0 });
  const names = database === "0" ? ["{lock}a", "{lock}b"] : ["lock-a", "lock-b"];
  const lock = await redlock.lock(names[0], 5000);
  await assert.rejects(redlock.lock(names[0], 5000));
  await lock.extend(10_000);
  assert.ok((await client.pttl(names[0])) > 5000);
  await lock.unlock();
  console.log("did lock");
  const both = await redlock.lock(names, 5000);
  await assert.rejects(redlock.lock(names[1], 5000));
  await both.unlock();
  assert.equal(await client.exists(...names), 0);
  console.log("did lock over two keys");
  const patient = new Redlock([client], { retryCount: 100, retryDelay: 20 });
  let inside = 0;
  await Promise.all(Array.from({ length: 10 }, async () => {
    const held = await patient.lock(names[0], 5000);
    assert.equal(++inside, 1);
    await client.ping();
    inside--;
    await held.unlock();
  }));
  console.log("did wait for a lock");
  await client.quit();
  console.log("ok");
})().then(() => process.exit(0), (error) => (console.error(error), process.exit(1)));
