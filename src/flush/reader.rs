//! The flusher's file: read as a whole, every mistake told at once with its line, as with preshard's own config.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::config::SslMode;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::address::redis_address;
use super::database::PostgresSide;
use super::rows::MemberType;
use super::settings::{Counter, OnBad, OnRollback, Settings};
use super::source::RedisSide;
use super::statement::Statement;
use crate::config::units::{TIME_HINT, format_duration, parse_duration};
use crate::config::{ConfigErrors, LogFormat, LogLevel, Mistake, Origin, Secret, read_password, suggestion};
use crate::tls::{ClientSide, Part};
use crate::topology::Address;

/// More mistakes than this are not told at once.
const MISTAKES_MAX: usize = 50;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Number,
}

const KEYS: [(&str, Kind); 21] = [
    ("redis", Kind::Text),
    ("redis_password_file", Kind::Text),
    ("redis_ca_file", Kind::Text),
    ("redis_certificate_file", Kind::Text),
    ("redis_key_file", Kind::Text),
    ("redis_server_name", Kind::Text),
    ("postgres", Kind::Text),
    ("postgres_password_file", Kind::Text),
    ("postgres_ca_file", Kind::Text),
    ("postgres_certificate_file", Kind::Text),
    ("postgres_key_file", Kind::Text),
    ("postgres_server_name", Kind::Text),
    ("source", Kind::Text),
    ("every", Kind::Text),
    ("lease", Kind::Text),
    ("count", Kind::Number),
    ("workers", Kind::Number),
    ("metrics", Kind::Text),
    ("log_format", Kind::Text),
    ("log_level", Kind::Text),
    (COUNTER, Kind::Text),
];
const COUNTER: &str = "counter";
const COUNTER_KEYS: [(&str, Kind); 5] = [
    ("name", Kind::Text),
    ("member", Kind::Text),
    ("sql", Kind::Text),
    ("on_bad", Kind::Text),
    ("on_rollback", Kind::Text),
];

/// A value and where it stands.
#[derive(Clone, Debug)]
struct Given {
    text: String,
    at: Range<usize>,
}

type Fields = BTreeMap<&'static str, Given>;

struct Reader<'a> {
    folder: &'a Path,
    mistakes: Vec<Mistake>,
    warnings: Vec<String>,
}

/// One side's files for TLS.
struct Files {
    ca: Option<PathBuf>,
    own: Option<(PathBuf, PathBuf)>,
    server_name: Option<String>,
}

