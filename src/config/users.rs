//! `[[user]]`: who may connect, with which passwords, and what each may do.
//!
//! The fields stand in one table, like the other keys, so that the reader, `docs/CONFIGURATION.md` and the sample file
//! cannot disagree. As everywhere in the config, each mistake is told with its line and reading goes on.

use std::collections::HashMap;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::mistake::Origin;
use super::raw::{Given, Raw, suggestion};
use super::secret::PasswordHash;
use crate::acl::{Rights, Rules, is_command_word};
use crate::command::Categories;

/// The list of tables.
pub const SECTION: &str = "user";
/// Who is meant where no user is named.
pub const DEFAULT: &str = "default";
/// What the tables are for.
pub const WHAT: &str = "Who may connect, with which passwords, and what each may do; on the data port and on the admin port. With any such \
     table, and without `[proxy] password_…`, the user `default` is off unless a table names it. In the file only, not in the environment.";

/// Users in one file.
const USERS_MAX: usize = 1000;
/// Passwords, patterns or words of one user.
const LIST_MAX: usize = 1000;
/// Bytes of one name or pattern.
const TEXT_MAX: usize = 1024;

/// One field of a user.
#[derive(Debug)]
pub struct Field {
    /// Its name.
    pub name: &'static str,
    kind: FieldKind,
    /// What it is if it is not given.
    pub default: &'static str,
    /// How it may look in the sample file.
    pub example: &'static str,
    /// What it does.
    pub what: &'static str,
    /// What it costs, or what goes wrong.
    pub cost: &'static str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum FieldKind {
    Text,
    Texts,
    Switch,
}

const fn field(
    name: &'static str,
    kind: FieldKind,
    (default, example): (&'static str, &'static str),
    what: &'static str,
    cost: &'static str,
) -> Field {
    Field {
        name,
        kind,
        default,
        example,
        what,
        cost,
    }
}

/// All fields, in the order of the pages.
pub const FIELDS: &[Field] = &[
    field(
        "name",
        FieldKind::Text,
        ("required", "\"shop\""),
        "The name that clients give (`AUTH name password`); `default` is who gives none.",
        "Shown in `CLIENT LIST`, metrics and logs.",
    ),
    field(
        "password_file",
        FieldKind::Texts,
        ("unset", "[\"shop-password\", \"shop-password-new\"]"),
        "File whose first line is a password, or a list of such files: any of the passwords is taken.",
        "Two of them let a password be exchanged while clients use the old one.",
    ),
    field(
        "password_sha256",
        FieldKind::Texts,
        ("unset", "\"<64 hexadecimal digits>\""),
        "A password as its SHA-256, or a list of them. May stand beside `password_file`.",
        "A weak password can be guessed from its hash: keep this file private too.",
    ),
    field(
        "nopass",
        FieldKind::Switch,
        ("`false`", "false"),
        "Takes any password. A user needs this or a password.",
        "Everybody who reaches the port may be this user; as `default` without even saying so.",
    ),
    field(
        "enabled",
        FieldKind::Switch,
        ("`true`", "true"),
        "`false` keeps everybody from being this user, and closes who is.",
        "None.",
    ),
    field(
        "rights",
        FieldKind::Texts,
        ("`[]`", "[\"read\", \"write\"]"),
        "What it may do, in large: `read`, `write` (scripts need both), `monitor` (`INFO`, `SLOWLOG`, `CLIENT LIST`, and \
         the words of `PRESHARD` that change nothing), `admin` (everything about the server, and all words of `PRESHARD`).",
        "`PRESHARD` is answered on the data port too for who may use it there.",
    ),
    field(
        "commands",
        FieldKind::Texts,
        ("`[]`", "[\"-@dangerous\", \"+info\", \"-config|set\"]"),
        "Redis's ACL words, applied in this order to what `rights` allow: `+name`, `-name`, `+name|sub`, `+@category`, \
         `+@all`.",
        "`ACL CAT` lists the categories. Without `rights` this is the whole list.",
    ),
    field(
        "keys",
        FieldKind::Texts,
        ("all keys", "[\"shop:*\"]"),
        "Patterns of the keys that it may use, in every database, as behind `~` in Redis. An empty list: none.",
        "Each key is compared with each pattern. A script can reach keys that it does not name: such a user has scripts \
         only if `commands` name them.",
    ),
    field(
        "channels",
        FieldKind::Texts,
        ("all channels; none with `keys`", "[\"shop.*\"]"),
        "Patterns of the channels that it may publish on and subscribe to, as behind `&` in Redis.",
        "`PSUBSCRIBE` takes only a pattern that stands here letter by letter, as in Redis.",
    ),
];

/// One user, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UserSettings {
    /// Its name.
    pub name: String,
    /// Any of these is taken.
    pub passwords: Vec<PasswordHash>,
    /// Any password is taken.
    pub nopass: bool,
    /// Somebody may be this user.
    pub enabled: bool,
    /// What it may do.
    pub rules: Rules,
}

