//! fred: a client that pipelines and connects again by itself.

use std::collections::BTreeSet;
use std::time::Duration;

use fred::prelude::*;
use fred::types::scan::Scanner as _;
use fred::types::scripts::Script;
use futures::TryStreamExt as _;

use crate::{pair, protocol, version};

async fn connected(port: u16, db: u8) -> Client {
    let config = Config::from_url(&format!("redis://127.0.0.1:{port}/{db}")).unwrap();
    let client = Builder::from_config(config)
        .set_policy(ReconnectPolicy::new_constant(0, 20))
        .build()
        .unwrap();
    client.init().await.unwrap();
    client
}

async fn raw<R: FromValue>(client: &Client, words: &[&str]) -> Result<R, Error> {
    let (command, arguments) = words.split_first().unwrap();
    let arguments: Vec<String> = arguments.iter().map(|word| (*word).to_owned()).collect();
    client
        .custom(
            fred::types::CustomCommand::new((*command).to_owned(), None::<u16>, false),
            arguments,
        )
        .await
}

pub(crate) async fn work(port: u16, db: u8) {
    println!("version {}", version("fred"));
    let (c, other) = (connected(port, db).await, connected(port, db).await);
    let () = raw(&c, &["FLUSHDB"]).await.unwrap();
    let () = c.set("fr:a", 1, None, None, false).await.unwrap();
    assert_eq!(c.incr_by::<i64, _>("fr:a", 41).await.unwrap(), 42);
    let wrong: Result<i64, Error> = c.rpush("fr:a", "x").await;
    assert!(wrong.unwrap_err().to_string().contains("WRONGTYPE"));
    let info: String = raw(&c, &["CLIENT", "INFO"]).await.unwrap();
    println!("protocol {}\ndid commands", protocol(&info));

    let keys: Vec<String> = (0..50).map(|n| format!("fr:m:{n}")).collect();
    let pairs: Vec<(String, i64)> = keys.iter().cloned().zip(0..50).collect();
    let () = c.mset(pairs).await.unwrap();
    assert_eq!(
        c.mget::<Vec<i64>, _>(keys.clone()).await.unwrap(),
        (0..50).collect::<Vec<_>>()
    );
    assert_eq!(c.del::<i64, _>(keys).await.unwrap(), 50);
    println!("did multi-key");

    let pipe = c.pipeline();
    for n in 0..1000 {
        let () = pipe.incr(format!("fr:p:{}", n % 100)).await.unwrap();
    }
    assert_eq!(
        pipe.all::<Vec<i64>>().await.unwrap(),
        (0..1000).map(|n| n / 100 + 1).collect::<Vec<i64>>()
    );
    println!("did pipeline");

    let (a, b) = pair("fr", db);
    let block = c.multi();
    let () = block.set(&a, 1, None, None, false).await.unwrap();
    let () = block.incr(&a).await.unwrap();
    let () = block.rpush(&b, "x").await.unwrap();
    let done: (String, i64, i64) = block.exec(true).await.unwrap();
    assert_eq!(done, ("OK".to_owned(), 2, 1));
    let () = raw(&c, &["WATCH", &a]).await.unwrap();
    let () = other.set(&a, 7, None, None, false).await.unwrap();
    let block = c.multi();
    let () = block.set(&a, 8, None, None, false).await.unwrap();
    assert!(block.exec::<Value>(true).await.unwrap().is_null());
    println!("did transaction");

    let heard = connected(port, db).await;
    let mut messages = heard.message_rx();
    let () = heard.subscribe("fr:channel").await.unwrap();
    let () = heard.psubscribe("fr:pat*").await.unwrap();
    // fred answers before the server has.
    let held = async { while raw::<i64>(&c, &["PUBSUB", "NUMPAT"]).await.unwrap() == 0 {} };
    tokio::time::timeout(Duration::from_secs(10), held).await.unwrap();
    assert_eq!(c.publish::<i64, _, _>("fr:channel", "one").await.unwrap(), 1);
    assert_eq!(c.publish::<i64, _, _>("fr:pattern", "two").await.unwrap(), 1);
    for text in ["one", "two"] {
        let message = tokio::time::timeout(Duration::from_secs(10), messages.recv())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(message.value.as_string().as_deref(), Some(text));
    }
    heard.quit().await.unwrap();
    println!("did pub/sub");

    let push = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        other.rpush::<i64, _, _>("fr:list", "job").await.unwrap()
    };
    let (popped, _) = tokio::join!(c.blpop::<(String, String), _>("fr:list", 5.0), push);
    assert_eq!(popped.unwrap(), ("fr:list".to_owned(), "job".to_owned()));
    // fred gives a wait in vain as an error of its own.
    let vain = c.blpop::<Value, _>("fr:list", 1.0).await.unwrap_err();
    assert_eq!(*vain.kind(), ErrorKind::Timeout);
    println!("did blocking pop");

    let script = Script::from_lua("return redis.call('INCRBY', KEYS[1], ARGV[1])");
    let () = script.load(&c).await.unwrap();
    assert_eq!(script.evalsha::<i64, _, _, _>(&c, "fr:s", 2).await.unwrap(), 2);
    assert_eq!(script.evalsha::<i64, _, _, _>(&c, "fr:s", 3).await.unwrap(), 5);
    println!("did script");

    let mut found = BTreeSet::new();
    let mut pages = c.scan("fr:p:*", Some(10), None);
    while let Some(mut page) = pages.try_next().await.unwrap() {
        for key in page.take_results().unwrap_or_default() {
            found.insert(key.into_string().unwrap());
        }
        page.next();
    }
    assert_eq!(found.len(), 100);
    println!("did scan");

    let big = "x".repeat(8_000_000);
    let () = c.set("fr:big", big.as_str(), None, None, false).await.unwrap();
    assert!(c.get::<String, _>("fr:big").await.unwrap() == big);
    println!("did 8 MB value");

    let mine: i64 = raw(&c, &["CLIENT", "ID"]).await.unwrap();
    assert_eq!(
        raw::<i64>(&other, &["CLIENT", "KILL", "ID", &mine.to_string()])
            .await
            .unwrap(),
        1
    );
    let again = async { while raw::<i64>(&c, &["CLIENT", "ID"]).await.unwrap_or(mine) == mine {} };
    tokio::time::timeout(Duration::from_secs(10), again)
        .await
        .unwrap();
    assert_eq!(c.get::<i64, _>("fr:a").await.unwrap(), 42);
    println!("did reconnect");

    let () = raw(&c, &["FLUSHDB"]).await.unwrap();
    assert_eq!(raw::<i64>(&c, &["DBSIZE"]).await.unwrap(), 0);
    let _ = tokio::join!(c.quit(), other.quit());
}
