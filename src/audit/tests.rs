//! Audits of requests written as lines, read back out of the report for machines.

use std::time::Duration;

use proptest::prelude::*;
use serde_json::Value as Json;

use super::*;
use crate::resp;

const OPTIONS: AuditOptions = AuditOptions {
    shards: 1024,
    pinned: 15,
    show_keys: true,
};

fn about() -> Circumstances {
    Circumstances {
        listen: "here".to_owned(),
        node: "there".to_owned(),
        elapsed: Duration::from_secs(3),
        unconnected: 0,
    }
}

/// The bytes of requests, one a line; words are parted by spaces, `~` in a word stands for one.
fn bytes_of(lines: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<String> = line.split(' ').map(|word| word.replace('~', " ")).collect();
        let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        resp::write_request(&mut bytes, &words);
    }
    bytes
}

/// The report about clients that each send some lines.
fn report_of(clients: &[&str]) -> Json {
    let mut audit = Audit::new(OPTIONS).unwrap();
    for lines in clients {
        let mut client = audit.connect();
        audit.read(&mut client, &bytes_of(lines));
        audit.disconnect(client);
    }
    audit.json(&about())
}

/// `why command count` of each finding, sorted.
fn findings(report: &Json) -> Vec<String> {
    let mut lines: Vec<String> = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| {
            let text = |name: &str| found[name].as_str().unwrap().to_owned();
            format!("{} {} {}", text("why"), text("command"), found["count"])
        })
        .collect();
    lines.sort();
    lines
}

fn finding<'a>(report: &'a Json, command: &str) -> &'a Json {
    let found = report["findings"].as_array().unwrap().iter();
    let mut of_command = found.filter(|found| found["command"] == command);
    of_command
        .next()
        .unwrap_or_else(|| panic!("no {command} in {report}"))
}

#[test]
fn what_the_proxy_serves_is_no_finding() {
    let report = report_of(&[
        "SET a 1\nMGET a b c\nMSET a 1 b 2\nDEL a b\nSCAN 0\nKEYS *\nSUBSCRIBE x\nPUBLISH x y\n\
                              RENAME {t}a {t}b\nBLPOP {t}a {t}b 0\nINFO\nCONFIG GET *\nFLUSHALL\nSCRIPT LOAD return~1",
    ]);
    assert_eq!(findings(&report), [""; 0]);
    assert_eq!(
        report["verdict"],
        "all 14 requests would run through preshard as they were sent"
    );
}

#[test]
fn keys_apart_are_told_with_their_shards_and_would_run_in_a_pinned_database() {
    let report = report_of(&[
        "RENAME a b\nRENAME c d\nSINTERSTORE a b c\nSORT a BY w_*\nXREAD STREAMS a b 0 0\nGET a",
    ]);
    assert_eq!(
        findings(&report),
        [
            "any-keys SORT 1",
            "keys-apart RENAME 2",
            "keys-apart SINTERSTORE 1",
            "keys-apart XREAD 1"
        ]
    );
    let rename = finding(&report, "RENAME");
    assert_eq!(rename["examples"][0], "'a' (shard 968) and 'b' (shard 206)");
    assert_eq!(rename["also_pinned"], false);
    assert_eq!(
        (&report["not_as_sent"], &report["not_pinned"]),
        (&5.into(), &0.into())
    );
    assert!(
        report["verdict"]
            .as_str()
            .unwrap()
            .contains("all of them would run in a pinned database"),
        "{}",
        report["verdict"]
    );
}

#[test]
fn a_transaction_over_shards_fails_with_its_exec() {
    let report = report_of(&[
        "MULTI\nSET a 1\nGET a\nSET b 1\nEXEC",
        "MULTI\nSET {t}a 1\nSET {t}b 1\nPING\nEXEC",
        "MULTI\nMGET a b\nDISCARD",
        "EXEC",
    ]);
    assert_eq!(
        findings(&report),
        ["transaction EXEC 1", "transaction MGET 1", "transaction SET 1"]
    );
    assert_eq!(
        (&report["transactions"], &report["transactions_over_shards"]),
        (&2.into(), &1.into())
    );
    assert_eq!(report["wrong"], 1);
    assert_eq!(
        finding(&report, "SET")["examples"][0],
        "'a' (shard 968) and 'b' (shard 206)"
    );
}

