//! `PRESHARD TASK …`, `PRESHARD SHOW TASKS`: what the cluster's records say, the same on every proxy.
//!
//! A task is a JSON object in the store; its row has the same fields, behind its id.

use super::AdminContext;
use super::fleet::line;
use super::value::{shown, text};
use crate::resp::Value;
use crate::store::{Record, StoreError};

/// One row a task.
pub(super) async fn list(context: &AdminContext) -> Result<Value, String> {
    let records = context
        .fleet
        .store()
        .records()
        .await
        .map_err(|error| told(&error))?;
    Ok(Value::Array(records.iter().map(row).collect()))
}

/// One task.
pub(super) async fn status(context: &AdminContext, id: &[u8]) -> Result<Value, String> {
    find(context, id).await.map(|record| row(&record))
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

fn row(record: &Record) -> Value {
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
