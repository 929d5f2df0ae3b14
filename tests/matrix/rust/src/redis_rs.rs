//! redis-rs: the asynchronous connection, and its manager that connects again.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt as _;
use redis::AsyncCommands as _;

use crate::{pair, protocol, version};

pub(crate) async fn work(port: u16, db: u8, options: &str) {
    println!("version {}", version("redis"));
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/{db}{options}")).unwrap();
    let mut c = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("FLUSHDB").query_async(&mut c).await.unwrap();
    let () = c.set("rs:a", 1).await.unwrap();
    assert_eq!(c.incr::<_, _, i64>("rs:a", 41).await.unwrap(), 42);
    let wrong: redis::RedisResult<i64> = c.rpush("rs:a", "x").await;
    assert_eq!(wrong.unwrap_err().code(), Some("WRONGTYPE"));
    let info: String = redis::cmd("CLIENT")
        .arg("INFO")
        .query_async(&mut c)
        .await
        .unwrap();
    println!("protocol {}\ndid commands", protocol(&info));

    let pairs: Vec<(String, i64)> = (0..50).map(|n| (format!("rs:m:{n}"), n)).collect();
    let keys: Vec<&str> = pairs.iter().map(|(key, _)| key.as_str()).collect();
    let () = c.mset(&pairs).await.unwrap();
    assert_eq!(
        c.mget::<_, Vec<i64>>(&keys).await.unwrap(),
        (0..50).collect::<Vec<_>>()
    );
    assert_eq!(c.del::<_, i64>(&keys).await.unwrap(), 50);
    println!("did multi-key");

    let mut pipe = redis::pipe();
    for n in 0..1000 {
        pipe.incr(format!("rs:p:{}", n % 100), 1);
    }
    let replies: Vec<i64> = pipe.query_async(&mut c).await.unwrap();
    assert_eq!(replies, (0..1000).map(|n| n / 100 + 1).collect::<Vec<i64>>());
    println!("did pipeline");

    let (a, b) = pair("rs", db);
    let done: (String, i64, i64) = redis::pipe()
        .atomic()
        .set(&a, 1)
        .incr(&a, 1)
        .rpush(&b, "x")
        .query_async(&mut c)
        .await
        .unwrap();
    assert_eq!(done, ("OK".to_owned(), 2, 1));
    let mut other = client.get_multiplexed_async_connection().await.unwrap();
    let () = redis::cmd("WATCH").arg(&a).query_async(&mut c).await.unwrap();
    let () = other.set(&a, 7).await.unwrap();
    let outcome: Option<(String,)> = redis::pipe()
        .atomic()
        .set(&a, 8)
        .query_async(&mut c)
        .await
        .unwrap();
    assert_eq!(outcome, None);
    println!("did transaction");

    let mut heard = client.get_async_pubsub().await.unwrap();
    heard.subscribe("rs:channel").await.unwrap();
    heard.psubscribe("rs:pat*").await.unwrap();
    assert_eq!(c.publish::<_, _, i64>("rs:channel", "one").await.unwrap(), 1);
    assert_eq!(c.publish::<_, _, i64>("rs:pattern", "two").await.unwrap(), 1);
    let said: Vec<String> = heard
        .on_message()
        .take(2)
        .map(|m| m.get_payload().unwrap())
        .collect()
        .await;
    assert_eq!(said, ["one", "two"]);
    drop(heard);
    println!("did pub/sub");

    // The multiplexed connection gives up after half a second by default; who waits on purpose says how long.
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(10)));
    let mut waiting = client
        .get_multiplexed_async_connection_with_config(&patient)
        .await
        .unwrap();
    let push = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        other.rpush::<_, _, i64>("rs:list", "job").await.unwrap()
    };
    let (popped, _) = tokio::join!(waiting.blpop::<_, (String, String)>("rs:list", 5.0), push);
    assert_eq!(popped.unwrap(), ("rs:list".to_owned(), "job".to_owned()));
    assert_eq!(
        waiting
            .blpop::<_, Option<(String, String)>>("rs:list", 1.0)
            .await
            .unwrap(),
        None
    );
    println!("did blocking pop");

    let script = redis::Script::new("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    assert_eq!(
        script
            .key("rs:s")
            .arg(2)
            .invoke_async::<i64>(&mut c)
            .await
            .unwrap(),
        2
    );
    let () = redis::cmd("SCRIPT")
        .arg("FLUSH")
        .query_async(&mut c)
        .await
        .unwrap();
    assert_eq!(
        script
            .key("rs:s")
            .arg(3)
            .invoke_async::<i64>(&mut c)
            .await
            .unwrap(),
        5
    );
    println!("did script");

    let found: BTreeSet<String> = c
        .scan_match("rs:p:*")
        .await
        .unwrap()
        .map(Result::unwrap)
        .collect()
        .await;
    assert_eq!(found.len(), 100);
    println!("did scan");

    let big = "x".repeat(8_000_000);
    let () = waiting.set("rs:big", &big).await.unwrap();
    assert!(waiting.get::<_, String>("rs:big").await.unwrap() == big);
    println!("did 8 MB value");

    let mut managed = client.get_connection_manager().await.unwrap();
    let mine: i64 = redis::cmd("CLIENT")
        .arg("ID")
        .query_async(&mut managed)
        .await
        .unwrap();
    let killed: i64 = redis::cmd("CLIENT")
        .arg("KILL")
        .arg("ID")
        .arg(mine)
        .query_async(&mut c)
        .await
        .unwrap();
    assert_eq!(killed, 1);
    let again = async {
        loop {
            let now: redis::RedisResult<i64> = redis::cmd("CLIENT").arg("ID").query_async(&mut managed).await;
            if now.is_ok_and(|now| now != mine) {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), again)
        .await
        .unwrap();
    assert_eq!(managed.get::<_, i64>("rs:a").await.unwrap(), 42);
    println!("did reconnect");

    let () = redis::cmd("FLUSHDB").query_async(&mut c).await.unwrap();
    assert_eq!(redis::cmd("DBSIZE").query_async::<i64>(&mut c).await.unwrap(), 0);
}
