<?php
// Predis, the client written in PHP (Debian's php-predis).
//
//     predis.php PORT DATABASE
require_once 'Predis/Autoloader.php';
Predis\Autoloader::register();
[, $port, $db] = array_map('intval', $argv);

function check(bool $what, string $message): void
{
    if (!$what) {
        fwrite(STDERR, "failed: $message\n");
        exit(1);
    }
}

function connected(): Predis\Client
{
    global $port, $db;
    return new Predis\Client(['host' => '127.0.0.1', 'port' => $port, 'database' => $db, 'read_write_timeout' => 10]);
}

echo 'version ', Predis\Client::VERSION, "\n";
$client = connected();
$other = connected();
$client->flushdb();
check((string) $client->set('pre:a', 1) === 'OK' && $client->incrby('pre:a', 41) === 42, 'incr');
$client->hset('pre:h', 'f', '1');
check($client->hgetall('pre:h') === ['f' => '1'], 'hash');
try {
    $client->rpush('pre:a', ['x']);
    check(false, 'no WRONGTYPE');
} catch (Predis\Response\ServerException $error) {
    check($error->getErrorType() === 'WRONGTYPE', $error->getMessage());
}
preg_match('/resp=(\d)/', $client->executeRaw(['CLIENT', 'INFO']), $resp);
echo 'protocol ', $resp[1] ?? '?', "\ndid commands\n";

$pairs = [];
for ($n = 0; $n < 50; $n++) {
    $pairs["pre:m:$n"] = "$n";
}
$client->mset($pairs);
check($client->mget(array_keys($pairs)) === array_values($pairs) && $client->del(array_keys($pairs)) === 50, 'MGET');
echo "did multi-key\n";

$replies = $client->pipeline(function ($pipe) {
    for ($n = 0; $n < 1000; $n++) {
        $pipe->incr('pre:p:' . $n % 100);
    }
});
check($replies === array_map(fn ($n) => intdiv($n, 100) + 1, range(0, 999)), 'pipeline');
echo "did pipeline\n";

[$a, $b] = $db === 0 ? ['pre:{t}:a', 'pre:{t}:b'] : ['pre:t:a', 'pre:other:b'];
$replies = $client->transaction(function ($tx) use ($a, $b) {
    $tx->set($a, 1);
    $tx->incr($a);
    $tx->rpush($b, ['x']);
});
check($replies[1] === 2 && $replies[2] === 1, 'MULTI');
try {
    $client->transaction(['watch' => $a, 'cas' => true], function ($tx) use ($a, $other) {
        $tx->get($a);
        $other->set($a, 7);
        $tx->multi();
        $tx->set($a, 8);
    });
    check(false, 'a watched key changed and EXEC ran');
} catch (Predis\Transaction\AbortedMultiExecException) {
}
echo "did transaction\n";

$script = 'return redis.call("INCRBY", KEYS[1], ARGV[1])';
check($client->eval($script, 1, 'pre:s', 2) === 2, 'EVAL');
check($client->evalsha($client->script('load', $script), 1, 'pre:s', 3) === 5, 'EVALSHA');
echo "did script\n";

$found = iterator_to_array(new Predis\Collection\Iterator\Keyspace($client, 'pre:p:*', 10), false);
check(count(array_unique($found)) === 100, 'SCAN');
echo "did scan\n";

$big = str_repeat('x', 8000000);
$client->set('pre:big', $big);
check($client->get('pre:big') === $big, 'big value');
echo "did 8 MB value\n";

check($client->blpop(['pre:list'], 1) === null, 'BLPOP that waits in vain');
$client->rpush('pre:list', ['job']);
check($client->blpop(['pre:list'], 5) === ['pre:list', 'job'], 'BLPOP');
echo "did blocking pop\n";

$loop = connected()->pubSubLoop();
$loop->subscribe('pre:channel');
$said = [];
foreach ($loop as $message) {
    if ($message->kind === 'subscribe') {
        check($other->publish('pre:channel', 'one') === 1 && $other->publish('pre:channel', 'two') === 1, 'PUBLISH');
    } elseif ($message->kind === 'message') {
        $said[] = $message->payload;
        if (count($said) === 2) {
            $loop->unsubscribe();
        }
    }
}
check($said === ['one', 'two'], 'messages: ' . implode(' ', $said));
echo "did pub/sub\n";

$mine = $client->executeRaw(['CLIENT', 'ID']);
check($other->executeRaw(['CLIENT', 'KILL', 'ID', (string) $mine]) === 1, 'CLIENT KILL');
// Predis throws when its connection breaks and connects again with the next command.
$end = microtime(true) + 10;
do {
    check(microtime(true) < $end, 'a new connection');
    try {
        $now = $client->executeRaw(['CLIENT', 'ID']);
    } catch (Predis\Connection\ConnectionException) {
        $now = $mine;
    }
} while ($now === $mine);
check($client->get('pre:a') === '42', 'the database after a reconnect');
echo "did reconnect\n";

$client->flushdb();
check($client->dbsize() === 0, 'empty');
echo "ok\n";
