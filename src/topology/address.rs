//! Where something listens: `host:port`, `[v6]:port` or `unix:/path`.
//!
//! Parsing looks nothing up: a host name stays a name until a connection is made.

use std::fmt;
use std::net::Ipv6Addr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// Longest host name that DNS allows.
const HOST_MAX: usize = 253;
/// Longest path that fits a Unix socket address on Linux, its closing NUL left out.
const UNIX_PATH_MAX: usize = 107;

/// An endpoint, of a node or of a listener.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Address {
    /// A TCP endpoint. The host is in lower case, an IPv6 address without its brackets.
    Tcp {
        /// Name or address.
        host: String,
        /// Port; 0 means "any free one" and suits a listener only.
        port: u16,
    },
    /// A Unix stream socket, by absolute path.
    Unix(PathBuf),
}

/// Why a text is no address.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `:port` at the end.
    #[error("'{0}' has no port: write host:port, [v6]:port or unix:/path")]
    NoPort(String),
    /// What stands after the last colon is no port number.
    #[error("'{0}' is no port number (0..65535)")]
    BadPort(String),
    /// The host is neither a name nor an address.
    #[error("'{0}' is no host name, IPv4 address or [IPv6 address]")]
    BadHost(String),
    /// An IPv6 address without brackets cannot be told from its port.
    #[error("write the IPv6 address in brackets: [{host}]:{port}")]
    BareV6 {
        /// What looks like the address.
        host: String,
        /// What looks like the port.
        port: String,
    },
    /// The path of a Unix socket is empty, relative or too long.
    #[error("'{0}' is no absolute path of at most {UNIX_PATH_MAX} bytes: write unix:/path")]
    BadPath(String),
}

// === impl Address ===

impl Address {
    /// Whether nothing outside this machine can reach it.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp { host, .. } => {
                host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }

    /// Whether it stands for every address of the machine, which a listener may use and nobody can connect to.
    #[must_use]
    pub fn is_wildcard(&self) -> bool {
        match self {
            Self::Unix(_) => false,
            Self::Tcp { host, .. } => host
                .parse::<std::net::IpAddr>()
                .is_ok_and(|ip| ip.is_unspecified()),
        }
    }

    /// The port of a TCP endpoint.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        match self {
            Self::Tcp { port, .. } => Some(*port),
            Self::Unix(_) => None,
        }
    }

    /// The path of a Unix socket.
    #[must_use]
    pub fn unix_path(&self) -> Option<&Path> {
        match self {
            Self::Tcp { .. } => None,
            Self::Unix(path) => Some(path),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if let Some(path) = text.strip_prefix("unix:") {
            let good = path.starts_with('/') && path.len() <= UNIX_PATH_MAX && !path.contains('\0');
            return if good {
                Ok(Self::Unix(path.into()))
            } else {
                Err(AddressError::BadPath(path.into()))
            };
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(AddressError::NoPort(text.into()));
        };
        if port.is_empty() {
            return Err(AddressError::NoPort(text.into()));
        }
        if host.contains(':') && !host.starts_with('[') {
            return Err(AddressError::BareV6 {
                host: host.into(),
                port: port.into(),
            });
        }
        if host.starts_with('[') && port.ends_with(']') {
            return Err(AddressError::NoPort(text.into()));
        }
        if !port.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(AddressError::BadPort(port.into()));
        }
        let number = port.parse().map_err(|_| AddressError::BadPort(port.into()))?;
        let host = if let Some(inside) = host.strip_prefix('[') {
            let v6 = inside
                .strip_suffix(']')
                .and_then(|v6| v6.parse::<Ipv6Addr>().ok());
            v6.ok_or_else(|| AddressError::BadHost(host.into()))?.to_string()
        } else if is_host_name(host) {
            host.to_ascii_lowercase()
        } else {
            return Err(AddressError::BadHost(host.into()));
        };
        Ok(Self::Tcp { host, port: number })
    }
}

fn is_host_name(host: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !host.is_empty() && host.len() <= HOST_MAX && host.bytes().all(word) && !host.starts_with(['.', '-'])
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "{host}:{port}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_a_round_trip() {
        for text in [
            "127.0.0.1:6380",
            "redis-1.example:0",
            "[::1]:6380",
            "unix:/run/redis.sock",
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
        assert_eq!(
            "LocalHost:1".parse::<Address>().unwrap().to_string(),
            "localhost:1"
        );
    }

    #[test]
    fn what_is_no_address_says_how_to_write_one() {
        for text in [
            "",
            "localhost",
            "localhost:",
            ":6379",
            "a b:1",
            "h:65536",
            "h:+1",
            "[::1]",
            "[x]:1",
            "::1:6379",
            "unix:",
            "unix:rel",
            "redis://h:1",
        ] {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
        let bare = "::1:6379".parse::<Address>().unwrap_err().to_string();
        assert_eq!(bare, "write the IPv6 address in brackets: [::1]:6379");
    }

    #[test]
    fn loopback_is_known() {
        for (text, expected) in [
            ("127.0.0.5:1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            ("unix:/x", true),
        ]
        .into_iter()
        .chain([("0.0.0.0:1", false), ("[::]:1", false), ("example:1", false)])
        {
            assert_eq!(text.parse::<Address>().unwrap().is_loopback(), expected, "{text}");
        }
    }
}
