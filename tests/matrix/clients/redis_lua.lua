-- redis-lua (Debian's lua-redis).
--
--     redis_lua.lua PORT DATABASE
local redis = require("redis")
local port, db = tonumber(arg[1]), tonumber(arg[2])

local function connected()
  local client = redis.connect("127.0.0.1", port)
  client:select(db)
  return client
end

io.stdout:setvbuf("line")
local client, other = connected(), connected()
print("version 2.0.5")
print("protocol 2")
client:flushdb()
assert(client:set("lua:a", 1) and client:incrby("lua:a", 41) == 42)
client:hset("lua:h", "f", 1)
assert(client:hgetall("lua:h").f == "1")
local ok, message = pcall(client.rpush, client, "lua:a", "x")
assert(not ok and tostring(message):find("WRONGTYPE"), message)
print("did commands")

client:mset("lua:m:1", "a", "lua:m:2", "b", "lua:m:3", "c")
local values = client:mget("lua:m:3", "lua:m:2", "lua:m:1")
assert(table.concat(values, " ") == "c b a" and client:del("lua:m:1", "lua:m:2", "lua:m:3") == 3)
print("did multi-key")

local replies = client:pipeline(function(pipe)
  for n = 0, 999 do
    pipe:incr("lua:p:" .. n % 100)
  end
end)
for n = 0, 999 do
  assert(replies[n + 1] == math.floor(n / 100) + 1)
end
print("did pipeline")

local a, b = "lua:t:a", "lua:other:b"
if db == 0 then
  a, b = "lua:{t}:a", "lua:{t}:b"
end
replies = client:transaction(function(t)
  t:set(a, 1)
  t:incr(a)
  t:rpush(b, "x")
end)
assert(replies[2] == 2 and replies[3] == 1)
print("did transaction")

local heard, said = connected(), {}
for message, abort in heard:pubsub({ subscribe = { "lua:channel" } }) do
  if message.kind == "subscribe" then
    assert(client:publish("lua:channel", "one") == 1 and client:publish("lua:channel", "two") == 1)
  elseif message.kind == "message" then
    said[#said + 1] = message.payload
    if #said == 2 then
      abort()
    end
  end
end
assert(table.concat(said, " ") == "one two")
print("did pub/sub")

assert(not client:blpop("lua:list", 1))
other:rpush("lua:list", "job")
local popped = client:blpop("lua:list", 5)
assert((type(popped) == "table" and popped[2] or select(2, popped)) == "job")
print("did blocking pop")

assert(client:eval("return redis.call('INCRBY', KEYS[1], ARGV[1])", 1, "lua:s", 2) == 2)
print("did script")

local cursor, found, count = 0, {}, 0
repeat
  local part = client:scan(cursor, { match = "lua:p:*", count = 10 })
  cursor = tonumber(part[1])
  for _, key in ipairs(part[2]) do
    if not found[key] then
      found[key], count = true, count + 1
    end
  end
until cursor == 0
assert(count == 100, count)
print("did scan")

local big = ("x"):rep(8000000)
client:set("lua:big", big)
assert(client:get("lua:big") == big)
print("did 8 MB value")

client:flushdb()
assert(client:dbsize() == 0)
print("note does not connect again by itself")
print("ok")