pub(super) fn read(path: &Path, text: &str) -> Result<Settings, ConfigErrors> {
    let mut reader = Reader {
        folder: path.parent().unwrap_or_else(|| Path::new("")),
        mistakes: Vec::new(),
        warnings: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    let settings = if errors.is_empty() {
        reader.settings(table.get_ref())
    } else {
        for error in errors.into_iter().take(MISTAKES_MAX) {
            let what = format!("this is no TOML: {}", error.message());
            reader.tell(error.span(), what, "");
        }
        None
    };
    match settings {
        Some(settings) if reader.mistakes.is_empty() => Ok(settings),
        Some(_) | None => {
            let file = path.display().to_string();
            Err(ConfigErrors::of(&file, text, reader.mistakes))
        }
    }
}

// === impl Reader ===

impl Reader<'_> {
    fn tell(&mut self, at: Option<Range<usize>>, what: impl Into<String>, hint: impl Into<String>) {
        if self.mistakes.len() < MISTAKES_MAX {
            self.mistakes.push(Mistake {
                origin: at.map_or(Origin::Whole, Origin::File),
                what: what.into(),
                hint: hint.into(),
            });
        }
    }

    fn settings(&mut self, table: &DeTable<'_>) -> Option<Settings> {
        let fields = self.fields(table, &KEYS, "");
        let counters = table
            .iter()
            .find(|(name, _)| name.get_ref() == COUNTER)
            .map(|(_, value)| value);
        let counters = self.counters(counters);
        let redis = self.redis(&fields);
        let postgres = self.postgres(&fields);
        let hour = Duration::from_secs(3600);
        let every = self.time(
            &fields,
            "every",
            Duration::from_secs(5),
            (Duration::ZERO, 24 * hour),
        );
        let lease = self.time(
            &fields,
            "lease",
            Duration::from_secs(30),
            (Duration::from_millis(100), hour),
        );
        let count = self.number(&fields, "count", 1000, (1, 10_000));
        let workers = self.number(&fields, "workers", 2, (1, 64));
        let source = self.source(&fields);
        let metrics = self.metrics(&fields);
        let formats = [
            ("auto", LogFormat::Auto),
            ("text", LogFormat::Text),
            ("json", LogFormat::Json),
        ];
        let levels = [
            ("error", LogLevel::Error),
            ("warn", LogLevel::Warn),
            ("info", LogLevel::Info),
            ("debug", LogLevel::Debug),
            ("trace", LogLevel::Trace),
        ];
        let log_format = self.choice(&fields, "log_format", &formats).unwrap_or_default();
        let log_level = self.choice(&fields, "log_level", &levels).unwrap_or_default();
        Some(Settings {
            redis: redis?,
            postgres: postgres?,
            source: source?,
            every,
            lease,
            count,
            workers: u16::try_from(workers).unwrap_or(1),
            metrics,
            log_format,
            log_level,
            counters,
            warnings: std::mem::take(&mut self.warnings),
        })
    }

    /// The values of a table, with known keys and right types.
    fn fields(&mut self, table: &DeTable<'_>, keys: &[(&'static str, Kind)], prefix: &str) -> Fields {
        let mut fields = Fields::new();
        for (name, value) in table {
            let Some((key, kind)) = keys.iter().find(|(key, _)| key == name.get_ref()) else {
                let hint = suggestion(name.get_ref(), keys.iter().map(|(key, _)| *key));
                self.tell(
                    Some(name.span()),
                    format!("unknown key {prefix}{}", name.get_ref()),
                    hint,
                );
                continue;
            };
            if *key == COUNTER {
                continue;
            }
            let text = match (value.get_ref(), kind) {
                (DeValue::String(text), Kind::Text) => text.to_string(),
                (DeValue::Integer(number), Kind::Number) => {
                    i64::from_str_radix(number.as_str(), number.radix())
                        .map_or_else(|_| number.as_str().to_owned(), |number| number.to_string())
                }
                (other, kind) => {
                    let (wanted, hint) = match kind {
                        Kind::Text => ("text", "put it in quotes"),
                        Kind::Number => ("a whole number", "write it without quotes"),
                    };
                    let what = format!("{prefix}{key} must be {wanted}, not {}", other.type_str());
                    self.tell(Some(value.span()), what, hint);
                    String::new()
                }
            };
            fields.insert(
                key,
                Given {
                    text,
                    at: value.span(),
                },
            );
        }
        fields
    }

    fn counters(&mut self, value: Option<&Spanned<DeValue<'_>>>) -> Vec<Counter> {
        let hint = "write [[counter]] with name, member and sql";
        let Some(value) = value else {
            self.tell(None, "there is no [[counter]]", hint);
            return Vec::new();
        };
        let DeValue::Array(rows) = value.get_ref() else {
            self.tell(Some(value.span()), "counter must be a list of tables", hint);
            return Vec::new();
        };
        let (mut counters, mut names) = (Vec::new(), BTreeSet::new());
        for row in rows {
            let DeValue::Table(table) = row.get_ref() else {
                self.tell(Some(row.span()), "a counter must be a table", hint);
                continue;
            };
            let fields = self.fields(table, &COUNTER_KEYS, "counter.");
            let counter = self.counter(&fields, row.span());
            if let Some(name) = fields.get("name")
                && !names.insert(name.text.clone())
            {
                let what = "two counters have the same name";
                self.tell(Some(name.at.clone()), what, "each is flushed by one statement");
            }
            counters.extend(counter);
        }
        counters
    }

    fn counter(&mut self, fields: &Fields, at: Range<usize>) -> Option<Counter> {
        for needed in ["name", "sql"] {
            if !fields.contains_key(needed) {
                let hint = "every [[counter]] needs name and sql";
                self.tell(Some(at.clone()), format!("a counter without {needed}"), hint);
            }
        }
        let members = [
            ("text", MemberType::Text),
            ("bigint", MemberType::Bigint),
            ("uuid", MemberType::Uuid),
        ];
        let member = self.choice(fields, "member", &members).unwrap_or_default();
        let bad = [("dead-letter", OnBad::DeadLetter), ("fail", OnBad::Fail)];
        let on_bad = self.choice(fields, "on_bad", &bad).unwrap_or_default();
        let rollback = [("apply", OnRollback::Apply), ("park", OnRollback::Park)];
        let on_rollback = self.choice(fields, "on_rollback", &rollback).unwrap_or_default();
        let name = fields.get("name")?;
        if !(1..=255).contains(&name.text.len()) || name.text.contains('\0') {
            let what = "counter.name must have 1 to 255 bytes, none of them zero";
            self.tell(Some(name.at.clone()), what, "");
        }
        let sql = fields.get("sql")?;
        let statement = Statement::new(&sql.text).map_err(|what| {
            let hint =
                "such as: UPDATE event e SET n = n + d.delta FROM delta d WHERE e.id = d.member::bigint";
            self.tell(Some(sql.at.clone()), format!("counter.sql: {what}"), hint);
        });
        Some(Counter {
            name: name.text.clone(),
            member,
            sql: statement.ok()?,
            on_bad,
            on_rollback,
        })
    }

    fn redis(&mut self, fields: &Fields) -> Option<RedisSide> {
        let given = self.needed(fields, "redis", "redis = \"redis://127.0.0.1:6380\"")?;
        let parsed = redis_address(&given.text).map_err(|what| {
            let hint = "write redis://[user:password@]host[:port][/database], or rediss://… for TLS";
            self.tell(Some(given.at.clone()), format!("redis: {what}"), hint);
        });
        let mut address = parsed.ok()?;
        address.password = self.password(fields, "redis_password_file", address.password, &given);
        if address.username.is_some() && address.password.is_none() {
            let what = "redis: a user is named without a password";
            self.tell(
                Some(given.at.clone()),
                what,
                "write it behind the user, or set redis_password_file",
            );
        }
        let files = self.files(
            fields,
            [
                "redis_ca_file",
                "redis_certificate_file",
                "redis_key_file",
                "redis_server_name",
            ],
        );
        let tls = match (address.tls, &files.ca) {
            (true, None) => {
                let what = "redis: rediss:// needs redis_ca_file";
                let hint = "name the file with the authorities that the proxy's certificate comes from";
                self.tell(Some(given.at.clone()), what, hint);
                None
            }
            (false, Some(_)) => {
                let at = fields.get("redis_ca_file").map(|given| given.at.clone());
                self.tell(
                    at,
                    "redis_ca_file is set, and redis does not speak TLS",
                    "write rediss://",
                );
                None
            }
            (true, Some(_)) => self.side(fields, "redis", &files),
            (false, None) => None,
        };
        Some(RedisSide {
            address: address.address,
            username: address.username,
            password: address.password.map(Secret::new),
            tls,
            database: address.database,
        })
    }

    fn postgres(&mut self, fields: &Fields) -> Option<PostgresSide> {
        let given = self.needed(fields, "postgres", "postgres = \"postgres://app@db/app\"")?;
        // Two words that the library does not know: here, an authority is always verified, and so is the name.
        let verified = ["sslmode=verify-full", "sslmode=verify-ca"];
        let must_verify = verified.iter().any(|word| given.text.contains(word));
        let text = verified.iter().fold(given.text.clone(), |text, word| {
            text.replace(word, "sslmode=require")
        });
        let parsed = text.parse::<tokio_postgres::Config>().map_err(|error| {
            let hint = "write postgres://user@host[:port]/database, or host=… user=… dbname=…";
            let cause =
                std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
            self.tell(Some(given.at.clone()), format!("postgres: {cause}"), hint);
        });
        let mut config = parsed.ok()?;
        if config.get_hosts().is_empty() {
            let hint = "write postgres://user@host/database";
            self.tell(Some(given.at.clone()), "postgres: no host is named", hint);
        }
        let inline = config
            .get_password()
            .map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        if let Some(password) = self.password(fields, "postgres_password_file", inline, &given) {
            config.password(password);
        }
        if config.get_application_name().is_none() {
            config.application_name("preshard-flush");
        }
        config.keepalives_idle(Duration::from_secs(30));
        let tls = self.postgres_tls(fields, &mut config, must_verify, &given);
        Some(PostgresSide { config, tls })
    }

    fn postgres_tls(
        &mut self,
        fields: &Fields,
        config: &mut tokio_postgres::Config,
        must_verify: bool,
        given: &Given,
    ) -> Option<ClientSide> {
        let files = self.files(
            fields,
            [
                "postgres_ca_file",
                "postgres_certificate_file",
                "postgres_key_file",
                "postgres_server_name",
            ],
        );
        match (&files.ca, config.get_ssl_mode()) {
            (Some(_), SslMode::Disable) => {
                let what = "postgres: sslmode=disable, and postgres_ca_file is set";
                self.tell(Some(given.at.clone()), what, "remove one of them");
                None
            }
            (Some(_), _) => {
                config.ssl_mode(SslMode::Require);
                self.side(fields, "postgres", &files)
            }
            (None, _) if must_verify => {
                let hint = "name the file with the authorities that the server's certificate comes from";
                let what = "postgres: sslmode=verify-… needs postgres_ca_file";
                self.tell(Some(given.at.clone()), what, hint);
                None
            }
            (None, SslMode::Disable) => None,
            (None, mode) => {
                if mode == SslMode::Require {
                    let warning = "postgres: sslmode=require encrypts, and trusts whoever answers; \
                                   postgres_ca_file would verify who it is";
                    self.warnings.push(warning.to_owned());
                }
                self.side(fields, "postgres", &files)
            }
        }
    }

    /// What the files of one side hold.
    fn side(&mut self, fields: &Fields, side: &str, files: &Files) -> Option<ClientSide> {
        let read = match &files.ca {
            Some(ca) => ClientSide::read(ca, files.own.as_ref(), files.server_name.as_deref()),
            None => ClientSide::trusting_anybody(files.own.as_ref()),
        };
        read.map_err(|error| {
            let key = match error.part {
                Part::Certificate => "certificate_file",
                Part::Key => "key_file",
                Part::Authorities => "ca_file",
                Part::ServerName => "server_name",
            };
            let at = fields
                .get(format!("{side}_{key}").as_str())
                .map(|given| given.at.clone());
            self.tell(at, error.what, error.hint);
        })
        .ok()
    }

    fn files(&mut self, fields: &Fields, [ca, certificate, key, name]: [&'static str; 4]) -> Files {
        let path = |key| fields.get(key).map(|given: &Given| self.folder.join(&given.text));
        let (ca, both) = (path(ca), (path(certificate), path(key)));
        if both.0.is_some() != both.1.is_some() {
            let (there, lacking) = if both.0.is_some() {
                (certificate, key)
            } else {
                (key, certificate)
            };
            let at = fields.get(there).map(|given| given.at.clone());
            let hint = "a certificate is of use only with its key";
            self.tell(at, format!("{there} is set without {lacking}"), hint);
        }
        Files {
            ca,
            own: both.0.zip(both.1),
            server_name: fields.get(name).map(|given| given.text.clone()),
        }
    }

    /// The password out of its file, or the one of the address.
    fn password(
        &mut self,
        fields: &Fields,
        key: &'static str,
        inline: Option<String>,
        address: &Given,
    ) -> Option<String> {
        let Some(given) = fields.get(key) else {
            return inline;
        };
        if inline.is_some() {
            let what = format!("there is a password in the address, and {key} is set");
            self.tell(Some(address.at.clone()), what, "remove one of them");
        }
        let path = self.folder.join(&given.text);
        read_password(&path)
            .map_err(|(what, hint)| {
                let what = format!("{key}: {}: {what}", path.display());
                self.tell(Some(given.at.clone()), what, hint);
            })
            .ok()
    }

    fn source(&mut self, fields: &Fields) -> Option<String> {
        let given = self.needed(fields, "source", "source = \"main\"")?;
        if given.text.is_empty() || given.text.len() > 255 || given.text.contains('\0') {
            self.tell(
                Some(given.at),
                "source must have 1 to 255 bytes, none of them zero",
                "",
            );
            return None;
        }
        Some(given.text)
    }

    fn metrics(&mut self, fields: &Fields) -> Option<Address> {
        let given = fields.get("metrics")?;
        let address = given.text.parse::<Address>();
        address
            .map_err(|error| {
                self.tell(
                    Some(given.at.clone()),
                    format!("metrics: {error}"),
                    "write \"127.0.0.1:6383\"",
                );
            })
            .ok()
    }

    fn needed(&mut self, fields: &Fields, key: &'static str, hint: &str) -> Option<Given> {
        let given = fields.get(key).cloned();
        if given.is_none() {
            self.tell(None, format!("{key} is missing"), format!("write {hint}"));
        }
        given.filter(|given| {
            !given.text.is_empty() || {
                // A wrong type has been told already, and left the text empty.
                if !self
                    .mistakes
                    .iter()
                    .any(|mistake| mistake.origin == Origin::File(given.at.clone()))
                {
                    self.tell(
                        Some(given.at.clone()),
                        format!("{key} is empty"),
                        format!("write {hint}"),
                    );
                }
                false
            }
        })
    }

    fn time(
        &mut self,
        fields: &Fields,
        key: &'static str,
        default: Duration,
        (least, most): (Duration, Duration),
    ) -> Duration {
        let Some(given) = fields.get(key).filter(|given| !given.text.is_empty()) else {
            return default;
        };
        let time = parse_duration(&given.text).filter(|time| (least..=most).contains(time));
        time.unwrap_or_else(|| {
            let (least, most) = (format_duration(least), format_duration(most));
            let what = format!("{key} must be a duration from {least} to {most}");
            self.tell(Some(given.at.clone()), what, TIME_HINT);
            default
        })
    }

    fn number(&mut self, fields: &Fields, key: &'static str, default: u32, (least, most): (u32, u32)) -> u32 {
        let Some(given) = fields.get(key).filter(|given| !given.text.is_empty()) else {
            return default;
        };
        let number = given
            .text
            .parse()
            .ok()
            .filter(|number| (least..=most).contains(number));
        number.unwrap_or_else(|| {
            let what = format!("{key} must be a whole number between {least} and {most}");
            self.tell(Some(given.at.clone()), what, "");
            default
        })
    }

    fn choice<T: Copy>(&mut self, fields: &Fields, key: &'static str, words: &[(&str, T)]) -> Option<T> {
        let given = fields.get(key).filter(|given| !given.text.is_empty())?;
        let found = words.iter().find(|(word, _)| *word == given.text);
        if found.is_none() {
            let known: Vec<String> = words.iter().map(|(word, _)| format!("\"{word}\"")).collect();
            let what = format!("{key} must be one of {}", known.join(", "));
            self.tell(Some(given.at.clone()), what, "");
        }
        found.map(|(_, value)| *value)
    }
}

#[cfg(test)]
mod tests;