/// One table, with right types.
#[derive(Clone, Debug)]
pub(super) struct RawUser {
    at: Origin,
    fields: HashMap<&'static str, Vec<Given>>,
}

impl Field {
    /// What values it takes.
    #[must_use]
    pub const fn describe(&self) -> &'static str {
        match self.kind {
            FieldKind::Text => "a text",
            FieldKind::Texts => "a text or a list of texts",
            FieldKind::Switch => "true or false",
        }
    }
}

// === from the file ===

/// Reads all tables.
pub(super) fn read(raw: &mut Raw, value: &Spanned<DeValue<'_>>) {
    let hint = "write [[user]]";
    let DeValue::Array(rows) = value.get_ref() else {
        return raw.tell(Origin::File(value.span()), "users must be a list of tables", hint);
    };
    if rows.len() > USERS_MAX {
        let what = format!("{} users, {USERS_MAX} are the limit", rows.len());
        return raw.tell(Origin::File(value.span()), what, "");
    }
    for row in rows {
        match row.get_ref() {
            DeValue::Table(table) => {
                let user = RawUser {
                    at: Origin::File(row.span()),
                    fields: read_fields(raw, table),
                };
                raw.users.push(user);
            }
            other => {
                let what = format!("a user must be a table, not {}", other.type_str());
                raw.tell(Origin::File(row.span()), what, hint);
            }
        }
    }
}

