//! From the file and the environment to plain texts with their places.
//!
//! ```text
//!  file ──toml──▶ table ──┐  every key known? right type?      Raw: path → texts with their origins
//!  PRESHARD__SECTION__KEY ┴─▶ (the table in keys.rs)      ──▶  defaults are not filled in yet
//! ```
//!
//! The table is walked by hand and not by derived code, because that would stop at the first mistake.

use super::keys::{KEYS, Key, Kind, LATER, NODES_PATH, SECTIONS};
use super::live::{Overrides, settable};
use super::mistake::{Mistake, Origin};
use super::users::{self, RawUser};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::ops::Range;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Beginning of the names of environment variables that set a key.
pub(super) const ENV_PREFIX: &str = "PRESHARD__";
/// More mistakes than this are not told at once.
const MISTAKES_MAX: usize = 50;

/// A text and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// One row of `[[topology.nodes]]`; what is missing has been told.
#[derive(Clone, Debug)]
pub(super) struct RawNode {
    pub(super) name: Given,
    pub(super) address: Given,
}

/// All that was given, with known keys and right types.
#[derive(Debug, Default)]
pub(super) struct Raw {
    pub(super) values: BTreeMap<&'static str, Vec<Given>>,
    pub(super) nodes: Vec<RawNode>,
    pub(super) users: Vec<RawUser>,
    /// Where a `[[user]]` is called `default`, once users are built.
    pub(super) default_user_at: Option<Origin>,
    pub(super) mistakes: Vec<Mistake>,
}

// === impl Raw ===

impl Raw {
    /// Reads the file's text and then the environment, which wins.
    pub(super) fn read(text: &str, env: impl Iterator<Item = (OsString, OsString)>) -> Self {
        let mut raw = Self::default();
        let (table, errors) = DeTable::parse_recoverable(text);
        if errors.is_empty() {
            for (section, value) in table.get_ref() {
                raw.read_section(section.get_ref(), section.span(), value);
            }
        }
        for error in errors.into_iter().take(MISTAKES_MAX) {
            let origin = error.span().map_or(Origin::Whole, Origin::File);
            raw.tell(origin, format!("this is no TOML: {}", error.message()), "");
        }
        let mut env: Vec<(OsString, OsString)> = env.collect();
        env.sort();
        for (name, value) in env {
            raw.read_env(&name, value);
        }
        raw
    }

    pub(super) fn tell(&mut self, origin: Origin, what: impl Into<String>, hint: impl Into<String>) {
        if self.mistakes.len() < MISTAKES_MAX {
            self.mistakes.push(Mistake {
                origin,
                what: what.into(),
                hint: hint.into(),
            });
        }
    }

    /// Where the value of a key was given.
    pub(super) fn origin(&self, path: &str) -> Origin {
        let given = self.values.get(path).and_then(|given| given.first());
        given.map_or(Origin::Whole, |given| given.origin.clone())
    }

    /// Puts values in the place of those of the file and the environment.
    pub(super) fn set(&mut self, overrides: &Overrides) {
        for (&path, text) in overrides {
            let origin = Origin::Set(path);
            let Some(key) = Key::find(path) else { continue };
            if let Err(why) = settable(key) {
                self.tell(origin.clone(), format!("{path} {why}"), "");
            }
            let text = text.clone();
            self.values.insert(path, vec![Given { text, origin }]);
        }
    }

    /// Whether a mistake about a key, or about an item of its list, has been told.
    pub(super) fn is_wrong(&self, path: &str) -> bool {
        let given = self.values.get(path).into_iter().flatten();
        let told = |origin: &Origin| self.mistakes.iter().any(|mistake| mistake.origin == *origin);
        given.into_iter().any(|given| told(&given.origin))
    }

