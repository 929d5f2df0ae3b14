# Sidekiq 6 (Debian's ruby-sidekiq): a worker process, retries, schedule, the API.
#
#     sidekiq.rb PORT DATABASE
require "sidekiq"
require "sidekiq/api"
require "sidekiq/cli" if ENV["MATRIX_WORKER"]

address = ENV["MATRIX_ADDRESS"] ||= ARGV.first(2).join(" ")
PORT, DB = address.split.map(&:to_i)
OPTIONS = { url: "redis://127.0.0.1:#{PORT}/#{DB}" }.freeze
Sidekiq.configure_client { |config| config.redis = OPTIONS }
Sidekiq.configure_server do |config|
  config.redis = OPTIONS
  config.options[:poll_interval_average] = 0.2
  config.logger.level = Logger::WARN
end

class Double
  include Sidekiq::Worker
  def perform(n) = Sidekiq.redis { |redis| redis.hset("results", n, n * 2) }
end

class ThirdTime
  include Sidekiq::Worker
  sidekiq_options retry: 5
  sidekiq_retry_in { 0 }
  def perform
    tries = Sidekiq.redis { |redis| redis.incr("tries") }
    raise "on purpose" if tries < 3
    Sidekiq.redis { |redis| redis.hset("results", "third", tries) }
  end
end

def wait_for(what, seconds = 30)
  deadline = Process.clock_gettime(Process::CLOCK_MONOTONIC) + seconds
  until yield
    raise "waited in vain for #{what}" if Process.clock_gettime(Process::CLOCK_MONOTONIC) > deadline
    sleep 0.05
  end
end

def result(field) = Sidekiq.redis { |redis| redis.hget("results", field) }

unless ENV["MATRIX_WORKER"]
  puts "version #{Sidekiq::VERSION}"
  $stdout.sync = true
  Sidekiq.redis(&:flushdb)
  worker = spawn({ "MATRIX_WORKER" => "1", "MATRIX_ADDRESS" => address }, "sidekiq", "-r", File.expand_path(__FILE__), "-c", "2", "-q", "default", "-q", "low", out: :err)
  begin
    50.times { |n| Double.perform_async(n) }
    wait_for("all jobs") { Sidekiq.redis { |redis| redis.hlen("results") } == 50 }
    raise "wrong results" unless (0...50).all? { |n| result(n) == (2 * n).to_s }
    puts "did jobs"
    Sidekiq::Client.push_bulk("class" => Double, "queue" => "low", "args" => (100...150).map { |n| [n] })
    wait_for("the bulk") { Sidekiq.redis { |redis| redis.hlen("results") } == 100 }
    puts "did bulk"
    start = Process.clock_gettime(Process::CLOCK_MONOTONIC)
    Double.perform_in(1, 999)
    wait_for("the scheduled job") { result(999) }
    raise "too early" if Process.clock_gettime(Process::CLOCK_MONOTONIC) - start < 0.9
    puts "did schedule"
    ThirdTime.perform_async
    wait_for("the retried job", 60) { result("third") == "3" }
    puts "did retry"
    wait_for("the heartbeat") { Sidekiq::ProcessSet.new.size == 1 }
    wait_for("statistics", 30) { Sidekiq::Stats.new.processed >= 104 }
    puts "did heartbeat and statistics"
  ensure
    Process.kill("TERM", worker)
    Process.wait(worker)
  end
  Sidekiq.redis(&:flushdb)
  puts "ok"
end
