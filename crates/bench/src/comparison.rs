//! Several runs side by side: medians over rounds, and ratios to etcd at the same work.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::arguments::Mode;
use crate::format::{latency, ratio, thousands};
use crate::report::{Report, table, work};
use crate::target::System;
use crate::workload::Operation;

/// Reads what `cirrus bench kv -o json` printed: one report or several, one after the other.
pub(crate) fn parse(text: &str) -> serde_json::Result<Vec<Report>> {
    serde_json::Deserializer::from_str(text).into_iter::<Report>().collect()
}

/// The same for every system: what clients did, and how many.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct WorkKey {
    mode: Mode,
    operation: Operation,
    value_bytes: usize,
    clients: usize,
    window: usize,
}

impl WorkKey {
    fn of(report: &Report) -> WorkKey {
        WorkKey {
            mode: report.mode,
            operation: report.operation,
            value_bytes: report.value_bytes,
            clients: report.clients,
            window: report.window,
        }
    }
}

/// One system at one work.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Row {
    operation: Operation,
    mode: Mode,
    value_bytes: usize,
    clients: usize,
    window: usize,
    system: System,
    /// Runs that the medians are taken from.
    rounds: usize,
    throughput_per_second: f64,
    p50_us: f64,
    p99_us: f64,
    /// Of all rounds together.
    errors: u64,
    generator_processors: Option<f64>,
    /// Throughput over etcd's: at the same work or, for a pipeline, which etcd has not, at the unary work
    /// that etcd does best, whatever the number of clients.
    throughput_to_etcd: Option<f64>,
    /// Median latency over etcd's at the same work.
    p50_to_etcd: Option<f64>,
}

/// All systems at all works.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Comparison {
    rows: Vec<Row>,
}

impl Comparison {
    pub(crate) fn of(reports: &[Report]) -> Comparison {
        let mut groups: BTreeMap<(WorkKey, System), Vec<&Report>> = BTreeMap::new();
        for report in reports {
            groups.entry((WorkKey::of(report), report.system)).or_default().push(report);
        }
        let mut rows: Vec<Row> =
            groups.iter().map(|((work, system), rounds)| Row::new(*work, *system, rounds)).collect();
        let etcd: Vec<Row> = rows.iter().filter(|row| row.system == System::Etcd).cloned().collect();
        for row in &mut rows {
            row.compare_to(&etcd);
        }
        Comparison { rows }
    }
}

impl Row {
    fn new(work: WorkKey, system: System, rounds: &[&Report]) -> Row {
        let median_of = |value: fn(&Report) -> f64| median(rounds.iter().map(|report| value(report)).collect());
        let processors: Vec<f64> = rounds.iter().filter_map(|report| report.generator_processors).collect();
        Row {
            operation: work.operation,
            mode: work.mode,
            value_bytes: work.value_bytes,
            clients: work.clients,
            window: work.window,
            system,
            rounds: rounds.len(),
            throughput_per_second: median_of(|report| report.throughput_per_second),
            p50_us: median_of(|report| report.latency_us.p50),
            p99_us: median_of(|report| report.latency_us.p99),
            errors: rounds.iter().map(|report| report.error_count()).sum(),
            generator_processors: (!processors.is_empty()).then(|| median(processors)),
            throughput_to_etcd: None,
            p50_to_etcd: None,
        }
    }

    fn compare_to(&mut self, etcd: &[Row]) {
        let same_kind = etcd.iter().filter(|row| {
            (row.operation, row.value_bytes, row.mode) == (self.operation, self.value_bytes, Mode::Unary)
        });
        let peer = match self.mode {
            Mode::Unary => same_kind.into_iter().find(|row| row.clients == self.clients),
            Mode::Pipeline => {
                same_kind.max_by(|one, other| one.throughput_per_second.total_cmp(&other.throughput_per_second))
            }
        };
        let Some(peer) = peer else { return };
        let over = |own: f64, base: f64| (own > 0.0 && base > 0.0).then(|| own / base);
        self.throughput_to_etcd = over(self.throughput_per_second, peer.throughput_per_second);
        if self.mode == Mode::Unary {
            self.p50_to_etcd = over(self.p50_us, peer.p50_us);
        }
    }
}

/// The middle one, or the mean of the two in the middle; 0 of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => f64::midpoint(values[count / 2 - 1], values[count / 2]),
    }
}

impl fmt::Display for Comparison {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let header =
            ["work", "system", "clients", "ops/s", "to etcd", "p50", "to etcd", "p99", "errors", "generator", "rounds"];
        let mut table = table(&header, 2);
        let mut previous = None;
        for row in &self.rows {
            let title = format!("{} · {} B", work(row.operation, row.mode, row.window), row.value_bytes);
            let is_new = previous.replace((title.clone(), row.clients)) != Some((title.clone(), row.clients));
            let dash = || "–".to_owned();
            table.add_row([
                if is_new { title } else { String::new() },
                row.system.to_string(),
                row.clients.to_string(),
                thousands(row.throughput_per_second),
                row.throughput_to_etcd.map_or_else(dash, ratio),
                if row.p50_us > 0.0 { latency(row.p50_us) } else { dash() },
                row.p50_to_etcd.map_or_else(dash, ratio),
                if row.p99_us > 0.0 { latency(row.p99_us) } else { dash() },
                thousands(row.errors as f64),
                row.generator_processors.map_or_else(dash, |processors| format!("{processors:.2}")),
                row.rounds.to_string(),
            ]);
        }
        writeln!(f, "{table}")?;
        write!(
            f,
            "To etcd: at the same work; a pipeline, at etcd's best unary throughput. \
             Generator: processors that the load itself took. Medians over rounds."
        )
    }
}

#[cfg(test)]
mod tests;
