// connect-redis: Express sessions.
//
//     connect_redis.cjs PORT DATABASE
const assert = require("node:assert/strict");
const express = require("express");
const session = require("express-session");
const { RedisStore } = require("connect-redis");
const { createClient } = require("redis");
const [, , port, database] = process.argv;

(async () => {
  const client = createClient({ socket: { host: "127.0.0.1", port: Number(port) }, database: Number(database) });
  await client.connect();
  const store = new RedisStore({ client, prefix: "sess:" });
  const app = express();
  app.use(session({ store, secret: "secret", resave: false, saveUninitialized: false }));
  app.get("/", (request, response) => response.send(String((request.session.views = (request.session.views ?? 0) + 1))));
  app.get("/out", (request, response) => request.session.destroy(() => response.send("out")));
  const server = app.listen(0, "127.0.0.1");
  await new Promise((done) => server.once("listening", done));
  const visit = async (path, cookie) => {
    const response = await fetch(`http://127.0.0.1:${server.address().port}${path}`, { headers: cookie ? { cookie } : {} });
    return [await response.text(), response.headers.get("set-cookie")?.split(";")[0]];
  };
  const visitors = await Promise.all(Array.from({ length: 20 }, () => visit("/")));
  for (const [, cookie] of visitors) {
    assert.equal((await visit("/", cookie))[0], "2");
    assert.equal((await visit("/", cookie))[0], "3");
  }
  console.log("did sessions");
  assert.equal(await store.length(), 20);
  assert.equal((await store.all()).length, 20);
  console.log("did list of sessions");
  await visit("/out", visitors[0][1]);
  assert.equal(await store.length(), 19);
  assert.equal((await visit("/", visitors[0][1]))[0], "1");
  console.log("did log out");
  await store.clear();
  assert.equal(await store.length(), 0);
  console.log("did clear");
  server.close();
  await client.close();
  console.log("ok");
})().then(() => process.exit(0), (error) => (console.error(error), process.exit(1)));
