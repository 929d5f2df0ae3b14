//! `PRESHARD TASK …`, `PRESHARD SHOW TASKS`: what the cluster's records say, the same on every proxy.
//!
//! A task is a JSON object in the store; its row has the same fields, behind its id.

use std::collections::BTreeSet;

use super::AdminContext;
use super::fleet::line;
use super::value::{int, row as row_of, shown, text};
use crate::migration::{Group, Move, Way};
use crate::resp::Value;
use crate::store::{Record, StoreError};
use crate::topology::codec::ranges;

/// One row a task.
pub(super) async fn list(context: &AdminContext) -> Result<Value, String> {
    let records = context
        .fleet
        .store()
        .records()
        .await
        .map_err(|error| told(&error))?;
    let rows = records.iter().map(|record| row(context, record, &records));
    Ok(Value::Array(rows.collect()))
}

/// One task.
pub(super) async fn status(context: &AdminContext, id: &[u8]) -> Result<Value, String> {
    let record = find(context, id).await?;
    // What is under way of it stands in other records.
    let others = match Group::decode(&record.document) {
        Some(_) => context
            .fleet
            .store()
            .records()
            .await
            .map_err(|error| told(&error))?,
        None => Vec::new(),
    };
    Ok(row(context, &record, &others))
}

async fn find(context: &AdminContext, id: &[u8]) -> Result<Record, String> {
    let unknown = || format!("ERR there is no task '{}'. Try PRESHARD TASK LIST.", shown(id));
    let name = std::str::from_utf8(id).map_err(|_| unknown())?;
    match context.fleet.store().record(name).await {
        Ok(Some(record)) => Ok(record),
        Ok(None) | Err(StoreError::Limit(_)) => Err(unknown()),
        Err(error) => Err(told(&error)),
    }
}

fn told(error: &StoreError) -> String {
    format!("ERR {}", line(&error.to_string()))
}

fn row(context: &AdminContext, record: &Record, others: &[Record]) -> Value {
    if let Some(group) = Group::decode(&record.document) {
        return group_row(context, &record.id, &group, others);
    }
    let mut fields = vec![(Value::bulk("task"), text(record.id.as_str()))];
    match serde_json::from_str(&record.document) {
        Ok(serde_json::Value::Object(object)) => {
            let others = object.into_iter().filter(|(name, _)| name != "task");
            fields.extend(others.map(|(name, value)| (text(name), of_json(value))));
        }
        Ok(_) | Err(_) => fields.push((Value::bulk("error"), text("its record is no JSON object"))),
    }
    Value::Map(fields)
}

/// A task of many moves, with what its children are at.
fn group_row(context: &AdminContext, id: &str, group: &Group, others: &[Record]) -> Value {
    let children: Vec<(&str, Move)> = others
        .iter()
        .filter_map(|record| Some((record.id.as_str(), Move::decode(&record.document)?)))
        .filter(|(_, child)| child.parent == id)
        .collect();
    let summary = group.summary(children.iter().map(|(_, child)| child));
    let nodes = |node: fn(&Way) -> &String| {
        let names: BTreeSet<&str> = group.ways.iter().map(|way| node(way).as_str()).collect();
        text(names.into_iter().collect::<Vec<_>>().join(","))
    };
    let word = |value: serde_json::Value| of_json(value);
    let open = summary.children - summary.moved - summary.failed - summary.cancelled - summary.rolled_back;
    let left = group.shards_left(&context.shared.topology.load());
    row_of([
        ("task", text(id)),
        ("kind", text(group.kind.as_str())),
        ("of", text(group.of.as_str())),
        ("state", word(serde_json::json!(summary.state))),
        ("shards", text(ranges(&group.shards()))),
        ("source", nodes(|way| &way.source)),
        ("target", nodes(|way| &way.target)),
        ("fence", text(group.fence().word())),
        ("rate", word(serde_json::json!(group.rate))),
        ("max_pause_ms", int(group.max_pause_ms)),
        ("keys", int(summary.keys)),
        ("bytes", int(summary.bytes)),
        ("lag_bytes", int(summary.lag_bytes)),
        ("pause_ms", word(serde_json::json!(group.pause_ms))),
        (
            "children",
            Value::Array(children.iter().map(|(child, _)| text(*child)).collect()),
        ),
        ("children_open", int(open)),
        ("children_moved", int(summary.moved)),
        ("children_failed", int(summary.failed)),
        ("children_cancelled", int(summary.cancelled)),
        ("children_rolled_back", int(summary.rolled_back)),
        ("shards_left", int(left)),
        (
            "warnings",
            Value::Array(
                group
                    .warnings
                    .iter()
                    .map(|warning| text(warning.as_str()))
                    .collect(),
            ),
        ),
        ("error", text(group.error.as_str())),
        ("started", int(group.started)),
        ("finished", int(group.finished)),
        ("wish", word(serde_json::json!(group.wish))),
    ])
}

fn of_json(value: serde_json::Value) -> Value {
    match value {
        serde_json::Value::Null => Value::Null,
        serde_json::Value::String(value) => text(value),
        serde_json::Value::Number(number) => number
            .as_i64()
            .map_or_else(|| text(number.to_string()), Value::Int),
        serde_json::Value::Bool(value) => Value::Int(i64::from(value)),
        serde_json::Value::Array(values) => Value::Array(values.into_iter().map(of_json).collect()),
        serde_json::Value::Object(object) => Value::Map(
            object
                .into_iter()
                .map(|(name, value)| (text(name), of_json(value)))
                .collect(),
        ),
    }
}
