//! Who may connect: all users in force, replaced as a whole when the settings are read again.
//!
//! ```text
//!  settings ─▶ Users ─▶ Shared::replace_users ─▶ generation ◀── compared once for each turn of a task
//!                                                   │ another one: each client gets its user anew, or has to go
//!  AUTH ─▶ Attempts: after wrong passwords it waits ─▶ Users::log_in ─▶ Arc<User> of the client
//! ```

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::acl::Rules;
use crate::config::{Config, PasswordHash, UserSettings, users};

/// Bytes of a password; a longer one is nobody's, and to hash it would take others' time.
const PASSWORD_MAX: usize = 64 * 1024;

/// One user.
#[derive(Debug)]
pub struct User {
    /// Its name.
    pub name: Arc<str>,
    /// Somebody may be this user.
    pub enabled: bool,
    /// Any password is taken.
    pub nopass: bool,
    /// What it may do.
    pub rules: Rules,
    passwords: Vec<PasswordHash>,
    /// Clients of the data port that are this user.
    clients: Arc<AtomicU64>,
}

/// All users.
#[derive(Debug)]
pub struct Users {
    by_name: BTreeMap<Arc<str>, Arc<User>>,
    default: Arc<User>,
    /// The most passwords of one user.
    passwords_max: usize,
}

/// A client that counts as its user's, until it is dropped.
#[derive(Debug)]
pub(super) struct Counted(Arc<AtomicU64>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

impl User {
    fn of(settings: &UserSettings) -> Self {
        Self {
            name: settings.name.as_str().into(),
            enabled: settings.enabled,
            nopass: settings.nopass,
            rules: settings.rules.clone(),
            passwords: settings.passwords.clone(),
            clients: Arc::default(),
        }
    }

    /// The one user of a data port without users.
    fn only(password: Option<PasswordHash>) -> Self {
        Self {
            name: users::DEFAULT.into(),
            enabled: true,
            nopass: password.is_none(),
            rules: Rules::everything(),
            passwords: password.into_iter().collect(),
            clients: Arc::default(),
        }
    }

    /// How many passwords it has.
    #[must_use]
    pub fn passwords(&self) -> usize {
        self.passwords.len()
    }

    /// Clients of the data port that are this user now.
    #[must_use]
    pub fn clients(&self) -> u64 {
        self.clients.load(Relaxed)
    }

    pub(super) fn count(&self) -> Counted {
        self.clients.fetch_add(1, Relaxed);
        Counted(Arc::clone(&self.clients))
    }
}

impl Users {
    /// The users that the settings name.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        let mut users: Vec<User> = config.users.iter().map(User::of).collect();
        if config.users.is_empty() || config.proxy.password.is_some() {
            users.push(User::only(config.proxy.password.clone()));
        }
        Self::from_list(users)
    }

    /// Everybody is `default` and may do everything.
    #[must_use]
    pub fn open() -> Self {
        Self::from_list(vec![User::only(None)])
    }

    fn from_list(users: Vec<User>) -> Self {
        let passwords_max = users.iter().map(User::passwords).max().unwrap_or_default();
        let mut by_name: BTreeMap<Arc<str>, Arc<User>> = users
            .into_iter()
            .map(|user| (Arc::clone(&user.name), Arc::new(user)))
            .collect();
        let nobody = || {
            Arc::new(User {
                enabled: false,
                nopass: false,
                rules: Rules::nothing(),
                ..User::only(None)
            })
        };
        let default = by_name.entry(users::DEFAULT.into()).or_insert_with(nobody);
        let default = Arc::clone(default);
        Self {
            by_name,
            default,
            passwords_max,
        }
    }

    /// Who is meant where no user is named; it may be off.
    #[must_use]
    pub const fn default_user(&self) -> &Arc<User> {
        &self.default
    }

    /// Whether clients are somebody without giving a password.
    #[must_use]
    pub fn are_open(&self) -> bool {
        self.default.enabled && self.default.nopass
    }

    /// Whether some user may say a word of `PRESHARD`.
    #[must_use]
    pub fn may_administer(&self) -> bool {
        self.list()
            .any(|user| user.enabled && user.rules.rights().may_administer())
    }

    /// The user of this name; it may be off.
    #[must_use]
    pub fn find(&self, name: &[u8]) -> Option<&Arc<User>> {
        std::str::from_utf8(name)
            .ok()
            .and_then(|name| self.by_name.get(name))
    }

    /// All users by name.
    pub fn list(&self) -> impl Iterator<Item = &Arc<User>> {
        self.by_name.values()
    }

    /// The user whose password this is. How long that takes tells nothing about the user, not even whether there is one.
    #[must_use]
    pub fn log_in(&self, name: &[u8], password: &[u8]) -> Option<Arc<User>> {
        if password.len() > PASSWORD_MAX {
            return None;
        }
        let given = PasswordHash::of(password);
        let user = self.find(name).filter(|user| user.enabled);
        let mut right = user.is_some_and(|user| user.nopass);
        for place in 0..self.passwords_max {
            let known = user.and_then(|user| user.passwords.get(place));
            // Compared in any case, with itself if there is nothing else.
            right |= known.unwrap_or(&given).is(&given) & known.is_some();
        }
        user.filter(|_| right).cloned()
    }

    /// Takes over who counts as whose from the users before.
    pub(super) fn inherit(&mut self, old: &Self) {
        let taken = |user: &Arc<User>| -> Arc<User> {
            let Some(before) = old.by_name.get(&user.name) else {
                return Arc::clone(user);
            };
            Arc::new(User {
                name: Arc::clone(&user.name),
                enabled: user.enabled,
                nopass: user.nopass,
                rules: user.rules.clone(),
                passwords: user.passwords.clone(),
                clients: Arc::clone(&before.clients),
            })
        };
        self.by_name.values_mut().for_each(|user| *user = taken(user));
        self.default = taken(&self.default);
        if let Some(default) = self.by_name.get(users::DEFAULT) {
            self.default = Arc::clone(default);
        }
    }
}

