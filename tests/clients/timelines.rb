# TIMELINE.* from redis-rb, which has no methods for them: call.
require "redis"

def check(what, message = "check")
  raise "#{message} failed" unless what
end

[0, 2].each do |database|
  client = Redis.new(host: "127.0.0.1", port: ARGV[0].to_i, db: database)
  feeds = (0...200).map { |n| "feed:#{n}" }
  check client.call(["TIMELINE.ADD", "feed:0", "MAXLEN", 3, 1, "a", 2, "b", 3, "c", 4, "d"]) == 4
  check client.zrevrange("feed:0", 0, -1) == %w[d c b]
  check client.call(["TIMELINE.RANGE", "feed:0", "COUNT", 2]) == ["3:c", %w[d c]]
  told = client.call(["TIMELINE.FANOUT", 200, *feeds, "MAXLEN", 2, 9, "post"])
  check told == ["added", 200, "unchanged", 0, "skipped", 0, "failed", []], told.inspect
  check client.call(["TIMELINE.MERGE", 2, "feed:0", "feed:1", "WITHSCORES"]) == [nil, %w[post 9 d 4]]
  check client.call(["TIMELINE.TRIM", "feed:0", "MAXLEN", 0]) == 2
end
puts "ok"
