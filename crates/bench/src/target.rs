//! What is measured: a system and where it listens, as written in `--target`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::arguments::Mode;
use crate::workload::Operation;

/// A system that the bench can drive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// This project.
    Cirrus,
    /// etcd, API v3.
    Etcd,
    /// Redis.
    Redis,
    /// memcached.
    Memcached,
}

impl System {
    const ALL: [System; 4] = [System::Cirrus, System::Etcd, System::Redis, System::Memcached];

    /// The scheme in a target's URL.
    pub fn name(self) -> &'static str {
        match self {
            System::Cirrus => "cirrus",
            System::Etcd => "etcd",
            System::Redis => "redis",
            System::Memcached => "memcached",
        }
    }

    /// Whether its clients share gRPC connections, rather than holding one each.
    pub(crate) fn shares_connections(self) -> bool {
        matches!(self, System::Cirrus | System::Etcd)
    }

    fn default_port(self) -> u16 {
        match self {
            System::Cirrus => 7100,
            System::Etcd => 2379,
            System::Redis => 6379,
            System::Memcached => 11211,
        }
    }

    pub(crate) fn require_support(self, operation: Operation, mode: Mode) -> anyhow::Result<()> {
        if mode == Mode::Pipeline {
            anyhow::ensure!(self == System::Cirrus, "--mode pipeline: only Cirrus has it, not {self}");
            anyhow::ensure!(operation != Operation::Call, "--mode pipeline: a pipeline carries no procedure calls");
        }
        if operation == Operation::Call {
            anyhow::ensure!(
                matches!(self, System::Cirrus | System::Redis),
                "--op call: {self} does not run procedures (only Cirrus and Redis do)"
            );
        }
        Ok(())
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A system and its endpoints: `etcd://10.0.0.1:2379,10.0.0.2:2379`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Whose protocol to speak.
    pub system: System,
    /// Each `host:port`; at least one.
    pub endpoints: Vec<String>,
}

impl Target {
    /// Cirrus at `host:port` endpoints; an `http://` before one is allowed.
    pub(crate) fn cirrus(endpoints: &[String]) -> anyhow::Result<Target> {
        let bare = endpoints.iter().map(|endpoint| endpoint.strip_prefix("http://").unwrap_or(endpoint));
        Target::new(System::Cirrus, bare).map_err(|problem| anyhow::anyhow!("endpoints: {problem}"))
    }

    fn new<'a>(system: System, endpoints: impl Iterator<Item = &'a str>) -> Result<Target, String> {
        let endpoints =
            endpoints.map(|endpoint| with_port(endpoint, system.default_port())).collect::<Result<Vec<_>, _>>()?;
        match (system, endpoints.len()) {
            (_, 0) => Err("no endpoint given".to_owned()),
            // Several would not hold the same keys.
            (System::Redis | System::Memcached, 2..) => Err(format!("{system} takes one endpoint")),
            _ => Ok(Target { system, endpoints }),
        }
    }
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Target, String> {
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err("expected SYSTEM://host:port,…".to_owned());
        };
        let Some(system) = System::ALL.into_iter().find(|system| system.name() == scheme) else {
            return Err(format!("unknown system {scheme:?}: expected cirrus, etcd, redis or memcached"));
        };
        Target::new(system, rest.strip_suffix('/').unwrap_or(rest).split(','))
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.system, self.endpoints.join(","))
    }
}

/// Completes and checks `host`, `host:port`, `[v6]` or `[v6]:port`.
fn with_port(endpoint: &str, default_port: u16) -> Result<String, String> {
    let endpoint = endpoint.trim();
    let after_host = endpoint.rfind(']').map_or(0, |bracket| bracket + 1);
    let (host, port) = match endpoint[after_host..].rfind(':') {
        None => (endpoint, default_port),
        Some(colon) => {
            let (host, port) = endpoint.split_at(after_host + colon);
            (host, port[1..].parse().map_err(|_| format!("{endpoint:?}: {:?} is not a port", &port[1..]))?)
        }
    };
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    if host.is_empty() || host.contains(['/', ' ', '@']) || (host.contains([':', '[', ']']) && !is_bracketed) {
        return Err(format!("{endpoint:?} is not host:port"));
    }
    Ok(format!("{host}:{port}"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_target_names_a_system_and_its_endpoints() {
        let cases: &[(&str, System, &[&str])] = &[
            ("etcd://10.0.0.1:2379,10.0.0.2:2380", System::Etcd, &["10.0.0.1:2379", "10.0.0.2:2380"]),
            ("cirrus://a,b:1", System::Cirrus, &["a:7100", "b:1"]),
            ("redis://localhost/", System::Redis, &["localhost:6379"]),
            ("memcached://[::1]:99", System::Memcached, &["[::1]:99"]),
            ("memcached://[::1]", System::Memcached, &["[::1]:11211"]),
        ];
        for (text, system, endpoints) in cases {
            let target: Target = text.parse().unwrap();
            assert_eq!((target.system, &target.endpoints[..]), (*system, &endpoints.map_strings()[..]), "{text}");
        }
    }

    trait MapStrings {
        fn map_strings(&self) -> Vec<String>;
    }

    impl MapStrings for [&str] {
        fn map_strings(&self) -> Vec<String> {
            self.iter().map(|text| (*text).to_owned()).collect()
        }
    }

    #[test]
    fn a_malformed_target_is_refused_with_a_reason() {
        let cases = [
            ("localhost:2379", "expected SYSTEM://"),
            ("mysql://localhost", "unknown system \"mysql\""),
            ("etcd://", "not host:port"),
            ("etcd://a:1,,b:2", "not host:port"),
            ("etcd://a:http", "\"http\" is not a port"),
            ("etcd://a:70000", "\"70000\" is not a port"),
            ("etcd://::1", "not host:port"),
            ("redis://user@a:1", "not host:port"),
            ("redis://a:1,b:2", "redis takes one endpoint"),
        ];
        for (text, expected) in cases {
            let problem = text.parse::<Target>().unwrap_err();
            assert!(problem.contains(expected), "{text}: {problem}");
        }
    }

    #[test]
    fn a_target_reads_back_as_written() {
        let text = "etcd://10.0.0.1:2379,10.0.0.2:2380";
        assert_eq!(text.parse::<Target>().unwrap().to_string(), text);
        assert_eq!(Target::cirrus(&["http://a:1".to_owned()]).unwrap().to_string(), "cirrus://a:1");
    }

    #[test]
    fn what_a_system_lacks_is_refused_before_any_load() {
        assert!(System::Etcd.require_support(Operation::Put, Mode::Pipeline).is_err());
        assert!(System::Cirrus.require_support(Operation::Call, Mode::Pipeline).is_err());
        assert!(System::Memcached.require_support(Operation::Call, Mode::Unary).is_err());
        assert!(System::Cirrus.require_support(Operation::Call, Mode::Unary).is_ok());
        assert!(System::Cirrus.require_support(Operation::Mixed, Mode::Pipeline).is_ok());
    }
}
