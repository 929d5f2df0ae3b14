//! An answer as JSON: rows become objects, an error an object with the one field `error`.

use serde_json::{Map, Number, Value as Json};

use crate::resp::Value;

/// Recursion is bounded: what was decoded nests no deeper than its limit.
pub(super) fn value(answer: &Value) -> Json {
    match answer {
        Value::Error(line) => {
            Json::Object(Map::from_iter([("error".to_owned(), Json::String(line.clone()))]))
        }
        Value::Simple(text) => Json::String(text.clone().into_owned()),
        Value::BigNumber(digits) => Json::String(digits.clone()),
        Value::Bulk(bytes) | Value::Verbatim { text: bytes, .. } => text(bytes),
        Value::Int(number) => Json::Number((*number).into()),
        Value::Double(number) => Number::from_f64(*number).map_or(Json::Null, Json::Number),
        Value::Bool(truth) => Json::Bool(*truth),
        Value::Null | Value::NullArray => Json::Null,
        Value::Array(values) | Value::Set(values) | Value::Push(values) => {
            Json::Array(values.iter().map(value).collect())
        }
        Value::Map(pairs) => Json::Object(pairs.iter().map(|(name, of)| (key(name), value(of))).collect()),
    }
}

fn key(name: &Value) -> String {
    match value(name) {
        Json::String(name) => name,
        other => other.to_string(),
    }
}

fn text(bytes: &[u8]) -> Json {
    Json::String(String::from_utf8_lossy(bytes).into_owned())
}
