/* libhiredis, the C client: synchronous, RESP2 unless the program says HELLO 3.
 *
 *     hiredis PORT DATABASE
 */
#include <hiredis/hiredis.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(what)                                                            \
  do {                                                                         \
    if (!(what)) {                                                             \
      fprintf(stderr, "line %d: %s\n", __LINE__, #what);                       \
      exit(1);                                                                 \
    }                                                                          \
  } while (0)

static int port, db;

static redisContext *connected(void) {
  redisContext *c = redisConnect("127.0.0.1", port);
  CHECK(c && !c->err);
  redisReply *r = redisCommand(c, "SELECT %d", db);
  CHECK(r && r->type == REDIS_REPLY_STATUS);
  freeReplyObject(r);
  return c;
}

static long long number(redisReply *r) {
  CHECK(r && r->type == REDIS_REPLY_INTEGER);
  long long value = r->integer;
  freeReplyObject(r);
  return value;
}

static int is(redisReply *r, int type, const char *text) {
  CHECK(r);
  int same = r->type == type && (!text || !strcmp(r->str, text));
  if (!same)
    fprintf(stderr, "type %d: %s\n", r->type, r->str ? r->str : "");
  freeReplyObject(r);
  return same;
}

static redisReply *next(redisContext *c) {
  void *r = NULL;
  CHECK(redisGetReply(c, &r) == REDIS_OK);
  return r;
}

int main(int argc, char **argv) {
  CHECK(argc == 3);
  port = atoi(argv[1]), db = atoi(argv[2]);
  printf("version %d.%d.%d\n", HIREDIS_MAJOR, HIREDIS_MINOR, HIREDIS_PATCH);
  printf("protocol 2\n");
  redisContext *c = connected(), *other = connected();
  CHECK(is(redisCommand(c, "FLUSHDB"), REDIS_REPLY_STATUS, "OK"));
  CHECK(is(redisCommand(c, "SET hi:a %s", "1"), REDIS_REPLY_STATUS, "OK"));
  CHECK(number(redisCommand(c, "INCRBY hi:a 41")) == 42);
  CHECK(is(redisCommand(c, "GET hi:none"), REDIS_REPLY_NIL, NULL));
  redisReply *wrong = redisCommand(c, "RPUSH hi:a x");
  CHECK(wrong->type == REDIS_REPLY_ERROR && !strncmp(wrong->str, "WRONGTYPE", 9));
  freeReplyObject(wrong);
  printf("did commands\n");

  CHECK(is(redisCommand(c, "MSET hi:m:1 a hi:m:2 b hi:m:3 c"), REDIS_REPLY_STATUS, "OK"));
  redisReply *many = redisCommand(c, "MGET hi:m:3 hi:none hi:m:1");
  CHECK(many->type == REDIS_REPLY_ARRAY && many->elements == 3 && !strcmp(many->element[0]->str, "c") &&
        many->element[1]->type == REDIS_REPLY_NIL && !strcmp(many->element[2]->str, "a"));
  freeReplyObject(many);
  CHECK(number(redisCommand(c, "DEL hi:m:1 hi:m:2 hi:m:3 hi:none")) == 3);
  printf("did multi-key\n");

  for (int n = 0; n < 1000; n++)
    CHECK(redisAppendCommand(c, "INCR hi:p:%d", n % 100) == REDIS_OK);
  for (int n = 0; n < 1000; n++)
    CHECK(number(next(c)) == n / 100 + 1);
  printf("did pipeline\n");

  const char *a = db ? "hi:t:a" : "hi:{t}:a", *b = db ? "hi:other:b" : "hi:{t}:b";
  redisAppendCommand(c, "MULTI");
  redisAppendCommand(c, "SET %s 1", a);
  redisAppendCommand(c, "RPUSH %s x", b);
  redisAppendCommand(c, "EXEC");
  CHECK(is(next(c), REDIS_REPLY_STATUS, "OK"));
  CHECK(is(next(c), REDIS_REPLY_STATUS, "QUEUED") && is(next(c), REDIS_REPLY_STATUS, "QUEUED"));
  redisReply *done = next(c);
  CHECK(done->type == REDIS_REPLY_ARRAY && done->elements == 2 && done->element[1]->integer == 1);
  freeReplyObject(done);
  CHECK(is(redisCommand(c, "WATCH %s", a), REDIS_REPLY_STATUS, "OK"));
  CHECK(is(redisCommand(other, "SET %s 7", a), REDIS_REPLY_STATUS, "OK"));
  CHECK(is(redisCommand(c, "MULTI"), REDIS_REPLY_STATUS, "OK"));
  CHECK(is(redisCommand(c, "SET %s 8", a), REDIS_REPLY_STATUS, "QUEUED"));
  CHECK(is(redisCommand(c, "EXEC"), REDIS_REPLY_NIL, NULL));
  printf("did transaction\n");

  redisContext *heard = connected();
  redisReply *subscribed = redisCommand(heard, "SUBSCRIBE hi:channel");
  CHECK(subscribed && subscribed->type == REDIS_REPLY_ARRAY && subscribed->element[2]->integer == 1);
  freeReplyObject(subscribed);
  CHECK(number(redisCommand(c, "PUBLISH hi:channel one")) == 1);
  redisReply *message = next(heard);
  CHECK(message->elements == 3 && !strcmp(message->element[2]->str, "one"));
  freeReplyObject(message);
  redisFree(heard);
  printf("did pub/sub\n");

  redisAppendCommand(c, "BLPOP hi:list 5");
  int flushed = 0;
  while (!flushed)
    CHECK(redisBufferWrite(c, &flushed) == REDIS_OK);
  CHECK(number(redisCommand(other, "RPUSH hi:list job")) == 1);
  redisReply *popped = next(c);
  CHECK(popped->type == REDIS_REPLY_ARRAY && !strcmp(popped->element[1]->str, "job"));
  freeReplyObject(popped);
  CHECK(is(redisCommand(c, "BLPOP hi:list 1"), REDIS_REPLY_NIL, NULL));
  printf("did blocking pop\n");

  const char *script = "return redis.call('INCRBY', KEYS[1], ARGV[1])";
  CHECK(number(redisCommand(c, "EVAL %s 1 hi:s 2", script)) == 2);
  redisReply *sha = redisCommand(c, "SCRIPT LOAD %s", script);
  CHECK(sha->type == REDIS_REPLY_STRING && sha->len == 40);
  CHECK(number(redisCommand(c, "EVALSHA %s 1 hi:s 3", sha->str)) == 5);
  freeReplyObject(sha);
  printf("did script\n");

  char cursor[32] = "0";
  int found = 0;
  do {
    redisReply *part = redisCommand(c, "SCAN %s MATCH hi:p:* COUNT 10", cursor);
    CHECK(part && part->type == REDIS_REPLY_ARRAY);
    snprintf(cursor, sizeof cursor, "%s", part->element[0]->str);
    found += (int)part->element[1]->elements;
    freeReplyObject(part);
  } while (strcmp(cursor, "0"));
  CHECK(found >= 100);
  printf("did scan\n");

  size_t size = 8000000;
  char *big = malloc(size);
  CHECK(big);
  memset(big, 'x', size);
  CHECK(is(redisCommand(c, "SET hi:big %b", big, size), REDIS_REPLY_STATUS, "OK"));
  redisReply *read = redisCommand(c, "GET hi:big");
  CHECK(read && read->len == size && !memcmp(read->str, big, size));
  freeReplyObject(read);
  free(big);
  printf("did 8 MB value\n");

  long long mine = number(redisCommand(c, "CLIENT ID"));
  CHECK(number(redisCommand(other, "CLIENT KILL ID %lld", mine)) == 1);
  redisReply *r;
  while ((r = redisCommand(c, "PING")))
    freeReplyObject(r);
  CHECK(c->err && redisReconnect(c) == REDIS_OK);
  CHECK(is(redisCommand(c, "SELECT %d", db), REDIS_REPLY_STATUS, "OK"));
  CHECK(is(redisCommand(c, "GET hi:a"), REDIS_REPLY_STRING, "42"));
  printf("did reconnect\n");

  CHECK(is(redisCommand(c, "FLUSHDB"), REDIS_REPLY_STATUS, "OK"));
  CHECK(number(redisCommand(c, "DBSIZE")) == 0);
  redisFree(c);
  redisFree(other);
  printf("ok\n");
  return 0;
}
