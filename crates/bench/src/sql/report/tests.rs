#![allow(clippy::unwrap_used)]

use super::*;

fn writing(active: u32, throughput_per_second: f64) -> Writing {
    Writing {
        active,
        operations: 10,
        throughput_per_second,
        latency_us: Latencies { p50: 3000.0, p99: 6000.0, p99_9: 9000.0, ..Latencies::default() },
        errors: BTreeMap::new(),
        generator_processors: Some(0.25),
        server_cpu_us: Some(120.0),
    }
}

fn report() -> SqlReport {
    let latency_us = Latencies { p50: 200.0, p99: 900.0, max: 4000.0, ..Latencies::default() };
    let reads = Reads { operations: 5, latency_us, errors: BTreeMap::new() };
    let idle = IdleSize {
        disk_bytes: 1000.0,
        unflushed_memory_bytes: 0.0,
        uncompressed_bytes: Some(1600.0),
        log_bytes: Some(64_000_000),
        snapshot_bytes: Some(5_000_000),
    };
    let cirrus = SystemReport {
        filled_per_second: Some(5000.0),
        idle: Some(idle),
        read_cold: Some(reads.clone()),
        read_open: Some(reads.clone()),
        writes: vec![writing(100, 12_000.0), writing(100_000, 8_000.0)],
        ..SystemReport::new("cirrus")
    };
    let sqlite = SystemReport {
        filled_per_second: Some(10_000.0),
        idle: Some(IdleSize { disk_bytes: 12_288.0, uncompressed_bytes: None, log_bytes: None, ..idle }),
        read_cold: Some(reads),
        writes: vec![writing(100, 3_000.0), writing(100_000, 2_000.0)],
        connections_max: Some(8000),
        ..SystemReport::new("sqlite")
    };
    SqlReport {
        endpoints: vec!["a:1".to_owned()],
        nodes: 3,
        shards: 8,
        databases: 100_000,
        rows: 10,
        clients: 64,
        seconds: 10.0,
        restarted: true,
        systems: vec![cirrus, sqlite],
    }
}

#[test]
fn people_see_systems_side_by_side_with_ratios() {
    let text = report().to_string();
    let line =
        |title: &str| text.lines().find(|line| line.contains(title)).unwrap_or_else(|| panic!("{title}: {text}"));
    for (title, shown) in [
        ("databases filled/s", ["5,000", "10,000", "0.50×"]),
        ("bytes on disk, idle", ["1,000", "12,288", "0.08×"]),
        ("first read, p99", ["900 µs", "900 µs", "1.00×"]),
        ("read, open, p50", ["200 µs", "–", "–"]),
        ("100,000 active: writes/s", ["8,000", "2,000", "4.00×"]),
        ("100 active: p99.9", ["9.00 ms", "9.00 ms", "1.00×"]),
        ("100,000 databases of 10 contacts", ["64 clients", "3 nodes, 8 data shards", "started again"]),
        ("cirrus: an idle database", ["1,600 before compression", "log takes 64 MB", "snapshots 5 MB"]),
        ("sqlite: synchronous=FULL", ["8,000 connections", "", ""]),
    ] {
        assert!(shown.iter().all(|part| line(title).contains(part)), "{title} {shown:?}: {text}");
    }
}

#[test]
fn programs_read_back_what_was_printed() {
    let json = serde_json::to_string(&report()).unwrap();
    assert_eq!(serde_json::from_str::<SqlReport>(&json).unwrap(), report());
}

#[test]
fn errors_are_shown_and_a_kind_of_request_that_never_succeeds_fails_the_run() {
    let mut broken = report();
    assert!(broken.require_success().is_ok());
    let tally = ErrorTally { count: 1500, example: "full".to_owned() };
    broken.systems[1].writes[0].errors.insert("MAILBOX_FULL".to_owned(), tally);
    assert!(broken.to_string().contains("sqlite: 1,500 × MAILBOX_FULL: full"), "{broken}");
    broken.systems[1].writes[0].operations = 0;
    let message = broken.require_success().unwrap_err().to_string();
    assert_eq!(message, "sqlite: not one write in 100 databases succeeded");
}