    fn read_section(&mut self, section: &str, at: Range<usize>, value: &Spanned<DeValue<'_>>) {
        if LATER.contains(&section) {
            return self.read_later(section, at, value.get_ref());
        }
        if section == users::SECTION {
            return users::read(self, value);
        }
        let names = || SECTIONS.iter().map(|(name, _)| *name).chain([users::SECTION]);
        if !names().any(|name| name == section) {
            let hint = suggestion(section, names());
            return self.tell(Origin::File(at), format!("unknown section [{section}]"), hint);
        }
        let DeValue::Table(table) = value.get_ref() else {
            let what = format!("{section} must be a section: [{section}]");
            return self.tell(Origin::File(at), what, "");
        };
        for (name, value) in table {
            let path = format!("{section}.{}", name.get_ref());
            if path == NODES_PATH {
                self.read_nodes(value);
            } else if let Some(key) = Key::find(&path) {
                self.read_value(key, value);
            } else if LATER.contains(&path.as_str()) {
                self.read_later(&path, name.span(), value.get_ref());
            } else {
                let known = KEYS.iter().filter(|key| key.section() == section).map(Key::name);
                let hint = suggestion(name.get_ref(), known);
                self.tell(Origin::File(name.span()), format!("unknown key {path}"), hint);
            }
        }
    }

    /// Accepts what means "off" and refuses the rest.
    fn read_later(&mut self, path: &str, at: Range<usize>, value: &DeValue<'_>) {
        let neutral = match value {
            DeValue::Boolean(on) => !on,
            DeValue::String(text) => text.is_empty() || text == "off",
            DeValue::Array(list) => list.is_empty(),
            DeValue::Table(table) => table.is_empty(),
            DeValue::Integer(_) | DeValue::Float(_) | DeValue::Datetime(_) => false,
        };
        if !neutral {
            self.tell(
                Origin::File(at),
                format!("{path} is not supported by this version of preshard"),
                "remove it",
            );
        }
    }

    fn read_value(&mut self, key: &'static Key, value: &Spanned<DeValue<'_>>) {
        let origin = Origin::File(value.span());
        let texts = match (value.get_ref(), key.kind) {
            (DeValue::String(text), kind) if !matches!(kind, Kind::Count(..) | Kind::Switch) => {
                vec![(text.to_string(), origin)]
            }
            (
                DeValue::Integer(number),
                Kind::Count(..) | Kind::CountOrAuto(..) | Kind::TimeOrZero(..) | Kind::BytesOrZero(..),
            ) => {
                let decimal = i64::from_str_radix(number.as_str(), number.radix());
                let text = decimal.map_or_else(|_| number.as_str().to_owned(), |number| number.to_string());
                vec![(text, origin)]
            }
            (DeValue::Boolean(on), Kind::Switch) => vec![(on.to_string(), origin)],
            (DeValue::Array(list), Kind::Addresses) => {
                let mut texts = Vec::new();
                for item in list {
                    match item.get_ref() {
                        DeValue::String(text) => texts.push((text.to_string(), Origin::File(item.span()))),
                        other => {
                            let what = format!("{} must list texts, not {}", key.path, other.type_str());
                            self.tell(Origin::File(item.span()), what, "");
                        }
                    }
                }
                texts
            }
            (other, kind) => {
                let what = format!(
                    "{} must be {}, not {}",
                    key.path,
                    kind.describe(),
                    other.type_str()
                );
                return self.tell(origin, what, kind.spelling());
            }
        };
        let given = texts
            .into_iter()
            .map(|(text, origin)| Given { text, origin })
            .collect();
        self.values.insert(key.path, given);
    }

    fn read_nodes(&mut self, value: &Spanned<DeValue<'_>>) {
        let DeValue::Array(rows) = value.get_ref() else {
            return self.tell(
                Origin::File(value.span()),
                "nodes must be a list of tables",
                "write [[topology.nodes]]",
            );
        };
        for row in rows {
            match row.get_ref() {
                DeValue::Table(table) => self.read_node(row.span(), table),
                other => {
                    let what = format!(
                        "a node must be a table with name and address, not {}",
                        other.type_str()
                    );
                    self.tell(Origin::File(row.span()), what, "write [[topology.nodes]]");
                }
            }
        }
    }

