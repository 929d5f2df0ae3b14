//! Addresses as client libraries of Redis write them: `redis://[user:password@]host[:port][/database]`.

use crate::topology::Address;

/// Where a proxy listens if nobody says otherwise.
const REDIS_PORT: u16 = 6380;

/// What stands in an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RedisAddress {
    pub(super) tls: bool,
    pub(super) address: Address,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    pub(super) database: u32,
}

pub(super) fn redis_address(text: &str) -> Result<RedisAddress, String> {
    let (tls, rest) = match text.split_once("://") {
        Some(("redis", rest)) => (false, rest),
        Some(("rediss", rest)) => (true, rest),
        Some(_) | None => return Err("it begins neither with redis:// nor with rediss://".into()),
    };
    let (login, place) = match rest.rsplit_once('@') {
        Some((login, place)) => (Some(login), place),
        None => (None, rest),
    };
    let (username, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        None => (None, None),
        Some((user, password)) => (decoded(user)?, decoded(password)?),
    };
    let (host, database) = match place.split_once('/') {
        None | Some((_, "")) => (place.trim_end_matches('/'), 0),
        Some((host, database)) => {
            let number = database
                .parse()
                .map_err(|_| "the database is no number".to_owned())?;
            (host, number)
        }
    };
    let has_port = host.rsplit_once(':').is_some_and(|(_, port)| !port.contains(']'));
    let host = if has_port {
        host.to_owned()
    } else {
        format!("{host}:{REDIS_PORT}")
    };
    let address: Address = host.parse().map_err(|error| format!("{error}"))?;
    if !matches!(address, Address::Tcp { .. }) {
        return Err("no host is named".into());
    }
    Ok(RedisAddress {
        tls,
        address,
        username,
        password,
        database,
    })
}

/// `%41` is `A`; nothing is none.
fn decoded(text: &str) -> Result<Option<String>, String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digits = tail.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let decoded = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        bytes.push(decoded.ok_or("a % that is not followed by two hexadecimal digits")?);
        rest = &tail[2..];
    }
    let text = String::from_utf8(bytes).map_err(|_| "the user or the password is not UTF-8")?;
    Ok(Some(text).filter(|text| !text.is_empty()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_read_as_client_libraries_read_it() {
        let of = |text: &str| redis_address(text).unwrap();
        let plain = of("redis://127.0.0.1");
        assert_eq!(plain.address.to_string(), "127.0.0.1:6380");
        assert_eq!(
            (plain.tls, plain.username, plain.password, plain.database),
            (false, None, None, 0)
        );
        let whole = of("rediss://ap%40p:p%3a%2Fw@[::1]:7000/3");
        assert_eq!(whole.address.to_string(), "[::1]:7000");
        assert_eq!(whole.username.as_deref(), Some("ap@p"));
        assert_eq!(whole.password.as_deref(), Some("p:/w"));
        assert_eq!((whole.tls, whole.database), (true, 3));
        assert_eq!(of("redis://:pw@host/").password.as_deref(), Some("pw"));
        assert_eq!(of("redis://[::1]").address.to_string(), "[::1]:6380");
        for bad in [
            "host:6380",
            "http://h",
            "redis://",
            "redis://h:x",
            "redis://h/x",
            "redis://u%4:p@h",
            "redis://unix:/x",
        ] {
            assert!(redis_address(bad).is_err(), "{bad}");
        }
    }
}
