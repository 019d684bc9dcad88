use std::cell::RefCell;
use std::collections::BTreeMap;

use cirrus_client::v1::LibraryRequirement;
use cirrus_client::{Failure, Reason};

use super::*;

/// A cluster's libraries, as its catalog treats them, with a log of what it was asked to change.
#[derive(Default)]
struct Cluster {
    libraries: RefCell<BTreeMap<String, Entry>>,
    log: RefCell<Vec<String>>,
    /// The change that fails, counted from 0.
    fails_at: Option<usize>,
    /// It forgets to pin, as nodes of an earlier version do.
    ignores_pins: bool,
}

#[derive(Clone, Default)]
struct Entry {
    versions: Vec<Library>,
    last_version: u64,
    active: Vec<u64>,
}

impl Cluster {
    fn with(libraries: &[(&str, u64)]) -> Cluster {
        let cluster = Cluster::default();
        for &(name, version) in libraries {
            let header = Library { name: name.to_owned(), version, ..Library::default() };
            let entry = Entry { versions: vec![header], last_version: version, active: vec![version] };
            cluster.libraries.borrow_mut().insert(name.to_owned(), entry);
        }
        cluster
    }

    fn active(&self) -> Vec<Library> {
        let active = |entry: &Entry| {
            let version = *entry.active.last()?;
            entry.versions.iter().find(|header| header.version == version).cloned()
        };
        self.libraries.borrow().values().filter_map(active).collect()
    }

    /// What is active and what is stored, by name.
    fn state(&self) -> Vec<(String, u64, Vec<u64>)> {
        let libraries = self.libraries.borrow();
        let state = libraries.iter().map(|(name, entry)| {
            let stored = entry.versions.iter().map(|header| header.version).collect();
            (name.clone(), entry.active.last().copied().unwrap_or(0), stored)
        });
        state.collect()
    }

    fn change(&self, what: String) -> Result<(), ClientError> {
        let mut log = self.log.borrow_mut();
        log.push(what);
        match self.fails_at {
            Some(at) if at + 1 == log.len() => Err(Failure::new(Reason::NoLeader, "no leader").into()),
            _ => Ok(()),
        }
    }

    fn not_found(name: &str) -> ClientError {
        Failure::new(Reason::LibraryNotFound, name).into()
    }
}

impl Registry for Cluster {
    async fn upload(&self, request: UploadLibraryRequest) -> Result<UploadLibraryResponse, ClientError> {
        let pins: Vec<String> = request.pins.iter().map(|pin| format!("{}@{}", pin.name, pin.version)).collect();
        self.change(format!("upload {} [{}]", request.name, pins.join(" ")))?;
        let mut libraries = self.libraries.borrow_mut();
        let entry = libraries.entry(request.name.clone()).or_default();
        entry.last_version += 1;
        let requires = request.pins.iter().filter(|_| !self.ignores_pins).map(|pin| LibraryRequirement {
            written: pin.name.clone(),
            name: pin.name.clone(),
            version: pin.version,
        });
        let version = entry.last_version;
        let header = Library { name: request.name, version, requires: requires.collect(), ..Library::default() };
        entry.versions.push(header.clone());
        if entry.active.is_empty() {
            entry.active.push(version);
        }
        let active_version = *entry.active.last().unwrap_or(&0);
        let activation = LibraryActivation { active_version, ..LibraryActivation::default() };
        Ok(UploadLibraryResponse { library: Some(header), activation: Some(activation), warnings: Vec::new() })
    }

    async fn activate(&self, request: ActivateLibraryRequest) -> Result<LibraryActivation, ClientError> {
        self.change(format!("activate {}@{}", request.name, request.version))?;
        let mut libraries = self.libraries.borrow_mut();
        let entry = libraries.get_mut(&request.name).ok_or_else(|| Cluster::not_found(&request.name))?;
        entry.active.push(request.version);
        Ok(LibraryActivation { active_version: request.version, ..LibraryActivation::default() })
    }

