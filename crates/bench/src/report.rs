//! What one run found, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, Table};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::arguments::{KvArgs, Mode};
use crate::format::{latency, thousands};
use crate::load::Measurement;
use crate::target::{System, Target};
use crate::workload::Operation;

/// One run's result; as JSON, what `cirrus bench kv -o json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// What was measured.
    pub system: System,
    /// Where, each `host:port`.
    pub endpoints: Vec<String>,
    /// What the clients did.
    pub operation: Operation,
    /// How they sent it.
    pub mode: Mode,
    /// How many clients there were.
    pub clients: usize,
    /// Requests in flight for each client.
    pub window: usize,
    /// gRPC connections to each endpoint; absent where every client had its own connection.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections: Option<usize>,
    /// How many different keys were used.
    pub keys: u64,
    /// Size of each value, bytes.
    pub value_bytes: usize,
    /// The measured time, without the warm-up.
    pub seconds: f64,
    /// Operations that succeeded within it.
    pub operations: u64,
    /// The same per second.
    pub throughput_per_second: f64,
    /// Of the operations that succeeded.
    pub latency_us: Latencies,
    /// Operations that failed, by kind, those of the warm-up included.
    pub errors: BTreeMap<String, ErrorTally>,
    /// How many processors the load generator kept busy; absent where the system does not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator_processors: Option<f64>,
    /// Processor time of all servers for one operation, microseconds; absent where they do not tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_cpu_us: Option<f64>,
    /// Of that, what the script took; absent where none ran.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub script_cpu_us: Option<f64>,
}

/// Latencies in microseconds, within 1 %.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[allow(missing_docs)]
pub struct Latencies {
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p99_9: f64,
    pub max: f64,
}

/// Errors of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorTally {
    /// How many.
    pub count: u64,
    /// The first one's message.
    pub example: String,
}

impl Report {
    pub(crate) fn new(args: &KvArgs, target: Target, measurement: &Measurement) -> Report {
        let latencies = measurement.notes.latencies();
        let seconds = measurement.length.as_secs_f64();
        let per_operation = |time: Duration| time.as_secs_f64() * 1e6 / latencies.len() as f64;
        let server_time = measurement.server_time.filter(|_| !latencies.is_empty());
        let script_time = server_time.filter(|_| args.operation == Operation::Call);
        Report {
            connections: target.system.shares_connections().then_some(args.connections),
            system: target.system,
            endpoints: target.endpoints,
            operation: args.operation,
            mode: args.mode,
            clients: args.clients,
            window: if args.mode == Mode::Pipeline { args.window } else { 1 },
            keys: args.keys,
            value_bytes: args.value_bytes,
            seconds,
            operations: latencies.len(),
            throughput_per_second: latencies.len() as f64 / seconds,
            latency_us: self::latencies(latencies),
            errors: measurement.notes.errors(),
            generator_processors: measurement.processor_time.map(|used| used.as_secs_f64() / seconds),
            server_cpu_us: server_time.map(|used| per_operation(used.all)),
            script_cpu_us: script_time.map(|used| per_operation(used.scripts)),
        }
    }

    /// Errors of all kinds.
    pub fn error_count(&self) -> u64 {
        self.errors.values().map(|tally| tally.count).sum()
    }

    /// Fails where not one operation succeeded.
    pub(crate) fn require_success(&self) -> anyhow::Result<()> {
        if self.operations > 0 {
            return Ok(());
        }
        let kinds: Vec<String> = self.errors.iter().map(|(kind, tally)| format!("{} {kind}", tally.count)).collect();
        let found = if kinds.is_empty() { "no answer came in time".to_owned() } else { kinds.join(", ") };
        anyhow::bail!("not one {} succeeded: {found}", self.operation.name())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table =
            table(&["system", "work", "clients", "ops/s", "errors", "p50", "p90", "p99", "p99.9", "max"], 2);
        let latencies = &self.latency_us;
        let mut row =
            vec![self.system.to_string(), work(self.operation, self.mode, self.window), self.clients.to_string()];
        row.extend([thousands(self.throughput_per_second), thousands(self.error_count() as f64)]);
        let quantiles = [latencies.p50, latencies.p90, latencies.p99, latencies.p99_9, latencies.max];
        row.extend(quantiles.map(|us| if self.operations > 0 { latency(us) } else { "–".to_owned() }));
        table.add_row(row);
        writeln!(f, "{table}")?;
        write!(
            f,
            "{} operations in {} s · values of {} bytes · {} keys",
            thousands(self.operations as f64),
            self.seconds,
            self.value_bytes,
            thousands(self.keys as f64)
        )?;
        if let Some(processors) = self.generator_processors {
            write!(f, " · the load generator used {processors:.2} processors")?;
        }
        writeln!(f)?;
        if let Some(server) = self.server_cpu_us {
            write!(f, "The servers used {server:.1} us of processor time for an operation")?;
            if let Some(script) = self.script_cpu_us {
                write!(f, ", of which Lua took {script:.1} us ({:.0} %)", 100.0 * script / server)?;
            }
            writeln!(f)?;
        }
        for (kind, tally) in &self.errors {
            writeln!(f, "{} × {kind}: {}", thousands(tally.count as f64), tally.example)?;
        }
        Ok(())
    }
}

/// What a histogram of nanoseconds says.
pub(crate) fn latencies(noted: &Histogram<u32>) -> Latencies {
    let quantile_us = |quantile| noted.value_at_quantile(quantile) as f64 / 1e3;
    Latencies {
        mean: noted.mean() / 1e3,
        p50: quantile_us(0.5),
        p90: quantile_us(0.9),
        p99: quantile_us(0.99),
        p99_9: quantile_us(0.999),
        max: noted.max() as f64 / 1e3,
    }
}

/// "put", "put, pipeline of 256".
pub(crate) fn work(operation: Operation, mode: Mode, window: usize) -> String {
    match mode {
        Mode::Unary => operation.name().to_owned(),
        Mode::Pipeline => format!("{}, pipeline of {window}", operation.name()),
    }
}

/// An empty table; all columns but the first ones hold numbers.
pub(crate) fn table(header: &[&str], text_columns: usize) -> Table {
    let mut table = Table::new();
    table.load_preset(UTF8_FULL_CONDENSED).set_header(header);
    for column in table.column_iter_mut().skip(text_columns) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

#[cfg(test)]
mod tests;
