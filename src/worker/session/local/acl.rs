//! `ACL …`: a view of the users. They are written in the config file, so nothing here changes them.
//!
//! Hashes of passwords are not shown: for each there is `#<redacted>`.

use crate::command::{self, Local};
use crate::resp::{Args, Value};
use crate::worker::engine::Engine;
use crate::worker::users::User;

/// What stands for the hash of a password.
const REDACTED: &str = "<redacted>";

impl Engine {
    pub(super) fn acl_command(&mut self, index: usize, local: Local, args: &Args<'_>) -> Value {
        let users = self.shared.users.load_full();
        match local {
            Local::AclList => Value::Array(users.list().map(|user| Value::bulk(line(user))).collect()),
            Local::AclUsers => Value::Array(
                users
                    .list()
                    .map(|user| Value::bulk(user.name.as_bytes()))
                    .collect(),
            ),
            Local::AclGetuser => users
                .find(args.get(2))
                .map_or(Value::Null, |user| described(user)),
            Local::AclDryrun => match users.find(args.get(2)) {
                None => Value::error(format!("ERR User '{}' not found", text(args.get(2)))),
                Some(user) => self.dry_run(user, args),
            },
            _ => Value::bulk(self.clients[index].user.name.as_bytes()),
        }
    }

    fn dry_run(&mut self, user: &User, args: &Args<'_>) -> Value {
        let ranges: Vec<_> = (3..args.len()).filter_map(|at| args.range(at)).collect();
        let inner = Args::new(args.frame(), &ranges);
        let spec = match command::identify(&inner) {
            Ok(spec) => spec,
            Err(refusal) if refusal.kind() == "arity" => return Value::error(refusal.line()),
            Err(_) => return Value::error(format!("ERR Command '{}' not found", text(inner.get(0)))),
        };
        match user.rules.check(spec, &inner, &mut self.access.places) {
            Ok(()) => Value::OK,
            Err(denied) => Value::bulk(denied.told(&inner)),
        }
    }
}

fn flags(user: &User) -> Vec<&'static str> {
    let mut flags = vec![if user.enabled { "on" } else { "off" }];
    if user.nopass {
        flags.push("nopass");
    }
    flags
}

/// A line of `ACL LIST`.
fn line(user: &User) -> String {
    let mut words = vec!["user".to_owned(), user.name.to_string()];
    words.extend(flags(user).into_iter().map(str::to_owned));
    words.extend((0..user.passwords()).map(|_| format!("#{REDACTED}")));
    let channels = user.rules.channels_text();
    let reset = if channels == "&*" { "" } else { "resetchannels" };
    words.extend([
        user.rules.keys_text(),
        reset.to_owned(),
        channels,
        user.rules.commands().text(),
    ]);
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// The answer of `ACL GETUSER`.
fn described(user: &User) -> Value {
    let list = |words: Vec<&'static str>| words.into_iter().map(Value::bulk).collect();
    let passwords = vec![REDACTED; user.passwords()];
    Value::Map(vec![
        (Value::bulk("flags"), Value::Set(list(flags(user)))),
        (Value::bulk("passwords"), Value::Array(list(passwords))),
        (Value::bulk("commands"), Value::bulk(user.rules.commands().text())),
        (Value::bulk("keys"), Value::bulk(user.rules.keys_text())),
        (Value::bulk("channels"), Value::bulk(user.rules.channels_text())),
        (Value::bulk("selectors"), Value::Array(Vec::new())),
    ])
}

fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(word).into_owned()
}