    async fn rollback(&self, request: RollbackLibraryRequest) -> Result<LibraryActivation, ClientError> {
        self.change(format!("rollback {}", request.name))?;
        let mut libraries = self.libraries.borrow_mut();
        let entry = libraries.get_mut(&request.name).ok_or_else(|| Cluster::not_found(&request.name))?;
        entry.active.pop();
        let active_version = *entry.active.last().unwrap_or(&0);
        Ok(LibraryActivation { active_version, ..LibraryActivation::default() })
    }

    async fn versions(&self, name: &str) -> Result<ListLibraryVersionsResponse, ClientError> {
        let libraries = self.libraries.borrow();
        let entry = libraries.get(name).ok_or_else(|| Cluster::not_found(name))?;
        let active_version = *entry.active.last().unwrap_or(&0);
        let activation = Some(LibraryActivation { active_version, ..LibraryActivation::default() });
        Ok(ListLibraryVersionsResponse { versions: entry.versions.clone(), activation, ..Default::default() })
    }

    async fn delete(&self, name: &str, version: u64) -> Result<bool, ClientError> {
        self.change(format!("delete {name}@{version}"))?;
        let mut libraries = self.libraries.borrow_mut();
        let pins = |header: &Library| {
            header.requires.iter().any(|pin| pin.name == name && (version == 0 || pin.version == version))
        };
        if libraries.values().any(|entry| entry.versions.iter().any(pins)) {
            return Err(Failure::new(Reason::LibraryInUse, format!("{name} is required")).into());
        }
        if version == 0 {
            return Ok(libraries.remove(name).is_some());
        }
        let entry = libraries.get_mut(name).ok_or_else(|| Cluster::not_found(name))?;
        entry.versions.retain(|header| header.version != version);
        Ok(true)
    }
}

fn planned(name: &str, change: Change, requires: &[&str]) -> Planned {
    Planned {
        name: name.to_owned(),
        source: name.to_owned().into(),
        active: None,
        change,
        requires: requires.iter().map(|&name| name.to_owned()).collect(),
    }
}

/// `text` is new; `stock`, which requires it, and `shop` change; `idle` does not.
fn plan() -> Vec<Planned> {
    vec![
        planned("text", Change::New, &[]),
        planned("idle", Change::None, &[]),
        planned("stock", Change::Source, &["text", "idle"]),
        planned("shop", Change::Requires(vec!["stock".to_owned()]), &["stock"]),
    ]
}

fn cluster() -> Cluster {
    Cluster::with(&[("idle", 5), ("stock", 2), ("shop", 7)])
}

#[tokio::test]
async fn all_is_stored_before_anything_is_activated() {
    let cluster = cluster();
    let deployed = roll_out(&cluster, &plan(), &cluster.active(), "ada").await.expect("nothing fails");
    let log = cluster.log.take();
    assert_eq!(
        log,
        [
            "upload text []",
            "upload stock [idle@5 text@1]",
            "upload shop [stock@3]",
            "activate stock@3",
            "activate shop@8",
        ]
    );
    let versions: Vec<_> = deployed.iter().map(|deployed| (deployed.was, deployed.version)).collect();
    assert_eq!(versions, [(None, 1), (Some(2), 3), (Some(7), 8)]);
    let undo = commands_to_undo(&deployed);
    assert_eq!(
        undo,
        [
            "cirrus proc rollback shop",
            "cirrus proc rollback stock",
            "cirrus proc delete stock@3",
            "cirrus proc delete text",
        ]
    );
}

#[tokio::test]
async fn whatever_fails_all_is_as_it_was() {
    for fails_at in 0..5 {
        let cluster = Cluster { fails_at: Some(fails_at), ..cluster() };
        let before = cluster.state();
        let aborted = roll_out(&cluster, &plan(), &cluster.active(), "ada").await.expect_err("one change fails");
        assert_eq!(aborted.left, Vec::<String>::new(), "{fails_at}");
        assert_eq!(cluster.state(), before, "the change {fails_at} fails: {:?}", cluster.log.take());
        assert_eq!(aborted.undone.len(), fails_at.min(3));
    }
}