    fn read_node(&mut self, at: Range<usize>, table: &DeTable<'_>) {
        let (mut name, mut address) = (None, None);
        for (field, value) in table {
            let origin = Origin::File(value.span());
            let slot = match field.get_ref().as_ref() {
                "name" => &mut name,
                "address" => &mut address,
                other => {
                    let hint = suggestion(other, ["name", "address"].into_iter());
                    self.tell(
                        Origin::File(field.span()),
                        format!("unknown key topology.nodes.{other}"),
                        hint,
                    );
                    continue;
                }
            };
            // Even a field of the wrong type counts as there, or it would be told as missing too.
            *slot = Some(value.get_ref().as_str().map(|text| Given {
                text: text.to_owned(),
                origin: origin.clone(),
            }));
            if matches!(slot, Some(None)) {
                let what = format!("topology.nodes.{} must be text", field.get_ref());
                self.tell(origin, what, "put it in quotes");
            }
        }
        for (field, value) in [("name", &name), ("address", &address)] {
            if value.is_none() {
                let hint = "every [[topology.nodes]] needs name = \"…\" and address = \"host:port\"";
                self.tell(Origin::File(at.clone()), format!("a node without {field}"), hint);
            }
        }
        if let (Some(Some(name)), Some(Some(address))) = (name, address) {
            self.nodes.push(RawNode { name, address });
        }
    }

    fn read_env(&mut self, name: &std::ffi::OsStr, value: OsString) {
        let name = name.to_string_lossy().into_owned();
        let Some(rest) = name.strip_prefix(ENV_PREFIX) else {
            return;
        };
        let path = rest.to_ascii_lowercase().replacen("__", ".", 1);
        let origin = Origin::Env(name.clone());
        let Ok(text) = value.into_string() else {
            return self.tell(origin, "its value is not UTF-8", "");
        };
        if path == NODES_PATH {
            return self.read_env_nodes(&text, &origin);
        }
        let section = path.split('.').next().unwrap_or_default();
        let Some(key) = Key::find(&path) else {
            if LATER.contains(&path.as_str()) || LATER.contains(&section) {
                return self.tell(
                    origin,
                    format!("{path} is not supported by this version of preshard"),
                    "unset it",
                );
            }
            let hint = suggestion(&path, KEYS.iter().map(|key| key.path));
            return self.tell(origin, format!("it sets {path}, which is no key"), hint);
        };
        let texts: Vec<&str> = match key.kind {
            Kind::Addresses => text.split(',').map(str::trim).collect(),
            _ => vec![text.as_str()],
        };
        let given = texts.into_iter().map(|text| Given {
            text: text.to_owned(),
            origin: origin.clone(),
        });
        self.values.insert(key.path, given.collect());
    }

    /// `name=address,name=address` replaces the whole list.
    fn read_env_nodes(&mut self, text: &str, origin: &Origin) {
        self.nodes.clear();
        for pair in text.split(',').map(str::trim) {
            let Some((name, address)) = pair.split_once('=') else {
                self.tell(
                    origin.clone(),
                    format!("'{pair}' is no node"),
                    "write name=host:port,name=host:port",
                );
                continue;
            };
            let given = |text: &str| Given {
                text: text.to_owned(),
                origin: origin.clone(),
            };
            self.nodes.push(RawNode {
                name: given(name),
                address: given(address),
            });
        }
    }
}

/// "did you mean", if something known is near.
pub(crate) fn suggestion<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> String {
    let known: Vec<&str> = known.collect();
    let near = known.iter().map(|name| (distance(wrong, name), *name)).min();
    match near {
        Some((steps, name)) if steps <= 2 || steps * 3 <= wrong.len() => format!("did you mean {name}?"),
        Some(_) | None => format!("known: {}", known.join(", ")),
    }
}

/// How many letters must be added, removed or exchanged (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let a: Vec<char> = a.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=a.len()).collect();
    for (i, letter) in b.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, other) in a.iter().enumerate() {
            let exchanged = diagonal + usize::from(letter != *other);
            diagonal = row[j + 1];
            row[j + 1] = exchanged.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[a.len()]
}
