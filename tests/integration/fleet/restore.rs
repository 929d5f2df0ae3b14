//! A saved topology comes back into force: by `TOPOLOGY LOAD` while a proxy serves, by `preshard restore` where none starts.

use std::time::Duration;

use super::{PATIENCE, change, cluster, dump, epoch, load, mark_epoch, patient, without_users};
use crate::harness::{Etcd, Node, Proxy, Reply, Scratch, Setup, run_to_end, wait_until};

/// Without its checksum, as after a change by hand.
fn edited(document: &str, from: &str, to: &str) -> String {
    assert!(document.contains(from), "no {from} in {document}");
    let lines: Vec<&str> = document
        .lines()
        .filter(|line| !line.contains("checksum"))
        .collect();
    let text = lines.join("\n").replace(from, to);
    let (head, _) = text.rsplit_once("],").expect("the comma before the checksum");
    format!("{head}]\n}}")
}

fn file_setup() -> ([Node; 2], Setup) {
    let nodes = [Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    (nodes, without_users(setup))
}

#[test]
fn what_cannot_be_loaded_changes_nothing() {
    let (nodes, setup) = file_setup();
    let proxy = setup.start();
    let before = dump(&proxy);
    let other = edited(&before, "\"cluster\": \"", "\"cluster\": \"x");
    for (document, words) in [
        (
            "",
            "ERR this topology cannot be loaded, and nothing was changed: the document is no topology",
        ),
        (
            "{}",
            "ERR this topology cannot be loaded, and nothing was changed",
        ),
        (&before[..before.len() / 2], "ERR this topology cannot be loaded"),
        (
            &before.replace("\"format\": 1", "\"format\": 2"),
            "ERR this topology cannot be loaded, and nothing was changed: the document has format 2",
        ),
        (
            &before.replace("127.0.0.1", "127.0.0.2"),
            "ERR this topology cannot be loaded",
        ),
        (&other, "ERR it is of cluster 'x"),
    ] {
        load(&proxy, document).expect_error(words);
    }
    let mut client = patient(&proxy);
    client
        .call(&["PRESHARD", "TOPOLOGY", "LOAD", &before, "NOW"])
        .expect_error("ERR unknown option 'NOW'");
    // A shard in another database: proxies that run could not follow.
    let shifted = edited(&before, "\"pinned\": 4", "\"pinned\": 3");
    client
        .call(&["PRESHARD", "TOPOLOGY", "LOAD", &shifted, "FORCE"])
        .expect_error("ERR ");
    assert_eq!(dump(&proxy), before);
    assert_eq!(mark_epoch(&nodes[0], &setup), 1);
}

#[test]
fn placements_that_differ_want_the_word_force_and_say_what_it_means() {
    let (nodes, setup) = file_setup();
    let proxy = setup.start();
    let document = dump(&proxy);
    // Both nodes' shards exchanged.
    let swapped = edited(&document, "\"node\": \"n", "\"node\": \"n");
    let names: Vec<String> = document
        .lines()
        .filter_map(|line| {
            line.trim()
                .strip_prefix("\"name\": \"")?
                .strip_suffix("\",")
                .map(str::to_owned)
        })
        .collect();
    let row = |name: &str| format!("\"node\": \"{name}\"");
    let swapped = swapped
        .replace(&row(&names[0]), "\"node\": \"?\"")
        .replace(&row(&names[1]), &row(&names[0]))
        .replace("\"node\": \"?\"", &row(&names[1]));
    let said =
        load(&proxy, &swapped).expect_error("ERR it places 12 of 12 shards elsewhere than now (shard 0: ");
    assert!(
        said.contains("keys do not move with it") && said.contains("FORCE"),
        "{said}"
    );
    assert_eq!(dump(&proxy), document);
    proxy.client().ask("SET k v").expect_ok();
    let forced = patient(&proxy).call(&["PRESHARD", "TOPOLOGY", "LOAD", &swapped, "force"]);
    assert_eq!(forced, Reply::Simple("OK".to_owned()));
    assert_eq!(epoch(&proxy), 2);
    // As it was told: the key is where it was, and is looked for elsewhere.
    assert_eq!(proxy.client().ask("GET k"), Reply::Null);
    patient(&proxy)
        .call(&["PRESHARD", "TOPOLOGY", "LOAD", &document, "FORCE"])
        .expect_ok();
    assert_eq!(proxy.client().ask("GET k"), Reply::from("v"));
    wait_until("the nodes' marks follow", PATIENCE, || {
        nodes.iter().all(|node| mark_epoch(node, &setup) == 3)
    });
}

#[test]
fn a_loaded_epoch_is_higher_than_what_any_node_has_seen() {
    let (nodes, setup) = file_setup();
    let proxy = setup.start();
    let document = dump(&proxy);
    let mut metadata = nodes[1].client_in(setup.metadata_database());
    let mark = metadata
        .ask("GET preshard:mark")
        .text()
        .replace("\"epoch\":1", "\"epoch\":41");
    metadata.call(&["SET", "preshard:mark", &mark]).expect_ok();
    load(&proxy, &document).expect_ok();
    assert_eq!(epoch(&proxy), 42);
}

#[test]
fn a_node_that_does_not_answer_is_told_before_anything_is_loaded() {
    let (mut nodes, setup) = file_setup();
    let proxy = setup.start();
    let document = dump(&proxy);
    nodes[1].kill();
    let said = load(&proxy, &document).expect_error("ERR node ");
    assert!(said.contains("cannot be reached"), "{said}");
    assert_eq!(epoch(&proxy), 1);
    let forced = patient(&proxy).call(&["PRESHARD", "TOPOLOGY", "LOAD", &document, "FORCE"]);
    assert_eq!(forced, Reply::Simple("OK".to_owned()));
    assert_eq!(epoch(&proxy), 2);
    // Its mark is raised when it is there again.
    nodes[1].restart();
    wait_until("the mark follows", PATIENCE, || {
        mark_epoch(&nodes[0], &setup) == 2
    });
}

fn restore(proxy: &Proxy, document: &str, more: &[&str]) -> (Option<i32>, String) {
    let folder = Scratch::new("document");
    let file = folder.file("saved.json");
    std::fs::write(&file, document).unwrap();
    let (config, file) = (proxy.config().display().to_string(), file.display().to_string());
    let arguments = [&["restore", "--config", &config, &file], more].concat();
    let (status, said) = run_to_end(&arguments);
    (status.code(), said)
}

#[test]
fn a_lost_file_is_restored_where_no_proxy_starts() {
    let (nodes, setup) = file_setup();
    let mut proxy = setup.start();
    proxy.client().ask("SET k v").expect_ok();
    let document = dump(&proxy);
    change(&proxy).expect_ok();
    let (status, said) = restore(&proxy, &document, &[]);
    assert_eq!(status, Some(1), "a proxy serves it: {said}");
    assert!(said.contains("in use by another preshard"), "{said}");
    wait_until("the nodes' marks follow", PATIENCE, || {
        nodes.iter().all(|node| mark_epoch(node, &setup) == 2)
    });
    assert!(proxy.stop().success());
    for end in ["", ".1"] {
        std::fs::remove_file(format!("{}{end}", proxy.store)).unwrap();
    }
    let (status, said) = setup.clone().store(&proxy.store).start_refused();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("preshard restore --config FILE DOCUMENT"), "{said}");
    let (status, said) = restore(&proxy, &document, &[]);
    assert_eq!(status, Some(0), "{said}");
    assert!(said.contains("is epoch 3 in file:"), "{said}");
    let again = setup.store(&proxy.store).start();
    assert_eq!(again.client().ask("GET k"), Reply::from("v"));
    assert_eq!(epoch(&again), 3);
}

