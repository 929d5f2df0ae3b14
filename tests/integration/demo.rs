//! `make demo` as somebody new runs it, with the end that scripts ask for.

use crate::harness::run_to_end;

#[test]
fn the_demo_proves_where_its_keys_are_and_ends_by_itself() {
    let (status, printed) = run_to_end(&["demo", "--once"]);
    assert!(status.success(), "{status}\n{printed}");
    for sentence in [
        "every key is in exactly the database that the topology names",
        "CROSSSLOT",
        "PRESHARD SHARD MOVE 0-255 TO redis-2",
        "nothing lost, nothing twice",
        "asked of the nodes again",
        "the temporary folder is gone",
    ] {
        assert!(printed.contains(sentence), "'{sentence}' is missing:\n{printed}");
    }
}
