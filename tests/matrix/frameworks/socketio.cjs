// Socket.IO's Redis adapter: two servers, rooms over both, requests between servers.
//
//     socketio.cjs PORT DATABASE
const assert = require("node:assert/strict");
const { createServer } = require("node:http");
const { Server } = require("socket.io");
const { io } = require("socket.io-client");
const { createAdapter, createShardedAdapter } = require("@socket.io/redis-adapter");
const { createClient } = require("redis");
const [, , port, database] = process.argv;

async function redis() {
  const client = createClient({ socket: { host: "127.0.0.1", port: Number(port) }, database: Number(database) });
  return client.connect();
}

async function server(make) {
  const [publisher, subscriber] = [await redis(), await redis()];
  const http = createServer();
  const sockets = new Server(http, { adapter: make(publisher, subscriber) });
  sockets.on("connection", (socket) => socket.join("room"));
  await new Promise((done) => http.listen(0, "127.0.0.1", done));
  return { sockets, address: `http://127.0.0.1:${http.address().port}`, clients: [publisher, subscriber] };
}

const next = (emitter, event) => new Promise((done) => emitter.once(event, done));

async function work(name, make) {
  const [one, two] = [await server(make), await server(make)];
  const [first, second] = [io(one.address), io(two.address)];
  await Promise.all([next(first, "connect"), next(second, "connect")]);
  // The adapter subscribes to a room in the background: a request to all servers is answered when it holds.
  for (let n = 0; n < 100 && (await one.sockets.in("room").fetchSockets()).length < 2; n++) await new Promise((go) => setTimeout(go, 20));
  assert.equal((await one.sockets.in("room").fetchSockets()).length, 2);
  for (const from of [one, two]) {
    const heard = Promise.all([next(first, "said"), next(second, "said")]);
    from.sockets.to("room").emit("said", 7);
    assert.deepEqual(await heard, [7, 7]);
  }
  const answered = one.sockets.timeout(5000).emitWithAck("ask");
  first.on("ask", (answer) => answer("a"));
  second.on("ask", (answer) => answer("b"));
  assert.deepEqual((await answered).sort(), ["a", "b"]);
  two.sockets.serverSideEmit("between", 1);
  assert.equal(await next(one.sockets, "between"), 1);
  console.log(`did ${name}`);
  first.close();
  second.close();
  for (const side of [one, two]) {
    await side.sockets.close();
    await Promise.all(side.clients.map((client) => client.close()));
  }
}

(async () => {
  await work("rooms, acknowledgements, servers' messages", createAdapter);
  await work("sharded adapter (SSUBSCRIBE)", createShardedAdapter);
  console.log("ok");
})().then(() => process.exit(0), (error) => (console.error(error), process.exit(1)));
