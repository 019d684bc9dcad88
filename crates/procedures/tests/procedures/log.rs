//! `log` and `print`.

use std::fmt::{self, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use cirrus_procedures::{LogLine, LogSink};
use cirrus_proto::Reason;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use crate::shard::{Shard, failed};

/// Keeps each event's level and fields.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target().starts_with("cirrus_procedures")
    }

    fn event(&self, event: &Event<'_>) {
        struct Fields(String);
        impl Visit for Fields {
            fn record_debug(&mut self, _field: &Field, value: &dyn fmt::Debug) {
                write!(self.0, " {value:?}").unwrap();
            }
        }
        let mut fields = Fields(event.metadata().level().to_string());
        event.record(&mut fields);
        self.0.lock().unwrap().push(fields.0);
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }
    fn record(&self, _: &Id, _: &Record<'_>) {}
    fn record_follows_from(&self, _: &Id, _: &Id) {}
    fn enter(&self, _: &Id) {}
    fn exit(&self, _: &Id) {}
}

/// What the body logged.
fn logged(body: &str) -> Vec<String> {
    let lines = Lines::default();
    let answer = tracing::subscriber::with_default(lines.clone(), || Shard::new().run(&format!("{body} return 1")));
    assert_eq!(answer.as_deref(), Ok("1"), "{body}");
    lines.0.lock().unwrap().clone()
}

#[test]
fn each_level_is_its_own_and_log_itself_is_info() {
    let cases = [
        ("log('a', 1, nil, true, {}, print)", "INFO", "a 1 nil true table function"),
        ("print('a')", "INFO", "a"),
        ("log.debug('a')", "DEBUG", "a"),
        ("log.info('a', 0.5)", "INFO", "a 0.5"),
        ("log.warn()", "WARN", ""),
        ("log.error('a\\255')", "ERROR", "a\u{fffd}"),
        ("log(integer.fromstring('9223372036854775807'))", "INFO", "9223372036854775807"),
    ];
    for (body, level, message) in cases {
        let lines = logged(body);
        assert_eq!(lines.len(), 1, "{body}");
        assert!(lines[0].starts_with(level) && lines[0].contains(&format!(" {message}")), "{body}: {lines:?}");
        assert!(lines[0].contains("\"lib\"") && lines[0].contains("\"main\""), "{body}: {lines:?}");
    }
}

#[test]
fn lines_are_bounded_in_number_and_length() {
    let lines = logged("for i = 1, 500 do log.debug(('x'):rep(100000), i) log.error('x') end");
    assert_eq!(lines.len(), 101);
    assert!(lines.iter().all(|line| line.len() < 1100));
    assert!(lines[100].starts_with("WARN") && lines[100].contains("dropped"), "{}", lines[100]);
}

/// Keeps lines as text.
#[derive(Default)]
struct Sink(Mutex<Vec<String>>);

impl LogSink for Sink {
    fn write(&self, line: LogLine<'_>) {
        let LogLine { library, version, function, level, text } = line;
        self.0.lock().unwrap().push(format!("{level:?} {library}@{version}.{function} {text}"));
    }
}

#[test]
fn a_sink_gets_the_lines_of_all_calls_whatever_they_end_with() {
    let sink = Arc::new(Sink::default());
    let mut shard = Shard::new().with_log(sink.clone());
    let take = || std::mem::take(&mut *sink.0.lock().unwrap());
    shard.main("function main() log.debug('a') log('b', 1) log.warn('c') log.error('d') return 1 end", &[]).unwrap();
    assert_eq!(take(), ["Debug lib@1.main a", "Info lib@1.main b 1", "Warn lib@1.main c", "Error lib@1.main d"]);
    shard.main("function main() print('e') _log('f') _log('g', 0) _log('h', 2) return 1 end", &[]).unwrap();
    assert_eq!(take(), ["Info lib@2.main e", "Info lib@2.main f", "Debug lib@2.main g", "Error lib@2.main h"]);
    for body in ["log('i') error('x')", "log('i') return nil", "log('i') while true do end"] {
        shard.run(body).unwrap_err();
        let lines = take();
        assert!(lines.len() == 1 && lines[0].ends_with(".main i"), "{body}: {lines:?}");
    }
    shard.run("for i = 1, 500 do log.debug(('x'):rep(100000)) end return 1").unwrap();
    let lines = take();
    assert_eq!(lines.len(), 101);
    assert!(lines.iter().all(|line| line.len() < 1100) && lines[100].starts_with("Warn"), "{}", lines[100]);
}

#[test]
fn a_call_that_is_given_up_logs_nothing() {
    let sink = Arc::new(Sink::default());
    let mut shard = Shard::new().with_log(sink.clone());
    shard.patience = Some(Duration::from_millis(2));
    let (reason, _) = failed(shard.run("log('once') while true do end"));
    assert_eq!((reason, sink.0.lock().unwrap().len()), (Reason::CallTimeout, 0));
    shard.run("log('quick') return 1").unwrap();
    assert_eq!(sink.0.lock().unwrap().len(), 1);
}

#[test]
fn log_is_a_read_only_table() {
    let mut shard = Shard::new();
    assert_eq!(shard.run("return type(log) .. getmetatable(log) .. tostring(log('x'))").unwrap(), "tablelockednil");
    for body in [
        "log.debug = print",
        "log.extra = 1",
        "setmetatable(log, {})",
        "getmetatable(log).__call = print",
        "log.nothing('x')",
        "log(table.unpack(table.create(65, 1)))",
    ] {
        assert_eq!(failed(shard.run(body)).0, Reason::ProcedureFailed, "{body}");
    }
    let (_, message) = failed(shard.run("log(table.unpack(table.create(65, 1)))"));
    assert_eq!(message, "lib:2: log: expected 0 to 64 arguments, got 65");
    assert_eq!(failed(shard.main("log('loading') function main() end", &[])).0, Reason::ProcedureFailed);
    assert_eq!(shard.run("return tostring(prelude)").unwrap(), "nil");
}
