//! Why a command is not run, in words that clients recognise.
//!
//! Clients look for `ERR unknown command '` and fall back to what an older server has. So every refusal of a command
//! begins with it, and the reason stands behind.

use super::spec::Spec;
use crate::resp::Args;

/// Redis shows at most this many bytes of a name, and of the arguments together.
const SHOWN_MAX: usize = 128;

/// A command that is not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// No such command.
    Unknown {
        /// The name as it came, cut and cleaned.
        name: String,
        /// The first arguments, quoted, cut and cleaned.
        args: String,
    },
    /// No such subcommand.
    UnknownSubcommand {
        /// Upper case.
        container: String,
        /// The name as it came, cut and cleaned.
        name: String,
    },
    /// Too few arguments, or too many.
    Arity {
        /// Full name, lower case: `config|get`.
        name: &'static str,
    },
    /// Never run by preshard.
    Refused {
        /// As people write it: `CONFIG SET`.
        title: String,
        /// Why.
        reason: &'static str,
    },
    /// Not run by this version of preshard.
    NotYet {
        /// As people write it.
        title: String,
        /// What is missing.
        reason: &'static str,
    },
    /// The arguments cannot be right.
    Argument(KeyError),
}

impl Refusal {
    /// The error line, without `-` and CR LF. It holds no CR, LF or NUL.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Unknown { name, args } => {
                format!("ERR unknown command '{name}', with args beginning with: {args}")
            }
            Self::UnknownSubcommand { container, name } => {
                format!("ERR unknown subcommand '{name}'. Try {container} HELP.")
            }
            Self::Arity { name } => format!("ERR wrong number of arguments for '{name}' command"),
            Self::Refused { title, reason } => {
                format!("ERR unknown command '{title}', it is not available through preshard: {reason}")
            }
            Self::NotYet { title, reason } => {
                format!(
                    "ERR unknown command '{title}', it is not supported by this version of preshard yet: {reason}"
                )
            }
            Self::Argument(error) => error.line(),
        }
    }

    /// The first word of the error line.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        "ERR"
    }

    /// One word for metrics.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Unknown { .. } | Self::UnknownSubcommand { .. } => "unknown",
            Self::Arity { .. } => "arity",
            Self::Refused { .. } => "refused",
            Self::NotYet { .. } => "not_yet",
            Self::Argument(_) => "argument",
        }
    }

    pub(super) fn unknown(args: &Args<'_>) -> Self {
        let mut shown = String::new();
        // As Redis counts: what was shown before, quotes included, lessens what may still be shown.
        let mut bytes = 0;
        for arg in args.iter().skip(1) {
            if bytes >= SHOWN_MAX {
                break;
            }
            let part = &arg[..arg.len().min(SHOWN_MAX - bytes)];
            bytes += part.len() + 3;
            shown.push('\'');
            shown.push_str(&clean(part));
            shown.push_str("' ");
        }
        Self::Unknown {
            name: cut(args.get(0)),
            args: shown,
        }
    }

    pub(super) fn unknown_subcommand(container: &Spec, name: &[u8]) -> Self {
        Self::UnknownSubcommand {
            container: container.title(),
            name: cut(name),
        }
    }

    pub(super) const fn arity(spec: &Spec) -> Self {
        Self::Arity { name: spec.name }
    }

    pub(super) fn refused(spec: &Spec, reason: &'static str) -> Self {
        Self::Refused {
            title: spec.title(),
            reason,
        }
    }

    pub(super) fn not_yet(spec: &Spec, reason: &'static str) -> Self {
        Self::NotYet {
            title: spec.title(),
            reason,
        }
    }
}

/// Keys that cannot be found, because the arguments are wrong. In Redis's words where it has them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyError {
    /// An option is unknown, or lacks its value.
    Syntax,
    /// A number is none, or does not fit in 64 bits.
    NotInteger,
    /// `EVAL` with a negative number of keys.
    NegativeKeys,
    /// More keys announced than there are arguments.
    TooManyKeys,
    /// `ZUNION 0`.
    NoInputKey {
        /// Lower case.
        name: &'static str,
    },
    /// `LMPOP 0`.
    NumkeysNotPositive,
    /// `XREAD STREAMS` with keys and ids that do not pair.
    UnbalancedStreams,
    /// The command lacks the arguments where its keys would be.
    Missing {
        /// Full name, lower case.
        name: &'static str,
    },
}

