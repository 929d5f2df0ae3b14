//! What a database of a model node holds, and what commands do to it.

use std::collections::BTreeMap;

use super::node::Words;
use crate::resp::Value;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Data {
    List(Vec<Vec<u8>>),
    Text(Vec<u8>),
    Hash(BTreeMap<Vec<u8>, Vec<u8>>),
}

pub(super) type Db = BTreeMap<Vec<u8>, Data>;

pub(super) fn name_of(words: &Words) -> String {
    String::from_utf8_lossy(&words[0]).to_ascii_uppercase()
}

/// One command on one database.
pub(super) fn run(db: &mut Db, words: &Words) -> Value {
    let key = words.get(1).cloned().unwrap_or_default();
    match name_of(words).as_str() {
        "GET" => text_of(db.get(&key)).map_or(Value::Null, Value::Bulk),
        "SET" => {
            if words.get(3).is_some_and(|word| word == b"NX") && db.contains_key(&key) {
                return Value::Null;
            }
            db.insert(key, Data::Text(words[2].clone()));
            Value::OK
        }
        "DEL" => Value::Int(i64::from(db.remove(&key).is_some())),
        "INCR" => {
            let number = text_of(db.get(&key)).unwrap_or_else(|| b"0".to_vec());
            let next: i64 = String::from_utf8_lossy(&number).parse::<i64>().unwrap() + 1;
            db.insert(key, Data::Text(next.to_string().into_bytes()));
            Value::Int(next)
        }
        "RPUSH" => {
            let Data::List(list) = db.entry(key).or_insert_with(|| Data::List(Vec::new())) else {
                return Value::error("WRONGTYPE");
            };
            list.extend_from_slice(&words[2..]);
            Value::Int(i64::try_from(list.len()).unwrap())
        }
        "HSET" | "HSETNX" | "HDEL" | "HGET" | "HMGET" | "HKEYS" => hash(db, key, words),
        "DBSIZE" => Value::Int(i64::try_from(db.len()).unwrap()),
        "FLUSHDB" => {
            db.clear();
            Value::OK
        }
        other => Value::error(format!("ERR unknown command '{other}'")),
    }
}

fn text_of(data: Option<&Data>) -> Option<Vec<u8>> {
    match data {
        Some(Data::Text(text)) => Some(text.clone()),
        Some(Data::List(_) | Data::Hash(_)) | None => None,
    }
}

fn hash(db: &mut Db, key: Vec<u8>, words: &Words) -> Value {
    let mut hash = match db.remove(&key) {
        None => BTreeMap::new(),
        Some(Data::Hash(hash)) => hash,
        Some(other) => {
            db.insert(key, other);
            return Value::error("WRONGTYPE");
        }
    };
    let value_of = |field| hash.get(field).cloned().map_or(Value::Null, Value::Bulk);
    let reply = match words[0].as_slice() {
        b"HGET" => value_of(&words[2]),
        b"HMGET" => Value::Array(words[2..].iter().map(value_of).collect()),
        b"HKEYS" => Value::Array(hash.keys().cloned().map(Value::Bulk).collect()),
        b"HSETNX" => {
            hash.entry(words[2].clone()).or_insert_with(|| words[3].clone());
            Value::Int(1)
        }
        b"HSET" => {
            for pair in words[2..].chunks_exact(2) {
                hash.insert(pair[0].clone(), pair[1].clone());
            }
            Value::Int(1)
        }
        _ => {
            words[2..].iter().for_each(|field| drop(hash.remove(field)));
            Value::Int(1)
        }
    };
    if !hash.is_empty() {
        db.insert(key, Data::Hash(hash));
    }
    reply
}
