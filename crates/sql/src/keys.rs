//! Where databases lie in `TABLE_SQL`.
//!
//! ```text
//! 1, dbfile, user, dbname            the database's entry: all of them together, in that order
//! 2, dbfile, user, dbname, number    one page, counted from 1: a database's are one range
//! ```
//!
//! Numbers are 4 bytes, big-endian. Of a string each byte 0 is followed by 255, and its end is 0, 1: strings sort as their
//! bytes do, a prefix before what it begins, and any bytes are allowed.

use bytes::Bytes;

use crate::DatabaseId;

const ENTRIES: u8 = 1;
const PAGES: u8 = 2;

const ESCAPED: u8 = 0xff;
const END: u8 = 0x01;

pub(crate) fn entry_key(id: &DatabaseId) -> Vec<u8> {
    key(ENTRIES, id)
}

/// What a page's key is before its number.
pub(crate) fn page_prefix(id: &DatabaseId) -> Vec<u8> {
    key(PAGES, id)
}

pub(crate) fn page_key(prefix: &[u8], number: u32) -> Bytes {
    [prefix, &number.to_be_bytes()].concat().into()
}

/// The first key past all that begin with `prefix`, which has a byte below 255.
pub(crate) fn past(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while end.pop_if(|last| *last == u8::MAX).is_some() {}
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// What the entries of all databases begin with that have this dbfile, where one is given, and whose user begins so.
pub(crate) fn entries_prefix(dbfile: Option<u32>, user_prefix: &[u8]) -> Vec<u8> {
    let mut prefix = vec![ENTRIES];
    if let Some(dbfile) = dbfile {
        prefix.extend(dbfile.to_be_bytes());
        escape(&mut prefix, user_prefix);
    }
    prefix
}

/// The database that an entry's key names; `None` for a key that no database has.
pub(crate) fn database_of_entry(key: &[u8]) -> Option<DatabaseId> {
    let (id, rest) = parse(key.strip_prefix(&[ENTRIES])?)?;
    rest.is_empty().then_some(id)
}

/// The database whose page has that key; `None` for a key that no page has.
pub(crate) fn database_of_page(key: &[u8]) -> Option<DatabaseId> {
    let (id, rest) = parse(key.strip_prefix(&[PAGES])?)?;
    (rest.len() == size_of::<u32>()).then_some(id)
}

/// The database that a key names behind its kind, and what follows.
fn parse(key: &[u8]) -> Option<(DatabaseId, &[u8])> {
    let (dbfile, rest) = key.split_first_chunk::<4>()?;
    let (user, rest) = unescape(rest)?;
    let (dbname, rest) = unescape(rest)?;
    let dbname = String::from_utf8(dbname).ok()?;
    Some((DatabaseId::new(u32::from_be_bytes(*dbfile), user, dbname), rest))
}

fn key(kind: u8, id: &DatabaseId) -> Vec<u8> {
    let mut key = Vec::with_capacity(9 + id.user.len() + id.dbname.len() + 4);
    key.push(kind);
    key.extend(id.dbfile.to_be_bytes());
    for text in [&id.user[..], id.dbname.as_bytes()] {
        escape(&mut key, text);
        key.extend([0, END]);
    }
    key
}

fn escape(into: &mut Vec<u8>, text: &[u8]) {
    for &byte in text {
        into.push(byte);
        if byte == 0 {
            into.push(ESCAPED);
        }
    }
}

fn unescape(bytes: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut text = Vec::new();
    let mut rest = bytes;
    loop {
        match rest {
            [0, ESCAPED, more @ ..] => {
                text.push(0);
                rest = more;
            }
            [0, END, more @ ..] => return Some((text, more)),
            [0, ..] | [] => return None,
            [byte, more @ ..] => {
                text.push(*byte);
                rest = more;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_id() -> impl Strategy<Value = DatabaseId> {
        let user = proptest::collection::vec(prop_oneof![Just(0u8), Just(1), Just(0xff), any::<u8>()], 1..6);
        (any::<u32>(), user, "[a-z\\x00]{1,4}").prop_map(|(dbfile, user, dbname)| DatabaseId::new(dbfile, user, dbname))
    }

    proptest! {
        #[test]
        fn keys_sort_as_databases_do_and_read_back(left in any_id(), right in any_id()) {
            prop_assert_eq!(entry_key(&left).cmp(&entry_key(&right)), left.cmp(&right));
            prop_assert_eq!(database_of_entry(&entry_key(&left)), Some(left.clone()));
            let pages = page_prefix(&left);
            prop_assert!(page_key(&pages, 258) > page_key(&pages, 3));
            prop_assert!(page_key(&pages, u32::MAX)[..] < past(&pages)[..]);
            if left != right {
                let other = page_key(&page_prefix(&right), 1);
                prop_assert!(other[..] < pages[..] || other[..] >= past(&pages)[..], "ranges do not overlap");
            }
        }

        #[test]
        fn a_users_prefix_finds_exactly_those_users(id in any_id(), length in 0usize..4) {
            let begin = &id.user[..length.min(id.user.len())];
            let prefix = entries_prefix(Some(id.dbfile), begin);
            prop_assert!(entry_key(&id).starts_with(&prefix));
            let other = DatabaseId { user: [&[begin, &[7]].concat()[..], b"x"].concat().into(), ..id.clone() };
            prop_assert!(entry_key(&other).starts_with(&prefix));
            let elsewhere = DatabaseId { user: [b"z", begin].concat().into(), ..id };
            let key = entry_key(&elsewhere);
            prop_assert_eq!(key >= prefix && key < past(&prefix), elsewhere.user.starts_with(begin));
        }
    }

    #[test]
    fn broken_keys_name_no_database() {
        for broken in [&b""[..], &[1], &[1, 0, 0, 0, 0], &[1, 0, 0, 0, 0, 7, 0], &[2, 0, 0, 0, 0, 7, 0, 1, 7, 0, 1]] {
            assert_eq!(database_of_entry(broken), None, "{broken:?}");
        }
    }
}
