//! CLIENT: who am I, who is here, who has to go, and who wants no replies.

use std::sync::atomic::Ordering::Relaxed;

use super::filter::Filter;
use super::{number, ok, verbatim, wrong_subcommand};
use crate::command::Local;
use crate::metrics::{Disconnect, RequestClass};
use crate::resp::{Args, Value};
use crate::worker::engine::Engine;
use crate::worker::registry::{ClientInfo, NAME_MAX, is_client_name};
use crate::worker::session::client::Special;
use crate::worker::session::input::Taken;

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
            Local::ClientList => self.client_list(index, args),
            Local::ClientKill => self.client_kill(index, args),
            Local::ClientCaching => self.client_caching(index, args.get(2)).map(|()| ok()),
            Local::ClientGetredir => Ok(self.client_getredir(index)),
            Local::ClientTrackinginfo => Ok(self.client_trackinginfo(index)),
            Local::ClientPause if args.len() > 4 => Err(wrong_subcommand(args)),
            Local::ClientPause => self.client_pause(index, args),
            Local::ClientUnpause => Ok(self.client_unpause(index)),
            // Shown, and no more: nothing is evicted here, and a node sees one connection for many clients.
            Local::ClientNoEvict => on_off(args.get(2)).map(|on| {
                self.clients[index].no_evict = on;
                ok()
            }),
            _ => on_off(args.get(2)).map(|on| {
                self.clients[index].no_touch = on;
                ok()
            }),
        };
        outcome.unwrap_or_else(Value::error)
    }

    /// `CLIENT REPLY ON|OFF|SKIP`
    pub(super) fn client_reply(&mut self, index: usize, args: &Args<'_>) -> Taken {
        let special = &mut self.clients[index].special;
        match args.get(2).to_ascii_lowercase().as_slice() {
            b"on" => {
                special.unset(Special::SILENT);
                special.unset(Special::SKIPS);
                self.answer(index, b"+OK\r\n", RequestClass::Local);
            }
            b"off" => special.set(Special::SILENT),
            b"skip" if special.has(Special::SILENT) => {}
            b"skip" => special.set(Special::SKIPS_NEXT),
            _ => self.answer_error(index, "ERR syntax error"),
        }
        Taken::Yes
    }

    fn client_list(&self, index: usize, args: &Args<'_>) -> Result<Value, String> {
        let own = self.clients[index].info.id;
        let ids = args
            .try_get(2)
            .is_some_and(|word| word.eq_ignore_ascii_case(b"id"));
        // What Redis 7 has, with its errors; and then the filters of `CLIENT KILL`.
        if ids && args.try_get(3).is_some_and(|id| number(id).is_none()) {
            return Err("ERR Invalid client ID".to_owned());
        }
        let filter = self.filter(args, own, false)?;
        let now = self.now_ms();
        let mut text = String::new();
        for info in self.shared.registry.list() {
            if filter.matches(&info, now) {
                text.push_str(&info.line(now));
                text.push('\n');
            }
        }
        Ok(verbatim(text))
    }

    fn filter(&self, args: &Args<'_>, own: u64, skips_own: bool) -> Result<Filter, String> {
        let users = self.shared.users.load();
        let known = |user: &[u8]| users.find(user).is_some();
        Filter::parse(args, own, skips_own, (self.topology.pinned + 1, &known))
    }

    fn client_kill(&mut self, index: usize, args: &Args<'_>) -> Result<Value, String> {
        let own = self.clients[index].info.id;
        if args.len() == 3 {
            return match self.kill_matching(index, &Filter::of_address(args.get(2))) {
                0 => Err("ERR No such client".to_owned()),
                _ => Ok(ok()),
            };
        }
        let filter = self.filter(args, own, true)?;
        let count = self.kill_matching(index, &filter);
        Ok(Value::Int(i64::try_from(count).unwrap_or(i64::MAX)))
    }

    /// Has the clients closed that are meant: the one that asks behind its answer, those of this worker now, others as soon
    /// as their workers come to it. Returns how many.
    fn kill_matching(&mut self, index: usize, filter: &Filter) -> usize {
        let now = self.now_ms();
        let own = self.clients[index].info.id;
        let mut count = 0;
        for info in self.shared.registry.list() {
            // Each is counted once, whoever else kills it at the same time.
            if !filter.matches(&info, now) || !info.kill() {
                continue;
            }
            count += 1;
            if info.id == own {
                // The mark would close it before it is answered.
                info.killed.store(false, Relaxed);
                self.clients[index].closing = Some(Disconnect::AdminKill);
            }
        }
        let killed: Vec<(usize, u32)> = self
            .clients
            .iter()
            .filter(|(_, client)| client.info.killed.load(Relaxed))
            .map(|(place, client)| (place, client.generation))
            .collect();
        for (place, generation) in killed {
            self.close_client(place, generation, Disconnect::AdminKill);
        }
        count
    }
}

fn set_info(info: &ClientInfo, option: &[u8], value: &[u8]) -> Result<Value, String> {
    let value = std::str::from_utf8(value)
        .ok()
        .filter(|value| is_client_name(value));
    let mut names = info.names();
    let field = match option.to_ascii_lowercase().as_slice() {
        b"lib-name" => &mut names.lib_name,
        b"lib-ver" => &mut names.lib_ver,
        _ => {
            return Err(format!(
                "ERR Unrecognized option '{}'",
                String::from_utf8_lossy(option)
            ));
        }
    };
    let Some(value) = value else {
        let option = String::from_utf8_lossy(option).into_owned();
        return Err(format!(
            "ERR {option} cannot contain spaces, newlines or special characters."
        ));
    };
    if value.len() > NAME_MAX {
        let option = String::from_utf8_lossy(option);
        return Err(format!("ERR {option} is longer than {NAME_MAX} bytes"));
    }
    value.clone_into(field);
    Ok(ok())
}

fn on_off(word: &[u8]) -> Result<bool, String> {
    match word.to_ascii_lowercase().as_slice() {
        b"on" => Ok(true),
        b"off" => Ok(false),
        _ => Err("ERR syntax error".to_owned()),
    }
}
