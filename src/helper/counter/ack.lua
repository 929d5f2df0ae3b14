-- Confirms the batch that is out, if it is the one that is named. KEYS: leased L, meta M. ARGV: seq.
if redis.call('HGET', KEYS[2], 'seq') ~= ARGV[1] then return 0 end
local gone = redis.call('UNLINK', KEYS[1])
redis.call('HDEL', KEYS[2], 'dl', 'att')
return gone
