-- What members have in each of three hashes, at one moment. KEYS: P, D, L. ARGV: members.
local counts = {}
for i = 1, 3 do counts[i] = redis.call('HMGET', KEYS[i], unpack(ARGV)) end
return counts
