//! What a run found of databases, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::databases::{Filled, Written};
use crate::format::{latency, ratio, thousands};
use crate::recorder::Recorder;
use crate::report::{ErrorTally, Latencies, latencies, table};

/// As JSON, what `cirrus bench sql -o json` prints.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SqlReport {
    /// Each `host:port`.
    pub endpoints: Vec<String>,
    /// Nodes of the cluster.
    pub nodes: usize,
    /// Its data shards.
    pub shards: usize,
    /// Databases, each of one user.
    pub databases: u32,
    /// Contacts in each to begin with.
    pub rows: u32,
    /// Clients that filled and wrote.
    pub clients: usize,
    /// The measured time of each kind of reads and each number of active databases.
    pub seconds: f64,
    /// The cluster was started again between filling and the rest.
    pub restarted: bool,
    /// Cirrus first; then SQLite with each kind of journal, where asked for.
    pub systems: Vec<SystemReport>,
}

/// One system.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SystemReport {
    /// "cirrus", "sqlite" (a rollback journal) or "sqlite wal".
    pub system: String,
    /// Databases created in a second; absent where another system's are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub filled_per_second: Option<f64>,
    /// Absent where some databases were there before, and where another system's are used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<IdleSize>,
    /// The first read of a database; absent where another system's was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_cold: Option<Reads>,
    /// A read of a database that is open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_open: Option<Reads>,
    /// For each number of active databases.
    pub writes: Vec<Writing>,
    /// Connections that were kept open at most; absent for Cirrus.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connections_max: Option<usize>,
}

/// What a database takes that nobody uses, bytes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdleSize {
    /// On the disk of each node that holds it.
    pub disk_bytes: f64,
    /// Of that, what is in memory and in the log only, so far.
    pub unflushed_memory_bytes: f64,
    /// Its pages before compression; of Cirrus only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uncompressed_bytes: Option<f64>,
    /// A node's log, in all; of a cluster of the bench's own only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_bytes: Option<u64>,
    /// A node's snapshots, in all, beyond the files that the state still has; as above.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_bytes: Option<u64>,
}

/// Reads, one at a time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reads {
    /// Those that succeeded.
    pub operations: u64,
    /// Theirs.
    pub latency_us: Latencies,
    /// By kind.
    pub errors: BTreeMap<String, ErrorTally>,
}

/// Writes of all clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Writing {
    /// In how many databases.
    pub active: u32,
    /// Those that succeeded.
    pub operations: u64,
    /// The same per second.
    pub throughput_per_second: f64,
    /// Theirs.
    pub latency_us: Latencies,
    /// By kind, those of the warm-up included.
    pub errors: BTreeMap<String, ErrorTally>,
    /// How many processors this process kept busy: the load generator and, where it is measured, plain SQLite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generator_processors: Option<f64>,
    /// Processor time of all nodes for one write, microseconds; absent where there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server_cpu_us: Option<f64>,
}

impl Reads {
    pub(crate) fn new(notes: &Recorder) -> Reads {
        let operations = notes.latencies().len();
        Reads { operations, latency_us: latencies(notes.latencies()), errors: notes.errors() }
    }
}

impl Writing {
    pub(crate) fn new(active: u32, written: &Written) -> Writing {
        let operations = written.notes.latencies().len();
        let seconds = written.length.as_secs_f64();
        let each = |time: Duration| time.as_secs_f64() * 1e6 / operations as f64;
        Writing {
            active,
            operations,
            throughput_per_second: operations as f64 / seconds,
            latency_us: latencies(written.notes.latencies()),
            errors: written.notes.errors(),
            generator_processors: written.processor_time.map(|used| used.as_secs_f64() / seconds),
            server_cpu_us: written.server_time.filter(|_| operations > 0).map(|used| each(used.all)),
        }
    }
}

impl SystemReport {
    pub(crate) fn new(system: &str) -> SystemReport {
        SystemReport {
            system: system.to_owned(),
            filled_per_second: None,
            idle: None,
            read_cold: None,
            read_open: None,
            writes: Vec::new(),
            connections_max: None,
        }
    }

    pub(crate) fn filled(&mut self, filled: Filled, count: u32) {
        self.filled_per_second = Some(f64::from(count) / filled.took.as_secs_f64());
    }

    fn errors(&self) -> impl Iterator<Item = (&String, &ErrorTally)> {
        let reads = [&self.read_cold, &self.read_open].into_iter().flatten().map(|reads| &reads.errors);
        reads.chain(self.writes.iter().map(|writing| &writing.errors)).flatten()
    }
}

impl SqlReport {
    /// Fails where a kind of request never succeeded.
    pub(crate) fn require_success(&self) -> anyhow::Result<()> {
        for system in &self.systems {
            let reads = [("cold", &system.read_cold), ("open", &system.read_open)];
            for (kind, reads) in reads.iter().filter_map(|(kind, reads)| Some((kind, reads.as_ref()?))) {
                anyhow::ensure!(reads.operations > 0, "{}: not one {kind} read succeeded", system.system);
            }
            for writing in &system.writes {
                let (name, active) = (&system.system, writing.active);
                anyhow::ensure!(writing.operations > 0, "{name}: not one write in {active} databases succeeded");
            }
        }
        Ok(())
    }

