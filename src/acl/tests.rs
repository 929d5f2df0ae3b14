//! Rules against requests, and ACL words against the sets that they make.

use super::*;
use crate::command::testing::request;
use crate::command::{self, Flags, resolve};
use proptest::prelude::*;

fn rules(rights: Rights, words: &str, keys: Option<&str>, channels: Option<&str>) -> Rules {
    let words: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
    let patterns = |text: &str| text.split(' ').map(|word| word.as_bytes().to_vec()).collect();
    Rules::new(rights, &words, keys.map(patterns), channels.map(patterns))
}

/// What becomes of a request: `ok`, or the first words of why not.
fn verdict(rules: &Rules, line: &str) -> String {
    let words: Vec<&[u8]> = line.split(' ').map(str::as_bytes).collect();
    request(&words, |args| {
        let spec = resolve(&args).unwrap();
        let checked = rules.check(spec, &args, &mut Vec::new());
        checked.map_or_else(
            |denied| match denied {
                Denied::Command(name) => format!("command {name}"),
                Denied::Key(at) => format!("key {at}"),
                Denied::Channel(at) => format!("channel {at}"),
                Denied::SortOption(option) => format!("sort {option}"),
            },
            |()| "ok".to_owned(),
        )
    })
}

#[test]
fn words_are_applied_in_their_order() {
    for (words, allowed, denied) in [
        ("+get", "get", "set mget"),
        ("+@all -get", "set config|get", "get"),
        ("+@read -@string", "hget", "get set"),
        ("-@string +get +@hash", "get hget hset", "mget"),
        ("+config", "config|get config|set", "client|id"),
        ("+config -config|set", "config|get", "config|set"),
        ("+CONFIG|GET", "config|get", "config|set"),
        ("allcommands nocommands +PING", "ping", "get"),
        ("+@all +@dangerous -@dangerous", "get", "keys config|get flushall"),
    ] {
        let allows = rules(Rights::NONE, words, None, None).commands().clone();
        let has = |name: &str| {
            let spec = command::all().iter().find(|spec| spec.name == name).unwrap();
            allows.has(spec.id)
        };
        assert!(allowed.split(' ').all(has), "{words}: {allowed}");
        assert!(!denied.split(' ').any(has), "{words}: {denied}");
    }
}

#[test]
fn what_is_no_word_changes_nothing() {
    for word in [
        "",
        "+",
        "get",
        "+gte",
        "+@",
        "+@strin",
        "+config|foo",
        "+get|a",
        "~*",
        "+@All|x",
        "é",
    ] {
        assert!(!is_command_word(word), "{word}");
        assert!(!Allowed::all().apply(word), "{word}");
    }
    assert_eq!(
        rules(Rights::NONE, "+nope", None, None).commands(),
        &Allowed::none()
    );
}

#[test]
fn rights_stand_for_commands() {
    let may = |rights: Rights, line: &str| verdict(&rules(rights, "", None, None), line) == "ok";
    let (read, write) = (Rights::READ, Rights::WRITE);
    for line in [
        "GET a",
        "SUBSCRIBE c",
        "EVAL_RO x 0",
        "SCAN 0",
        "EXISTS a b",
        "INFO",
        "WATCH a",
    ] {
        assert!(may(read, line), "{line}");
    }
    for line in [
        "SET a 1",
        "PUBLISH c m",
        "EVAL x 0",
        "SORT a",
        "FLUSHALL",
        "CLIENT KILL ID 3",
        "CONFIG GET a",
    ] {
        assert!(!may(read, line), "{line}");
    }
    for line in ["SET a 1", "PUBLISH c m", "BLPOP a 0", "FLUSHALL", "MULTI"] {
        assert!(may(write, line), "{line}");
    }
    assert!(!may(write, "GET a") && !may(write, "EVAL x 0"));
    assert!(may(read.with(write), "EVAL x 0"));
    for line in ["INFO", "SLOWLOG GET", "CLIENT LIST", "CONFIG GET a"] {
        assert!(may(Rights::MONITOR, line) && may(Rights::ADMIN, line), "{line}");
    }
    for line in ["CLIENT KILL ID 3", "CLIENT PAUSE 1", "ACL LIST", "SLOWLOG RESET"] {
        assert!(!may(Rights::MONITOR, line) && may(Rights::ADMIN, line), "{line}");
    }
    for line in [
        "PING",
        "HELLO",
        "CLIENT SETNAME a",
        "COMMAND",
        "SELECT 0",
        "QUIT",
        "ACL WHOAMI",
        "TIME",
    ] {
        assert!(may(write, line), "{line}");
    }
    assert!(!may(Rights::NONE, "PING") && may(Rights::NONE, "HELLO"));
}

#[test]
fn each_supported_command_is_somebodys() {
    let all = Rights::WORDS
        .iter()
        .fold(Rights::NONE, |all, &(_, right)| all.with(right));
    let allowed = Allowed::by_rights(all);
    for spec in command::all().iter().filter(|spec| spec.is_supported()) {
        assert!(allowed.has(spec.id), "{}", spec.name);
    }
    let reads = Allowed::by_rights(Rights::READ);
    for spec in command::all().iter().filter(|spec| spec.flags.has(Flags::WRITE)) {
        assert!(!reads.has(spec.id), "{} writes", spec.name);
    }
}

