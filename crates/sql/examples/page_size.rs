//! What the size of pages costs, for docs/decisions/0018: bytes stored and replicated, and time.
//!
//! `cargo run --release -p cirrus-sql --example page_size`

#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::time::Instant;

use cirrus_engine::{MemoryView, ShardHead, Transaction};
use cirrus_proto::internal::v1::{Effect, Table};
use cirrus_proto::limits::{Limits, SqlLimits};
use cirrus_sql::{Cell, DatabaseId, Databases, Request, Statement};

const BOOK: &str = "CREATE TABLE addrgroup(gid INTEGER PRIMARY KEY AUTOINCREMENT, name varchar(64));
    CREATE TABLE addrbook(id INTEGER PRIMARY KEY AUTOINCREMENT, gid int, addr varchar(64), freq int, unique(addr));
    CREATE TABLE note(id INTEGER PRIMARY KEY, at int, body TEXT);";

struct Shard {
    state: MemoryView,
    databases: Databases,
    id: DatabaseId,
}

impl Shard {
    fn new(page_bytes: usize) -> Shard {
        let limits = SqlLimits { page_bytes, cpu_ms: 60_000, ..SqlLimits::DEFAULT };
        let databases = Databases::new(limits).unwrap();
        Shard { state: MemoryView::new(), databases, id: DatabaseId::new(0, "user:1234567", "addrbook") }
    }

    /// The bytes of keys and values of the effects, and how many there are.
    fn execute(&mut self, statement: Statement) -> (usize, usize) {
        let limits = Limits { write_set_bytes: 1 << 30, ..Limits::DEFAULT };
        let mut transaction = Transaction::new(&self.state, ShardHead::default(), &limits);
        self.databases.execute(&mut transaction, Request::new(&self.id, &[statement])).unwrap();
        let (effects, _) = transaction.finish();
        self.state.apply(&effects);
        (effects.iter().map(bytes).sum(), effects.len())
    }

    fn insert(&mut self, n: i64) -> (usize, usize) {
        let cells = [Cell::Integer(n % 5), Cell::Text(format!("someone.{n}@mail.example.org"))];
        self.execute(Statement::with_parameters("INSERT INTO addrbook(gid, addr, freq) VALUES (?, ?, 0)", cells))
    }
}

fn bytes(effect: &Effect) -> usize {
    use cirrus_proto::internal::v1::effect::Change;
    effect.key.len()
        + match &effect.change {
            Some(Change::Put(value)) => value.len(),
            _ => 0,
        }
}

fn main() {
    println!(
        "{:>6} {:>9} {:>9} {:>6} {:>10} {:>10} {:>11} {:>10} {:>10} {:>10} {:>10}",
        "page",
        "empty B",
        "50 rows B",
        "keys",
        "insert B",
        "insert us",
        "select us",
        "cold us",
        "10 MB B",
        "10 MB us",
        "open B"
    );
    for page_bytes in [512, 1024, 2048, 4096] {
        let mut shard = Shard::new(page_bytes);
        let (empty, _) = shard.execute(Statement::script(BOOK));
        let inserted: usize = (0..50).map(|n| shard.insert(n).0).sum();
        let described = shard.databases.describe(&shard.state, &shard.id).unwrap();
        let (full, keys) = (described.info.stored_bytes, shard.state.count(Table::Sql));

        // The best of several rounds: the machine has other work.
        let mut number = 1_000_000;
        let mut time = |shard: &mut Shard, act: &mut dyn FnMut(&mut Shard, i64)| {
            let mut round = || {
                let began = Instant::now();
                for _ in 0..200 {
                    number += 1;
                    act(shard, number);
                }
                began.elapsed().as_secs_f64() * 1e6 / 200.0
            };
            (0..20).map(|_| round()).fold(f64::INFINITY, f64::min)
        };
        let select = [Statement::with_parameters("SELECT * FROM addrbook WHERE id = ?", [Cell::Integer(7)])];
        let query = |shard: &mut Shard| {
            let Shard { state, databases, id } = shard;
            databases.query(state, 0, Request::new(id, &select)).unwrap();
        };
        let insert_us = time(&mut shard, &mut |shard, n| _ = shard.insert(n));
        let select_us = time(&mut shard, &mut |shard, _| query(shard));
        let cold_us = time(&mut shard, &mut |shard, _| {
            shard.databases.close_all();
            query(shard);
        });

        let held_bytes = shard.databases.statistics().open_bytes;
        let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n LIMIT 60000) \
                    INSERT INTO addrbook(gid, addr, freq) SELECT 1, hex(randomblob(60)), 0 FROM n";
        shard.execute(Statement::new(fill));
        let large: usize = (0..100).map(|n| shard.insert(100_000 + n).0).sum();
        let large_us = time(&mut shard, &mut |shard, n| _ = shard.insert(n));
        println!(
            "{page_bytes:>6} {empty:>9} {full:>9} {keys:>6} {:>10} {insert_us:>10.1} {select_us:>11.1} {cold_us:>10.1} {:>10} {large_us:>10.1} {held_bytes:>10}",
            inserted / 50,
            large / 100
        );
    }
}
