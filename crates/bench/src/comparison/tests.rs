#![allow(clippy::unwrap_used)]

use super::*;
use crate::report::{ErrorTally, Latencies};

fn report(system: System, mode: Mode, clients: usize, throughput_per_second: f64, p50: f64) -> Report {
    Report {
        system,
        endpoints: vec!["a:1".to_owned()],
        operation: Operation::Put,
        mode,
        clients,
        window: if mode == Mode::Pipeline { 256 } else { 1 },
        connections: None,
        keys: 1,
        value_bytes: 256,
        seconds: 1.0,
        operations: throughput_per_second as u64,
        throughput_per_second,
        latency_us: Latencies { p50, p99: 2.0 * p50, ..Latencies::default() },
        errors: BTreeMap::new(),
        generator_processors: Some(0.5),
        server_cpu_us: None,
        script_cpu_us: None,
    }
}

fn row(comparison: &Comparison, system: System, mode: Mode, clients: usize) -> &Row {
    let is_asked = |row: &&Row| (row.system, row.mode, row.clients) == (system, mode, clients);
    comparison.rows.iter().find(is_asked).unwrap()
}

#[test]
fn ratios_are_taken_at_the_same_work() {
    let comparison = Comparison::of(&[
        report(System::Etcd, Mode::Unary, 1, 1_000.0, 900.0),
        report(System::Etcd, Mode::Unary, 64, 8_000.0, 7_000.0),
        report(System::Cirrus, Mode::Unary, 64, 24_000.0, 3_500.0),
        report(System::Cirrus, Mode::Unary, 256, 30_000.0, 9_000.0),
    ]);
    let cirrus = row(&comparison, System::Cirrus, Mode::Unary, 64);
    assert_eq!((cirrus.throughput_to_etcd, cirrus.p50_to_etcd), (Some(3.0), Some(0.5)));
    assert_eq!(row(&comparison, System::Cirrus, Mode::Unary, 256).throughput_to_etcd, None, "etcd was not measured");
    assert_eq!(row(&comparison, System::Etcd, Mode::Unary, 64).throughput_to_etcd, Some(1.0));
}

#[test]
fn a_pipeline_is_held_against_the_best_that_etcd_does() {
    let comparison = Comparison::of(&[
        report(System::Etcd, Mode::Unary, 64, 8_000.0, 7_000.0),
        report(System::Etcd, Mode::Unary, 256, 12_000.0, 18_000.0),
        report(System::Cirrus, Mode::Pipeline, 8, 120_000.0, 5_000.0),
    ]);
    let pipeline = row(&comparison, System::Cirrus, Mode::Pipeline, 8);
    assert_eq!((pipeline.throughput_to_etcd, pipeline.p50_to_etcd), (Some(10.0), None));
}

#[test]
fn rounds_of_the_same_work_become_their_median() {
    let rounds = [5_000.0, 8_000.0, 9_000.0].map(|rate| report(System::Etcd, Mode::Unary, 64, rate, 1e6 / rate));
    let comparison = Comparison::of(&rounds);
    assert_eq!(comparison.rows.len(), 1);
    assert_eq!((comparison.rows[0].throughput_per_second, comparison.rows[0].rounds), (8_000.0, 3));
    assert_eq!(Comparison::of(&rounds[..2]).rows[0].throughput_per_second, 6_500.0);
}

#[test]
fn errors_of_all_rounds_are_shown_beside_the_numbers() {
    let mut broken = report(System::Cirrus, Mode::Unary, 64, 0.0, 0.0);
    broken.errors.insert("UNAVAILABLE".to_owned(), ErrorTally { count: 1500, example: String::new() });
    let text =
        Comparison::of(&[broken.clone(), broken, report(System::Etcd, Mode::Unary, 64, 8_000.0, 7_000.0)]).to_string();
    let shown = text.lines().find(|line| line.contains("cirrus")).unwrap();
    assert!(shown.contains("3,000") && !shown.contains("0.00"), "{text}");
    assert!(text.contains("put · 256 B") && text.contains("7.00 ms") && text.contains("14.0 ms"), "{text}");
}

#[test]
fn files_may_hold_one_report_or_several() {
    let one = serde_json::to_string_pretty(&report(System::Redis, Mode::Unary, 1, 1.0, 1.0)).unwrap();
    assert_eq!(parse(&one).unwrap().len(), 1);
    assert_eq!(parse(&format!("{one}\n{one}\n")).unwrap().len(), 2);
    assert!(parse("{\"system\": \"oracle\"}").is_err());
}
