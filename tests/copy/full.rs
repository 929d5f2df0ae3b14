//! What a leader does on a node that is at its `maxmemory`, and what a leader of the past does not do there either.

use std::sync::Mutex;
use std::time::Duration;

use preshard::config::Secret;
use preshard::control::fence::{FenceError, TERM_KEY, act, act_while, take_over, words};
use preshard::control::{AskError, NodeClient, ask_with_room};
use preshard::ids::DbIndex;
use preshard::resp::Value;
use preshard::store::Term;
use preshard::topology::Address;
use preshard::worker::shared::NodeCredentials;

use crate::kit::{Conn, METADATA, runtime};
use crate::server::Server;

const METADATA_DB: DbIndex = DbIndex(METADATA);

/// A server that takes nothing any more, the newest leader of which is that of term 5.
fn full() -> (Server, Conn) {
    let server = Server::start("redis 7.0");
    let mut conn = Conn::to(&server, METADATA);
    conn.line(&format!("SET {TERM_KEY} 5"));
    conn.line("CONFIG SET maxmemory-policy noeviction");
    conn.line("CONFIG SET maxmemory 500000");
    (server, conn)
}

fn limit(conn: &mut Conn) -> Value {
    conn.line("CONFIG GET maxmemory")
}

async fn client(server: &Server) -> NodeClient {
    let address = Address::Unix(server.socket());
    NodeClient::connect(&address, &NodeCredentials::default(), Duration::from_secs(10))
        .await
        .unwrap()
}

fn has_user(conn: &mut Conn, name: &str) -> bool {
    let Value::Array(users) = conn.line("ACL USERS") else {
        panic!("no users")
    };
    users.iter().any(|user| user.as_bytes() == Some(name.as_bytes()))
}

#[test]
fn a_leader_acts_on_a_full_node_and_leaves_its_limit_as_it_was() {
    let (server, mut conn) = full();
    let before = limit(&mut conn);
    conn.line("MULTI");
    assert!(matches!(conn.line("FLUSHDB"), Value::Error(error) if error.starts_with("OOM")));
    conn.line("DISCARD");
    runtime().block_on(async {
        let mut client = client(&server).await;
        take_over(&mut client, METADATA_DB, Term(6)).await.unwrap();
        let commands = [
            words(["SELECT", "3"]),
            words(["FLUSHDB", "ASYNC"]),
            words(["ACL", "SETUSER", "made", "on"]),
            words(["INFO", "replication"]),
        ];
        let replies = act(&mut client, METADATA_DB, Term(6), &commands).await.unwrap();
        let info = replies.last().and_then(Value::as_bytes).unwrap();
        assert!(info.starts_with(b"# Replication"), "{replies:?}");
        let set: [Vec<&[u8]>; 1] = [vec![b"SET", b"k", b"v"]];
        assert_eq!(ask_with_room(&mut client, &set).await.unwrap(), [Value::OK]);
    });
    assert!(has_user(&mut conn, "made"));
    assert_eq!(conn.line(&format!("GET {TERM_KEY}")), Value::bulk("6"));
    assert_eq!(limit(&mut conn), before);
    assert!(matches!(conn.line("SET k v"), Value::Error(error) if error.starts_with("OOM")));
}

/// It looks at the term, and another leader takes over before what it has decided comes: before the first attempt, and before the
/// one for which there is room.
#[test]
fn a_leader_of_the_past_does_nothing_on_a_full_node() {
    for taken_over_at in [1, 2] {
        let (server, mut conn) = full();
        let before = limit(&mut conn);
        let other = Mutex::new((Conn::to(&server, METADATA), 0));
        let looked = || {
            let mut other = other.lock().unwrap();
            other.1 += 1;
            if other.1 == taken_over_at {
                other.0.line("CONFIG SET maxmemory 0");
                other.0.line(&format!("SET {TERM_KEY} 6"));
                other.0.line("CONFIG SET maxmemory 500000");
            }
            true
        };
        let commands = [words(["ACL", "SETUSER", "late", "on"])];
        let done = runtime().block_on(async {
            let mut client = client(&server).await;
            act_while(&mut client, METADATA_DB, Term(5), &commands, &looked).await
        });
        assert!(matches!(done, Err(FenceError::Deposed { .. })), "{done:?}");
        assert_eq!(other.lock().unwrap().1, taken_over_at);
        assert!(!has_user(&mut conn, "late"));
        assert_eq!(limit(&mut conn), before);
    }
}

/// What an operator has set in the middle stays.
#[test]
fn a_limit_that_is_changed_meanwhile_stays_as_it_was_set() {
    let (server, mut conn) = full();
    let other = Mutex::new((Conn::to(&server, METADATA), 0));
    let looked = || {
        let mut other = other.lock().unwrap();
        other.1 += 1;
        if other.1 == 2 {
            other.0.line("CONFIG SET maxmemory 600000");
        }
        true
    };
    let commands = [words(["ACL", "SETUSER", "made", "on"])];
    runtime().block_on(async {
        let mut client = client(&server).await;
        let done = act_while(&mut client, METADATA_DB, Term(5), &commands, &looked).await;
        done.unwrap();
    });
    assert!(has_user(&mut conn, "made"));
    let wanted = ["maxmemory", "600000"].map(Value::bulk);
    assert_eq!(limit(&mut conn), Value::Array(wanted.into()));
}

/// A server that nobody may configure: what is refused is said to be for want of memory, and what to do.
#[test]
fn a_full_node_that_cannot_be_given_room_says_so() {
    let (server, mut conn) = full();
    for denied in ["-config", "-config|set"] {
        conn.line(&format!("ACL SETUSER limited on nopass ~* +@all {denied}"));
        let credentials = NodeCredentials {
            username: Some("limited".to_owned()),
            password: Some(Secret::new("any".to_owned())),
            ..NodeCredentials::default()
        };
        let commands = [words(["ACL", "SETUSER", "late", "on"])];
        let done = runtime().block_on(async {
            let address = Address::Unix(server.socket());
            let connected = NodeClient::connect(&address, &credentials, Duration::from_secs(10)).await;
            act(&mut connected.unwrap(), METADATA_DB, Term(5), &commands).await
        });
        match done {
            Err(FenceError::Ask(AskError::Refused(why))) => {
                assert!(
                    why.starts_with("OOM ") && why.contains("NOPERM") && why.contains("raise it"),
                    "{why}"
                );
            }
            other => panic!("{other:?}"),
        }
        assert!(!has_user(&mut conn, "late"));
    }
}
