# Redis.pm, the Perl client (Debian's libredis-perl).
#
#     redis.pl PORT DATABASE
use strict;
use warnings;
use Redis;

my ($port, $db) = @ARGV;

sub connected {
    return Redis->new(
        server     => "127.0.0.1:$port",
        reconnect  => 10,
        every      => 20_000,
        on_connect => sub { $_[0]->select($db) },
    );
}

sub check {
    my ($what, $message) = @_;
    die "failed: $message\n" unless $what;
}

$| = 1;
my ($client, $other) = (connected(), connected());
print "version $Redis::VERSION\n";
$client->flushdb;
check($client->set('pl:a', 1) eq 'OK' && $client->incrby('pl:a', 41) == 42, 'incr');
$client->hset('pl:h', 'f', 1);
check(join(' ', $client->hgetall('pl:h')) eq 'f 1', 'hash');
check(!eval { $client->rpush('pl:a', 'x'); 1 } && $@ =~ /WRONGTYPE/, 'WRONGTYPE');
my ($resp) = $client->client('INFO') =~ /resp=(\d)/;
print 'protocol ', $resp // '?', "\ndid commands\n";

my @keys = map { "pl:m:$_" } 0 .. 49;
$client->mset(map { $_ => $_ } @keys);
check(join(' ', $client->mget(@keys)) eq join(' ', @keys) && $client->del(@keys) == 50, 'MGET');
print "did multi-key\n";

my @replies;
for my $n (0 .. 999) {
    $client->incr('pl:p:' . $n % 100, sub { push @replies, $_[0] });
}
$client->wait_all_responses;
check(join(' ', @replies) eq join(' ', map { int($_ / 100) + 1 } 0 .. 999), 'pipeline');
print "did pipeline\n";

my ($a_key, $b_key) = $db == 0 ? ('pl:{t}:a', 'pl:{t}:b') : ('pl:t:a', 'pl:other:b');
$client->multi;
$client->set($a_key, 1);
$client->incr($a_key);
$client->rpush($b_key, 'x');
check(join(' ', $client->exec) eq 'OK 2 1', 'MULTI');
$client->watch($a_key);
$other->set($a_key, 7);
$client->multi;
$client->set($a_key, 8);
my @outcome = $client->exec;
check(!grep({ defined } @outcome) && $client->get($a_key) == 7, 'WATCH');
print "did transaction\n";

my @said;
my $heard = connected();
$heard->subscribe('pl:channel', sub { push @said, $_[0] });
check($client->publish('pl:channel', 'one') == 1 && $client->publish('pl:channel', 'two') == 1, 'PUBLISH');
$heard->wait_for_messages(0.1) while @said < 2;
check("@said" eq 'one two', "messages: @said");
print "did pub/sub\n";

check(!defined scalar($client->blpop('pl:list', 1)), 'BLPOP that waits in vain');
$other->rpush('pl:list', 'job');
check(join(' ', $client->blpop('pl:list', 5)) eq 'pl:list job', 'BLPOP');
print "did blocking pop\n";

my $script = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
check($client->eval($script, 1, 'pl:s', 2) == 2, 'EVAL');
check($client->evalsha($client->script_load($script), 1, 'pl:s', 3) == 5, 'EVALSHA');
print "did script\n";

my ($cursor, %found) = (0);
do {
    my $part;
    ($cursor, $part) = $client->scan($cursor, 'MATCH', 'pl:p:*', 'COUNT', 10);
    $found{$_} = 1 for @$part;
} while $cursor;
check(keys %found == 100, 'SCAN');
print "did scan\n";

my $big = 'x' x 8_000_000;
check($client->set('pl:big', $big) && $client->get('pl:big') eq $big, 'big value');
print "did 8 MB value\n";

my $mine = $client->client('ID');
check($other->client('KILL', 'ID', $mine) == 1, 'CLIENT KILL');
# Redis.pm connects again when it finds its connection closed, not when that is reset under a request.
my ($end, $now) = (time + 10, $mine);
while ($now == $mine) {
    check(time < $end, 'a new connection');
    $now = eval { $client->client('ID') } // $mine;
}
check($client->get('pl:a') == 42, 'the database after a reconnect');
print "did reconnect\n";

$client->flushdb;
check($client->dbsize == 0, 'empty');
print "ok\n";
