//! A config that takes the place of another while the proxy runs: what is taken over, and what waits for a restart.
//!
//! ```text
//!  running ─┐
//!           ├─▶ taking: new values of keys that are reloaded, old ones of the rest ─▶ the next running one
//!  new ─────┘                                     └─ where the two differ: waits for a restart
//! ```
//!
//! Which keys are reloaded says `RELOADED` in `key.rs`; a test compares it with what is taken over here.

use super::keys::{Key, Kind};
use super::mistake::ConfigErrors;
use super::raw::Raw;
use super::{Config, relations, validate};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::Path;

/// Values that were set while running, by key. They count as if they stood in the file.
pub type Overrides = BTreeMap<&'static str, String>;

/// The text that a config was made of. It may hold hashes of passwords, and is never shown.
#[derive(Clone, Default)]
pub struct Source(pub(super) String);

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Source")
    }
}

/// Configs are equal if they say the same, however that was written.
impl PartialEq for Source {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Source {}

/// Why a key cannot be set while running.
pub(super) fn settable(key: &Key) -> Result<(), &'static str> {
    if !key.is_reloaded() {
        Err("is in force only after a restart: change the file")
    } else if matches!(key.kind, Kind::File)
        || key.path.starts_with("tls.")
        || key.path.starts_with("nodes.tls_")
    {
        Err("is about files: change the config file, then PRESHARD CONFIG RELOAD")
    } else {
        Ok(())
    }
}

