//! What of a directory differs from what is active.

use std::collections::BTreeSet;
use std::fmt;

use bytes::Bytes;
use cirrus_client::v1::Library;
use sha2::{Digest as _, Sha256};

use super::active_version;
use super::sources::LocalLibrary;

/// A library of the directory, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    pub(super) name: String,
    pub(super) source: Bytes,
    /// What calls run now; `None`: there is no such library.
    pub(super) active: Option<u64>,
    pub(super) change: Change,
    /// The libraries that it requires without naming a version.
    pub(super) requires: Vec<String>,
}

/// Why a library is deployed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    New,
    Source,
    /// Its source is the same, but it is pinned to other versions of these than it would be now.
    Requires(Vec<String>),
    None,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::New => f.write_str("new"),
            Change::Source => f.write_str("source changed"),
            Change::Requires(names) => write!(f, "requires {}, which changed", names.join(" and ")),
            Change::None => f.write_str("none"),
        }
    }
}

/// Compares with the libraries that are active. `local` has each library behind those that it requires.
pub(super) fn plan(local: &[LocalLibrary], active: &[Library]) -> Vec<Planned> {
    let mut changed: BTreeSet<&str> = BTreeSet::new();
    let mut plan = Vec::with_capacity(local.len());
    for library in local {
        // One that names a version stays with it.
        let floating = library.requires.iter().filter(|required| required.written == required.name);
        let requires: Vec<String> = floating.map(|required| required.name.clone()).collect();
        let running = active.iter().find(|running| running.name == library.name);
        let change = match running {
            None => Change::New,
            Some(running) if running.sha256 != sha256(&library.source) => Change::Source,
            Some(running) => {
                let moved = requires.iter().filter(|name| {
                    let pin = running.requires.iter().find(|pin| pin.written == **name).map(|pin| pin.version);
                    changed.contains(name.as_str()) || pin != active_version(active, name)
                });
                let moved: Vec<String> = moved.cloned().collect();
                if moved.is_empty() { Change::None } else { Change::Requires(moved) }
            }
        };
        if change != Change::None {
            changed.insert(&library.name);
        }
        plan.push(Planned {
            name: library.name.clone(),
            source: library.source.clone(),
            active: running.map(|running| running.version),
            change,
            requires,
        });
    }
    plan
}

fn sha256(source: &[u8]) -> String {
    Sha256::digest(source).iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use cirrus_client::v1::LibraryRequirement;
    use cirrus_procedures::Requirement;

    fn local(name: &str, source: &str, requires: &[&str]) -> LocalLibrary {
        let requires = requires.iter().map(|written| {
            let (name, version) = written.split_once('@').unwrap_or((written, "0"));
            let version = version.parse().unwrap_or_default();
            Requirement { written: (*written).to_owned(), name: name.to_owned(), version }
        });
        LocalLibrary { name: name.to_owned(), source: source.to_owned().into(), requires: requires.collect() }
    }

    fn active(name: &str, version: u64, source: &str, requires: &[(&str, u64)]) -> Library {
        let requires = requires.iter().map(|&(written, version)| LibraryRequirement {
            written: written.to_owned(),
            name: written.split('@').next().unwrap_or_default().to_owned(),
            version,
        });
        Library {
            name: name.to_owned(),
            version,
            sha256: sha256(source.as_bytes()),
            requires: requires.collect(),
            ..Library::default()
        }
    }

    fn changes(local: &[LocalLibrary], active: &[Library]) -> Vec<(String, String)> {
        plan(local, active).into_iter().map(|planned| (planned.name, planned.change.to_string())).collect()
    }

    fn is(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, change)| ((*name).to_owned(), (*change).to_owned())).collect()
    }

    #[test]
    fn what_changed_takes_along_what_requires_it() {
        let directory = [
            local("text", "1", &[]),
            local("stock", "s", &["text"]),
            local("shop", "o", &["stock"]),
            local("x", "x", &[]),
        ];
        let all = |text: &str| {
            [
                active("text", 3, text, &[]),
                active("stock", 1, "s", &[("text", 3)]),
                active("shop", 1, "o", &[("stock", 1)]),
                active("x", 1, "x", &[]),
            ]
        };
        let nothing = [("text", "none"), ("stock", "none"), ("shop", "none"), ("x", "none")];
        assert_eq!(changes(&directory, &all("1")), is(&nothing));
        let changed = [
            ("text", "source changed"),
            ("stock", "requires text, which changed"),
            ("shop", "requires stock, which changed"),
            ("x", "none"),
        ];
        assert_eq!(changes(&directory, &all("2")), is(&changed));
        assert_eq!(changes(&directory[..1], &[]), is(&[("text", "new")]));
    }

    #[test]
    fn a_pin_that_is_no_longer_the_active_version_is_a_change_and_a_named_one_is_not() {
        let cluster = [
            active("text", 4, "t", &[]),
            active("floats", 1, "f", &[("text", 3)]),
            active("named", 1, "n", &[("text@3", 3)]),
        ];
        let directory = [local("floats", "f", &["text"]), local("named", "n", &["text@3"])];
        let expected = [("floats", "requires text, which changed"), ("named", "none")];
        assert_eq!(changes(&directory, &cluster), is(&expected));
        let planned = plan(&directory, &cluster);
        assert_eq!((planned[0].active, planned[0].requires.as_slice()), (Some(1), ["text".to_owned()].as_slice()));
        assert!(planned[1].requires.is_empty());
    }
}
