//! The topology in a real etcd: shared by proxies, guarded against each other, needed by nobody who only serves.

use crate::harness::{Etcd, Node, PATIENCE, Proxy, Reply, Setup, wait_until};

fn dump(proxy: &Proxy) -> String {
    proxy.admin_client().ask("PRESHARD TOPOLOGY DUMP").text()
}

fn two() -> ([Node; 2], Setup) {
    let nodes = [Node::start(), Node::start()];
    let setup = Setup::of(&[nodes[0].address(), nodes[1].address()]);
    (nodes, setup)
}

#[test]
fn proxies_that_start_together_share_one_topology() {
    let etcd = Etcd::start(3);
    let (_nodes, setup) = two();
    let setup = setup.store(&etcd.store("shop"));
    let starting = [setup.launch(), setup.launch(), setup.launch()];
    let proxies = starting.map(|launch| setup.until_ready(launch));
    for number in 0..30 {
        let key = format!("k{number}");
        proxies[number % 3].client().call(&["SET", &key, "v"]).expect_ok();
        let found = proxies[(number + 1) % 3].client().call(&["GET", &key]);
        assert_eq!(found, Reply::from("v"));
    }
    assert!(proxies.iter().all(|proxy| dump(proxy) == dump(&proxies[0])));
}

#[test]
fn clients_do_not_notice_that_etcd_is_gone_and_a_new_proxy_waits_for_it() {
    let mut etcd = Etcd::start(1);
    let (_nodes, setup) = two();
    let setup = setup.store(&etcd.store("shop")).announce(&["store_unreachable"]);
    let first = setup.start();
    let mut client = first.client();
    client.ask("SET a 1").expect_ok();
    etcd.kill(0);
    assert_eq!(client.ask("INCR a"), Reply::Int(2));
    let waiting = setup.launch();
    wait_until("the new proxy says that it waits", PATIENCE, || {
        waiting.log().contains("store_unreachable")
    });
    assert_eq!(client.ask("INCR a"), Reply::Int(3));
    assert!(!waiting.log().contains("ready"));
    etcd.start_member(0);
    let second = setup.until_ready(waiting);
    assert_eq!(second.client().ask("GET a"), Reply::from("3"));
    assert_eq!(dump(&first), dump(&second));
}

#[test]
fn a_member_that_is_down_is_passed_over() {
    let mut etcd = Etcd::start(3);
    let (_nodes, setup) = two();
    // If it was the leader, there is no other one at once.
    let setup = setup.store(&etcd.store("a/b")).announce(&["store_unreachable"]);
    let first = setup.start();
    etcd.kill(0);
    let second = setup.start();
    assert_eq!(dump(&first), dump(&second));
}

#[test]
fn what_is_no_topology_is_refused_with_the_way_back() {
    let etcd = Etcd::start(1);
    let (_nodes, setup) = two();
    // `/shop/topology`, and the texts below, in base64.
    for (value, words) in [
        ("bm90IGpzb24=", "restore it from a backup of etcd"),
        ("eyJmb3JtYXQiOiA5fQ==", "written by a newer version"),
    ] {
        let body = format!(r#"{{"key":"L3Nob3AvdG9wb2xvZ3k=","value":"{value}"}}"#);
        assert!(etcd.post(0, "kv/put", &body).unwrap().contains("200 OK"));
        let (status, said) = setup.clone().store(&etcd.store("shop")).start_refused();
        assert_eq!(status.code(), Some(1), "{said}");
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn an_empty_store_over_nodes_of_a_cluster_is_not_filled() {
    let etcd = Etcd::start(1);
    let (_nodes, setup) = two();
    let mut proxy = setup.clone().store(&etcd.store("shop")).start();
    assert!(proxy.stop().success());
    let (status, said) = setup.store(&etcd.store("other")).start_refused();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(said.contains("belongs to the preshard cluster"), "{said}");
}

#[test]
fn etcd_with_users_wants_the_right_password() {
    let etcd = Etcd::start(1);
    let ask = |path: &str, body: &str| {
        let answer = etcd.post(0, path, body).unwrap();
        assert!(answer.contains("200 OK"), "{path}: {answer}");
    };
    ask("auth/user/add", r#"{"name":"root","password":"secret"}"#);
    ask("auth/role/add", r#"{"name":"root"}"#);
    ask("auth/user/grant", r#"{"user":"root","role":"root"}"#);
    ask("auth/enable", "{}");
    let (_nodes, setup) = two();
    let folder = crate::harness::Scratch::new("password");
    let login = |password: &str| {
        let file = folder.file(password);
        std::fs::write(&file, password).unwrap();
        setup
            .clone()
            .store(&etcd.store("shop"))
            .topology("store_username = \"root\"")
            .topology(&format!("store_password_file = \"{}\"", file.display()))
    };
    let (status, said) = login("wrong").start_refused();
    assert_eq!(status.code(), Some(1), "{said}");
    assert!(
        said.contains("refuses preshard") && said.contains("store_password_file"),
        "{said}"
    );
    let (status, said) = setup.clone().store(&etcd.store("shop")).start_refused();
    assert_eq!(status.code(), Some(1), "{said}");
    let proxy = login("secret").start();
    proxy.client().ask("SET a 1").expect_ok();
    wait_until("a second one joins", PATIENCE, || {
        dump(&login("secret").start()) == dump(&proxy)
    });
}