    /// The table's rows.
    fn lines(&self) -> Vec<Line> {
        let mut lines = vec![
            Line::new("databases filled/s", thousands, |system| system.filled_per_second),
            Line::new("bytes on disk, idle", thousands, |system| Some(system.idle?.disk_bytes)),
        ];
        let reads: [(&str, FindReads); 2] =
            [("first read", |system| system.read_cold.as_ref()), ("read, open", |system| system.read_open.as_ref())];
        let quantiles: [(&str, Quantile); 4] = [
            ("p50", |latencies| latencies.p50),
            ("p99", |latencies| latencies.p99),
            ("p99.9", |latencies| latencies.p99_9),
            ("max", |latencies| latencies.max),
        ];
        for (title, found) in reads {
            for (name, quantile) in quantiles.into_iter().filter(|(name, _)| *name != "p99.9") {
                let number = move |system: &SystemReport| {
                    found(system).filter(|reads| reads.operations > 0).map(|reads| quantile(&reads.latency_us))
                };
                lines.push(Line::new(format!("{title}, {name}"), latency, number));
            }
        }
        let active: Vec<u32> = self
            .systems
            .first()
            .map_or(Vec::new(), |system| system.writes.iter().map(|writing| writing.active).collect());
        for (index, active) in active.into_iter().enumerate() {
            let title = format!("{} active: ", thousands(active.into()));
            let written = move |system: &SystemReport| system.writes.get(index).cloned();
            lines.push(Line::new(format!("{title}writes/s"), thousands, move |system| {
                Some(written(system)?.throughput_per_second)
            }));
            for (name, quantile) in quantiles.into_iter().filter(|(name, _)| *name != "max") {
                let number = move |system: &SystemReport| {
                    written(system).filter(|writing| writing.operations > 0).map(|done| quantile(&done.latency_us))
                };
                lines.push(Line::new(format!("{title}{name}"), latency, number));
            }
        }
        lines
    }
}

type FindReads = fn(&SystemReport) -> Option<&Reads>;
type Quantile = fn(&Latencies) -> f64;
type Number = Box<dyn Fn(&SystemReport) -> Option<f64>>;

struct Line {
    title: String,
    show: fn(f64) -> String,
    number: Number,
}

impl Line {
    fn new(
        title: impl Into<String>,
        show: fn(f64) -> String,
        number: impl Fn(&SystemReport) -> Option<f64> + 'static,
    ) -> Line {
        Line { title: title.into(), show, number: Box::new(number) }
    }
}

impl fmt::Display for SqlReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let peers = self.systems.iter().skip(1);
        let ratios: Vec<String> = peers.map(|system| format!("cirrus to {}", system.system)).collect();
        let mut header = vec![""];
        header.extend(self.systems.iter().map(|system| system.system.as_str()));
        header.extend(ratios.iter().map(String::as_str));
        let mut table = table(&header, 1);
        for line in self.lines() {
            let numbers: Vec<Option<f64>> = self.systems.iter().map(|system| (line.number)(system)).collect();
            let dash = || "–".to_owned();
            let mut row = vec![line.title.clone()];
            row.extend(numbers.iter().map(|number| number.map_or_else(dash, line.show)));
            let own = numbers.first().copied().flatten();
            row.extend(numbers.iter().skip(1).map(|peer| match (own, peer) {
                (Some(own), Some(peer)) if *peer > 0.0 => ratio(own / peer),
                _ => dash(),
            }));
            table.add_row(row);
        }
        writeln!(f, "{table}")?;
        writeln!(
            f,
            "{} databases of {} contacts · {} clients write, one reads · {} s each · {} nodes, {} data shards{}",
            thousands(self.databases.into()),
            self.rows,
            self.clients,
            self.seconds,
            self.nodes,
            self.shards,
            if self.restarted { ", started again after the fill" } else { "" },
        )?;
        for system in &self.systems {
            self.details(f, system)?;
        }
        Ok(())
    }
}

impl SqlReport {
    fn details(&self, f: &mut fmt::Formatter<'_>, system: &SystemReport) -> fmt::Result {
        let name = &system.system;
        if let Some(idle) = system.idle {
            write!(f, "{name}: an idle database takes {} bytes on each disk", thousands(idle.disk_bytes))?;
            if let Some(bytes) = idle.uncompressed_bytes {
                write!(f, ", its pages {} before compression", thousands(bytes))?;
            }
            if idle.unflushed_memory_bytes >= 1.0 {
                write!(f, "; {} more are in memory and not flushed yet", thousands(idle.unflushed_memory_bytes))?;
            }
            if let (Some(log), Some(snapshots)) = (idle.log_bytes, idle.snapshot_bytes) {
                let (log, snapshots) = (log as f64 / 1e6, snapshots as f64 / 1e6);
                write!(f, "; beside it, a node's log takes {log:.0} MB, its snapshots {snapshots:.0} MB")?;
            }
            writeln!(f)?;
        }
        if let Some(connections) = system.connections_max {
            writeln!(f, "{name}: synchronous=FULL, up to {} connections stay open", thousands(connections as f64))?;
        }
        for writing in &system.writes {
            let Some(processors) = writing.generator_processors else { continue };
            let active = thousands(writing.active.into());
            write!(f, "{name}, {active} active: this process used {processors:.2} processors")?;
            if let Some(server) = writing.server_cpu_us {
                write!(f, ", the nodes {server:.1} us for a write")?;
            }
            writeln!(f)?;
        }
        for (kind, tally) in system.errors() {
            writeln!(f, "{name}: {} × {kind}: {}", thousands(tally.count as f64), tally.example)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
