#![allow(clippy::unwrap_used)]
use cirrus_engine::{MemoryView, Moment, ShardHead};
use cirrus_proto::limits::Limits;

use super::*;
use crate::catalog::Committed;

/// Shard 0 in memory.
struct Catalog {
    view: MemoryView,
    head: ShardHead,
}

impl Catalog {
    fn new() -> Self {
        let mut head = ShardHead::default();
        head.advance_to(Moment { now_ms: 1_000_000 });
        Catalog { view: MemoryView::new(), head }
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut Transaction<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut transaction = Transaction::new(&self.view, self.head, &Limits::DEFAULT);
        let outcome = change(&mut transaction)?;
        let (effects, head) = transaction.finish();
        self.view.apply(&effects);
        self.head = head;
        Ok(outcome)
    }

    /// The version's number, and the active one's.
    fn upload(&mut self, name: &str, source: &str, stage_only: bool) -> Result<(u64, u64), Failure> {
        self.upload_pinned(name, source, stage_only, &[])
    }

    fn upload_pinned(
        &mut self,
        name: &str,
        source: &str,
        stage_only: bool,
        pins: &[(&str, u64)],
    ) -> Result<(u64, u64), Failure> {
        let pins = pins.iter().map(|&(name, version)| v1::LibraryPin { name: name.to_owned(), version });
        let request = v1::UploadLibraryRequest {
            name: name.to_owned(),
            source: source.to_owned().into(),
            stage_only,
            uploaded_by: "ada".to_owned(),
            request_id: None,
            pins: pins.collect(),
        };
        match self.change(|transaction| upload(&request, transaction))? {
            reply::Kind::UploadLibrary(v1::UploadLibraryResponse { library, activation, .. }) => {
                Ok((library.unwrap().version, activation.unwrap().active_version))
            }
            other => panic!("{other:?}"),
        }
    }

    fn activate(&mut self, name: &str, version: u64, canary_percent: u32) -> Result<(), Failure> {
        let name = name.to_owned();
        let request = v1::ActivateLibraryRequest { name, version, canary_percent, ..Default::default() };
        self.change(|transaction| activate(&request, transaction)).map(drop)
    }

