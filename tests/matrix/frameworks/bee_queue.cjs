// Bee-Queue: a worker process, results and progress over pub/sub, retries, delay.
//
//     bee_queue.cjs PORT DATABASE
const assert = require("node:assert/strict");
const { fork } = require("node:child_process");
const Queue = require("bee-queue");
const [, , port, database, role] = process.argv;
const open = (isWorker) => new Queue("matrix", {
  redis: { host: "127.0.0.1", port: Number(port), db: Number(database) },
  prefix: database === "0" ? "{bq}" : "bq",
  isWorker, activateDelayedJobs: isWorker,
});
const done = (job) => new Promise((good, bad) => job.on("succeeded", good).on("failed", bad));

async function work() {
  const queue = open(true);
  queue.process(2, async (job) => {
    if (job.data.third && job.options.retries > job.data.until) throw new Error("on purpose");
    job.reportProgress({ half: true });
    return job.data.n * 2;
  });
  await queue.ready();
  process.send("ready");
  process.on("message", () => queue.close().then(() => process.exit(0)));
}

async function drive() {
  const child = fork(__filename, [port, database, "worker"]);
  await new Promise((ready) => child.once("message", ready));
  const queue = open(false);
  await queue.ready();
  const jobs = Array.from({ length: 50 }, (_, n) => queue.createJob({ n }));
  const results = jobs.map(done);
  assert.equal((await queue.saveAll(jobs)).size, 0);
  assert.deepEqual(await Promise.all(results), jobs.map((_, n) => 2 * n));
  console.log("did jobs and results");
  const retried = queue.createJob({ n: 3, third: true, until: 3 }).retries(5).backoff("fixed", 50);
  const good = done(retried);
  await retried.save();
  assert.equal(await good, 6);
  console.log("did retry");
  const later = queue.createJob({ n: 1 }).delayUntil(Date.now() + 1000);
  const [start, end] = [Date.now(), done(later)];
  await later.save();
  assert.equal(await end, 2);
  assert.ok(Date.now() - start >= 950);
  console.log("did delay");
  const told = queue.createJob({ n: 1 });
  const progress = new Promise((heard) => told.on("progress", heard));
  await told.save();
  assert.deepEqual(await progress, { half: true });
  console.log("did progress");
  assert.ok((await queue.checkHealth()).succeeded >= 50);
  child.send("end");
  await new Promise((exited) => child.once("exit", exited));
  await queue.destroy();
  await queue.close();
  console.log("ok");
}

role === "worker" ? work() : drive().then(() => process.exit(0), (error) => (console.error(error), process.exit(1)));
