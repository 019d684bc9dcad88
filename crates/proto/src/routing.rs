//! From a key to its hash slot: Redis Cluster's rule, so that hash tags work as users know them.
//!
//! Source: Redis Cluster specification, "Key distribution model" and "Hash tags".

/// How many hash slots there are. Shards own ranges of slots; keys never change slots.
pub const SLOT_COUNT: u16 = 16384;

/// The part of the key that picks the slot: what stands inside the first `{…}`, or the whole key
/// where there is no brace pair or nothing in it.
pub fn routing_key(key: &[u8]) -> &[u8] {
    let Some(open) = key.iter().position(|&byte| byte == b'{') else { return key };
    let inside = &key[open + 1..];
    match inside.iter().position(|&byte| byte == b'}') {
        None | Some(0) => key,
        Some(close) => &inside[..close],
    }
}

/// A key of the shard that holds a user's databases: those are where the keys with the hash tag `{user}` are.
pub fn key_of_user(user: &[u8]) -> Vec<u8> {
    [b"{", user, b"}"].concat()
}

/// The key's slot, below [`SLOT_COUNT`].
pub fn slot(key: &[u8]) -> u16 {
    crc16(routing_key(key)) % SLOT_COUNT
}

/// The shard that holds a slot, where the slots are spread evenly over `shard_count` data shards.
/// Data shards are numbered from 1; shard 0 is the catalog.
pub fn shard_of_slot(slot: u16, shard_count: u32) -> u32 {
    u32::from(slot) * shard_count / u32::from(SLOT_COUNT) + 1
}

/// The shard that holds a key.
pub fn shard_of_key(key: &[u8], shard_count: u32) -> u32 {
    shard_of_slot(slot(key), shard_count)
}

/// The slots of a data shard, first and last inclusive.
pub fn slots_of_shard(shard_id: u32, shard_count: u32) -> (u16, u16) {
    let first = |shard: u32| (shard * u32::from(SLOT_COUNT)).div_ceil(shard_count);
    (first(shard_id - 1) as u16, (first(shard_id) - 1) as u16)
}

/// CRC-16/XMODEM: polynomial 0x1021, initial value 0.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, &byte| (crc << 8) ^ CRC16_TABLE[usize::from((crc >> 8) as u8 ^ byte)])
}

const CRC16_TABLE: [u16; 256] = {
    let mut table = [0u16; 256];
    let mut index = 0;
    while index < 256 {
        let mut crc = (index as u16) << 8;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 0x8000 != 0 { (crc << 1) ^ 0x1021 } else { crc << 1 };
            bit += 1;
        }
        table[index] = crc;
        index += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_matches_the_published_check_value() {
        assert_eq!(crc16(b"123456789"), 0x31C3);
    }

    #[test]
    fn hash_tags_follow_redis_cluster() {
        let cases: &[(&[u8], &[u8])] = &[
            (b"plain", b"plain"),
            (b"{user1}.following", b"user1"),
            (b"foo{}{bar}", b"foo{}{bar}"),
            (b"foo{{bar}}zap", b"{bar"),
            (b"foo{bar}{zap}", b"bar"),
            (b"foo{bar", b"foo{bar"),
        ];
        for (key, expected) in cases {
            assert_eq!(routing_key(key), *expected, "{}", String::from_utf8_lossy(key));
        }
        assert_eq!(slot(b"foo"), 12182, "the slot that Redis gives");
    }

    #[test]
    fn slot_ranges_partition_all_slots() {
        for shard_count in [1, 2, 3, 7, 8, 100] {
            let mut next = 0u32;
            for shard in 1..=shard_count {
                let (first, last) = slots_of_shard(shard, shard_count);
                assert_eq!(u32::from(first), next);
                assert_eq!(shard_of_slot(first, shard_count), shard);
                assert_eq!(shard_of_slot(last, shard_count), shard);
                next = u32::from(last) + 1;
            }
            assert_eq!(next, u32::from(SLOT_COUNT));
        }
    }
}