#[test]
fn what_preshard_answers_itself_cannot_be_queued_anywhere() {
    let report = report_of(&["MULTI\nCONFIG GET *\nKEYS *\nEXEC"]);
    assert_eq!(
        findings(&report),
        ["queued CONFIG GET 1", "queued EXEC 1", "queued KEYS 1"]
    );
    assert_eq!(finding(&report, "CONFIG GET")["also_pinned"], true);
    assert_eq!(finding(&report, "KEYS")["also_pinned"], false);
}

#[test]
fn watched_keys_belong_to_their_transaction() {
    let report = report_of(&[
        "WATCH a b",
        "WATCH a\nWATCH b",
        "WATCH a\nMULTI\nSET b 1\nEXEC",
        "WATCH a\nUNWATCH\nWATCH b\nMULTI\nSET b 1\nEXEC",
    ]);
    assert_eq!(
        findings(&report),
        ["transaction EXEC 1", "transaction SET 1", "watch WATCH 2"]
    );
}

#[test]
fn scripts_are_judged_by_the_keys_and_the_words_that_they_show() {
    let report = report_of(&[
        "EVAL return~redis.call(ARGV[1]) 0\nEVAL return~1 0\nEVAL return~1 2 a b\nEVAL return~1 1 a\nEVALSHA abc 1 a\nEVALSHA abc 0 a\nFCALL f 0\n\
                              EVAL redis.call('SELECT',1) 1 a\nSCRIPT LOAD redis.call('FLUSHALL')",
    ]);
    assert_eq!(
        findings(&report),
        [
            "code EVAL 1",
            "code SCRIPT LOAD 1",
            "keys-apart EVAL 1",
            "no-keys EVAL 1",
            "no-keys EVALSHA 1",
            "no-keys FCALL 1"
        ]
    );
    assert!(
        report["not_seen"][0]
            .as_str()
            .unwrap()
            .starts_with("3 calls of scripts")
    );
    assert_eq!(report["not_pinned"], 2);
}

#[test]
fn requests_are_judged_by_the_database_that_they_were_sent_to() {
    let report = report_of(&["SELECT 3\nRENAME a b\nSELECT 0\nRENAME a b\nSELECT 99\nSELECT x\nGET a"]);
    assert_eq!(findings(&report), ["database SELECT 1", "keys-apart RENAME 2"]);
    assert_eq!(report["databases"], serde_json::json!({"0": 1, "3": 1, "99": 1}));
    assert_eq!(report["not_as_sent"], 2);
    assert_eq!(finding(&report, "SELECT")["examples"][0], "SELECT 99");
}

#[test]
fn refused_unknown_and_wrong_commands_are_told_apart() {
    let report =
        report_of(&["FT.SEARCH idx x\nJSON.GET a\nCLIENT NONSENSE\nCONFIG SET a b\nMOVE a 1\nGET\nWAIT 1 0"]);
    assert_eq!(
        findings(&report),
        [
            "refused CONFIG SET 1",
            "refused MOVE 1",
            "unknown (unknown) 2",
            "unknown CLIENT 1"
        ]
    );
    let names = &finding(&report, "(unknown)")["examples"];
    assert_eq!(*names, serde_json::json!(["FT.SEARCH", "JSON.GET"]));
    assert_eq!(finding(&report, "CLIENT")["examples"][0], "CLIENT NONSENSE");
    assert!(
        finding(&report, "MOVE")["reason"]
            .as_str()
            .unwrap()
            .contains("a shard is one database")
    );
    assert_eq!(report["wrong"], 1);
    assert!(
        report["verdict"]
            .as_str()
            .unwrap()
            .contains("a pinned database would not help")
    );
}

