//! What the target is and takes: which payloads it restores, and which words of commands it knows.

/// The server's family; their snapshot formats have parted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// Redis.
    Redis,
    /// Valkey.
    Valkey,
}

/// The target's family and version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Its family.
    pub family: Family,
    /// Major version, of the family's own numbering (not the Redis version that Valkey says it is compatible with).
    pub major: u16,
    /// Minor version.
    pub minor: u16,
}

impl Target {
    /// The newest RDB version that it reads.
    #[must_use]
    pub const fn rdb_version(self) -> u16 {
        match (self.family, self.major, self.minor) {
            (Family::Valkey, 9.., _) => super::grammar::VALKEY,
            (Family::Valkey, ..) | (Family::Redis, 7, 2 | 3) => 11,
            (Family::Redis, 0..=6, _) => 9,
            (Family::Redis, 7, 0 | 1) => 10,
            (Family::Redis, 7.., _) => 12,
        }
    }

    /// Whether it restores a payload of this RDB version. Valkey from 9 on takes none of Redis's versions from 12 on.
    #[must_use]
    pub const fn restores(self, version: u16) -> bool {
        let newest = self.rdb_version();
        version <= newest
            && !(newest >= super::grammar::VALKEY && version >= 12 && version < super::grammar::VALKEY)
    }

    const fn is_at_least(self, major: u16, minor: u16) -> bool {
        matches!(self.family, Family::Valkey)
            || self.major > major
            || self.major == major && self.minor >= minor
    }

    /// Whether fields of hashes may expire there.
    #[must_use]
    pub const fn expires_fields(self) -> bool {
        self.rdb_version() >= 12
    }

    /// Whether it says exactly when a key expires (`PEXPIRETIME`, 7.0).
    #[must_use]
    pub const fn tells_expiries(self) -> bool {
        self.is_at_least(7, 0)
    }

    /// `XSETID … ENTRIESADDED … MAXDELETEDID`, `XGROUP CREATE … ENTRIESREAD`.
    pub(super) const fn knows_stream_counters(self) -> bool {
        self.is_at_least(7, 0)
    }

    /// `XGROUP CREATECONSUMER`, `SET … PXAT`.
    pub(super) const fn is_6_2(self) -> bool {
        self.is_at_least(6, 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_taken_as_servers_take_them() {
        let of = |family, major, minor| Target { family, major, minor };
        let takes = |target: Target| {
            [9, 10, 11, 12, 80]
                .into_iter()
                .filter(|version| target.restores(*version))
                .collect::<Vec<_>>()
        };
        assert_eq!(takes(of(Family::Redis, 5, 0)), [9]);
        assert_eq!(takes(of(Family::Redis, 6, 2)), [9]);
        assert_eq!(takes(of(Family::Redis, 7, 0)), [9, 10]);
        assert_eq!(takes(of(Family::Redis, 7, 2)), [9, 10, 11]);
        assert_eq!(takes(of(Family::Redis, 7, 4)), [9, 10, 11, 12]);
        assert_eq!(takes(of(Family::Redis, 8, 2)), [9, 10, 11, 12]);
        assert_eq!(takes(of(Family::Valkey, 8, 1)), [9, 10, 11]);
        assert_eq!(takes(of(Family::Valkey, 9, 1)), [9, 10, 11, 80]);
        assert!(of(Family::Valkey, 9, 0).expires_fields() && !of(Family::Valkey, 8, 1).expires_fields());
    }
}