#[tokio::test]
async fn what_cannot_be_undone_is_said() {
    // The last activation fails, and so does the first step back.
    struct Twice(Cluster);
    impl Registry for Twice {
        async fn upload(&self, request: UploadLibraryRequest) -> Result<UploadLibraryResponse, ClientError> {
            self.0.upload(request).await
        }
        async fn activate(&self, request: ActivateLibraryRequest) -> Result<LibraryActivation, ClientError> {
            self.0.activate(request).await
        }
        async fn rollback(&self, _: RollbackLibraryRequest) -> Result<LibraryActivation, ClientError> {
            Err(Failure::new(Reason::NoLeader, "no leader").into())
        }
        async fn versions(&self, name: &str) -> Result<ListLibraryVersionsResponse, ClientError> {
            self.0.versions(name).await
        }
        async fn delete(&self, name: &str, version: u64) -> Result<bool, ClientError> {
            self.0.delete(name, version).await
        }
    }
    let cluster = Twice(Cluster { fails_at: Some(4), ..cluster() });
    let aborted = roll_out(&cluster, &plan(), &cluster.0.active(), "ada").await.expect_err("one change fails");
    assert_eq!(aborted.step, "activating shop@8");
    assert_eq!(aborted.undone, ["shop@8 was removed; calls run version 7 as before"]);
    assert_eq!(
        aborted.left,
        [
            "stock@3 (no leader): cirrus proc rollback stock, then cirrus proc delete stock@3",
            "text@1 (text is required): cirrus proc delete text",
        ]
    );
    let error = format!("{:?}", CommandError::from(aborted));
    assert!(error.contains("not undone: stock@3") && error.contains("activating shop@8: no leader"), "{error}");
}

#[tokio::test]
async fn an_unpinned_version_is_not_activated() {
    let cluster = Cluster { ignores_pins: true, ..cluster() };
    let before = cluster.state();
    let aborted = roll_out(&cluster, &plan(), &cluster.active(), "ada").await.expect_err("pins are ignored");
    assert_eq!(aborted.step, "storing stock");
    assert_eq!(cluster.state(), before);
}

#[tokio::test]
async fn what_somebody_else_activated_stays() {
    let cluster = Cluster { fails_at: Some(4), ..cluster() };
    struct Meanwhile<'a>(&'a Cluster);
    impl Registry for Meanwhile<'_> {
        async fn upload(&self, request: UploadLibraryRequest) -> Result<UploadLibraryResponse, ClientError> {
            self.0.upload(request).await
        }
        async fn activate(&self, request: ActivateLibraryRequest) -> Result<LibraryActivation, ClientError> {
            let name = request.name.clone();
            let outcome = self.0.activate(request).await;
            if let Some(stock) = self.0.libraries.borrow_mut().get_mut("stock").filter(|_| name == "shop") {
                stock.active.push(2);
                stock.active.push(1);
            }
            outcome
        }
        async fn rollback(&self, request: RollbackLibraryRequest) -> Result<LibraryActivation, ClientError> {
            self.0.rollback(request).await
        }
        async fn versions(&self, name: &str) -> Result<ListLibraryVersionsResponse, ClientError> {
            self.0.versions(name).await
        }
        async fn delete(&self, name: &str, version: u64) -> Result<bool, ClientError> {
            self.0.delete(name, version).await
        }
    }
    let aborted = roll_out(&Meanwhile(&cluster), &plan(), &cluster.active(), "ada").await.expect_err("one fails");
    assert!(aborted.undone.contains(&"stock@3 was removed; calls run version 1, by somebody else".to_owned()));
    assert!(!cluster.log.borrow().contains(&"rollback stock".to_owned()));
}