#[test]
fn greetings_count_for_the_name_that_they_end_with() {
    let report = report_of(&[
        "HELLO 3\nCLIENT MAINT_NOTIFICATIONS ON\nCLIENT SETNAME web\nCLIENT SETINFO LIB-NAME lib\nGET a",
        "CLIENT SETINFO LIB-NAME lib\nPING\nGET a",
        "PING",
    ]);
    let mut rows: Vec<String> = report["commands"]
        .as_array()
        .unwrap()
        .iter()
        .map(|row| format!("{} {} {}", row["client"], row["command"], row["calls"]).replace('"', ""))
        .collect();
    rows.sort();
    assert_eq!(
        rows,
        [
            "(no name) PING 1",
            "lib CLIENT SETINFO 1",
            "lib GET 1",
            "lib PING 1",
            "web CLIENT 1",
            "web CLIENT SETINFO 1",
            "web CLIENT SETNAME 1",
            "web GET 1",
            "web HELLO 1"
        ]
    );
    assert_eq!((&report["wrong"], findings(&report).len()), (&1.into(), 0));
}

#[test]
fn names_and_examples_are_bounded() {
    let mut audit = Audit::new(OPTIONS).unwrap();
    for number in 0..1000 {
        let mut client = audit.connect();
        let lines = format!("CLIENT SETNAME c{number}\nRENAME a{number} b\nNO.SUCH{number} x\n");
        audit.read(&mut client, &bytes_of(&lines));
        audit.disconnect(client);
    }
    let report = audit.json(&about());
    let rows = report["commands"].as_array().unwrap();
    assert!(rows.len() <= 64 * 3, "{}", rows.len());
    let others: u64 = rows
        .iter()
        .filter(|row| row["client"] == "(others)")
        .map(|row| row["calls"].as_u64().unwrap())
        .sum();
    assert_eq!(others, (1000 - 62) * 3);
    for found in report["findings"].as_array().unwrap() {
        assert!(found["examples"].as_array().unwrap().len() <= 4);
    }
    assert!(audit.text(&about()).len() < 20_000);
}

#[test]
fn keys_are_cut_cleaned_and_left_out_on_demand() {
    let long = "k".repeat(200);
    let lines = format!("RENAME {long} \u{1b}[31m\n");
    let told = |show_keys| {
        let mut audit = Audit::new(AuditOptions { show_keys, ..OPTIONS }).unwrap();
        let mut client = audit.connect();
        audit.read(&mut client, &bytes_of(&lines));
        audit.text(&about())
    };
    let text = told(true);
    assert!(
        text.contains(&"k".repeat(48)) && !text.contains(&"k".repeat(49)),
        "{text}"
    );
    assert!(!text.contains('\u{1b}'), "{text}");
    let text = told(false);
    assert!(
        !text.contains("kkk") && text.contains("a key of shard "),
        "{text}"
    );
}

#[test]
fn who_cannot_be_judged_is_told_and_forgotten() {
    let mut audit = Audit::new(OPTIONS).unwrap();
    let mut client = audit.connect();
    audit.read(&mut client, &bytes_of("GET a"));
    audit.read(&mut client, b"*1\r\n:5\r\n");
    audit.read(&mut client, &bytes_of("RENAME a b"));
    audit.disconnect(client);
    let report = audit.json(&about());
    assert_eq!(report["requests"], 1);
    let verdict = report["verdict"].as_str().unwrap();
    assert!(
        verdict.ends_with("; 1 client could not be judged to the end"),
        "{verdict}"
    );
    let spots = report["not_seen"].to_string();
    assert!(spots.contains("expected '$', got ':'"), "{spots}");
    assert_eq!(audit.held, 0);
}

