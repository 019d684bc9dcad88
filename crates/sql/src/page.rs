//! A page as it is stored: without its longest run of zeros.
//!
//! SQLite fills a page from both ends, and what lies between is zeros until it was used once. Tiny databases consist of
//! such pages, so most of their bytes need neither be replicated nor stored.
//!
//! ```text
//! 2 bytes, big-endian: bytes before the run │ those bytes │ the bytes after the run
//! ```

use bytes::Bytes;

const LENGTH: usize = 2;
/// The first byte of a page whose head is longer than [`LENGTH`] bytes can say does not exist: the largest page is 64 KiB,
/// and a page without a run has no head.
const HEAD_MAX: usize = u16::MAX as usize;

/// The page as it is stored. Equal pages are stored equally.
pub(crate) fn encode(page: &[u8]) -> Bytes {
    let (start, end) = longest_run_of_zeros(page);
    let mut stored = Vec::with_capacity(LENGTH + page.len() - (end - start));
    stored.extend((start as u16).to_be_bytes());
    stored.extend_from_slice(&page[..start]);
    stored.extend_from_slice(&page[end..]);
    stored.into()
}

/// Fills `page` with what is stored; false where that cannot be such a page.
#[must_use]
pub(crate) fn decode(stored: &[u8], page: &mut [u8]) -> bool {
    let Some((length, rest)) = stored.split_first_chunk::<LENGTH>() else { return false };
    let Some((head, tail)) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))) else { return false };
    let Some(tail_start) = page.len().checked_sub(tail.len()).filter(|start| *start >= head.len()) else {
        return false;
    };
    page[..head.len()].copy_from_slice(head);
    page[head.len()..tail_start].fill(0);
    page[tail_start..].copy_from_slice(tail);
    true
}

/// Start and end of the first of the longest runs; two zeros where there is none.
fn longest_run_of_zeros(page: &[u8]) -> (usize, usize) {
    let mut longest = (0, 0);
    let mut position = 0;
    while let Some(offset) = memchr::memchr(0, &page[position..]) {
        let start = position + offset;
        if start > HEAD_MAX {
            break;
        }
        let length = page[start..].iter().take_while(|byte| **byte == 0).count();
        if length > longest.1 - longest.0 {
            longest = (start, start + length);
        }
        position = start + length;
        if page.len() - position <= longest.1 - longest.0 {
            break;
        }
    }
    longest
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn round_trip(page: &[u8]) -> usize {
        let stored = encode(page);
        let mut decoded = vec![0xaa; page.len()];
        assert!(decode(&stored, &mut decoded));
        assert!(decoded == page);
        stored.len()
    }

    #[test]
    fn zeros_take_no_room() {
        assert_eq!(round_trip(&[0; 4096]), 2);
        assert_eq!(round_trip(&[7; 4096]), 4098);
        let mut page = vec![0; 65536];
        page[..100].fill(1);
        page[65000..].fill(2);
        assert_eq!(round_trip(&page), 2 + 100 + 536);
        page.fill(3);
        page[65535] = 0;
        round_trip(&page);
    }

    proptest! {
        #[test]
        fn every_page_reads_back(runs in proptest::collection::vec((any::<bool>(), 1usize..40), 1..40)) {
            let page: Vec<u8> =
                runs.iter().enumerate().flat_map(|(n, (zero, length))| vec![if *zero { 0 } else { n as u8 }; *length]).collect();
            let longest = page.split(|byte| *byte != 0).map(<[u8]>::len).max().unwrap_or(0);
            prop_assert_eq!(round_trip(&page), 2 + page.len() - longest);
        }

        #[test]
        fn what_is_no_page_is_refused_or_fills_the_page(stored in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut page = [0; 64];
            let decoded = decode(&stored, &mut page);
            prop_assert!(!decoded || stored.len() <= 66);
        }
    }
}