/// Places for wrong passwords: attempts of others may fall into the same one, and then wait too.
const PLACES: usize = 1024;
/// Wrong passwords this close to each other are taken for guessing.
const GUESSING_MS: u64 = 10_000;
/// How long a password waits then before it is looked at.
const DELAY_MS: u64 = 1_000;

/// Wrong passwords, by where they came from and for which user. While they keep coming, each password of that kind is
/// looked at a second later, also a right one: an answer that came at once would tell the two apart.
#[derive(Debug)]
pub struct Attempts {
    hasher: RandomState,
    /// When the last wrong one came, in milliseconds after the start of the process and one more; 0: never.
    places: Box<[AtomicU64]>,
}

impl Default for Attempts {
    fn default() -> Self {
        Self {
            hasher: RandomState::new(),
            places: (0..PLACES).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Attempts {
    fn place(&self, address: &str, user: &[u8]) -> &AtomicU64 {
        let hash = self.hasher.hash_one((source(address), user));
        &self.places[usize::try_from(hash % PLACES as u64).unwrap_or_default()]
    }

    /// When a password that has come now may be looked at. None: at once.
    pub(super) fn due_ms(&self, address: &str, user: &[u8], now_ms: u64) -> Option<u64> {
        let last = self.place(address, user).load(Relaxed);
        let guessing = last > 0 && now_ms.saturating_sub(last - 1) < GUESSING_MS;
        guessing.then_some(now_ms + DELAY_MS)
    }

    pub(super) fn note_wrong(&self, address: &str, user: &[u8], now_ms: u64) {
        self.place(address, user).store(now_ms + 1, Relaxed);
    }
}

/// The part of a client's address that it cannot choose freely: the host, of IPv6 the network.
fn source(address: &str) -> u128 {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    match host.trim_matches(['[', ']']).parse() {
        Ok(IpAddr::V4(host)) => u128::from(u32::from(host)),
        Ok(IpAddr::V6(host)) => u128::from(host) >> 64 << 64,
        // A Unix socket: one place for all who may open it.
        Err(_) => u128::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn users(text: &str) -> Users {
        Users::of(&Config::parse(Path::new("/etc/p.toml"), text, std::iter::empty()).unwrap())
    }

    fn sha(password: &str) -> String {
        use sha2::{Digest as _, Sha256};
        let hash = Sha256::digest(password.as_bytes());
        hash.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn user(name: &str, more: &str) -> String {
        format!("[[user]]\nname = \"{name}\"\nrights = [\"read\"]\n{more}\n")
    }

    fn with_passwords(name: &str, passwords: &[&str]) -> String {
        let hashes: Vec<String> = passwords
            .iter()
            .map(|word| format!("\"{}\"", sha(word)))
            .collect();
        user(name, &format!("password_sha256 = [{}]", hashes.join(", ")))
    }

    #[test]
    fn any_password_of_an_enabled_user_is_right() {
        let text = with_passwords("a", &["old", "new"]) + &with_passwords("b", &["b"]);
        let text = text + &user("off", "enabled = false\nnopass = true") + &user("any", "nopass = true");
        let users = users(&text);
        for (name, password, right) in [
            ("a", "old", true),
            ("a", "new", true),
            ("a", "b", false),
            ("a", "", false),
            ("b", "b", true),
            ("b", "new", false),
            ("off", "x", false),
            ("any", "x", true),
            ("nobody", "b", false),
            ("default", "", false),
        ] {
            let found = users.log_in(name.as_bytes(), password.as_bytes());
            assert_eq!(
                found.map(|user| user.name.to_string()),
                right.then(|| name.to_owned())
            );
        }
        assert!(users.log_in(b"any", &vec![b'x'; PASSWORD_MAX + 1]).is_none());
    }

    #[test]
    fn default_is_off_beside_users_unless_something_says_otherwise() {
        assert!(users("").are_open());
        assert!(!users(&with_passwords("a", &["x"])).default_user().enabled);
        assert!(users(&user("default", "nopass = true")).are_open());
        let single = format!("[proxy]\npassword_sha256 = \"{}\"\n", sha("p"));
        for text in [single.clone(), single + &with_passwords("a", &["x"])] {
            let users = users(&text);
            assert!(users.log_in(b"default", b"p").is_some() && !users.are_open());
            assert!(users.default_user().rules.is_unlimited());
        }
    }

    #[test]
    fn clients_stay_counted_when_users_are_replaced() {
        let old = users(&user("a", "nopass = true"));
        let counted = old.find(b"a").unwrap().count();
        let mut new = users(&user("a", "nopass = true\nkeys = [\"x\"]"));
        new.inherit(&old);
        assert_eq!(new.find(b"a").unwrap().clients(), 1);
        drop(counted);
        assert_eq!(new.find(b"a").unwrap().clients(), 0);
    }

    #[test]
    fn wrong_passwords_make_the_next_ones_from_there_wait() {
        let attempts = Attempts::default();
        assert_eq!(attempts.due_ms("10.0.0.1:5", b"a", 0), None);
        attempts.note_wrong("10.0.0.1:5", b"a", 0);
        assert_eq!(attempts.due_ms("10.0.0.1:9", b"a", 100), Some(1_100));
        assert_eq!(attempts.due_ms("10.0.0.1:9", b"a", 10_000), None);
        assert_eq!(source("[2001:db8::1]:1"), source("[2001:db8::2]:2"));
        assert_ne!(source("[2001:db8:0:1::1]:1"), source("[2001:db8::2]:2"));
        assert_ne!(source("10.0.0.1:1"), source("10.0.0.2:1"));
    }
}
