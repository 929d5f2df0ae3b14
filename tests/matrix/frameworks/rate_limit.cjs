// rate-limit-redis behind express-rate-limit: a script for each request.
//
//     rate_limit.cjs PORT DATABASE
const assert = require("node:assert/strict");
const express = require("express");
const { rateLimit } = require("express-rate-limit");
const { RedisStore } = require("rate-limit-redis");
const { createClient } = require("redis");
const [, , port, database] = process.argv;

(async () => {
  const client = createClient({ socket: { host: "127.0.0.1", port: Number(port) }, database: Number(database) });
  await client.connect();
  const store = new RedisStore({ sendCommand: (...words) => client.sendCommand(words) });
  const app = express();
  const limiter = rateLimit({ windowMs: 60_000, limit: 3, store, keyGenerator: (request) => request.query.user, validate: false });
  app.get("/", limiter, (_, response) => response.send("in"));
  const server = app.listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  const visit = async (user) => (await fetch(`http://127.0.0.1:${server.address().port}/?user=${user}`)).status;
  for (let user = 0; user < 10; user++) {
    const statuses = [];
    for (let n = 0; n < 4; n++) statuses.push(await visit(user));
    assert.deepEqual(statuses, [200, 200, 200, 429]);
  }
  console.log("did limit");
  await limiter.resetKey("1");
  assert.equal(await visit(1), 200);
  assert.equal((await limiter.getKey("1")).totalHits, 1);
  console.log("did reset");
  await client.sendCommand(["SCRIPT", "FLUSH"]);
  assert.equal(await visit("new"), 200);
  console.log("did lost script");
  for (const key of ["1", "new", ...Array.from({ length: 10 }, (_, n) => String(n))]) await limiter.resetKey(key);
  server.close();
  await client.close();
  console.log("ok");
})().then(() => process.exit(0), (error) => (console.error(error), process.exit(1)));