impl KeyError {
    /// The error line, without `-` and CR LF.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Syntax => "ERR syntax error".to_owned(),
            Self::NotInteger => "ERR value is not an integer or out of range".to_owned(),
            Self::NegativeKeys => "ERR Number of keys can't be negative".to_owned(),
            Self::TooManyKeys => "ERR Number of keys can't be greater than number of args".to_owned(),
            Self::NoInputKey { name } => format!("ERR at least 1 input key is needed for '{name}' command"),
            Self::NumkeysNotPositive => "ERR numkeys should be greater than 0".to_owned(),
            Self::UnbalancedStreams => {
                "ERR Unbalanced XREAD list of streams: for each stream key an ID or '$' must be specified."
                    .to_owned()
            }
            Self::Missing { name } => format!("ERR wrong number of arguments for '{name}' command"),
        }
    }
}

impl From<KeyError> for Refusal {
    fn from(error: KeyError) -> Self {
        Self::Argument(error)
    }
}

/// At most 128 bytes, cleaned.
fn cut(bytes: &[u8]) -> String {
    clean(&bytes[..bytes.len().min(SHOWN_MAX)])
}

/// CR, LF and NUL become spaces: an error is one line. What is no UTF-8 is replaced.
fn clean(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes)
        .chars()
        .map(|c| if matches!(c, '\r' | '\n' | '\0') { ' ' } else { c })
        .collect()
}

#[cfg(test)]
mod tests {
    use crate::command::testing::request;
    use crate::command::{Refusal, resolve};

    fn line(words: &[&[u8]]) -> String {
        request(words, |args| {
            resolve(&args).map(|spec| spec.name).unwrap_err().line()
        })
    }

    #[test]
    fn unknown_command_is_named_with_its_arguments() {
        assert_eq!(
            line(&[b"FOO", b"a", b"b"]),
            "ERR unknown command 'FOO', with args beginning with: 'a' 'b' "
        );
        assert_eq!(
            line(&[b"foo"]),
            "ERR unknown command 'foo', with args beginning with: "
        );
        assert_eq!(
            line(&[b"a\r\n-b\0", b"\r\n"]),
            "ERR unknown command 'a  -b ', with args beginning with: '  ' "
        );
    }

    #[test]
    fn long_names_and_arguments_are_cut_as_redis_does() {
        let long = vec![b'x'; 300];
        let name = "x".repeat(128);
        assert_eq!(
            line(&[&long]),
            format!("ERR unknown command '{name}', with args beginning with: ")
        );
        let text = line(&[b"FOO", &long, b"next"]);
        assert_eq!(
            text,
            format!("ERR unknown command 'FOO', with args beginning with: '{name}' ")
        );
        let text = line(&[b"FOO", &long[..100], &long]);
        let (first, second) = ("x".repeat(100), "x".repeat(25));
        assert_eq!(
            text,
            format!("ERR unknown command 'FOO', with args beginning with: '{first}' '{second}' ")
        );
    }

    #[test]
    fn subcommands_and_arity_are_named_as_redis_does() {
        assert_eq!(
            line(&[b"config", b"foo"]),
            "ERR unknown subcommand 'foo'. Try CONFIG HELP."
        );
        assert_eq!(
            line(&[b"CONFIG"]),
            "ERR wrong number of arguments for 'config' command"
        );
        assert_eq!(line(&[b"GET"]), "ERR wrong number of arguments for 'get' command");
        assert_eq!(
            line(&[b"get", b"a", b"b"]),
            "ERR wrong number of arguments for 'get' command"
        );
        assert_eq!(
            line(&[b"OBJECT", b"ENCODING"]),
            "ERR wrong number of arguments for 'object|encoding' command"
        );
        assert_eq!(
            line(&[b"CLIENT", b"MAINT_NOTIFICATIONS", b"ON"]),
            "ERR unknown subcommand 'MAINT_NOTIFICATIONS'. Try CLIENT HELP."
        );
    }

    #[test]
    fn known_commands_are_refused_with_the_words_that_clients_look_for() {
        for words in [
            &[&b"DEBUG"[..], b"SLEEP"][..],
            &[b"CONFIG", b"SET", b"a", b"b"],
            &[b"MONITOR"],
        ] {
            let text = line(words);
            assert!(text.starts_with("ERR unknown command '"), "{text}");
        }
        assert!(
            line(&[b"config", b"set", b"a", b"b"])
                .starts_with("ERR unknown command 'CONFIG SET', it is not available through preshard: ")
        );
        assert!(line(&[b"client", b"tracking", b"on"]).starts_with(
            "ERR unknown command 'CLIENT TRACKING', it is not supported by this version of preshard yet: "
        ));
    }

    #[test]
    fn kinds_are_few() {
        let refusal = request(&[b"FOO"], |args| {
            resolve(&args).map(|spec| spec.name).unwrap_err()
        });
        assert_eq!((refusal.code(), refusal.kind()), ("ERR", "unknown"));
        assert!(matches!(refusal, Refusal::Unknown { .. }));
    }
}
