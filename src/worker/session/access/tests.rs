//! Users that change while their clients are connected.

use std::path::Path;

use crate::config::Config;
use crate::worker::session::client::Pause;
use crate::worker::session::input::Taken;
use crate::worker::session::testing::{ask, request};
use crate::worker::testing::{Peer, connect, engine, in_runtime, limits};
use crate::worker::users::Users;

fn users(text: &str) -> Users {
    Users::of(&Config::parse(Path::new("/etc/p.toml"), text, std::iter::empty()).unwrap())
}

fn user(name: &str, more: &str) -> String {
    format!("[[user]]\nname = \"{name}\"\nnopass = true\n{more}\n")
}

#[test]
fn other_rules_hold_from_the_next_request_on() {
    in_runtime(async {
        let mut engine = engine(limits());
        engine
            .shared
            .replace_users(users(&user("a", "commands = [\"+@all\"]")));
        let mut peer = connect(&mut engine).await;
        let refused =
            |name: &str| format!("-NOPERM this user has no permissions to run the '{name}' command");
        ask(&mut engine, &mut peer, "PING", "-NOAUTH Authentication required.").await;
        ask(&mut engine, &mut peer, "AUTH a x", "+OK").await;
        ask(&mut engine, &mut peer, "ECHO x", "$1\r\nx").await;
        engine
            .shared
            .replace_users(users(&user("a", "commands = [\"+ping\"]")));
        ask(&mut engine, &mut peer, "PING", "+PONG").await;
        ask(&mut engine, &mut peer, "ECHO x", &refused("echo")).await;
        assert_eq!(engine.shared.users.load().find(b"a").unwrap().clients(), 1);
        engine
            .shared
            .replace_users(users(&user("a", "commands = [\"+@all\"]")));
        ask(&mut engine, &mut peer, "ECHO x", "$1\r\nx").await;
        ask(&mut engine, &mut peer, "MULTI", "+OK").await;
        engine
            .shared
            .replace_users(users(&user("a", "commands = [\"+exec\"]")));
        let discarded = "-EXECABORT Transaction discarded because of previous errors.";
        ask(&mut engine, &mut peer, "EXEC", discarded).await;
    });
}

#[test]
fn who_is_gone_or_off_is_closed_and_others_stay() {
    in_runtime(async {
        let mut engine = engine(limits());
        let all = |names: &[&str]| -> Users {
            let texts: Vec<String> = names
                .iter()
                .map(|name| user(name, "rights = [\"read\", \"write\"]"))
                .collect();
            users(&texts.concat())
        };
        engine.shared.replace_users(all(&["a", "b", "c", "default"]));
        let mut peers = Vec::new();
        for name in ["a", "b", "c"] {
            let mut peer = connect(&mut engine).await;
            ask(&mut engine, &mut peer, &format!("AUTH {name} x"), "+OK").await;
            peers.push(peer);
        }
        let default = connect(&mut engine).await;
        assert!(engine.clients[default.index].authenticated, "it is open");
        let off = user("b", "enabled = false\nrights = [\"read\"]");
        let text = off + &user("c", "rights = [\"read\", \"write\"]");
        engine.shared.replace_users(users(&text));
        engine.begin_turn();
        let gone = |peer: &Peer| engine.client_is_gone(peer.index, peer.generation);
        assert_eq!(peers.iter().map(gone).collect::<Vec<_>>(), [true, true, false]);
        assert!(gone(&default));
        assert_eq!(engine.shared.users.load().find(b"c").unwrap().clients(), 1);
    });
}

#[test]
fn who_may_not_hear_what_it_listens_to_any_more_is_closed() {
    in_runtime(async {
        let mut engine = engine(limits());
        let rules = |channels: &str| {
            users(&user(
                "a",
                &format!("rights = [\"read\"]\nchannels = [{channels}]"),
            ))
        };
        engine.shared.replace_users(rules("\"n.*\""));
        let mut peer = connect(&mut engine).await;
        ask(&mut engine, &mut peer, "AUTH a x", "+OK").await;
        engine.clients[peer.index].listens = true;
        engine.shared.replace_users(rules("\"n.*\", \"m\""));
        engine.begin_turn();
        assert!(!engine.client_is_gone(peer.index, peer.generation));
        engine.shared.replace_users(rules("\"m\""));
        engine.begin_turn();
        assert!(engine.client_is_gone(peer.index, peer.generation));
    });
}

#[test]
fn a_password_behind_wrong_ones_waits_for_its_time() {
    in_runtime(async {
        let mut engine = engine(limits());
        let hash = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
        let text = format!("[proxy]\npassword_sha256 = \"{hash}\"\n");
        engine.shared.replace_users(users(&text));
        let mut peer = connect(&mut engine).await;
        let wrong = "-WRONGPASS invalid username-password pair or user is disabled.";
        ask(&mut engine, &mut peer, "AUTH no", wrong).await;
        assert!(engine.password_waits(peer.index, b"default"));
        let due = engine.clients[peer.index].password_due_ms;
        assert!(due.is_some() && engine.password_waits(peer.index, b"default"));
        assert_eq!(
            engine.clients[peer.index].password_due_ms, due,
            "no later than before"
        );
        engine.clients[peer.index].password_due_ms = Some(engine.shared.now_ms());
        ask(&mut engine, &mut peer, "AUTH password", "+OK").await;
        assert_eq!(engine.clients[peer.index].password_due_ms, None);
    });
}

#[test]
fn a_hello_waits_for_the_user_whose_password_it_brings_whatever_its_other_words_are() {
    in_runtime(async {
        for guess in [
            "HELLO 3 AUTH default no",
            "HELLO 3 AUTH x y AUTH default no",
            "HELLO 3 SETNAME auth AUTH default no",
            "HELLO 3 SETNAME AUTH SETNAME x AUTH default no",
        ] {
            let mut engine = engine(limits());
            let hash = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8";
            let text = format!("[proxy]\npassword_sha256 = \"{hash}\"\n");
            engine.shared.replace_users(users(&text));
            let mut peer = connect(&mut engine).await;
            let wrong = "-WRONGPASS invalid username-password pair or user is disabled.";
            ask(&mut engine, &mut peer, guess, wrong).await;
            let mut other = connect(&mut engine).await;
            for line in [guess, "AUTH no"] {
                assert_eq!(request(&mut engine, &other, line), Taken::NotNow, "{line}");
                assert!(engine.clients[other.index].pause == Pause::Password, "{line}");
                engine.clients[other.index].password_due_ms = None;
            }
            // What brings no password for this user does not wait.
            let wrong_option = "-ERR Syntax error in HELLO option 'AUTH'";
            ask(
                &mut engine,
                &mut other,
                "HELLO 3 SETNAME x AUTH default",
                wrong_option,
            )
            .await;
            ask(&mut engine, &mut other, "HELLO 3 AUTH default no AUTH x y", wrong).await;
        }
    });
}
