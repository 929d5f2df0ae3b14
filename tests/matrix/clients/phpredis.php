<?php
// phpredis, the PHP extension (Debian's php-redis).
//
//     phpredis.php PORT DATABASE
[, $port, $db] = array_map('intval', $argv);

function check(bool $what, string $message): void
{
    if (!$what) {
        fwrite(STDERR, "failed: $message\n");
        exit(1);
    }
}

function connected(): Redis
{
    global $port, $db;
    $client = new Redis();
    check($client->connect('127.0.0.1', $port, 5) && $client->select($db), 'connect');
    return $client;
}

echo 'version ', phpversion('redis'), "\n";
$client = connected();
$other = connected();
$client->flushDB();
check($client->set('php:a', 1) && $client->incrBy('php:a', 41) === 42, 'incr');
$client->hSet('php:h', 'f', '1');
check($client->hGetAll('php:h') === ['f' => '1'], 'hash');
check($client->rPush('php:a', 'x') === false && str_starts_with($client->getLastError(), 'WRONGTYPE'), 'WRONGTYPE');
$client->clearLastError();
preg_match('/resp=(\d)/', $client->rawCommand('CLIENT', 'INFO'), $resp);
echo 'protocol ', $resp[1] ?? '?', "\ndid commands\n";

$pairs = [];
for ($n = 0; $n < 50; $n++) {
    $pairs["php:m:$n"] = "$n";
}
check($client->mSet($pairs) && $client->mGet(array_keys($pairs)) === array_values($pairs), 'MGET');
check($client->del(array_keys($pairs)) === 50, 'DEL');
echo "did multi-key\n";

$pipe = $client->pipeline();
for ($n = 0; $n < 1000; $n++) {
    $pipe->incr('php:p:' . $n % 100);
}
check($pipe->exec() === array_map(fn ($n) => intdiv($n, 100) + 1, range(0, 999)), 'pipeline');
echo "did pipeline\n";

[$a, $b] = $db === 0 ? ['php:{t}:a', 'php:{t}:b'] : ['php:t:a', 'php:other:b'];
check($client->multi()->set($a, 1)->incr($a)->rPush($b, 'x')->exec() === [true, 2, 1], 'MULTI');
$client->watch($a);
$other->set($a, 7);
check($client->multi()->set($a, 8)->exec() === false, 'WATCH');
echo "did transaction\n";

$script = 'return redis.call("INCRBY", KEYS[1], ARGV[1])';
check($client->eval($script, ['php:s', 2], 1) === 2, 'EVAL');
check($client->evalSha($client->script('load', $script), ['php:s', 3], 1) === 5, 'EVALSHA');
echo "did script\n";

$found = [];
$client->setOption(Redis::OPT_SCAN, Redis::SCAN_RETRY);
$cursor = null;
while ($keys = $client->scan($cursor, 'php:p:*', 10)) {
    array_push($found, ...$keys);
}
check(count(array_unique($found)) === 100, 'SCAN found ' . count($found));
echo "did scan\n";

$big = str_repeat('x', 8000000);
check($client->set('php:big', $big) && $client->get('php:big') === $big, 'big value');
echo "did 8 MB value\n";

// One process, no threads: a child does what must happen meanwhile.
function later(string $code): void
{
    global $port, $db;
    $head = "\$r = new Redis(); \$r->connect('127.0.0.1', $port); \$r->select($db); ";
    exec(escapeshellarg(PHP_BINARY) . ' -r ' . escapeshellarg($head . $code) . ' >/dev/null 2>&1 &');
}

later("usleep(100000); \$r->rPush('php:list', 'job');");
check($client->blPop(['php:list'], 10) === ['php:list', 'job'], 'BLPOP');
check($client->blPop(['php:list'], 1) === [], 'BLPOP that waits in vain');
echo "did blocking pop\n";

later("while (\$r->pubsub('numsub', ['php:channel'])['php:channel'] != 1) usleep(10000); \$r->publish('php:channel', 'one'); \$r->publish('php:channel', 'two');");
$said = [];
$heard = connected();
$heard->setOption(Redis::OPT_READ_TIMEOUT, 10);
try {
    $heard->subscribe(['php:channel'], function (Redis $heard, string $channel, string $text) use (&$said) {
        $said[] = $text;
        if (count($said) === 2) {
            $heard->close(); // the way out of subscribe()
        }
    });
} catch (RedisException) {
}
check($said === ['one', 'two'], 'messages: ' . implode(' ', $said));
echo "did pub/sub\n";

$mine = $client->rawCommand('CLIENT', 'ID');
check($other->rawCommand('CLIENT', 'KILL', 'ID', (string) $mine) === 1, 'CLIENT KILL');
$end = microtime(true) + 10;
do {
    check(microtime(true) < $end, 'a new connection');
    try {
        $now = $client->rawCommand('CLIENT', 'ID');
    } catch (RedisException) {
        $now = $mine;
    }
} while ($now === $mine || $now === false);
check($client->get('php:a') === '42', 'the database after a reconnect');
echo "did reconnect\n";

$client->flushDB();
check($client->dbSize() === 0, 'empty');
echo "ok\n";
