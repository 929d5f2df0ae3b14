# redis-rb 4, Debian's ruby-redis.
#
#     redis_rb.rb PORT DATABASE
require "redis"

PORT, DB = ARGV.map(&:to_i)

def connect = Redis.new(host: "127.0.0.1", port: PORT, db: DB)

def check(what, message = "check")
  raise "#{message} failed" unless what
end

client, other = connect, connect
puts "version #{Redis::VERSION}"
client.flushdb
check client.set("rb:a", 1) == "OK" && client.incrby("rb:a", 41) == 42
client.hset("rb:h", "f", 1)
check client.hgetall("rb:h") == { "f" => "1" }
begin
  client.rpush("rb:a", "x")
  raise "no WRONGTYPE"
rescue Redis::CommandError => e
  check e.message.start_with?("WRONGTYPE")
end
puts "protocol #{client.call(:client, :info)[/resp=(\d)/, 1] || '?'}"
puts "did commands"

keys = (0...50).map { |n| "rb:m:#{n}" }
client.mset(*keys.flat_map { |key| [key, key] })
check client.mget(*keys) == keys
check client.del(*keys) == 50
puts "did multi-key"

replies = client.pipelined { |pipe| 1000.times { |n| pipe.incr("rb:p:#{n % 100}") } }
check replies == (0...1000).map { |n| n / 100 + 1 }
puts "did pipeline"

a, b = DB.zero? ? %w[rb:{t}:a rb:{t}:b] : %w[rb:t:a rb:other:b]
check client.multi { |tx| tx.set(a, 1); tx.incr(a); tx.rpush(b, "x") } == ["OK", 2, 1]
outcome = client.watch(a) do
  other.set(a, 7)
  client.multi { |tx| tx.set(a, 8) }
end
check outcome.nil?, "WATCH"
puts "did transaction"

said = []
Thread.new do
  # Published when the subscription holds.
  sleep 0.01 until other.pubsub(:numsub, "rb:channel").last.to_i == 1
  other.publish("rb:channel", "one")
  other.publish("rb:channel", "two")
end
heard = connect
heard.subscribe("rb:channel") do |on|
  on.message do |_, text|
    said << text
    heard.unsubscribe if said.size == 2
  end
end
check said == %w[one two], "messages #{said}"
puts "did pub/sub"

Thread.new { sleep 0.1; other.rpush("rb:list", "job") }
check client.blpop("rb:list", timeout: 5) == %w[rb:list job]
check client.blpop("rb:list", timeout: 1).nil?
puts "did blocking pop"

script = "return redis.call('INCRBY', KEYS[1], ARGV[1])"
check client.eval(script, keys: ["rb:s"], argv: [2]) == 2
check client.evalsha(client.script(:load, script), keys: ["rb:s"], argv: [3]) == 5
puts "did script"

check client.scan_each(match: "rb:p:*", count: 10).to_a.uniq.size == 100
puts "did scan"

check client.call("COUNTER.INCR", "rb", "a", 5) == 5
check client.call("COUNTER.MINCR", "rb", "a", 1, "b", 2) == [6, 2]
batches = client.call("COUNTER.TAKE", "rb").map do |batch|
  # RESP3: a map, its entries a map.
  batch.is_a?(Hash) ? [batch["id"], batch["entries"].to_a] : [batch[0], batch[2].each_slice(2).to_a]
end
check batches.flat_map(&:last).sort == [["a", 6], ["b", 2]]
check client.call("COUNTER.ACK", "rb", *batches.map(&:first)) == batches.size
check client.call("COUNTER.GET", "rb", "a").zero?
puts "did counters"

big = "x" * 8_000_000
client.set("rb:big", big)
check client.get("rb:big") == big
puts "did 8 MB value"

mine = client.call(:client, :id)
check other.call(:client, :kill, :id, mine) == 1
deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + 10
loop do
  begin
    break if client.call(:client, :id) != mine
  rescue Redis::BaseConnectionError
    nil
  end
  raise "still the killed connection" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline
end
check client.get("rb:a") == "42"
puts "did reconnect"

client.flushdb
check client.dbsize.zero?
puts "ok"