impl Config {
    /// The file's text with values in the place of its own.
    ///
    /// # Errors
    /// Every mistake, in the order of the file.
    pub fn parse_with(
        path: &Path,
        text: &str,
        env: impl Iterator<Item = (OsString, OsString)>,
        overrides: &Overrides,
    ) -> Result<Self, ConfigErrors> {
        let mut raw = Raw::read(text, env);
        raw.set(overrides);
        let mut config = validate::build(&mut raw, path);
        config.source = Source(text.to_owned());
        if raw.mistakes.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors::of(&path.display().to_string(), text, raw.mistakes))
        }
    }

    /// This running config with these values set as well. Files that it names are not looked at again.
    ///
    /// # Errors
    /// A value that its key does not take, or that disagrees with others.
    pub fn setting(
        &self,
        overrides: &Overrides,
        env: impl Iterator<Item = (OsString, OsString)>,
    ) -> Result<Self, ConfigErrors> {
        let mut config = Self::parse_with(&self.file, &self.source.0, env, overrides)?;
        let is_set = |path| overrides.contains_key(path);
        if !is_set("proxy.password_sha256") {
            config.proxy.password.clone_from(&self.proxy.password);
        }
        if !is_set("admin.password_sha256") {
            config.admin.password.clone_from(&self.admin.password);
        }
        config.users.clone_from(&self.users);
        config.nodes.password.clone_from(&self.nodes.password);
        if let (Some((_, password)), Some((_, before))) = (&mut config.nodes.admin, &self.nodes.admin) {
            password.clone_from(before);
        }
        config.topology.store_login.clone_from(&self.topology.store_login);
        config.tls = self.tls.clone();
        config.nodes.tls = self.nodes.tls.clone();
        config.topology.store_tls = self.topology.store_tls.clone();
        Ok(config)
    }

    /// What runs when a proxy that runs with this config is given `new`: the old values of keys that wait for a restart, the
    /// new ones of all others.
    ///
    /// # Errors
    /// Old and new values do not go together: only a restart brings the new config in force.
    pub fn taking(&self, new: &Self) -> Result<Self, ConfigErrors> {
        let mut next = new.clone();
        let (proxy, admin, nodes) = (&self.proxy, &self.admin, &self.nodes);
        next.proxy.listen.clone_from(&proxy.listen);
        next.proxy.listen_tls.clone_from(&proxy.listen_tls);
        next.proxy.workers = proxy.workers;
        next.proxy.cluster_emulation = proxy.cluster_emulation;
        next.proxy.advertise.clone_from(&proxy.advertise);
        next.admin.listen.clone_from(&admin.listen);
        next.admin.http.clone_from(&admin.http);
        next.admin.listen_tls.clone_from(&admin.listen_tls);
        next.admin.http_tls.clone_from(&admin.http_tls);
        next.nodes.shared_connections = nodes.shared_connections;
        next.nodes.acl_users = nodes.acl_users;
        if nodes.tls.on != new.nodes.tls.on {
            next.nodes.tls = nodes.tls.clone();
        }
        let store_tls = new.topology.store_tls.clone();
        next.topology = self.topology.clone();
        if store_tls.on == self.topology.store_tls.on {
            next.topology.store_tls = store_tls;
        }
        if self.tls.side.is_some() != new.tls.side.is_some() {
            next.tls = self.tls.clone();
        }
        next.log.format = self.log.format;
        let mut raw = Raw::default();
        relations::check_listeners(&mut raw, &next);
        if raw.mistakes.is_empty() {
            return Ok(next);
        }
        for mistake in &mut raw.mistakes {
            mistake.what = format!(
                "{}, since some of the new values wait for a restart",
                mistake.what
            );
            mistake.hint = "restart the proxy with the new config".to_owned();
        }
        Err(ConfigErrors::of(
            &self.file.display().to_string(),
            "",
            raw.mistakes,
        ))
    }

    /// Whether somebody may connect, or do, what the other config does not let him.
    #[must_use]
    pub fn is_accessed_otherwise(&self, other: &Self) -> bool {
        (&self.users, &self.proxy.password, &self.admin.password)
            != (&other.users, &other.proxy.password, &other.admin.password)
    }

    /// The rows of [`Config::settings`] that differ, secrets and contents of files included.
    #[must_use]
    pub fn differences(&self, other: &Self) -> Vec<&'static str> {
        let hidden = |row: &str| match row {
            "proxy.password" => self.proxy.password != other.proxy.password,
            "admin.password" => self.admin.password != other.admin.password,
            "user" => self.users != other.users,
            "nodes.password" => self.nodes.password != other.nodes.password,
            "nodes.admin_password" => self.nodes.admin != other.nodes.admin,
            "topology.store_password" => self.topology.store_login != other.topology.store_login,
            "tls.certificate_file" => self.tls.side != other.tls.side,
            "nodes.tls_ca_file" => self.nodes.tls.side != other.nodes.tls.side,
            "topology.store_ca_file" => self.topology.store_tls.side != other.topology.store_tls.side,
            _ => false,
        };
        let rows = self.settings().into_iter().zip(other.settings());
        rows.filter(|((row, mine), (_, theirs))| mine != theirs || hidden(row))
            .map(|((row, _), _)| row)
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::keys::KEYS;
    use crate::config::units::{format_bytes, format_duration};

    const FILE: &str = "/etc/preshard/preshard.toml";

    fn with(overrides: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        let env = overrides.iter().map(|(path, value)| {
            let name = format!("PRESHARD__{}", path.to_uppercase().replace('.', "__"));
            (OsString::from(name), OsString::from(value))
        });
        Config::parse(Path::new(FILE), "", env)
    }

    /// A value that is not the default, or none for a key that names files.
    fn other(key: &Key) -> Option<String> {
        let special = match key.path {
            "topology.shards" => "512",
            "topology.store" => "file:other.json",
            "topology.store_tls"
            | "nodes.tls"
            | "topology.store_username"
            | "nodes.username"
            | "nodes.admin_username" => return None,
            "proxy.password_sha256" | "admin.password_sha256" => {
                "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
            }
            "proxy.listen_tls" | "admin.listen_tls" | "admin.http_tls" => return None,
            _ => "",
        };
        if !special.is_empty() {
            return Some(special.to_owned());
        }
        Some(match key.kind {
            Kind::Addresses | Kind::AddressOrOff => "127.0.0.1:7777".to_owned(),
            Kind::Count(least, _) | Kind::CountOrAuto(least, _) => (least + 1).to_string(),
            Kind::Switch => if key.default == Some("true") {
                "false"
            } else {
                "true"
            }
            .to_owned(),
            Kind::Bytes(least, most) => {
                // The memory of all must be more than one argument, the hard limit more than the soft one.
                let bytes = if key.path.ends_with("_hard") || key.path.ends_with("memory_max") {
                    most
                } else {
                    least
                };
                format_bytes(bytes)
            }
            Kind::BytesOrZero(least, ..) => format_bytes(least),
            Kind::Time(_, most) | Kind::TimeOrZero(_, most, _) => format_duration(most),
            Kind::Choice(words) => words.iter().find(|word| Some(**word) != key.default)?.to_string(),
            Kind::File => return None,
            Kind::Text(_) => key.example.to_owned(),
        })
    }

    #[test]
    fn each_key_is_taken_over_or_waits_as_its_row_says() {
        let running = with(&[]).unwrap();
        let mut seen = 0;
        for key in KEYS {
            let Some(value) = other(key) else { continue };
            let new = with(&[(key.path, &value)]).unwrap_or_else(|errors| panic!("{}: {errors}", key.path));
            assert!(
                !running.differences(&new).is_empty(),
                "{} = {value} changes nothing",
                key.path
            );
            let next = running.taking(&new).unwrap();
            let (applied, waits) = (running.differences(&next), next.differences(&new));
            let expected = if key.is_reloaded() { (1, 0) } else { (0, 1) };
            assert_eq!(
                (applied.len(), waits.len()),
                expected,
                "{}: {applied:?}, {waits:?}",
                key.path
            );
            seen += 1;
        }
        assert!(seen > 45, "{seen}");
    }

    #[test]
    fn a_listener_that_waits_for_a_restart_is_not_left_open() {
        let open = r#"
[admin]
listen = "0.0.0.0:6381"
password_sha256 = "5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8"
"#;
        let running = Config::parse(Path::new(FILE), open, std::iter::empty()).unwrap();
        let errors = running.taking(&with(&[]).unwrap()).unwrap_err().to_string();
        assert!(
            errors.contains("has no password, since some of the new values wait"),
            "{errors}"
        );
    }

    #[test]
    fn what_is_set_counts_as_if_it_stood_in_the_file_and_is_checked_like_it() {
        let text = "[proxy]\nmax_clients = 7\noutput_bytes_hard = \"16MiB\"\n";
        let running = Config::parse(Path::new(FILE), text, std::iter::empty()).unwrap();
        let set = |path, value: &str| {
            let overrides = Overrides::from([(path, value.to_owned())]);
            let new = running.setting(&overrides, std::iter::empty());
            new.map_err(|errors| errors.to_string())
        };
        let new = set("proxy.idle_timeout", "5m").unwrap();
        assert_eq!(running.differences(&new), ["proxy.idle_timeout"]);
        for (path, value, words) in [
            (
                "proxy.max_clients",
                "many",
                "the new value of proxy.max_clients: proxy.max_clients must be a whole",
            ),
            (
                "proxy.output_bytes_soft",
                "32MiB",
                "exceeds proxy.output_bytes_hard (16MiB)",
            ),
            ("proxy.workers", "3", "is in force only after a restart"),
            ("tls.client_certificates", "optional", "change the config file"),
            ("nodes.password_file", "/etc/shadow", "change the config file"),
        ] {
            let errors = set(path, value).unwrap_err();
            assert!(errors.contains(words), "{path} = {value}: {errors}");
        }
    }
}
