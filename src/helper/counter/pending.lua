-- What is told of a counter's shard. KEYS: P, D, L, M.
return {
  redis.call('HLEN', KEYS[1]), redis.call('HLEN', KEYS[2]), redis.call('HLEN', KEYS[3]),
  redis.call('HMGET', KEYS[4], 'tk', 'att'), redis.call('TIME')
}
