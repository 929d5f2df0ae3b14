//! Whatever a client sends, this room answers: it never panics, and never names an argument that is not there.

use proptest::collection::vec;
use proptest::prelude::*;

use super::testing::request;
use super::{
    Categories, all, blocks, copies_to_other_database, flush_mode, glob_matches, identify, introspect, keys,
    reaches_undeclared_keys, resolve, routing_keys,
};

/// Words that make commands take other ways, numbers that mislead, and anything else.
fn word() -> impl Strategy<Value = Vec<u8>> {
    let known = prop::sample::select(vec![
        "STREAMS",
        "GROUP",
        "COUNT",
        "BLOCK",
        "STORE",
        "STOREDIST",
        "BY",
        "GET",
        "LIMIT",
        "KEYS",
        "AUTH2",
        "DB",
        "FILTERBY",
        "PATTERN",
        "ACLCAT",
        "*",
        "{a}*",
        "#",
        "-1",
        "0",
        "1",
        "2",
        "99",
        "9223372036854775807",
        "9223372036854775808",
        "-9223372036854775808",
        "",
        "k",
    ]);
    prop_oneof![4 => known.prop_map(|word| word.as_bytes().to_vec()), 1 => vec(any::<u8>(), 0..300)]
}

/// The words of a request: mostly a command that exists.
fn words() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let names: Vec<_> = all().iter().map(|spec| spec.name).collect();
    let name = prop::sample::select(names)
        .prop_map(|name| name.split('|').map(|part| part.as_bytes().to_vec()).collect());
    let name = prop_oneof![9 => name, 1 => vec(word(), 0..2)];
    (name, vec(word(), 0..12)).prop_map(|(name, rest): (Vec<_>, _)| [name, rest].concat())
}

proptest! {
    #[test]
    fn any_request_is_answered_and_keys_are_arguments(words in words()) {
        request(&words, |args| {
            let mut out = Vec::new();
            if let Ok(spec) = identify(&args) {
                for found in [keys(spec, &args, &mut out), routing_keys(spec, &args, &mut out)] {
                    prop_assert!(out.iter().all(|&at| at > 0 && (at as usize) < args.len()));
                    prop_assert!(found.is_ok() || out.is_empty());
                }
                let _ = (reaches_undeclared_keys(spec, &args), introspect(spec, &args));
            }
            let _ = (blocks(&args), copies_to_other_database(&args), flush_mode(&args));
            if let Err(refusal) = resolve(&args) {
                let line = refusal.line();
                prop_assert!(line.starts_with("ERR ") && !line.contains(['\r', '\n', '\0']), "{line:?}");
                prop_assert!(line.len() < 1024);
            }
            Ok(())
        })?;
    }

    #[test]
    fn getkeys_of_any_request_is_answered(words in words()) {
        let command = [vec![b"COMMAND".to_vec(), b"GETKEYSANDFLAGS".to_vec()], words].concat();
        request(&command, |args| {
            if let Ok(spec) = resolve(&args) {
                prop_assert!(introspect(spec, &args).is_some());
            }
            Ok(())
        })?;
    }

    #[test]
    fn any_pattern_ends(pattern in vec(prop::sample::select(b"ab*?[]^-\\".to_vec()), 0..40), text in "[ab]{0,40}") {
        let _ = glob_matches(&pattern, text.as_bytes(), true);
        prop_assert!(glob_matches(b"*", text.as_bytes(), false) && glob_matches(text.as_bytes(), text.as_bytes(), false));
    }
}

#[test]
fn every_category_has_a_command() {
    for word in Categories(u32::MAX).words() {
        let category = Categories::word(word.as_bytes()).unwrap();
        assert!(
            all().iter().any(|spec| spec.facts.categories.has(category)),
            "{word}"
        );
    }
}
