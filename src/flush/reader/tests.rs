//! Files as people write them, and all that is wrong with them at once.

use std::path::Path;
use std::time::Duration;

use super::*;

const GOOD: &str = r#"
redis = "redis://app:s3cret@127.0.0.1/2"
postgres = "postgres://app@db/app"
source = "main"
every = "2s"
metrics = "127.0.0.1:0"

[[counter]]
name = "events"
member = "bigint"
sql = "UPDATE event e SET n = n + d.delta FROM delta d WHERE e.id = d.member::bigint"
on_bad = "fail"
on_rollback = "park"
"#;

fn read_text(text: &str) -> Result<Settings, String> {
    read(Path::new("flush.toml"), text).map_err(|errors| errors.to_string())
}

#[test]
fn a_good_file_is_read_and_defaults_are_filled_in() {
    let settings = read_text(GOOD).unwrap();
    assert_eq!(settings.redis.address.to_string(), "127.0.0.1:6380");
    assert_eq!(settings.redis.database, 2);
    assert_eq!(
        (settings.every, settings.lease),
        (Duration::from_secs(2), Duration::from_secs(30))
    );
    assert_eq!((settings.count, settings.workers), (1000, 2));
    let counter = &settings.counters[0];
    assert_eq!(
        (counter.member, counter.on_bad, counter.on_rollback),
        (MemberType::Bigint, OnBad::Fail, OnRollback::Park)
    );
    assert_eq!(
        settings.postgres.config.get_application_name(),
        Some("preshard-flush")
    );
    assert!(!format!("{settings:?}").contains("s3cret"));
}

#[test]
fn the_sample_file_is_good() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/flush.toml");
    let settings = Settings::load(&path)
        .map_err(|errors| errors.to_string())
        .unwrap();
    assert_eq!(settings.counters.len(), 2);
    // Every key is named in it, at least in a comment.
    let text = std::fs::read_to_string(path).unwrap();
    for (key, _) in KEYS
        .iter()
        .chain(&COUNTER_KEYS)
        .filter(|(key, _)| *key != COUNTER)
    {
        let named = text.lines().any(|line| {
            let line = line.trim_start_matches("# ");
            line.strip_prefix(key)
                .is_some_and(|rest| rest.trim_start().starts_with('='))
        });
        assert!(named, "config/flush.toml does not name {key}");
    }
}

#[test]
fn every_mistake_is_told_at_once_with_its_line() {
    let text = r#"
redis = "http://user:s3cret@h"
postgres = "postgres://app:s3cret@/app?sslmode=verify-full"
sorce = "main"
every = "5"
lease = 30
count = 20000
[[counter]]
name = ""
member = "int"
sql = "UPDATE event SET n = 1"
[[counter]]
name = ""
"#;
    let told = read_text(text).unwrap_err();
    for wanted in [
        "flush.toml:2:9: redis: it begins neither",
        "flush.toml:3:12: postgres: no host is named",
        "needs postgres_ca_file",
        "flush.toml:4:1: unknown key sorce",
        "did you mean source?",
        "flush.toml: source is missing",
        "flush.toml:5:9: every must be a duration",
        "flush.toml:6:9: lease must be text",
        "flush.toml:7:9: count must be a whole number between 1 and 10000",
        "counter.name must have",
        "member must be one of",
        "flush.toml:11:7: counter.sql: it does not name delta",
        "two counters have the same name",
        "a counter without sql",
    ] {
        assert!(told.contains(wanted), "{wanted:?} is missing in:\n{told}");
    }
    assert!(!told.contains("s3cret"), "{told}");
}

#[test]
fn what_contradicts_itself_is_told() {
    for (more, wanted) in [
        ("redis_ca_file = \"x\"", "redis does not speak TLS"),
        (
            "redis_password_file = \"x\"",
            "there is a password in the address",
        ),
        (
            "postgres_key_file = \"x\"",
            "set without postgres_certificate_file",
        ),
        ("postgres_ca_file = \"/nowhere\"", "/nowhere"),
        ("postgres_password_file = \"/nowhere\"", "/nowhere"),
        ("metrics = \"x\"", "metrics: "),
    ] {
        let base = GOOD.replace("metrics = \"127.0.0.1:0\"\n", "");
        let told = read_text(&format!("{more}\n{base}")).unwrap_err();
        assert!(told.contains(wanted), "{more}: {told}");
    }
    let told = read_text("x = ").unwrap_err();
    assert!(told.contains("this is no TOML"), "{told}");
    assert!(read_text("").unwrap_err().contains("there is no [[counter]]"));
}