#[test]
fn a_damaged_or_old_file_is_restored_and_a_wrong_document_is_not() {
    let (nodes, setup) = file_setup();
    let mut proxy = setup.start();
    let document = dump(&proxy);
    assert!(proxy.stop().success());
    let (_others, other) = file_setup();
    let foreign = dump(&other.start());
    let newer = document.replace("\"format\": 1", "\"format\": 2");
    for (wrong, words) in [
        (foreign.as_str(), "it is of cluster"),
        ("{", "cannot use"),
        (&newer, "newer version"),
    ] {
        let (status, said) = restore(&proxy, wrong, &[]);
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains(words), "{said}");
    }
    std::fs::write(&proxy.store, "{").unwrap();
    // Not even over damage: the nodes know whose they are.
    let renamed = edited(&document, "\"cluster\": \"", "\"cluster\": \"x");
    let (status, said) = restore(&proxy, &renamed, &["--force"]);
    assert_eq!(status, Some(1), "{said}");
    assert!(said.contains("belongs to another preshard cluster"), "{said}");
    let (status, said) = restore(&proxy, &document, &[]);
    assert_eq!(status, Some(0), "{said}");
    let proxy = setup.clone().store(&proxy.store).start();
    assert_eq!(epoch(&proxy), 2);
    drop(proxy);
    drop(nodes);
}

