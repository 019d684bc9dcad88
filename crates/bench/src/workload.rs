//! What the clients ask for: which keys, which values, in which mix.

use bytes::{BufMut as _, Bytes, BytesMut};
use rand::rngs::StdRng;
use rand::{Rng as _, RngCore as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

/// What every client does, over and over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// Stores a value.
    Put,
    /// Reads a value, linearizably where the system can. All keys are stored first.
    Get,
    /// Gets and puts, in random order. All keys are stored first.
    Mixed,
    /// Calls a procedure that reads a number, adds one and writes it back (Cirrus and Redis).
    Call,
}

impl Operation {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Operation::Put => "put",
            Operation::Get => "get",
            Operation::Mixed => "mixed",
            Operation::Call => "call",
        }
    }

    /// Whether it reads values, so that they must be there first.
    pub(crate) fn reads_values(self) -> bool {
        matches!(self, Operation::Get | Operation::Mixed)
    }
}

/// One request to the target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    Put { key: Bytes, value: Bytes },
    Get { key: Bytes },
    Call { key: Bytes },
}

/// Keys of fixed width, so that every request costs the same.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeySpace {
    prefix: &'static str,
    count: u64,
}

/// Enough for a million million keys.
const DIGITS: usize = 12;

impl KeySpace {
    /// Numbers live apart from the values that puts store, for a procedure cannot add to those.
    pub(crate) fn new(operation: Operation, count: u64) -> KeySpace {
        let prefix = if operation == Operation::Call { "bench/number/" } else { "bench/value/" };
        KeySpace { prefix, count: count.clamp(1, 10u64.pow(DIGITS as u32)) }
    }

    pub(crate) fn count(&self) -> u64 {
        self.count
    }

    pub(crate) fn key(&self, index: u64) -> Bytes {
        let mut digits = [b'0'; DIGITS];
        let mut rest = index;
        for digit in digits.iter_mut().rev() {
            *digit += (rest % 10) as u8;
            rest /= 10;
        }
        let mut key = BytesMut::with_capacity(self.prefix.len() + DIGITS);
        key.put_slice(self.prefix.as_bytes());
        key.put_slice(&digits);
        key.freeze()
    }
}

/// Random, hence incompressible values: slices of one block at random offsets, so that making one costs
/// neither random numbers nor a copy.
#[derive(Clone, Debug)]
pub(crate) struct ValuePool {
    block: Bytes,
    value_bytes: usize,
}

/// How many different values there are.
const VALUE_OFFSETS: usize = 64 * 1024;

impl ValuePool {
    pub(crate) fn new(value_bytes: usize) -> ValuePool {
        let mut block = vec![0; value_bytes + VALUE_OFFSETS];
        StdRng::seed_from_u64(0).fill_bytes(&mut block);
        ValuePool { block: block.into(), value_bytes }
    }

    pub(crate) fn value_bytes(&self) -> usize {
        self.value_bytes
    }

    pub(crate) fn value(&self, random: &mut StdRng) -> Bytes {
        let offset = random.random_range(0..VALUE_OFFSETS);
        self.block.slice(offset..offset + self.value_bytes)
    }
}

/// The endless requests of one client. The same client number gives the same requests, on every target.
#[derive(Debug)]
pub(crate) struct RequestSource {
    operation: Operation,
    get_percent: u8,
    keys: KeySpace,
    values: ValuePool,
    random: StdRng,
}

impl RequestSource {
    pub(crate) fn new(operation: Operation, get_percent: u8, keys: KeySpace, values: ValuePool, client: usize) -> Self {
        let random = StdRng::seed_from_u64(client as u64 + 1);
        RequestSource { operation, get_percent, keys, values, random }
    }

    /// Its next request, on a key that is uniform over the key space.
    pub(crate) fn next_request(&mut self) -> Request {
        let key = self.keys.key(self.random.random_range(0..self.keys.count()));
        let is_get = match self.operation {
            Operation::Call => return Request::Call { key },
            Operation::Put => false,
            Operation::Get => true,
            Operation::Mixed => self.random.random_range(0..100) < self.get_percent,
        };
        if is_get { Request::Get { key } } else { Request::Put { key, value: self.values.value(&mut self.random) } }
    }

    /// A put of the key with that number, for storing all of them before they are read.
    pub(crate) fn put_of(&mut self, index: u64) -> (Bytes, Bytes) {
        (self.keys.key(index), self.values.value(&mut self.random))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn source(operation: Operation, keys: u64, client: usize) -> RequestSource {
        RequestSource::new(operation, 50, KeySpace::new(operation, keys), ValuePool::new(256), client)
    }

    #[test]
    fn keys_are_distinct_and_of_one_width() {
        let keys = KeySpace::new(Operation::Put, 10_000);
        let all: HashSet<Bytes> = (0..keys.count()).map(|index| keys.key(index)).collect();
        assert_eq!(all.len(), 10_000);
        assert!(all.iter().all(|key| key.len() == "bench/value/".len() + DIGITS));
        assert_eq!(keys.key(9_876_543_210), "bench/value/009876543210");
    }

    #[test]
    fn every_key_is_used_about_equally_often() {
        let mut source = source(Operation::Get, 10, 0);
        let mut counts = std::collections::BTreeMap::new();
        for _ in 0..10_000 {
            *counts.entry(format!("{:?}", source.next_request())).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 10);
        assert!(counts.values().all(|count| (800..1200).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_client_asks_the_same_of_every_target_and_not_what_its_neighbour_asks() {
        let (mut first, mut again, mut neighbour) =
            (source(Operation::Mixed, 1000, 7), source(Operation::Mixed, 1000, 7), source(Operation::Mixed, 1000, 8));
        let (mut same, mut different) = (0, 0);
        for _ in 0..100 {
            let request = first.next_request();
            same += usize::from(request == again.next_request());
            different += usize::from(request != neighbour.next_request());
        }
        assert_eq!(same, 100);
        assert!(different > 90, "{different}");
    }

    #[test]
    fn values_have_the_size_asked_for_and_do_not_compress() {
        for value_bytes in [0, 1, 256, 100_000] {
            let mut random = StdRng::seed_from_u64(1);
            assert_eq!(ValuePool::new(value_bytes).value(&mut random).len(), value_bytes);
        }
        let value = ValuePool::new(100_000).value(&mut StdRng::seed_from_u64(1));
        let distinct: HashSet<&[u8]> = value.chunks(4).collect();
        assert!(distinct.len() > 24_000, "four-byte words hardly ever repeat: {}", distinct.len());
    }

    #[test]
    fn a_mix_holds_the_share_of_gets_that_was_asked_for() {
        let keys = KeySpace::new(Operation::Mixed, 100);
        let mut source = RequestSource::new(Operation::Mixed, 90, keys, ValuePool::new(8), 0);
        let gets = (0..10_000).filter(|_| matches!(source.next_request(), Request::Get { .. })).count();
        assert!((8_800..9_200).contains(&gets), "{gets}");
    }
}
