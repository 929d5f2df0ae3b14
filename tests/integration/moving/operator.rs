//! What an operator says and looks at, with the patience of one whose machine is busy.

use std::time::Duration;

use crate::harness::{Client, Node, Reply, wait_for, wait_until};

/// For whatever happens behind copies, leases, and pauses between attempts.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// On a machine that stands still for longer a leader may lose its lease, and what it was about to lead back cannot go back.
pub(crate) const BEARS: Duration = Duration::from_secs(1);

/// The answer to a word of `PRESHARD`. A store that gives no answer for a moment is asked again.
pub(crate) fn ask(admin: &mut Client, words: &str) -> Reply {
    admin.limit = PATIENCE;
    wait_for("the store answers", PATIENCE, || {
        let reply = admin.ask(&format!("PRESHARD {words}"));
        let is_silent = reply
            .error()
            .is_some_and(|error| error.contains("gives no answer"));
        (!is_silent).then_some(reply)
    })
}

/// Orders something: its task. What is too early, since the leader has not made its users on a node, is said again.
pub(crate) fn order(admin: &mut Client, words: &str) -> String {
    let mut in_doubt = false;
    admin.limit = PATIENCE;
    wait_for("it is ordered", PATIENCE, || {
        let told = admin.ask(&format!("PRESHARD {words}"));
        let Some(error) = told.error() else {
            return Some(told.text());
        };
        if error.contains("gives no answer") {
            in_doubt = true;
            return None;
        }
        if in_doubt && let Some((_, rest)) = error.split_once("is moved by task ") {
            // It was ordered after all.
            return rest.split(' ').next().map(str::to_owned);
        }
        assert!(error.contains("has no users of preshard"), "{words}: {error}");
        None
    })
}

pub(crate) fn field(row: &Reply, name: &str) -> String {
    text_of(row, name).text()
}

pub(crate) fn number(row: &Reply, name: &str) -> i64 {
    text_of(row, name).int()
}

fn text_of(row: &Reply, name: &str) -> Reply {
    row.field(name).unwrap_or_else(|| panic!("no {name}: {row:?}"))
}

/// The state of a task, and all that is told of it.
pub(crate) fn state(admin: &mut Client, task: &str) -> (String, Reply) {
    let row = ask(admin, &format!("TASK STATUS {task}"));
    (field(&row, "state"), row)
}

fn until_state(admin: &mut Client, task: &str, wanted: &str) -> Reply {
    wait_for(&format!("the task is {wanted}"), PATIENCE, || {
        let (state, row) = state(admin, task);
        assert!(!matches!(state.as_str(), "failed" | "cancelled"), "{row:?}");
        (state == wanted).then_some(row)
    })
}

/// Waits until a move waits for the word.
pub(crate) fn until_ready(admin: &mut Client, task: &str) -> Reply {
    until_state(admin, task, "ready")
}

/// Waits for the end of a task that goes well.
pub(crate) fn until_moved(admin: &mut Client, task: &str) -> Reply {
    until_state(admin, task, "moved")
}

/// Orders a move and waits for its end.
pub(crate) fn move_shards(admin: &mut Client, shards: &str, target: &str) -> Reply {
    let task = order(admin, &format!("SHARD MOVE {shards} TO {target}"));
    until_moved(admin, &task)
}

/// Says `CANCEL`, `CUTOVER` or `FINALIZE` of a task, until it is so: the one who says it is kept waiting for ten seconds only.
pub(crate) fn tell(admin: &mut Client, word: &str, task: &str) {
    wait_until(&format!("{word} is done"), PATIENCE, || {
        let told = ask(admin, &format!("TASK {word} {task}"));
        let is_late = told
            .error()
            .is_some_and(|error| error.contains("has not done so within"));
        assert!(is_late || told.is_ok(), "{word} {task}: {told:?}");
        !is_late
    });
}

/// Waits until the source follows.
pub(crate) fn until_reversible(admin: &mut Client, task: &str) {
    wait_until("the source follows", PATIENCE, || {
        let (_, row) = state(admin, task);
        let rollback = field(&row, "rollback");
        assert!(!rollback.starts_with("no"), "{row:?}");
        rollback == "yes"
    });
}

/// Moves shards and waits until they can go back: the task's id.
pub(crate) fn move_there(admin: &mut Client, shards: &str, target: &str) -> String {
    let task = field(&move_shards(admin, shards, target), "task");
    until_reversible(admin, &task);
    task
}

/// Brings the shards of a task back: what is known of it then. A cutover that is given up since it would hold requests for too long
/// is said again.
pub(crate) fn roll_back(admin: &mut Client, task: &str) -> Reply {
    wait_for("it is rolled back", PATIENCE, || {
        let told = ask(admin, &format!("TASK ROLLBACK {task}"));
        let (state, row) = state(admin, task);
        let is_under_way = matches!(state.as_str(), "moved" | "rolling-back" | "rolled-back");
        let is_refused = told.error().is_some_and(|error| {
            error.contains("is not rolled back") || error.contains("cannot be rolled back")
        });
        assert!(is_under_way && !is_refused, "{told:?} {row:?}");
        (state == "rolled-back").then_some(row)
    })
}

/// Waits until the leader has made preshard's own users on these nodes.
pub(crate) fn until_users<'a>(nodes: impl IntoIterator<Item = &'a Node>) {
    for node in nodes {
        wait_until("preshard's users are on the node", PATIENCE, || {
            let users = node.client().ask("ACL USERS").items();
            users.iter().any(|user| user.text().starts_with("ps-g"))
        });
    }
}

/// Users of moves on a node: those of moving shards, and those of who writes copies.
pub(crate) fn users_of_moves(node: &Node) -> Vec<String> {
    let users = node.client().ask("ACL USERS").items();
    let users = users.iter().map(Reply::text);
    users
        .filter(|user| user.starts_with("ps-u-") || user.starts_with("ps-a-"))
        .collect()
}