#[test]
fn keys_and_channels_are_compared_with_the_patterns() {
    let rules = rules(Rights::NONE, "+@all", Some("a:* b"), Some("n.*"));
    for (line, expected) in [
        ("GET a:1", "ok"),
        ("GET b", "ok"),
        ("GET bb", "key 1"),
        ("MGET a:1 b c", "key 3"),
        ("EVAL x 2 a:1 c", "key 4"),
        ("EVAL x 0 c", "ok"),
        ("XREAD STREAMS a:1 c 0 0", "key 3"),
        ("SORT a:1 BY nosort STORE b", "ok"),
        ("SORT a:1 STORE c", "key 3"),
        ("SORT a:1 BY w_*", "sort BY"),
        ("SORT a:1 LIMIT 0 1 GET #", "sort GET"),
        ("SCAN 0", "ok"),
        ("FLUSHALL", "ok"),
        ("OBJECT ENCODING c", "key 2"),
        ("LMPOP 9 a:1 LEFT", "ok"),
    ] {
        assert_eq!(verdict(&rules, line), expected, "{line}");
    }
    let rules = self::rules(Rights::NONE, "+@all", None, Some("n.* m"));
    for (line, expected) in [
        ("SUBSCRIBE m n.1 o", "channel 3"),
        ("SUBSCRIBE m n.1", "ok"),
        ("PSUBSCRIBE n.*", "ok"),
        ("PSUBSCRIBE n.1", "channel 1"),
        ("PUBLISH o m", "channel 1"),
        ("SPUBLISH n.1 o", "ok"),
        ("UNSUBSCRIBE o", "ok"),
        ("PUBSUB NUMSUB o", "ok"),
        ("GET anything", "ok"),
    ] {
        assert_eq!(verdict(&rules, line), expected, "{line}");
    }
    assert_eq!(verdict(&Rules::nothing(), "GET a"), "command get");
}

#[test]
fn only_rules_without_any_limit_are_unlimited() {
    assert!(rules(Rights::NONE, "+@all", None, None).is_unlimited());
    assert!(rules(Rights::NONE, "+@all", Some("a *"), Some("*")).is_unlimited());
    assert!(Rules::everything().is_unlimited());
    for limited in [
        rules(Rights::NONE, "+@all -lolwut", None, None),
        rules(Rights::NONE, "+@all", Some("a*"), None),
        rules(Rights::NONE, "+@all", None, Some("?*")),
        rules(Rights::READ.with(Rights::WRITE), "", None, None),
    ] {
        assert!(!limited.is_unlimited());
    }
}

#[test]
fn who_listens_may_go_on_if_no_pattern_is_lost() {
    let of = |channels| rules(Rights::READ, "", None, channels);
    assert!(of(None).covers_channels_of(&of(Some("a"))));
    assert!(of(Some("a b")).covers_channels_of(&of(Some("b"))));
    assert!(!of(Some("a")).covers_channels_of(&of(Some("a b"))));
    assert!(!of(Some("?*")).covers_channels_of(&of(None)));
}

proptest! {
    #[test]
    fn a_set_as_words_makes_the_same_set(words in prop::collection::vec(
        prop::sample::select(vec![
            "+@all", "-@all", "+@read", "-@dangerous", "+config", "-config|set", "+get", "-get", "-client|kill",
            "+@scripting", "-acl", "+acl|cat", "-@fast", "+xinfo|stream",
        ]),
        0..8,
    )) {
        let set = rules(Rights::NONE, &words.join(" "), None, None).commands().clone();
        let again = rules(Rights::NONE, &set.text(), None, None).commands().clone();
        prop_assert_eq!(set.text(), again.text());
        prop_assert_eq!(set, again);
    }

    #[test]
    fn no_request_makes_a_check_panic_and_who_may_everything_is_never_refused(
        name in prop::sample::select(command::all().iter().map(|spec| spec.name).collect::<Vec<_>>()),
        more in prop::collection::vec(prop::sample::select(vec![
            "a", "b", "0", "1", "-1", "99", "STREAMS", "BY", "GET", "STORE", "*", "", "KEYS", "GROUP",
        ]), 0..8),
    ) {
        let mut words: Vec<&[u8]> = name.split('|').map(str::as_bytes).collect();
        words.extend(more.iter().map(|word| word.as_bytes()));
        let limited = rules(Rights::NONE, "+@all", Some("a"), Some("a"));
        request(&words, |args| {
            if let Ok(spec) = resolve(&args) {
                let _ = limited.check(spec, &args, &mut Vec::new());
                assert_eq!(Rules::everything().check(spec, &args, &mut Vec::new()), Ok(()));
                assert_eq!(Rules::nothing().check(spec, &args, &mut Vec::new()).is_ok(), spec.flags.has(Flags::NO_AUTH));
            }
        });
    }
}
