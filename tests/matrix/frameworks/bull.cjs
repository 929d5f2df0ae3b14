// Bull 4: a worker process, results, retries, delay, events over pub/sub.
//
//     bull.cjs PORT DATABASE
const assert = require("node:assert/strict");
const { fork } = require("node:child_process");
const Queue = require("bull");
const [, , port, database, role] = process.argv;
const open = () => new Queue("matrix", {
  redis: { host: "127.0.0.1", port: Number(port), db: Number(database) },
  prefix: database === "0" ? "{bull}" : "bull",
});

async function work() {
  const queue = open();
  queue.process("*", 2, async (job) => {
    if (job.name === "third" && job.attemptsMade < 2) throw new Error("on purpose");
    return (job.data.n ?? 0) * 2;
  });
  await queue.isReady();
  process.send("ready");
  process.on("message", () => queue.close().then(() => process.exit(0)));
}

async function drive() {
  const child = fork(__filename, [port, database, "worker"]);
  await new Promise((done) => child.once("message", done));
  const queue = open();
  const jobs = await queue.addBulk(Array.from({ length: 50 }, (_, n) => ({ name: "double", data: { n } })));
  assert.deepEqual(await Promise.all(jobs.map((job) => job.finished())), jobs.map((_, n) => 2 * n));
  console.log("did jobs and results");
  assert.equal(await (await queue.add("third", { n: 3 }, { attempts: 5, backoff: 50 })).finished(), 6);
  console.log("did retry");
  await assert.rejects((await queue.add("third", {}, { attempts: 1 })).finished(), /on purpose/);
  console.log("did failure");
  const start = Date.now();
  assert.equal(await (await queue.add("double", { n: 1 }, { delay: 1000 })).finished(), 2);
  assert.ok(Date.now() - start >= 950);
  console.log("did delay");
  const every = new Promise((done) => queue.on("global:completed", (_, result) => result === "14" && done()));
  await queue.add("double", { n: 7 }, { repeat: { every: 200, limit: 3 } });
  await every;
  console.log("did schedule and events");
  child.send("end");
  await new Promise((done) => child.once("exit", done));
  await queue.obliterate({ force: true });
  await queue.close();
  console.log("ok");
}

role === "worker" ? work() : drive().then(() => process.exit(0), (error) => (console.error(error), process.exit(1)));
