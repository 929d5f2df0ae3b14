//! Who may connect, and as whom nodes are administered, after a reload.

use std::fs;

use super::{lines, reload};
use crate::harness::{Node, Proxy, Reply, Scratch, Setup};

/// The config of a proxy with other users than it has.
fn replace_users(proxy: &Proxy, users: &[(&str, &str, &str)]) {
    let text = fs::read_to_string(proxy.config()).unwrap();
    // Their tables stand at its end.
    let head = text.split("[[user]]").next().unwrap();
    let others = users
        .iter()
        .fold(Setup::of(&[]), |setup, (name, password, more)| {
            setup.user(name, password, more)
        });
    fs::write(proxy.config(), head.to_owned() + &others.users()).unwrap();
}

const WORKS: &str = "rights = [\"read\", \"write\"]";
const READS: &str = "rights = [\"read\"]";
const ADMIN: &str = "rights = [\"admin\"]";

#[test]
fn users_go_change_and_come_with_a_reload() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .user("app", "p1", WORKS)
        .user("old", "p2", ADMIN)
        .user("root", "p3", ADMIN)
        .announce(&["admin_auth_failed"])
        .start();
    let (mut app, mut old, mut old_admin) = (proxy.client(), proxy.client(), proxy.admin_client());
    let mut root = proxy.admin_client();
    app.ask("AUTH app p1").expect_ok();
    old.ask("AUTH old p2").expect_ok();
    old_admin.ask("AUTH old p2").expect_ok();
    root.ask("AUTH root p3").expect_ok();
    app.ask("SET k 1").expect_ok();

    // The same names with another password: nobody is closed.
    replace_users(
        &proxy,
        &[("app", "p9", WORKS), ("old", "p2", ADMIN), ("root", "p3", ADMIN)],
    );
    let change = root.ask("PRESHARD CONFIG RELOAD");
    assert_eq!(lines(&change, "applied"), ["user = app,old,root"]);
    assert_eq!(app.ask("GET k"), Reply::from("1"));
    let mut comes = proxy.client();
    comes.ask("AUTH app p1").expect_error("WRONGPASS");
    comes.ask("AUTH app p9").expect_ok();
    assert_eq!(comes.ask("GET k"), Reply::from("1"));
    // Nothing has changed: nothing is said to have.
    assert_eq!(lines(&root.ask("PRESHARD CONFIG RELOAD"), "applied"), [""; 0]);

    replace_users(
        &proxy,
        &[("app", "p9", READS), ("new", "p4", WORKS), ("root", "p3", ADMIN)],
    );
    let change = root.ask("PRESHARD CONFIG RELOAD");
    assert_eq!(lines(&change, "applied"), ["user = app,new,root"]);
    // The answer comes when the workers have the users.
    app.ask("SET k 2").expect_error("NOPERM");
    assert_eq!(app.ask("GET k"), Reply::from("1"));
    assert_eq!(old.until_closed(), b"");
    old_admin.ask("PRESHARD VERSION").expect_error("NOAUTH");
    proxy.client().ask("AUTH old p2").expect_error("WRONGPASS");
    proxy.client().ask("AUTH new p4").expect_ok();
}

#[test]
fn users_that_come_to_a_proxy_without_any_keep_strangers_out() {
    let nodes = [Node::start(), Node::start()];
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()]).start();
    let (mut anybody, mut admin) = (proxy.client(), proxy.admin_client());
    anybody.ask("SET k 1").expect_ok();
    replace_users(&proxy, &[("app", "p1", WORKS), ("root", "p2", ADMIN)]);
    assert_eq!(
        lines(&admin.ask("PRESHARD CONFIG RELOAD"), "applied"),
        ["user = app,root"]
    );
    assert_eq!(anybody.until_closed(), b"");
    admin.ask("PRESHARD VERSION").expect_error("NOAUTH");
    let mut client = proxy.client();
    client.ask("GET k").expect_error("NOAUTH");
    client.ask("AUTH app p1").expect_ok();
    assert_eq!(client.ask("GET k"), Reply::from("1"));
}

#[test]
fn the_login_that_administers_nodes_is_exchanged() {
    let passwords = Scratch::new("passwords");
    let file = passwords.file("admin");
    fs::write(&file, "old\n").unwrap();
    let nodes = [Node::start(), Node::start()];
    let on_nodes = |words: &[&str]| {
        for node in &nodes {
            node.client().call(words).expect_ok();
        }
    };
    on_nodes(&["ACL", "SETUSER", "keeper", "on", ">old", "~*", "&*", "+@all"]);
    let proxy = Setup::of(&[nodes[0].address(), nodes[1].address()])
        .nodes("admin_username = \"keeper\"")
        .nodes(&format!("admin_password_file = \"{}\"", file.display()))
        .start();
    let problems = || {
        let rows = proxy.admin_client().ask("PRESHARD CHECK").items();
        let failed = |row: &&Reply| row.field("result").unwrap().text() == "failed";
        rows.iter().filter(failed).count()
    };
    assert_eq!(problems(), 0);
    on_nodes(&["ACL", "SETUSER", "keeper", ">new", "<old"]);
    assert_eq!(problems(), 2);
    fs::write(&file, "new\n").unwrap();
    assert_eq!(
        lines(&reload(&proxy), "applied"),
        ["nodes.admin_password = <redacted>"]
    );
    assert_eq!(problems(), 0);
    proxy.client().ask("SET k 1").expect_ok();
}