#[test]
fn unfinished_requests_are_held_up_to_a_limit() {
    let mut audit = Audit::new(OPTIONS).unwrap();
    audit.held_max = 1000;
    let (mut one, mut other) = (audit.connect(), audit.connect());
    audit.read(&mut one, b"*2\r\n$3\r\nGET\r\n$900\r\n");
    audit.read(&mut one, &[b'x'; 600]);
    audit.read(&mut other, b"*2\r\n$3\r\nGET\r\n$900\r\n");
    audit.read(&mut other, &[b'x'; 600]);
    audit.read(&mut one, &[b'x'; 300]);
    audit.read(&mut one, b"\r\n");
    let report = audit.json(&about());
    assert_eq!(report["requests"], 1);
    assert!(
        report["not_seen"]
            .to_string()
            .contains("larger requests than the audit can hold")
    );
    audit.disconnect(one);
    audit.disconnect(other);
    assert_eq!(audit.held, 0);
}

#[test]
fn the_text_says_the_verdict_the_reason_and_the_way_out() {
    let mut audit = Audit::new(OPTIONS).unwrap();
    assert!(audit.text(&about()).contains("VERDICT: nothing was seen"));
    let mut client = audit.connect();
    audit.read(
        &mut client,
        &bytes_of("CLIENT SETNAME web\nSELECT 2\nGET a\nSELECT 0\nRENAME a b\nMOVE a 1\nEVAL return~1 1 a\n"),
    );
    let text = audit.text(&about());
    for expected in [
        "VERDICT: 2 of 7 requests (28.5 %) would not run through preshard as they were sent; 1 of them would run in a pinned",
        "give keys that are used together one hash tag",
        "'a' (shard 968) and 'b' (shard 206)",
        "Databases in use (SELECT), and requests",
        "cannot be seen from outside",
    ] {
        assert!(text.contains(expected), "no '{expected}' in\n{text}");
    }
}

proptest! {
    #[test]
    fn how_the_bytes_are_cut_changes_nothing(cuts in prop::collection::vec(1_usize..40, 1..60)) {
        let lines = "HELLO 3 SETNAME w\nRENAME a b\nMULTI\nSET a 1\nSET b 1\nEXEC\nGET x\nEVAL return~1 0\nMSET a 1 b 2\n";
        let mut bytes = bytes_of(lines);
        bytes.extend_from_slice(b"GET inline\r\n\r\n");
        let mut audit = Audit::new(OPTIONS).unwrap();
        let mut client = audit.connect();
        let mut rest = bytes.as_slice();
        for cut in cuts.into_iter().cycle() {
            let (now, later) = rest.split_at(cut.min(rest.len()));
            audit.read(&mut client, now);
            rest = later;
            if rest.is_empty() {
                break;
            }
        }
        audit.disconnect(client);
        let mut whole = Audit::new(OPTIONS).unwrap();
        let mut client = whole.connect();
        whole.read(&mut client, &bytes);
        whole.disconnect(client);
        prop_assert_eq!(audit.json(&about()), whole.json(&about()));
        prop_assert_eq!(audit.held, 0);
    }

    #[test]
    fn no_bytes_make_it_panic(
        chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..20),
        words in prop::collection::vec("(MULTI|EXEC|WATCH|EVAL|SORT|XREAD|SELECT|CLIENT|[a-z{}*]{0,3}|-?[0-9]{1,3})", 1..6),
    ) {
        let mut audit = Audit::new(OPTIONS).unwrap();
        let mut client = audit.connect();
        let words: Vec<&[u8]> = words.iter().map(String::as_bytes).collect();
        let mut request = Vec::new();
        resp::write_request(&mut request, &words);
        audit.read(&mut client, &request);
        for chunk in &chunks {
            audit.read(&mut client, chunk);
        }
        audit.disconnect(client);
        prop_assert_eq!(audit.held, 0);
        prop_assert!(audit.text(&about()).contains("VERDICT"));
    }
}
