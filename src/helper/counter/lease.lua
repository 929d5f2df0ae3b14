-- Sets when the batch that is out may be given to somebody else, if it is the one that is named.
-- KEYS: leased L, meta M. ARGV: seq, ms from now.
if redis.call('HGET', KEYS[2], 'seq') ~= ARGV[1] or redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
local t = redis.call('TIME')
redis.call('HDEL', KEYS[2], 'dl')
local ms = math.floor((tonumber(t[1]) * 1000000 + tonumber(t[2])) / 1000)
redis.call('HSET', KEYS[2], 'dl', string.format('%.0f', ms + tonumber(ARGV[2])))
return 1
