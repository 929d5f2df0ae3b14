//! A thousand clients that wait, a thousand that listen, a publisher that does not stop, and ordinary clients beside
//! them: everybody is served, and when they have left nothing of theirs is there any more.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::Knowing;
use crate::harness::wire::frame;
use crate::harness::{Client, Node, PATIENCE, Proxy, Reply, Setup, key_in, seed, sys, wait_until};

/// A metric, summed over its labels.
fn waiting(proxy: &Proxy) -> Vec<Client> {
    let commands: [fn(&str) -> Vec<String>; 4] = [
        |key| ["BLPOP", key, "0"].map(str::to_owned).to_vec(),
        |key| ["BZPOPMIN", key, "0"].map(str::to_owned).to_vec(),
        |key| {
            ["XREAD", "BLOCK", "0", "STREAMS", key, "$"]
                .map(str::to_owned)
                .to_vec()
        },
        |key| {
            ["BLMOVE", key, key, "LEFT", "RIGHT", "0"]
                .map(str::to_owned)
                .to_vec()
        },
    ];
    (0..1000_u16)
        .map(|number| {
            let mut client = if number % 2 == 0 {
                proxy.client()
            } else {
                proxy.client3()
            };
            let key = key_in(number % 8, 8, &format!("standing:{number}:"));
            client.command(&commands[usize::from(number) / 8 % 4](&key));
            client
        })
        .collect()
}

fn listening(proxy: &Proxy) -> Vec<Client> {
    let mut clients: Vec<Client> = (0..1000)
        .map(|number| {
            if number % 2 == 0 {
                proxy.client()
            } else {
                proxy.client3()
            }
        })
        .collect();
    clients
        .iter_mut()
        .for_each(|client| client.command(&["SUBSCRIBE", "news"]));
    for client in &mut clients {
        assert_eq!(client.reply().items()[2], Reply::Int(1));
    }
    clients
}

/// Publishes without a pause until told to stop; the number of messages.
fn publish(proxy: &Proxy, done: &AtomicBool) -> usize {
    let mut client = proxy.client();
    let mut count = 0;
    while !done.load(Ordering::Relaxed) {
        client.send(&frame(&["PUBLISH", "news", &count.to_string()]));
        assert_eq!(client.reply(), Reply::Int(1000));
        count += 1;
    }
    count
}

#[test]
fn a_thousand_that_wait_and_a_thousand_that_listen_leave_nothing_behind() {
    assert!(sys::raise_open_files() > 4096, "this test needs open files");
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .nodes("dedicated_max = 600")
        .open_files(8192)
        .start();
    let waiting = waiting(&proxy);
    let mut listening = listening(&proxy);
    let blocked = || nodes.iter().map(|node| node.info("blocked_clients")).sum::<u64>();
    wait_until("a thousand wait on the nodes", PATIENCE, || blocked() == 1000);
    wait_until("they are counted", PATIENCE, || {
        proxy.metric("preshard_node_dedicated_used") == 1000
    });
    wait_until("they are counted too", PATIENCE, || {
        proxy.metric("preshard_pubsub_clients") == 1000
    });

    let (done, seed) = (AtomicBool::new(false), seed());
    let messages = std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish(&proxy, &done));
        let ordinary: Vec<_> = (0..4)
            .map(|number| {
                let proxy = &proxy;
                scope.spawn(move || {
                    let mut client = Knowing::new(proxy, number, seed);
                    (0..25).for_each(|_| client.round());
                })
            })
            .collect();
        let outcomes: Vec<_> = ordinary.into_iter().map(|client| client.join()).collect();
        done.store(true, Ordering::Relaxed);
        let messages = publisher.join().unwrap();
        outcomes.into_iter().for_each(|outcome| outcome.unwrap());
        messages
    });
    for client in &mut listening {
        for number in 0..messages {
            assert_eq!(client.reply().items()[2].text(), number.to_string());
        }
    }
    proxy.await_metric("preshard_pubsub_deliveries_total", 1000 * messages as u64);

    // Half of them say goodbye, half are cut off.
    for (number, client) in waiting.into_iter().chain(listening).enumerate() {
        if number % 2 == 0 {
            let _ = socket2::SockRef::from(client.stream()).set_linger(Some(Duration::ZERO));
        }
    }
    wait_until("nobody waits on a node", PATIENCE, || blocked() == 0);
    for name in [
        "preshard_node_dedicated_used",
        "preshard_pubsub_clients",
        "preshard_pubsub_channels",
        "preshard_client_connections",
        "preshard_client_input_buffer_bytes",
        "preshard_client_output_buffer_bytes",
        "preshard_node_queue_commands",
    ] {
        wait_until(name, PATIENCE, || proxy.metric(name) == 0);
    }
    for node in &nodes {
        wait_until("no node has a subscription", PATIENCE, || {
            node.client().ask("PUBSUB CHANNELS").items().is_empty()
        });
    }
    assert_eq!(proxy.metric("preshard_popped_for_nobody_total"), 0);
    assert_eq!(proxy.metric("preshard_pubsub_gaps_total"), 0);
    proxy.assert_alive("a crowd that left");
}
