-- Hands out one batch of a counter's shard, or nothing.
-- KEYS: pending P, drained D, leased L, meta M, the registry. ARGV: count, lease in ms, every in ms, "1" for no lease, counter.
local P, D, L, M = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local count, lease, every = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local t = redis.call('TIME')
local us = tonumber(t[1]) * 1000000 + tonumber(t[2])
local ms = math.floor(us / 1000)
local function text(n) return string.format('%.0f', n) end
local m = redis.call('HMGET', M, 'seq', 'prev', 'dl', 'att', 'tk', 'cur')
local seq, prev, dl, att = m[1] or '0', m[2] or '0', tonumber(m[3] or 0), tonumber(m[4] or 0)

if redis.call('EXISTS', L) == 1 then
  -- The outstanding batch. A deadline far away is that of a clock which has been put back.
  if dl - ms > 3660000 then dl = 0 end
  if ms < dl then return false end
  att = att + 1
  redis.call('HDEL', M, 'dl')
  redis.call('HSET', M, 'att', text(att), 'dl', text(ms + lease))
  local entries = redis.call('HGETALL', L)
  if ARGV[4] == '1' then
    redis.call('UNLINK', L)
    redis.call('HDEL', M, 'dl', 'att')
  end
  return {seq, text(att), prev, entries}
end

local cur = m[6] or '0'
if redis.call('EXISTS', D) == 0 then
  -- A new cycle, not sooner than `every` after the last one.
  if redis.call('EXISTS', P) == 0 then return false end
  local tk = tonumber(m[5] or 0)
  if tk > ms then tk = 0 end
  if ms < tk + every then return false end
  redis.call('RENAME', P, D)
  redis.call('HSET', M, 'tk', text(ms))
  cur = '0'
end

-- A write that needs no memory comes first: a node that is full refuses the first one that does, and only that.
redis.call('HDEL', M, 'dl')
-- Only grows, whatever the clock does and whatever was lost. Written first: a batch without its number must not be.
local new = math.max(tonumber(seq) + 1, us)
redis.call('HSET', M, 'seq', text(new), 'prev', seq, 'att', '1', 'dl', text(ms + lease), 'cur', cur)
redis.call('SADD', KEYS[5], ARGV[5])
local bytes_max = 4194304
if redis.call('HLEN', D) <= count and (redis.call('MEMORY', 'USAGE', D) or 0) <= bytes_max then
  redis.call('RENAME', D, L)
else
  local fields, values, bytes, ends = {}, {}, 0, 0
  repeat
    local step = redis.call('HSCAN', D, cur, 'COUNT', math.min(count, 128))
    cur = step[1]
    if cur == '0' then ends = ends + 1 end
    for i = 1, #step[2], 2 do
      fields[#fields + 1] = step[2][i]
      values[#values + 1] = step[2][i]
      values[#values + 1] = step[2][i + 1]
      bytes = bytes + #step[2][i]
    end
  until #fields >= count or bytes >= bytes_max or (ends > 0 and #fields > 0)
  for i = 1, #values, 1000 do
    redis.call('HSET', L, unpack(values, i, math.min(i + 999, #values)))
  end
  for i = 1, #fields, 1000 do
    redis.call('HDEL', D, unpack(fields, i, math.min(i + 999, #fields)))
  end
  redis.call('HSET', M, 'cur', cur)
end

local entries = redis.call('HGETALL', L)
if ARGV[4] == '1' then
  redis.call('UNLINK', L)
  redis.call('HDEL', M, 'dl', 'att')
end
return {text(new), '1', seq, entries}
