//! Reads that go past the executor, straight to applied state.
//!
//! They are served concurrently, by the serving node's clock. A value with an expiry is also held against
//! the shard's own clock as stored: once an evaluated command could see that a value had expired, no read
//! of a node with a slower clock brings it back.

use std::ops::ControlFlow;

use bytes::Bytes;
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::{ShardScan, ShardScanResult, Table};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::{GetRequest, GetResponse, KeyValuePair};

use crate::bounds::check_key;
use crate::commands::get_response;
use crate::encoding::{decode_header, decode_value, is_expired};
use crate::{ShardHead, View};

/// The value of a key. Fails with `KEY_EMPTY` or `KEY_TOO_LARGE`.
pub fn get(view: &dyn View, now_ms: u64, request: &GetRequest, limits: &Limits) -> Result<GetResponse, Failure> {
    check_key(&request.key, limits)?;
    let mut found = view.get(Table::Data, &request.key)?.map(decode_value).transpose()?;
    if let Some(value) = &found
        && value.expires_at_ms != 0
        && (is_expired(value.expires_at_ms, now_ms) || is_expired(value.expires_at_ms, ShardHead::load(view)?.clock_ms))
    {
        found = None;
    }
    Ok(get_response(found))
}

/// One page of a shard's live pairs in `[start, end)` (an empty end: to the last).
///
/// The page ends before the pair that would exceed `max_pairs` or `max_bytes` of keys and values (0, or
/// above the node's own limits: those), but has at least one pair where there is one. `next_start` is set
/// where a live pair is left: it is the last key of the page with a zero byte after it, the smallest key
/// above it.
pub fn shard_scan(
    view: &dyn View,
    now_ms: u64,
    request: &ShardScan,
    limits: &Limits,
) -> Result<ShardScanResult, Failure> {
    let now_ms = now_ms.max(ShardHead::load(view)?.clock_ms);
    let mut page = Page {
        result: ShardScanResult::default(),
        keys_only: request.keys_only,
        pairs_left: at_most(request.max_pairs, limits.scan_page_pairs),
        bytes_left: at_most(request.max_bytes, limits.scan_page_bytes),
    };
    let mut failed = None;
    let end = (!request.end.is_empty()).then_some(&request.end[..]);
    view.scan(Table::Data, &request.start, end, &mut |key, stored| {
        page.add(key, stored, now_ms).unwrap_or_else(|failure| {
            failed = Some(failure);
            ControlFlow::Break(())
        })
    })?;
    failed.map_or(Ok(page.result), Err)
}

struct Page {
    result: ShardScanResult,
    keys_only: bool,
    pairs_left: usize,
    bytes_left: usize,
}

impl Page {
    fn add(&mut self, key: &[u8], stored: &[u8], now_ms: u64) -> Result<ControlFlow<()>, Failure> {
        let header = decode_header(stored)?;
        if is_expired(header.expires_at_ms, now_ms) {
            return Ok(ControlFlow::Continue(()));
        }
        let value = if self.keys_only { Bytes::new() } else { decode_value(stored)?.value };
        let pair_bytes = key.len() + value.len();
        if let Some(last) = self.result.pairs.last()
            && (self.pairs_left == 0 || pair_bytes > self.bytes_left)
        {
            self.result.next_start = [&last.key[..], &[0]].concat().into();
            return Ok(ControlFlow::Break(()));
        }
        self.pairs_left = self.pairs_left.saturating_sub(1);
        self.bytes_left = self.bytes_left.saturating_sub(pair_bytes);
        self.result.pairs.push(KeyValuePair {
            key: Bytes::copy_from_slice(key),
            value,
            version: header.version,
            expires_at_ms: header.expires_at_ms,
            flags: header.flags,
        });
        Ok(ControlFlow::Continue(()))
    }
}

fn at_most(asked: u32, limit: usize) -> usize {
    if asked == 0 { limit } else { limit.min(asked as usize) }
}
