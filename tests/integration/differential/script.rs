//! The script: commands made by templates over a small world of keys.

/// Makes commands over a small world of keys: the first letter after the tag is the type they usually have.
pub(super) struct Generator {
    pub(super) random: fastrand::Rng,
    /// Database 0: keys of one command share a tag. A pinned database: any keys.
    pub(super) tagged: bool,
    pub(super) next_id: u64,
    pub(super) dumps: Vec<Vec<u8>>,
}

impl Generator {
    pub(super) fn tag(&mut self) -> String {
        if self.tagged {
            format!("{{{}}}", self.random.u8(0..12))
        } else {
            String::new()
        }
    }

    /// A key of a type: s string, n number, l list, u set, h hash, z sorted set, y one with equal scores (else
    /// its order by name depends on chance), x stream, b bitmap, p HLL, g geo.
    fn key(&mut self, tag: &str, kind: char) -> String {
        // Now and then a key of another type: WRONGTYPE must look the same.
        let kind = if self.random.u8(0..16) == 0 && kind != 'y' {
            char::from(*self.random.choice(b"snluhzxbpg").unwrap())
        } else {
            kind
        };
        format!("{tag}{kind}{}", self.random.u8(0..4))
    }

    fn value(&mut self) -> String {
        match self.random.u8(0..12) {
            0 => String::new(),
            1 => "x".repeat(self.random.usize(0..3000)),
            2 => format!("with space \r\n and {}", self.random.u8(..)),
            3..=6 => self.random.i64(-50..1000).to_string(),
            7 => format!("{}.5", self.random.i16(-9..9)),
            _ => format!("v{}", self.random.u8(0..20)),
        }
    }

    fn member(&mut self) -> String {
        format!("m{}", self.random.u8(0..12))
    }

    fn number(&mut self) -> String {
        match self.random.u8(0..20) {
            0 => "notanumber".to_owned(),
            1 => "9223372036854775807".to_owned(),
            2 => "99999999999999999999".to_owned(),
            3 => "1.5".to_owned(),
            _ => self.random.i32(-20..20).to_string(),
        }
    }

    /// One placeholder of a template.
    fn fill(&mut self, word: &str, tag: &str) -> Vec<u8> {
        let text = match word {
            "%v" => self.value(),
            // Short: a hash keeps its order as long as it is small.
            "%w" => format!("w{}", self.random.i16(-99..99)),
            "%m" => self.member(),
            "%i" => self.number(),
            "%c" => self.random.u8(0..5).to_string(),
            "%f" => format!("{}.25", self.random.i16(-30..30)),
            "%bit" => self.random.u8(0..2).to_string(),
            "%off" => self.random.u16(0..300).to_string(),
            "%at" => (4_000_000_000_u64 + self.random.u64(0..1000)).to_string(),
            "%id" => {
                self.next_id += 1;
                format!("{}-{}", self.next_id, self.random.u8(0..3))
            }
            "%oldid" => format!("{}-0", self.random.u64(0..self.next_id + 2)),
            "%lon" => format!("{}.1{}", self.random.i16(-170..170), self.random.u8(..)),
            "%lat" => format!("{}.2{}", self.random.i16(-80..80), self.random.u8(..)),
            "%dump" => return self.random.choice(self.dumps.iter()).unwrap().clone(),
            _ => match word.strip_prefix("%k") {
                Some(kind) => self.key(tag, kind.chars().next().unwrap()),
                None => return self.any_case(word),
            },
        };
        text.into_bytes()
    }

    fn any_case(&mut self, word: &str) -> Vec<u8> {
        if self.random.u8(0..6) == 0 {
            word.to_lowercase().into_bytes()
        } else {
            word.as_bytes().to_vec()
        }
    }

    /// The next command.
    pub(super) fn command(&mut self) -> Vec<Vec<u8>> {
        let tag = self.tag();
        self.command_of(&tag)
    }

    /// The next command, over keys with this tag.
    pub(super) fn command_of(&mut self, tag: &str) -> Vec<Vec<u8>> {
        let (_, templates) = *self.random.choice(TEMPLATES).unwrap();
        let template = *self.random.choice(templates).unwrap();
        let words: Vec<&str> = template.split(' ').collect();
        let mut command: Vec<Vec<u8>> = words.iter().map(|word| self.fill(word, tag)).collect();
        match self.random.u8(0..60) {
            // Wrong arity, in both directions.
            0 if command.len() > 2 && !template.contains("RAND") && !template.starts_with("SPOP") => {
                command.pop();
            }
            1 => command.push(format!("{tag}extra").into_bytes()),
            _ => {}
        }
        command
    }
}

