#![allow(clippy::unwrap_used)]

use super::*;

fn report() -> Report {
    Report {
        system: System::Etcd,
        endpoints: vec!["127.0.0.1:2379".to_owned()],
        operation: Operation::Put,
        mode: Mode::Unary,
        clients: 64,
        window: 1,
        connections: Some(1),
        keys: 10_000,
        value_bytes: 256,
        seconds: 8.0,
        operations: 64_800,
        throughput_per_second: 8100.0,
        latency_us: Latencies {
            mean: 7_800.0,
            p50: 7_300.0,
            p90: 9_100.0,
            p99: 14_000.0,
            p99_9: 31_000.0,
            max: 50_400.0,
        },
        errors: BTreeMap::from([(
            "UNAVAILABLE".to_owned(),
            ErrorTally { count: 1234, example: "connection refused".to_owned() },
        )]),
        generator_processors: Some(0.31),
        server_cpu_us: Some(80.0),
        script_cpu_us: Some(8.0),
    }
}

#[test]
fn people_see_throughput_quantiles_and_every_kind_of_error() {
    let text = report().to_string();
    for shown in ["etcd", "put", "64", "8,100", "1,234", "7.30 ms", "9.10 ms", "14.0 ms", "31.0 ms", "50.4 ms"] {
        assert!(text.contains(shown), "{shown} is missing in\n{text}");
    }
    assert!(text.contains("1,234 × UNAVAILABLE: connection refused"), "{text}");
    assert!(text.contains("64,800 operations in 8 s · values of 256 bytes · 10,000 keys"), "{text}");
    assert!(text.contains("used 0.31 processors"), "{text}");
    assert!(
        text.contains("used 80.0 us of processor time for an operation, of which Lua took 8.0 us (10 %)"),
        "{text}"
    );
}

#[test]
fn programs_read_back_what_was_printed() {
    let json = serde_json::to_string(&report()).unwrap();
    assert!(json.contains("\"p99.9\":31000.0"), "{json}");
    assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report());
}

#[test]
fn a_run_without_one_success_fails_and_says_what_happened() {
    assert!(report().require_success().is_ok());
    let nothing = Report { operations: 0, ..report() };
    let message = nothing.require_success().unwrap_err().to_string();
    assert_eq!(message, "not one put succeeded: 1234 UNAVAILABLE");
    let silent = Report { operations: 0, errors: BTreeMap::new(), ..report() };
    assert!(silent.require_success().unwrap_err().to_string().contains("no answer came in time"));
    assert!(nothing.to_string().contains('–'), "a latency of nothing is not shown as 0");
}