#[test]
fn etcd_is_restored_under_proxies_that_serve() {
    let etcd = Etcd::start(1);
    let (_nodes, setup) = cluster(&etcd, 8);
    let setup = setup.announce(&["store_lost_topology"]);
    let proxies = [setup.start(), setup.start()];
    let document = dump(&proxies[0]);
    // `/shop/topology`, and `{`, in base64.
    let key = r#""key":"L3Nob3AvdG9wb2xvZ3k=""#;
    for (path, body) in [
        ("kv/put", format!(r#"{{{key},"value":"ew=="}}"#)),
        ("kv/deleterange", format!("{{{key}}}")),
    ] {
        let before = epoch(&proxies[0]);
        assert!(etcd.post(0, path, &body).unwrap().contains("200 OK"));
        if path == "kv/put" {
            load(&proxies[0], &document)
                .expect_error("ERR the topology was not changed: cannot use what the topology store");
        }
        assert_eq!(epoch(&proxies[0]), before, "served is what was served");
        let (status, said) = restore(&proxies[0], &document, &[]);
        assert_eq!(status, Some(0), "{said}");
        wait_until("both take it over", PATIENCE, || {
            proxies.iter().all(|proxy| epoch(proxy) > before)
        });
        wait_until("they serve the same", PATIENCE, || {
            dump(&proxies[0]) == dump(&proxies[1])
        });
    }
    // One that serves can restore what was deleted by itself.
    let before = epoch(&proxies[0]);
    assert!(
        etcd.post(0, "kv/deleterange", &format!("{{{key}}}"))
            .unwrap()
            .contains("200 OK")
    );
    load(&proxies[1], &document).expect_ok();
    wait_until("both take it over", PATIENCE, || {
        proxies.iter().all(|proxy| epoch(proxy) == before + 1)
    });
}

/// Changes one after the other, SIGKILL somewhere in between, again and again: what was acknowledged is there, whole.
#[test]
fn a_proxy_that_is_killed_while_it_writes_its_file_starts_again_with_what_was_acknowledged() {
    let (_nodes, setup) = file_setup();
    let folder = Scratch::new("store");
    let setup = setup.store(&folder.file("topology.json").display().to_string());
    let mut proxy = setup.start();
    let seed = crate::harness::seed();
    let mut chance = fastrand::Rng::with_seed(seed);
    for _ in 0..12 {
        let acknowledged = std::sync::atomic::AtomicU64::new(epoch(&proxy));
        let (document, mut admin) = (dump(&proxy), patient(&proxy));
        let pause = Duration::from_micros(chance.u64(0..40_000));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                let words = ["PRESHARD", "TOPOLOGY", "LOAD", &document];
                let frame = crate::harness::wire::frame(&words);
                while admin.try_send(&frame).is_ok()
                    && admin.try_reply_bytes().is_ok_and(|reply| reply == b"+OK\r\n")
                {
                    acknowledged.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
            });
            std::thread::park_timeout(pause);
            proxy.kill();
        });
        proxy = setup.start();
        let (now, acknowledged) = (epoch(&proxy), acknowledged.into_inner());
        assert!(
            now == acknowledged || now == acknowledged + 1,
            "{now} after {acknowledged} was acknowledged"
        );
    }
}
