-- How many entries three hashes have, at one moment. KEYS: P, D, L.
return {redis.call('HLEN', KEYS[1]), redis.call('HLEN', KEYS[2]), redis.call('HLEN', KEYS[3])}
