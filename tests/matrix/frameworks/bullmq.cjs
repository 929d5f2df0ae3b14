// BullMQ: a worker process, results, retries with backoff, delay, priorities, flows (parent and children), rate limits, events.
//
//     bullmq.cjs PORT DATABASE          (with `worker` behind: the worker process)
//
// On database 0 the prefix is a hash tag.
const assert = require("node:assert/strict");
const { fork } = require("node:child_process");
const { Queue, Worker, QueueEvents, FlowProducer, UnrecoverableError } = require("bullmq");
const [, , port, database, role] = process.argv;
const options = {
  connection: { host: "127.0.0.1", port: Number(port), db: Number(database), maxRetriesPerRequest: null },
  prefix: database === "0" ? "{bull}" : "bull",
};

async function job(job) {
  if (job.name === "third" && job.attemptsMade < 2) throw new Error("on purpose");
  if (job.name === "never") throw new UnrecoverableError("on purpose");
  if (job.name === "parent") return Object.values(await job.getChildrenValues()).reduce((a, b) => a + b, 0);
  return (job.data.n ?? 0) * 2;
}

function work() {
  const worker = new Worker("matrix", job, { ...options, concurrency: 2, limiter: { max: 200, duration: 100 } });
  worker.on("error", (error) => console.error(error));
  worker.waitUntilReady().then(() => process.send("ready"));
  process.on("message", () => worker.close().then(() => process.exit(0)));
}

async function drive() {
  const child = fork(__filename, [port, database, "worker"]);
  child.on("exit", (status) => status && process.exit(1));
  await new Promise((done) => child.once("message", done));
  const queue = new Queue("matrix", options);
  const events = new QueueEvents("matrix", { ...options, lastEventId: "0-0" });
  await events.waitUntilReady();
  const done = (job) => job.waitUntilFinished(events, 30_000);

  const jobs = await queue.addBulk(Array.from({ length: 50 }, (_, n) => ({ name: "double", data: { n } })));
  assert.deepEqual(await Promise.all(jobs.map(done)), jobs.map((_, n) => 2 * n));
  console.log("did jobs and results");
  assert.equal(await done(await queue.add("third", { n: 3 }, { attempts: 5, backoff: { type: "fixed", delay: 50 } })), 6);
  console.log("did retry");
  await assert.rejects(done(await queue.add("never", {})), /on purpose/);
  console.log("did failure");
  const start = Date.now();
  assert.equal(await done(await queue.add("double", { n: 1 }, { delay: 1000 })), 2);
  assert.ok(Date.now() - start >= 950);
  console.log("did delay");
  const flows = new FlowProducer(options);
  const flow = await flows.add({
    name: "parent", queueName: "matrix",
    children: [1, 2, 3].map((n) => ({ name: "double", queueName: "matrix", data: { n } })),
  });
  assert.equal(await done(flow.job), 12);
  console.log("did flow");
  await queue.pause();
  const held = await queue.add("double", { n: 5 }, { priority: 1 });
  assert.equal(await held.getState() !== "completed", true);
  await queue.resume();
  assert.equal(await done(held), 10);
  console.log("did pause and priority");
  await queue.upsertJobScheduler("each", { every: 200 }, { name: "double", data: { n: 7 } });
  const repeated = await new Promise((done) => events.on("completed", ({ returnvalue }) => String(returnvalue) === "14" && done(returnvalue)));
  assert.equal(Number(repeated), 14);
  await queue.removeJobScheduler("each");
  console.log("did schedule");
  assert.ok((await queue.getJobCounts()).completed >= 50);

  child.send("end");
  await new Promise((done) => child.once("exit", done));
  await queue.obliterate({ force: true });
  await Promise.all([queue.close(), events.close(), flows.close()]);
  console.log("ok");
}

role === "worker" ? work() : drive().then(() => process.exit(0), (error) => (console.error(error), process.exit(1)));
