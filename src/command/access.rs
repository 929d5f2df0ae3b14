//! What preshard's own users on nodes may do, in the words of Redis's ACL.
//!
//! | user | for | may |
//! |---|---|---|
//! | `ps-g<n>` | clients' requests | every command that is sent to nodes, on all keys; nothing that administers the server |
//! | `ps-u-<task>-<n>` | clients' requests for shards that move | the same, until the node is told to refuse them |
//! | `ps-a-<task>-<term>` | writing the copy of shards that move | everything |
//! | `ps-feed` | hearing messages and changes of keys | subscribe; read the mark; nothing else |
//!
//! The lists follow the table: what is served is allowed. A server that does not know one of the commands refuses the
//! whole list, so each word stands alone and can be left out.

use super::{Categories, Class, FanOut, Spec};

/// What the names of all users begin with that preshard makes.
pub const USER_PREFIX: &str = "ps-";
/// What the names of users begin with that a moving unit's requests run as.
pub const UNIT_PREFIX: &str = "ps-u-";
/// What the names of users begin with that write copies.
pub const APPLIER_PREFIX: &str = "ps-a-";
/// The user that hears what is published and which keys change.
pub const FEED_USER: &str = "ps-feed";

/// What links ask for themselves, besides what clients ask. Before Redis 7 all of `CLIENT` administers.
const OWN_QUESTIONS: [&str; 4] = ["+info", "+client|id", "+client|setname", "+client|unblock"];

/// The rules of a user that clients' requests run as, behind `reset` and its password.
#[must_use]
pub fn traffic_rules() -> Vec<String> {
    let mut rules: Vec<String> = ["on", "~*", "&*", "+@all", "-@admin", "-@dangerous"]
        .map(str::to_owned)
        .to_vec();
    rules.extend(OWN_QUESTIONS.map(str::to_owned));
    let served = super::all()
        .iter()
        .filter(|spec| is_sent(spec) && is_withheld(spec));
    rules.extend(served.map(|spec| format!("+{}", spec.name)));
    rules
}

/// The rules of [`FEED_USER`], behind `reset` and its password; `mark` is the key that tells whose node it is.
#[must_use]
pub fn feed_rules(mark: &str) -> Vec<String> {
    let mut rules = vec![
        "on".to_owned(),
        format!("~{mark}"),
        "&*".to_owned(),
        "-@all".to_owned(),
    ];
    let allowed = "+hello +auth +ping +select +get +info +client|setname +client|id +client|tracking +subscribe \
                   +unsubscribe +psubscribe +punsubscribe +ssubscribe +sunsubscribe";
    rules.extend(allowed.split(' ').map(str::to_owned));
    rules
}

/// The rules of a user that writes the copy of shards, behind `reset` and its password. It is preshard itself.
#[must_use]
pub fn applier_rules() -> Vec<String> {
    ["on", "~*", "&*", "+@all"].map(str::to_owned).to_vec()
}

/// Whether requests of this command reach nodes under its own name.
fn is_sent(spec: &Spec) -> bool {
    match spec.class {
        // The databases of our shards are emptied one by one.
        Class::FanOut(FanOut::Flushall) | Class::Local(_) | Class::Helper(_) | Class::Refused(_) => false,
        Class::Single
        | Class::Iterate
        | Class::SameShard
        | Class::Split(_)
        | Class::FanOut(_)
        | Class::Transaction(_)
        | Class::Blocking
        | Class::Script(_)
        | Class::PubSub(_) => true,
    }
}

fn is_withheld(spec: &Spec) -> bool {
    let categories = spec.facts.categories;
    categories.has(Categories::ADMIN) || categories.has(Categories::DANGEROUS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_served_is_allowed_and_what_administers_is_not() {
        let rules = traffic_rules();
        let has = |rule: &str| rules.iter().any(|found| found == rule);
        for allowed in [
            "+keys",
            "+sort",
            "+flushdb",
            "+restore",
            "+info",
            "+client|id",
            "+client|setname",
            "+client|unblock",
        ] {
            assert!(has(allowed), "{allowed} is missing: {rules:?}");
        }
        for refused in [
            "+flushall",
            "+config|set",
            "+acl|setuser",
            "+debug",
            "+shutdown",
            "+replicaof",
            "+swapdb",
        ] {
            assert!(!has(refused), "{refused}");
        }
        assert!(feed_rules("m").contains(&"~m".to_owned()));
    }
}