/// Templates by theme; `%kT` is a key of type T, the other words stand in `Generator::fill`.
const TEMPLATES: &[(&str, &[&str])] = &[
    (
        "strings",
        &[
            "SET %ks %v",
            "SET %kn %i",
            "SET %ks %v NX",
            "SET %ks %v XX GET",
            "SET %ks %v EXAT %at",
            "SET %ks %v KEEPTTL",
            "SET %ks %v EX 0",
            "SET %ks %v FOO",
            "GET %ks",
            "GET %kn",
            "GETDEL %ks",
            "GETEX %ks PERSIST",
            "GETEX %ks EXAT %at",
            "GETSET %ks %v",
            "SETNX %ks %v",
            "SETEX %ks 1000 %v",
            "PSETEX %ks 1000000 %v",
            "APPEND %ks %v",
            "STRLEN %ks",
            "INCR %kn",
            "DECR %kn",
            "INCRBY %kn %i",
            "DECRBY %kn %i",
            "INCRBYFLOAT %kn %f",
            "GETRANGE %ks %i %i",
            "SUBSTR %ks 0 2",
            "SETRANGE %ks %off %v",
            "LCS %ks %ks",
            "LCS %ks %ks LEN",
            "LCS %ks %ks IDX",
        ],
    ),
    (
        "split and whole-key",
        &[
            "MGET %ks %kn %ks",
            "MSET %ks %v %kn %i",
            "MSETNX %ks %v %ks %v",
            "DEL %ks",
            "DEL %kl %ku %kh",
            "UNLINK %kz %kx",
            "EXISTS %ks %ks %kl",
            "TOUCH %ks %kh",
            "TYPE %ks",
            "TYPE %kx",
            "RENAME %ks %ks",
            "RENAMENX %kl %kl",
            "COPY %kh %kh",
            "COPY %kz %kz REPLACE",
            "COPY %ks %ks",
            "DUMP %ks",
            "DUMP %kl",
            "RESTORE %ks 0 %dump",
            "RESTORE %kl 0 %dump REPLACE",
            "RESTORE %ks 0 garbage",
            "OBJECT ENCODING %ks",
            "OBJECT ENCODING %kl",
            "OBJECT ENCODING %kh",
            "OBJECT ENCODING %kz",
            "OBJECT REFCOUNT %kh",
            "OBJECT FREQ %ks",
            "OBJECT NOSUCH %ks",
            "OBJECT IDLETIME %kl",
            "OBJECT ENCODING %kx",
            "MEMORY USAGE %ks",
            "MEMORY USAGE %kl SAMPLES 0",
            "MEMORY USAGE %kh SAMPLES x",
            "RESTORE %kz 1000000 %dump REPLACE",
            "RESTORE %ks 4000000000123 %dump REPLACE ABSTTL",
            "RESTORE %ks 0 %dump REPLACE IDLETIME 10 FREQ 5",
            "RESTORE %ks -1 %dump",
            "RENAME %kx %kx",
            "RENAME %ks %kl",
            "COPY %ks %kl REPLACE",
            "COPY %kx %kx REPLACE",
        ],
    ),
    (
        "expiry",
        &[
            "EXPIRE %ks 1000",
            "EXPIRE %kl -1",
            "EXPIRE %kh 1x",
            "PEXPIRE %ks 1000000",
            "EXPIREAT %ks %at",
            "EXPIREAT %kh %at NX",
            "EXPIREAT %kz %at GT",
            "PEXPIREAT %ks 4000000000123",
            "TTL %ks",
            "TTL %kl",
            "PTTL %ks",
            "EXPIRETIME %ks",
            "PEXPIRETIME %ks",
            "PERSIST %ks",
            "PERSIST %kh",
            "EXPIRE %ks 1000 XX",
            "EXPIREAT %kl %at GT",
            "EXPIREAT %kl %at LT",
            "EXPIRE %kl 100 NX XX",
            "EXPIRE %kh 100 GT LT",
            "EXPIRE %kh 100 FOO",
            "PEXPIRE %kh 1000000000 NX",
            "EXPIREAT %ks -5",
            "GETEX %ks EX 1000",
            "GETEX %ks PX 0",
            "GETEX %ks EX 5 PERSIST",
            "SET %ks %v PX 1000000 GET",
            "SET %ks %v EX 1000 KEEPTTL",
        ],
    ),
    (
        "lists",
        &[
            "LPUSH %kl %v",
            "RPUSH %kl %v %v %v",
            "LPUSHX %kl %v",
            "RPUSHX %kl %v",
            "LPOP %kl",
            "RPOP %kl",
            "LPOP %kl %c",
            "RPOP %kl %i",
            "LLEN %kl",
            "LRANGE %kl %i %i",
            "LRANGE %kl 0 -1",
            "LINDEX %kl %i",
            "LSET %kl %i %v",
            "LREM %kl %i %v",
            "LTRIM %kl 0 30",
            "LINSERT %kl BEFORE %v %v",
            "LINSERT %kl SIDE %v %v",
            "LPOS %kl %v",
            "LPOS %kl %v COUNT %c",
            "LMOVE %kl %kl LEFT RIGHT",
            "RPOPLPUSH %kl %kl",
            "LMPOP 2 %kl %kl LEFT COUNT 2",
            "LMPOP 0 %kl LEFT",
            "LMPOP %i %kl LEFT",
        ],
    ),
    (
        "sets",
        &[
            "SADD %ku %m",
            "SADD %ku %m %m %m",
            "SADD %ku %c %c",
            "SREM %ku %m",
            "SCARD %ku",
            "SISMEMBER %ku %m",
            "SMISMEMBER %ku %m %m",
            "SMEMBERS %ku",
            "SINTER %ku %ku",
            "SUNION %ku %ku",
            "SDIFF %ku %ku",
            "SINTERSTORE %ku %ku %ku",
            "SUNIONSTORE %ku %ku %ku",
            "SDIFFSTORE %ku %ku %ku",
            "SINTERCARD 2 %ku %ku",
            "SINTERCARD 2 %ku %ku LIMIT 1",
            "SINTERCARD %i %ku",
            "SMOVE %ku %ku %m",
            "SSCAN %ku 0 COUNT 1000",
            "SSCAN %ku x",
            "SPOP %ku 0",
            "SRANDMEMBER %ku 0",
        ],
    ),
    (
        "hashes",
        &[
            "HSET %kh %m %w",
            "HSET %kh %m %w %m %i",
            "HSETNX %kh %m %w",
            "HGET %kh %m",
            "HMGET %kh %m %m",
            "HMSET %kh %m %w",
            "HDEL %kh %m %m",
            "HLEN %kh",
            "HEXISTS %kh %m",
            "HKEYS %kh",
            "HVALS %kh",
            "HGETALL %kh",
            "HINCRBY %kh %m %i",
            "HINCRBYFLOAT %kh %m %f",
            "HSTRLEN %kh %m",
            "HSCAN %kh 0 COUNT 1000",
            "HSCAN %kh 0 MATCH m1* COUNT 1000",
            "HRANDFIELD %kh 0",
        ],
    ),
    (
        "sorted sets",
        &[
            "ZADD %kz %f %m",
            "ZADD %kz %i %m %i %m",
            "ZADD %kz NX %f %m",
            "ZADD %kz GT CH %f %m",
            "ZADD %kz INCR %f %m",
            "ZADD %kz nan %m",
            "ZINCRBY %kz %f %m",
            "ZREM %kz %m",
            "ZCARD %kz",
            "ZSCORE %kz %m",
            "ZMSCORE %kz %m %m",
            "ZRANK %kz %m",
            "ZREVRANK %kz %m",
            "ZCOUNT %kz -inf +inf",
            "ZCOUNT %kz (1 5",
            "ZADD %ky 0 %m 0 %m",
            "ZADD %ky 0 %m",
            "ZLEXCOUNT %ky - +",
            "ZRANGE %kz 0 -1",
            "ZRANGE %kz 0 -1 WITHSCORES",
            "ZRANGE %kz -inf +inf BYSCORE LIMIT 0 5",
            "ZRANGE %ky - + BYLEX",
            "ZREVRANGE %kz 0 3 WITHSCORES",
            "ZRANGEBYSCORE %kz -inf 5 WITHSCORES",
            "ZREVRANGEBYSCORE %kz 10 -10",
            "ZRANGEBYLEX %ky [m1 [m5",
            "ZREVRANGEBYLEX %ky + -",
            "ZREMRANGEBYSCORE %kz 5 7",
            "ZREMRANGEBYRANK %kz 8 9",
            "ZREMRANGEBYLEX %ky [m9 [m91",
            "ZPOPMIN %kz",
            "ZPOPMAX %kz %c",
            "ZUNIONSTORE %kz 2 %kz %kz WEIGHTS 1 2",
            "ZINTERSTORE %kz 2 %kz %kz AGGREGATE MAX",
            "ZDIFFSTORE %kz 2 %kz %kz",
            "ZUNION 2 %kz %kz WITHSCORES",
            "ZINTER 2 %kz %kz",
            "ZDIFF 2 %kz %kz",
            "ZINTERCARD 2 %kz %kz",
            "ZRANGESTORE %kz %kz 0 3",
            "ZUNIONSTORE %kz 2147483647 %kz",
            "ZUNION 0 %kz",
            "ZMPOP 1 %kz MIN COUNT 2",
            "ZSCAN %kz 0 COUNT 1000",
            "ZRANDMEMBER %kz 0",
        ],
    ),
    (
        "streams",
        &[
            "XADD %kx %id a %v",
            "XADD %kx MAXLEN 20 %id a %v b %i",
            "XADD %kx NOMKSTREAM %id a 1",
            "XADD %kx %oldid a 1",
            "XLEN %kx",
            "XRANGE %kx - +",
            "XRANGE %kx %oldid + COUNT 2",
            "XREVRANGE %kx + - COUNT 3",
            "XDEL %kx %oldid",
            "XTRIM %kx MAXLEN 10",
            "XREAD COUNT 2 STREAMS %kx 0",
            "XREAD STREAMS %kx %kx 0 %oldid",
            "XREAD COUNT 1 STREAMS %kx",
            "XGROUP CREATE %kx g1 0",
            "XGROUP CREATE %kx g2 $ MKSTREAM",
            "XGROUP DESTROY %kx g2",
            "XGROUP NOSUCH %kx g",
            "XREADGROUP GROUP g1 c1 COUNT 2 STREAMS %kx >",
            "XREADGROUP GROUP g1 c2 STREAMS %kx 0",
            "XACK %kx g1 %oldid",
            "XPENDING %kx g1",
            "XSETID %kx 900000-0",
            "XGROUP CREATECONSUMER %kx g1 c3",
            "XGROUP DELCONSUMER %kx g1 c3",
            "XGROUP SETID %kx g1 %oldid",
            "XREADGROUP GROUP g1 c2 NOACK COUNT 1 STREAMS %kx >",
            "XREADGROUP GROUP nosuch c STREAMS %kx >",
            "XCLAIM %kx g1 c3 0 %oldid %oldid JUSTID",
            "XCLAIM %kx g1 c1 0 %oldid FORCE",
            "XAUTOCLAIM %kx g1 c2 0 0 COUNT 3",
            "XAUTOCLAIM %kx g1 c2 0 0 COUNT 0",
            "XACK %kx g1 %oldid %oldid",
            "XINFO STREAM %kx",
            "XINFO GROUPS %kx",
            "XPENDING %kx g1 - + 10",
            "XADD %kx MINID %oldid %id a %v",
            "XADD %kx MAXLEN = 5 LIMIT 3 %id a 1",
            "XTRIM %kx MINID %oldid",
        ],
    ),
    (
        "bits, HLL, geo",
        &[
            "SETBIT %kb %off %bit",
            "GETBIT %kb %off",
            "BITCOUNT %kb",
            "BITCOUNT %kb 0 3 BIT",
            "BITPOS %kb 1",
            "BITOP OR %kb %kb %kb",
            "BITOP NOT %kb %kb",
            "BITFIELD %kb SET u8 #1 77 INCRBY i5 10 3",
            "BITFIELD %kb OVERFLOW FAIL INCRBY u2 0 3",
            "BITFIELD_RO %kb GET u8 0",
            "PFADD %kp %v %v",
            "PFCOUNT %kp",
            "PFCOUNT %kp %kp",
            "PFMERGE %kp %kp %kp",
            "GEOADD %kg %lon %lat %m",
            "GEOPOS %kg %m",
            "GEODIST %kg m1 m2 km",
            "GEOHASH %kg %m",
            "GEOSEARCH %kg FROMMEMBER m1 BYRADIUS 5000 km ASC",
            "GEOSEARCH %kg FROMLONLAT 10 10 BYBOX 9000 9000 km ASC WITHCOORD WITHDIST",
            "GEOSEARCHSTORE %kg %kg FROMLONLAT 10 10 BYRADIUS 9000 km ASC",
            "GEORADIUS_RO %kg 0 0 4000 km ASC",
            "GEORADIUSBYMEMBER_RO %kg m1 4000 km ASC WITHDIST",
            "GEOADD %kg NX CH %lon %lat %m",
            "GEOADD %kg 500 500 m1",
            "GEODIST %kg m1 m3 parsec",
            "BITPOS %kb 0 1 -1 BIT",
            "BITCOUNT %kb 5",
            "BITOP AND %kb %kb %kb %kb",
            "BITOP XOR %kb %kb %ks",
            "BITFIELD %kb GET u63 0 GET u64 0",
            "BITFIELD %kb OVERFLOW SAT INCRBY i8 4 100",
            "PFCOUNT %ks",
            "PFMERGE %kp",
        ],
    ),
    (
        "sort",
        &[
            "SORT %kl ALPHA",
            "SORT %kl",
            "SORT %ku ALPHA LIMIT 0 3",
            "SORT %kz ALPHA DESC",
            "SORT %kl ALPHA STORE %kl",
            "SORT_RO %ku ALPHA",
        ],
    ),
    (
        "errors and the rest",
        &[
            "NOSUCHCOMMAND %ks %v",
            "GET",
            "SET %ks",
            "PING %v",
            "ECHO %v",
            "PING",
            "HGET %kh",
            "XADD %kx",
            "OBJECT",
            "MEMORY",
            "ECHO",
        ],
    ),
];
