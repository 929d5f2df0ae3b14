//! The cluster's secret: made once, by whoever needs it first, and kept beside the topology.
//!
//! The passwords of preshard's own users on nodes are made of it. Whoever can read it can log in to the nodes, so a file of it
//! is its owner's only, and in etcd it is as safe as etcd's own users make it.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::StoreError;
use super::file::{beside, read, sync_folder};
use crate::config::Secret;

/// Hexadecimal digits of a secret: 256 bits.
const DIGITS: usize = 64;

/// A new one, of the system's own randomness.
pub(super) fn random() -> io::Result<String> {
    let mut bytes = [0_u8; DIGITS / 2];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Reads a secret.
pub(super) fn decode(text: &[u8]) -> Option<Secret> {
    let text = std::str::from_utf8(text).ok()?.trim_end();
    let digits = text.len() == DIGITS && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    digits.then(|| Secret::new(text.to_owned()))
}

/// The secret in a file; made if there is none.
pub(super) fn in_file(path: &Path) -> Result<Secret, StoreError> {
    let told = |doing: &'static str| {
        let path = path.to_owned();
        move |error| StoreError::Io { doing, path, error }
    };
    if let Some(text) = read(path)? {
        let damaged = || {
            io::Error::new(
                io::ErrorKind::InvalidData,
                "it is no secret of preshard; restore it",
            )
        };
        return decode(&text).ok_or_else(damaged).map_err(told("use"));
    }
    let text = random().map_err(told("make"))?;
    let next: PathBuf = beside(path, ".tmp");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(&next).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written
        .and_then(|()| fs::rename(&next, path))
        .and_then(|()| sync_folder(path))
        .map_err(told("write"))?;
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_secret_is_made_once_and_is_its_owners_only() {
        let folder = std::env::temp_dir().join(format!("preshard-secret-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("s");
        let first = in_file(&path).unwrap();
        assert_eq!(in_file(&path).unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_ne!(random().unwrap(), random().unwrap());
        fs::write(&path, "short").unwrap();
        assert!(in_file(&path).unwrap_err().to_string().contains("restore it"));
        fs::remove_dir_all(&folder).unwrap();
    }
}