    fn rollback(&mut self, name: &str) -> Result<u64, Failure> {
        let request = v1::RollbackLibraryRequest { name: name.to_owned(), ..Default::default() };
        match self.change(|transaction| rollback(&request, transaction))? {
            reply::Kind::RollbackLibrary(response) => Ok(response.activation.unwrap().active_version),
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, name: &str, version: u64) -> Result<bool, Failure> {
        let request = v1::DeleteLibraryRequest { name: name.to_owned(), version, request_id: None };
        match self.change(|transaction| delete(&request, transaction))? {
            reply::Kind::DeleteLibrary(response) => Ok(response.deleted),
            other => panic!("{other:?}"),
        }
    }

    fn running(&self, name: &str, key: &str) -> u64 {
        let activation = active(&Committed(&self.view), name).unwrap().activation;
        version_for(name, &activation, key.as_bytes())
    }

    fn versions(&self, name: &str) -> Vec<u64> {
        let listed = versions(&Committed(&self.view), name).unwrap();
        listed.versions.iter().map(|library| library.version).collect()
    }

    fn source(&self, name: &str, number: u64) -> Result<String, Failure> {
        let found = version(&Committed(&self.view), name, number)?;
        Ok(String::from_utf8(found.source.to_vec()).unwrap())
    }
}

const SOURCE: &str = "function f() end";

fn reason<T: std::fmt::Debug>(outcome: Result<T, Failure>) -> Reason {
    outcome.unwrap_err().reason
}

#[test]
fn versions_are_kept_and_uploads_activate_unless_told_otherwise() {
    let mut catalog = Catalog::new();
    assert_eq!(catalog.upload("a", "function one() end", false), Ok((1, 1)));
    assert_eq!(catalog.upload("a", "function two() end", true), Ok((2, 1)));
    assert_eq!(catalog.running("a", "k"), 1);
    assert_eq!(catalog.upload("a", "function three() end", false), Ok((3, 3)));
    assert_eq!((catalog.running("a", "k"), catalog.versions("a")), (3, vec![1, 2, 3]));
    assert_eq!(catalog.source("a", 2).unwrap(), "function two() end");
    assert_eq!(reason(catalog.source("a", 4)), Reason::LibraryNotFound);
    assert_eq!(reason(catalog.source("b", 1)), Reason::LibraryNotFound);
    let listed = versions(&Committed(&catalog.view), "a").unwrap();
    let library = &listed.versions[1];
    assert_eq!((library.functions.as_slice(), library.uploaded_by.as_str()), (&["two".to_owned()][..], "ada"));
    assert_eq!((library.uploaded_at_ms, library.sha256.len()), (1_000_000, 64));
    // A staged first version is the only one that calls can run.
    assert_eq!(catalog.upload("b", SOURCE, true), Ok((1, 1)));
    assert_eq!(libraries(&Committed(&catalog.view)).unwrap().libraries.len(), 2);
}

#[test]
fn rollbacks_undo_activations_one_by_one() {
    let mut catalog = Catalog::new();
    for _ in 0..3 {
        catalog.upload("a", SOURCE, false).unwrap();
    }
    catalog.activate("a", 1, 0).unwrap();
    assert_eq!(catalog.rollback("a"), Ok(3));
    assert_eq!(catalog.rollback("a"), Ok(2));
    assert_eq!(catalog.rollback("a"), Ok(1));
    assert_eq!(reason(catalog.rollback("a")), Reason::NothingToRollBack);
    assert_eq!(catalog.running("a", "k"), 1);
    assert_eq!(reason(catalog.rollback("b")), Reason::LibraryNotFound);
    // Version numbers go on from the last one.
    assert_eq!(catalog.upload("a", SOURCE, false), Ok((4, 4)));
    // Only so many are remembered.
    for _ in 0..PREVIOUS_MAX + 5 {
        catalog.upload("a", SOURCE, false).unwrap();
    }
    for _ in 0..PREVIOUS_MAX {
        catalog.rollback("a").unwrap();
    }
    assert_eq!(reason(catalog.rollback("a")), Reason::NothingToRollBack);
}

#[test]
fn a_canary_gets_its_share_of_the_keys_and_each_key_one_version() {
    let mut catalog = Catalog::new();
    catalog.upload("a", SOURCE, false).unwrap();
    catalog.upload("a", SOURCE, true).unwrap();
    catalog.activate("a", 2, 20).unwrap();
    let keys: Vec<String> = (0..2000).map(|number| format!("key{number}")).collect();
    let share = |catalog: &Catalog| keys.iter().filter(|key| catalog.running("a", key) == 2).count();
    let with_canary = share(&catalog);
    assert!((300..500).contains(&with_canary), "20 % of 2000: {with_canary}");
    assert_eq!(share(&catalog), with_canary);
    // More for the canary: no key goes back.
    let before: Vec<_> = keys.iter().filter(|key| catalog.running("a", key) == 2).collect();
    catalog.activate("a", 2, 50).unwrap();
    assert!(before.iter().all(|key| catalog.running("a", key) == 2));
    // One hash tag, one version.
    let tagged: Vec<_> = (0..50).map(|number| catalog.running("a", &format!("{{ada}}.{number}"))).collect();
    assert!(tagged.windows(2).all(|pair| pair[0] == pair[1]), "{tagged:?}");
    assert_eq!(catalog.rollback("a"), Ok(1));
    assert_eq!(share(&catalog), 0);
    catalog.activate("a", 2, 50).unwrap();
    catalog.activate("a", 2, 0).unwrap();
    assert_eq!(share(&catalog), keys.len());
    assert_eq!(catalog.rollback("a"), Ok(1), "what was active beside the canary");
    assert_eq!(reason(catalog.activate("a", 1, 10)), Reason::InvalidField);
    assert_eq!(reason(catalog.activate("a", 3, 10)), Reason::LibraryNotFound);
}

#[test]
fn what_is_in_use_cannot_be_deleted() {
    let mut catalog = Catalog::new();
    for _ in 0..4 {
        catalog.upload("text", SOURCE, false).unwrap();
    }
    catalog.activate("text", 3, 10).unwrap();
    catalog.upload("user", "local t = require('text@1') function f() end", false).unwrap();
    for (version, why) in [(4, "is the active one"), (3, "is the canary"), (1, "text@1 is required by user@1")] {
        let failure = catalog.delete("text", version).unwrap_err();
        assert_eq!(failure.reason, Reason::LibraryInUse);
        assert!(failure.message.contains(why), "{}", failure.message);
    }
    assert_eq!(reason(catalog.delete("text", 0)), Reason::LibraryInUse);
    assert_eq!(catalog.delete("text", 2), Ok(true));
    assert_eq!(catalog.delete("text", 2), Ok(false));
    assert_eq!(catalog.delete("none", 0), Ok(false));
    assert_eq!(catalog.versions("text"), [1, 3, 4]);
    assert_eq!(catalog.rollback("text"), Ok(4));
    assert_eq!(catalog.rollback("text"), Ok(3), "version 2 is gone from what rollbacks come back to");
    assert_eq!(catalog.delete("user", 0), Ok(true));
    assert_eq!(catalog.delete("text", 0), Ok(true));
    assert_eq!(catalog.view.count(Table::Catalog), 2, "only the numbers that are used up");
    // A number is never used twice.
    assert_eq!(catalog.upload("text", SOURCE, false), Ok((5, 5)));
}

#[test]
fn what_a_library_requires_comes_before_it_and_once() {
    let mut catalog = Catalog::new();
    catalog.upload("base", SOURCE, false).unwrap();
    catalog.upload("left", "local b = require('base') function f() end", false).unwrap();
    catalog.upload("base", SOURCE, false).unwrap();
    catalog.upload("right", "local b, l = require('base@1'), require('left') function f() end", false).unwrap();
    catalog
        .upload("top", "local l, r, b = require('left'), require('right'), require('base') function f() end", false)
        .unwrap();
    let top = version(&Committed(&catalog.view), "top", 1).unwrap().into_source();
    let found = required(&Committed(&catalog.view), &top).unwrap();
    let names: Vec<_> = found.iter().map(|library| format!("{}@{}", library.name, library.version)).collect();
    assert_eq!(names, ["base@1", "left@1", "right@1", "base@2"]);
    // A library may require an older version of itself, which goes with it.
    catalog.upload("top", "local before = require('top@1') function f() end", false).unwrap();
    assert_eq!(reason(catalog.delete("top", 1)), Reason::LibraryInUse);
    assert_eq!(catalog.delete("top", 0), Ok(true));
}

#[test]
fn a_library_has_so_many_versions() {
    let mut catalog = Catalog::new();
    for _ in 0..VERSIONS_MAX {
        catalog.upload("a", SOURCE, false).unwrap();
    }
    let failure = catalog.upload("a", SOURCE, false).unwrap_err();
    assert_eq!((failure.reason, failure.metadata["limit"].as_str()), (Reason::LibraryVersionsFull, "256"));
    assert_eq!(catalog.delete("a", 1), Ok(true));
    assert_eq!(catalog.upload("a", SOURCE, false), Ok((257, 257)));
}

#[test]
fn a_library_that_feature_level_1_stored_is_its_only_version() {
    let mut catalog = Catalog::new();
    let old = pb::StoredLibrary {
        library: Some(v1::Library { name: "a".to_owned(), version: 7, ..Default::default() }),
        source: Bytes::from_static(b"function old() end"),
        history: None,
    };
    catalog
        .change(|transaction| transaction.write(Table::Catalog, library_key("a"), old.encode_to_vec().into()))
        .unwrap();
    assert_eq!((catalog.running("a", "k"), catalog.versions("a")), (7, vec![7]));
    assert_eq!(catalog.source("a", 7).unwrap(), "function old() end");
    assert_eq!(catalog.upload("a", SOURCE, false), Ok((8, 8)));
    assert_eq!(catalog.source("a", 7).unwrap(), "function old() end");
    assert_eq!(catalog.rollback("a"), Ok(7));
}

#[test]
fn an_upload_pins_what_is_staged() {
    let mut catalog = Catalog::new();
    let text = |number: u32| format!("function title() return {number} end");
    let uses = "local text = require('text') local first = require('text@1') function run() return text.title() end";
    catalog.upload("text", &text(1), false).unwrap();
    catalog.upload("text", &text(2), true).unwrap();
    assert_eq!(catalog.upload_pinned("uses", uses, false, &[("text", 2)]).unwrap(), (1, 1));
    let listed = versions(&Committed(&catalog.view), "uses").unwrap();
    let pinned: Vec<_> = listed.versions[0].requires.iter().map(|pin| (pin.written.as_str(), pin.version)).collect();
    assert_eq!(pinned, [("text", 2), ("text@1", 1)], "a version that the source names stands");
    assert_eq!(catalog.running("text", "k"), 1, "and nothing was activated");

    for (source, pins, reason, message) in [
        (uses, [("text", 3)], Reason::LibraryInvalid, "no version 3"),
        (uses, [("other", 1)], Reason::InvalidField, "uses does not require other"),
        ("require('text@1') function run() end", [("text", 2)], Reason::InvalidField, "does not require text"),
    ] {
        let failure = catalog.upload_pinned("uses", source, false, &pins).unwrap_err();
        assert!(failure.reason == reason && failure.message.contains(message), "{failure}");
    }
}

#[test]
fn limits_stay_until_they_are_changed_whatever_is_active() {
    let mut catalog = Catalog::new();
    catalog.upload("lib", SOURCE, false).unwrap();
    let set = |catalog: &mut Catalog, name: &str, concurrency, cpu_percent| {
        let set_by = "ada".to_owned();
        let request =
            v1::SetLibraryLimitsRequest { name: name.to_owned(), concurrency, cpu_percent, set_by, request_id: None };
        match catalog.change(|transaction| set_limits(&request, transaction))? {
            reply::Kind::SetLibraryLimits(response) => Ok(response.limits.unwrap()),
            other => panic!("{other:?}"),
        }
    };
    let values = |limits: &v1::LibraryLimits| (limits.concurrency, limits.cpu_percent);
    assert!(active(&Committed(&catalog.view), "lib").unwrap().limits().is_none());
    assert_eq!(reason(set(&mut catalog, "none", Some(1), None)), Reason::LibraryNotFound);
    let limits = set(&mut catalog, "lib", Some(4), None).unwrap();
    assert_eq!((values(&limits), limits.set_by.as_str(), limits.set_at_ms), ((4, 0), "ada", 1_000_000));
    assert_eq!(values(&set(&mut catalog, "lib", None, Some(20)).unwrap()), (4, 20));
    let check = |catalog: &Catalog, what: &str, expected| {
        let reads = Committed(&catalog.view);
        assert_eq!(active(&reads, "lib").unwrap().limits().map(values), Some(expected), "{what}");
        assert_eq!(values(&versions(&reads, "lib").unwrap().limits.unwrap()), expected, "{what}");
        let listed = libraries(&reads).unwrap().limits;
        assert_eq!(listed.get("lib").map(values), Some(expected).filter(|&expected| expected != (0, 0)), "{what}");
    };
    check(&catalog, "set", (4, 20));
    catalog.upload("lib", SOURCE, false).unwrap();
    check(&catalog, "uploaded", (4, 20));
    catalog.activate("lib", 1, 50).unwrap();
    check(&catalog, "canary", (4, 20));
    catalog.rollback("lib").unwrap();
    check(&catalog, "rolled back", (4, 20));
    set(&mut catalog, "lib", Some(0), Some(0)).unwrap();
    check(&catalog, "removed", (0, 0));
    set(&mut catalog, "lib", Some(1), None).unwrap();
    catalog.delete("lib", 0).unwrap();
    catalog.upload("lib", SOURCE, false).unwrap();
    assert!(active(&Committed(&catalog.view), "lib").unwrap().limits().is_none(), "they end with the library");
}