fn read_fields(raw: &mut Raw, table: &DeTable<'_>) -> HashMap<&'static str, Vec<Given>> {
    let mut fields = HashMap::new();
    for (name, value) in table {
        let Some(field) = FIELDS.iter().find(|field| field.name == name.get_ref().as_ref()) else {
            let hint = suggestion(name.get_ref(), FIELDS.iter().map(|field| field.name));
            let what = format!("unknown key user.{}", name.get_ref());
            raw.tell(Origin::File(name.span()), what, hint);
            continue;
        };
        let mut given = Vec::new();
        match (value.get_ref(), field.kind) {
            (DeValue::String(text), FieldKind::Text | FieldKind::Texts) => given.push(Given {
                text: text.to_string(),
                origin: Origin::File(value.span()),
            }),
            (DeValue::Boolean(on), FieldKind::Switch) => given.push(Given {
                text: on.to_string(),
                origin: Origin::File(value.span()),
            }),
            (DeValue::Array(list), FieldKind::Texts) if list.len() <= LIST_MAX => {
                for item in list {
                    match item.get_ref() {
                        DeValue::String(text) => given.push(Given {
                            text: text.to_string(),
                            origin: Origin::File(item.span()),
                        }),
                        other => {
                            let what =
                                format!("user.{} must list texts, not {}", field.name, other.type_str());
                            raw.tell(Origin::File(item.span()), what, "put it in quotes");
                        }
                    }
                }
            }
            (other, _) => {
                let what = format!(
                    "user.{} must be {}, not {}",
                    field.name,
                    field.describe(),
                    other.type_str()
                );
                raw.tell(Origin::File(value.span()), what, "");
            }
        }
        fields.insert(field.name, given);
    }
    fields
}

// === from texts to users ===

/// Makes the users out of what was read; `secret` reads a password file.
pub(super) fn build(
    raw: &mut Raw,
    secret: impl Fn(&mut Raw, &str, Origin) -> Option<PasswordHash>,
) -> Vec<UserSettings> {
    let rows = std::mem::take(&mut raw.users);
    let mut names: HashMap<String, ()> = HashMap::new();
    let mut users = Vec::new();
    for row in rows {
        let Some(name) = name_of(raw, &row) else { continue };
        if names.insert(name.clone(), ()).is_some() {
            let origin = row.origin("name");
            raw.tell(origin, format!("user name '{name}' is used twice"), "");
        }
        if name == DEFAULT {
            raw.default_user_at = Some(row.origin("name"));
        }
        let (nopass, passwords) = passwords_of(raw, &row, &name, &secret);
        users.push(UserSettings {
            nopass,
            passwords,
            enabled: row.switch("enabled").unwrap_or(true),
            rules: rules_of(raw, &row, &name),
            name,
        });
    }
    users
}

impl RawUser {
    fn list(&self, field: &str) -> Vec<Given> {
        self.fields.get(field).cloned().unwrap_or_default()
    }

    fn has(&self, field: &str) -> bool {
        self.fields.contains_key(field)
    }

    fn switch(&self, field: &str) -> Option<bool> {
        self.fields.get(field)?.first()?.text.parse().ok()
    }

    fn origin(&self, field: &str) -> Origin {
        let given = self.fields.get(field).and_then(|given| given.first());
        given.map_or_else(|| self.at.clone(), |given| given.origin.clone())
    }
}

fn name_of(raw: &mut Raw, row: &RawUser) -> Option<String> {
    let Some(given) = row.list("name").into_iter().next() else {
        if !row.has("name") {
            raw.tell(row.at.clone(), "a user without name", "add name = \"…\"");
        }
        return None;
    };
    let good = |c: char| c.is_ascii_graphic() && c != '"' && c != '\\';
    if given.text.is_empty() || given.text.len() > 64 || !given.text.chars().all(good) {
        let what = format!("'{}' is no name for a user", given.text.escape_default());
        raw.tell(
            given.origin,
            what,
            "1 to 64 letters, digits and signs, without spaces and quotes",
        );
        return None;
    }
    Some(given.text)
}

fn passwords_of(
    raw: &mut Raw,
    row: &RawUser,
    name: &str,
    secret: &impl Fn(&mut Raw, &str, Origin) -> Option<PasswordHash>,
) -> (bool, Vec<PasswordHash>) {
    let mut passwords = Vec::new();
    for given in row.list("password_file") {
        passwords.extend(secret(raw, &given.text, given.origin));
    }
    for given in row.list("password_sha256") {
        match PasswordHash::from_hex(&given.text) {
            Some(hash) => passwords.push(hash),
            None => raw.tell(
                given.origin,
                format!("password_sha256 of user '{name}' must be 64 hexadecimal digits"),
                "make them with: printf %s \"$PASSWORD\" | sha256sum",
            ),
        }
    }
    let nopass = row.switch("nopass").unwrap_or(false);
    let given = !row.list("password_file").is_empty() || !row.list("password_sha256").is_empty();
    if nopass && given {
        let what = format!("user '{name}' has a password and takes any (nopass)");
        raw.tell(row.origin("nopass"), what, "keep one of the two");
    }
    if !nopass && !given && row.switch("enabled") != Some(false) {
        let what = format!("user '{name}' has no password");
        let hint = "add password_file or password_sha256; nopass = true takes any password";
        raw.tell(row.origin("name"), what, hint);
    }
    (nopass, passwords)
}

fn rules_of(raw: &mut Raw, row: &RawUser, name: &str) -> Rules {
    let mut rights = Rights::NONE;
    for given in row.list("rights") {
        match Rights::word(&given.text) {
            Some(right) => rights = rights.with(right),
            None => {
                let what = format!("'{}' is no right", given.text);
                let hint = suggestion(&given.text, Rights::WORDS.iter().map(|&(word, _)| word));
                raw.tell(given.origin, what, hint);
            }
        }
    }
    if !row.has("rights") && !row.has("commands") {
        let what = format!("user '{name}' may do nothing");
        raw.tell(
            row.origin("name"),
            what,
            "add rights = [\"read\", \"write\"], or commands",
        );
    }
    let limited = row.has("keys");
    let mut words = Vec::new();
    if limited {
        // They reach keys that they do not name, and nothing here could see it.
        words.extend(CODE_WORDS.map(str::to_owned));
    }
    for given in row.list("commands") {
        if is_command_word(&given.text) {
            words.push(given.text);
        } else {
            let what = format!("'{}' is no ACL word about commands", given.text);
            raw.tell(given.origin, what, word_hint(&given.text));
        }
    }
    let keys = limited.then(|| patterns(raw, row, "keys", '~'));
    let channels = if row.has("channels") {
        Some(patterns(raw, row, "channels", '&'))
    } else {
        limited.then(Vec::new)
    };
    Rules::new(rights, &words, keys, channels)
}

/// Commands that run code on a node, or put it there.
const CODE_WORDS: [&str; 8] = [
    "-eval",
    "-eval_ro",
    "-evalsha",
    "-evalsha_ro",
    "-fcall",
    "-fcall_ro",
    "-script",
    "-function",
];

fn word_hint(word: &str) -> String {
    let name = word.trim_start_matches(['+', '-']);
    match name.strip_prefix('@') {
        Some(category) => suggestion(category, Categories(u32::MAX).words().chain(["all"])),
        None if word == name => "write +name, -name, +name|subcommand, +@category or -@category".to_owned(),
        None => {
            let known = crate::command::all().iter().map(|spec| spec.name);
            let hint = suggestion(&name.to_ascii_lowercase(), known);
            if hint.starts_with("known") {
                "COMMAND LIST tells the names of all commands".to_owned()
            } else {
                hint
            }
        }
    }
}

fn patterns(raw: &mut Raw, row: &RawUser, field: &str, mark: char) -> Vec<Vec<u8>> {
    let mut patterns = Vec::new();
    for given in row.list(field) {
        let text = given.text;
        let wrong = if text.is_empty() {
            "is empty"
        } else if text.len() > TEXT_MAX {
            "is too long"
        } else if text.contains([' ', '\0']) {
            "has a space or a null"
        } else if text.starts_with(mark) {
            "begins with the mark of Redis's ACL words"
        } else {
            patterns.push(text.into_bytes());
            continue;
        };
        let hint = format!("write the pattern alone, without {mark}: \"shop:*\"");
        raw.tell(given.origin, format!("a pattern of user.{field} {wrong}"), hint);
    }
    patterns
}

#[cfg(test)]
mod tests;
