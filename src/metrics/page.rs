//! The page `docs/METRICS.md`, written from the table of families.

use std::collections::BTreeSet;

use super::families;
use super::family::{Family, Kind, LabelName, Values};

const HEAD: &str = "# Metrics

<!-- Generated from src/metrics/families.rs: PRESHARD_BLESS=1 cargo test --lib metrics -->

`GET /metrics` on the HTTP port answers in Prometheus's text format 0.0.4.

* Every family is there from the first scrape, with zeros wherever the values of its labels are known. Rows by
  `command` appear when a command is first used, `preshard_shard_keys` after the first probe of a node, rows by
  `node` leave with their node. The `process_*` families need Linux.
* Rows by `shard` are all there: with 1,024 shards and 15 pinned databases that is 1,039 rows in each of the
  families by shard, some 4,200 lines without `preshard_shard_keys`. Drop them in the scrape configuration where
  they are not wanted.
* Durations have buckets of 50 µs · 2ⁿ, from 50 µs to 1.6384 s, and `+Inf`.
* No key, value, client name or client address is ever a label.

| metric | type | labels | meaning |
|---|---|---|---|
";

/// The text of `docs/METRICS.md`.
#[must_use]
pub fn page() -> String {
    let mut page = HEAD.to_owned();
    for family in families() {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        let labels: Vec<String> = family
            .labels
            .iter()
            .map(|label| format!("`{}`", label.name))
            .collect();
        line(
            &mut page,
            &format!(
                "| `{}` | {kind} | {} | {} |",
                family.name,
                labels.join(", "),
                family.help
            ),
        );
    }
    line(&mut page, "\n## Labels");
    let mut told = BTreeSet::new();
    for label in families().flat_map(|family| family.labels) {
        let text = values(label);
        if told.insert((label.name, text.clone())) {
            line(
                &mut page,
                &format!("\n`{}`{}:{}", label.name, owner(label, &text), text.trim_end()),
            );
        }
    }
    page
}

/// What the values of a label are: a phrase, or a table.
fn values(label: &LabelName) -> String {
    match label.values {
        Values::Bounded(what) => format!(" {what}."),
        Values::Fixed(list) => {
            let mut table = "\n\n| value | meaning |\n|---|---|\n".to_owned();
            for (value, meaning) in list() {
                line(&mut table, &format!("| `{value}` | {meaning} |"));
            }
            table
        }
    }
}

/// Names the family of a label whose name means something else in another family.
fn owner(label: &LabelName, text: &str) -> String {
    let same_name = |other: &&LabelName| other.name == label.name;
    let ambiguous = families()
        .flat_map(|family| family.labels)
        .filter(same_name)
        .any(|other| values(other) != text);
    let owns = |family: &&'static Family| {
        family
            .labels
            .iter()
            .filter(same_name)
            .any(|other| values(other) == text)
    };
    match families().find(owns) {
        Some(family) if ambiguous => format!(" of `{}`", family.name),
        Some(_) | None => String::new(),
    }
}

fn line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_page_in_docs_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/METRICS.md");
        let page = super::page();
        if std::env::var_os("PRESHARD_BLESS").is_some() {
            std::fs::write(path, &page).unwrap();
        }
        let found = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            found == page,
            "docs/METRICS.md differs from the table in src/metrics/families.rs: \
             run PRESHARD_BLESS=1 cargo test --lib metrics and commit the page"
        );
    }
}
