//! CLIENT: who am I, who is here, who has to go.

use std::sync::atomic::Ordering::Relaxed;

use super::{number, ok, verbatim};
use crate::command::Local;
use crate::resp::{Args, Value};
use crate::worker::engine::Engine;
use crate::worker::registry::{ClientInfo, is_client_name};
use crate::worker::shared::Shared;

impl Engine {
    pub(super) fn client_command(&mut self, index: usize, local: Local, args: &Args<'_>) -> Value {
        self.clients[index].publish();
        let info = std::sync::Arc::clone(&self.clients[index].info);
        let outcome = match local {
            Local::ClientId => Ok(Value::Int(i64::try_from(info.id).unwrap_or(i64::MAX))),
            Local::ClientGetname => {
                let name = info.names().name.clone();
                Ok(if name.is_empty() {
                    Value::Null
                } else {
                    Value::bulk(name)
                })
            }
            Local::ClientSetname => self.set_client_name(index, args.get(2)).map(|()| ok()),
            Local::ClientSetinfo => set_info(&info, args.get(2), args.get(3)),
            Local::ClientInfo => Ok(verbatim(format!("{}\n", info.line(self.now_ms())))),
            Local::ClientList => self.client_list(args),
            Local::ClientKill => self.client_kill(index, args),
            Local::ClientCaching => self.client_caching(index, args.get(2)).map(|()| ok()),
            Local::ClientGetredir => Ok(self.client_getredir(index)),
            Local::ClientTrackinginfo => Ok(self.client_trackinginfo(index)),
            // NO-EVICT and NO-TOUCH: nothing is evicted here, and a node sees one connection for many clients.
            _ => on_off(args.get(2)),
        };
        outcome.unwrap_or_else(Value::error)
    }

    fn client_list(&self, args: &Args<'_>) -> Result<Value, String> {
        let mut ids = None;
        let mut nobody = false;
        match args.try_get(2) {
            None => {}
            Some(word) if word.eq_ignore_ascii_case(b"type") && args.len() == 4 => {
                nobody = !is_normal_type(args.get(3))?;
            }
            Some(word) if word.eq_ignore_ascii_case(b"id") && args.len() > 3 => {
                let listed: Option<Vec<i64>> = (3..args.len()).map(|place| number(args.get(place))).collect();
                ids = Some(listed.ok_or("ERR Invalid client ID")?);
            }
            Some(_) => return Err("ERR syntax error".to_owned()),
        }
        let now = self.now_ms();
        let mut text = String::new();
        for info in self.shared.registry.list() {
            let id = i64::try_from(info.id).unwrap_or(i64::MAX);
            if !nobody && ids.as_ref().is_none_or(|ids| ids.contains(&id)) {
                text.push_str(&info.line(now));
                text.push('\n');
            }
        }
        Ok(verbatim(text))
    }

    fn client_kill(&mut self, index: usize, args: &Args<'_>) -> Result<Value, String> {
        let own = self.clients[index].info.id;
        if args.len() == 3 {
            let mut wanted = Filter {
                address: Some(text(args.get(2))?),
                ..Filter::default()
            };
            wanted.skip = None;
            return match kill_matching(&self.shared, &wanted) {
                0 => Err("ERR No such client".to_owned()),
                _ => Ok(ok()),
            };
        }
        let mut wanted = Filter {
            skip: Some(own),
            ..Filter::default()
        };
        let mut at = 2;
        while at < args.len() {
            let (word, value) = (args.get(at), args.try_get(at + 1).ok_or("ERR syntax error")?);
            match word.to_ascii_lowercase().as_slice() {
                b"id" => {
                    wanted.id = Some(
                        number(value)
                            .filter(|&id| id > 0)
                            .ok_or("ERR client-id should be greater than 0")?,
                    )
                }
                b"addr" => wanted.address = Some(text(value)?),
                b"laddr" => wanted.local_address = Some(text(value)?),
                b"type" => wanted.nobody |= !is_normal_type(value)?,
                b"user" => wanted.nobody |= value != b"default",
                b"maxage" => {
                    wanted.age_min =
                        Some(number(value).ok_or("ERR maxage is not an integer or out of range")?)
                }
                b"skipme" if value.eq_ignore_ascii_case(b"yes") => wanted.skip = Some(own),
                b"skipme" if value.eq_ignore_ascii_case(b"no") => wanted.skip = None,
                _ => return Err("ERR syntax error".to_owned()),
            }
            at += 2;
        }
        Ok(Value::Int(
            i64::try_from(kill_matching(&self.shared, &wanted)).unwrap_or(i64::MAX),
        ))
    }
}

/// Which clients are meant.
#[derive(Debug, Default)]
pub(in crate::worker) struct Filter {
    id: Option<i64>,
    address: Option<String>,
    local_address: Option<String>,
    age_min: Option<i64>,
    skip: Option<u64>,
    nobody: bool,
}

impl Filter {
    fn matches(&self, info: &ClientInfo, now_ms: u64) -> bool {
        let age = i64::try_from(now_ms.saturating_sub(info.connected_ms) / 1000).unwrap_or(i64::MAX);
        !self.nobody
            && self.skip != Some(info.id)
            && self.id.is_none_or(|id| i64::try_from(info.id) == Ok(id))
            && self
                .address
                .as_ref()
                .is_none_or(|address| *address == info.address)
            && self
                .local_address
                .as_ref()
                .is_none_or(|address| *address == info.local_address)
            && self.age_min.is_none_or(|least| age >= least)
    }
}

/// Marks the clients that are meant; their workers close them at the next sweep. Returns how many.
pub(in crate::worker) fn kill_matching(shared: &Shared, wanted: &Filter) -> usize {
    let now = shared.now_ms();
    let matching = shared
        .registry
        .list()
        .into_iter()
        .filter(|info| wanted.matches(info, now));
    matching.filter(|info| !info.killed.swap(true, Relaxed)).count()
}

fn set_info(info: &ClientInfo, option: &[u8], value: &[u8]) -> Result<Value, String> {
    let option = option.to_ascii_lowercase();
    let value = std::str::from_utf8(value)
        .ok()
        .filter(|value| is_client_name(value));
    let mut names = info.names();
    let field = match option.as_slice() {
        b"lib-name" => &mut names.lib_name,
        b"lib-ver" => &mut names.lib_ver,
        _ => {
            return Err(format!(
                "ERR Unrecognized option '{}'",
                String::from_utf8_lossy(&option)
            ));
        }
    };
    let Some(value) = value else {
        let option = String::from_utf8_lossy(&option).into_owned();
        return Err(format!(
            "ERR {option} cannot contain spaces, newlines or special characters."
        ));
    };
    value.clone_into(field);
    Ok(ok())
}

fn on_off(word: &[u8]) -> Result<Value, String> {
    if word.eq_ignore_ascii_case(b"on") || word.eq_ignore_ascii_case(b"off") {
        return Ok(ok());
    }
    Err("ERR syntax error".to_owned())
}

/// All clients are of type `normal`, as long as nobody can subscribe.
fn is_normal_type(word: &[u8]) -> Result<bool, String> {
    match word.to_ascii_lowercase().as_slice() {
        b"normal" => Ok(true),
        b"master" | b"replica" | b"slave" | b"pubsub" => Ok(false),
        _ => Err(format!(
            "ERR Unknown client type '{}'",
            String::from_utf8_lossy(word)
        )),
    }
}

fn text(word: &[u8]) -> Result<String, String> {
    std::str::from_utf8(word)
        .map(str::to_owned)
        .map_err(|_| "ERR syntax error".to_owned())
}
