//! `COMMAND DOCS`: what redis-cli shows while a command is typed.
//!
//! The data file keeps what servers say in their own words and order, as JSON; it is read when somebody asks.

use serde_json::Value as Json;

use super::introspect::{bulk, by_full_name, listed_commands, listed_subcommands};
use super::spec::Spec;
use crate::resp::{Args, Value};

/// A map from names to what is known of each; names that are not listed are left out.
pub(super) fn docs(args: &Args<'_>) -> Value {
    if args.len() == 2 {
        return Value::Map(listed_commands().map(entry).collect());
    }
    Value::Map(args.iter().skip(2).filter_map(by_full_name).map(entry).collect())
}

fn entry(spec: &'static Spec) -> (Value, Value) {
    let facts = spec.facts;
    let texts = [
        ("summary", facts.summary),
        ("since", facts.since),
        ("group", facts.group),
    ];
    let texts = texts.into_iter().chain([("complexity", facts.complexity)]);
    let mut fields: Vec<_> = texts
        .filter(|(_, text)| !text.is_empty())
        .map(|(name, text)| (bulk(name), bulk(text)))
        .collect();
    if let Ok(Json::Object(rest)) = serde_json::from_str(facts.docs) {
        fields.extend(
            rest.into_iter()
                .map(|(name, value)| (bulk(&name), shape(&name, value))),
        );
    }
    let subcommands: Vec<_> = listed_subcommands(spec).map(entry).collect();
    if !subcommands.is_empty() {
        fields.push((bulk("subcommands"), Value::Map(subcommands)));
    }
    (bulk(spec.name), Value::Map(fields))
}

/// A value of the documentation, in the type that a server gives it. The JSON is our own, so its depth is known.
fn shape(name: &str, value: Json) -> Value {
    match value {
        Json::Null => Value::Null,
        Json::Bool(truth) => Value::Bool(truth),
        Json::Number(number) => Value::Int(number.as_i64().unwrap_or_default()),
        Json::String(text) if matches!(name, "flags" | "doc_flags") => Value::Simple(text.into()),
        Json::String(text) => Value::Bulk(text.into_bytes()),
        Json::Array(values) => {
            let inner = if name == "history" { "" } else { name };
            let values = values.into_iter().map(|value| shape(inner, value)).collect();
            if matches!(name, "flags" | "doc_flags" | "history") {
                Value::Set(values)
            } else {
                Value::Array(values)
            }
        }
        Json::Object(fields) => Value::Map(
            fields
                .into_iter()
                .map(|(name, value)| (bulk(&name), shape(&name, value)))
                .collect(),
        ),
    }
}
