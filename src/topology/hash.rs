//! From a key to its slot, exactly as Redis Cluster does it.
//!
//! ```text
//!  "{user:1}:cart" ──tag──▶ "user:1" ──crc16 (XMODEM)──▶ u16 ──& 16383──▶ slot
//! ```
//!
//! The checksum reads eight bytes a step from tables made at compile time (4 KiB, they stay in the first
//! cache). The crate `crc16` is the reference in the tests: it is right, but steps byte by byte.

/// How many slots there are.
pub const SLOTS: u16 = 16384;

const STEP: usize = 8;
/// XMODEM: x^16 + x^12 + x^5 + 1, most significant bit first, start value 0, nothing inverted.
const POLYNOMIAL: u16 = 0x1021;

/// `TABLES[k][b]` is the checksum of byte `b` followed by `k` zero bytes.
static TABLES: [[u16; 256]; STEP] = tables();

const fn tables() -> [[u16; 256]; STEP] {
    let mut tables = [[0; 256]; STEP];
    let mut byte = 0_u16;
    while byte < 256 {
        let mut crc = (byte as u32) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc <<= 1;
            if crc & 0x1_0000 != 0 {
                crc = (crc & 0xffff) ^ POLYNOMIAL as u32;
            }
            bit += 1;
        }
        tables[0][byte as usize] = low_half(crc);
        byte += 1;
    }
    let mut step = 1;
    while step < STEP {
        let mut byte = 0;
        while byte < 256 {
            let before = tables[step - 1][byte];
            tables[step][byte] = (before << 8) ^ tables[0][(before >> 8) as usize];
            byte += 1;
        }
        step += 1;
    }
    tables
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "the callers have masked the upper half away"
)]
const fn low_half(crc: u32) -> u16 {
    crc as u16
}

/// The XMODEM checksum of `bytes`.
#[inline]
#[must_use]
pub fn crc16(bytes: &[u8]) -> u16 {
    let (blocks, rest) = bytes.as_chunks::<STEP>();
    let mut crc = 0_u16;
    for block in blocks {
        // The sixteen bits so far line up with the first two bytes; each byte then counts as if only
        // zeros followed it, and the sum of all is the checksum of the block.
        crc = TABLES[7][usize::from((crc >> 8) ^ u16::from(block[0]))]
            ^ TABLES[6][usize::from((crc & 0xff) ^ u16::from(block[1]))]
            ^ TABLES[5][usize::from(block[2])]
            ^ TABLES[4][usize::from(block[3])]
            ^ TABLES[3][usize::from(block[4])]
            ^ TABLES[2][usize::from(block[5])]
            ^ TABLES[1][usize::from(block[6])]
            ^ TABLES[0][usize::from(block[7])];
    }
    for byte in rest {
        crc = (crc << 8) ^ TABLES[0][usize::from((crc >> 8) ^ u16::from(*byte))];
    }
    crc
}

/// The part of a key that decides its slot: what stands between the first `{` and the first `}` after it,
/// if that is not empty; else the whole key (the rule of Redis's `keyHashSlot`).
#[inline]
#[must_use]
pub fn tag(key: &[u8]) -> &[u8] {
    let Some(open) = memchr::memchr(b'{', key) else {
        return key;
    };
    let inside = &key[open + 1..];
    match memchr::memchr(b'}', inside) {
        None | Some(0) => key,
        Some(close) => &inside[..close],
    }
}

/// The slot of a key, `0..16384`.
#[inline]
#[must_use]
pub fn slot(key: &[u8]) -> u16 {
    crc16(tag(key)) & (SLOTS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn reference(bytes: &[u8]) -> u16 {
        crc16::State::<crc16::XMODEM>::calculate(bytes)
    }

    /// Redis's own loop, byte by byte, as an independent second opinion on the tag rule.
    fn tag_by_loops(key: &[u8]) -> &[u8] {
        let mut start = 0;
        while start < key.len() && key[start] != b'{' {
            start += 1;
        }
        let mut end = start + 1;
        while end < key.len() && key[end] != b'}' {
            end += 1;
        }
        if start >= key.len() || end >= key.len() || end == start + 1 {
            key
        } else {
            &key[start + 1..end]
        }
    }

    #[test]
    fn known_values_of_redis_cluster() {
        assert_eq!(crc16(b"123456789"), 0x31c3, "the check value of XMODEM");
        assert_eq!(slot(b""), 0);
        assert_eq!(slot(b"foo"), 12182);
        assert_eq!(slot(b"bar"), 5061);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
    }

    #[test]
    fn the_tag_is_the_first_non_empty_pair_only() {
        let cases: [(&[u8], &[u8]); 12] = [
            (b"{a}b", b"a"),
            (b"x{a}y{b}", b"a"),
            (b"foo{}{bar}", b"foo{}{bar}"),
            (b"{}", b"{}"),
            (b"{}{a}", b"{}{a}"),
            (b"foo{{bar}}zap", b"{bar"),
            (b"a{b", b"a{b"),
            (b"a}b", b"a}b"),
            (b"}{", b"}{"),
            (b"}a{b}", b"b"),
            (b"{", b"{"),
            (b"", b""),
        ];
        for (key, expected) in cases {
            assert_eq!(tag(key), expected, "{}", String::from_utf8_lossy(key));
            assert_eq!(tag_by_loops(key), expected);
        }
    }

    proptest! {
        #[test]
        fn the_sliced_tables_agree_with_the_reference(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(crc16(&bytes), reference(&bytes));
        }

        #[test]
        fn tags_agree_with_redis_loops(key in proptest::collection::vec(
            prop_oneof![Just(b'{'), Just(b'}'), any::<u8>()], 0..24)) {
            prop_assert_eq!(tag(&key), tag_by_loops(&key));
            prop_assert_eq!(slot(&key), reference(tag_by_loops(&key)) % SLOTS);
        }
    }
}
