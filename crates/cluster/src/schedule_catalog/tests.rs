#![allow(clippy::unwrap_used)]
use cirrus_engine::{MemoryView, Moment, ShardHead};
use cirrus_proto::limits::Limits;
use cirrus_proto::v1::{DeleteLibraryRequest, UploadLibraryRequest};

use super::*;
use crate::catalog::Committed;

/// Shard 0 in memory, with the library `counters`.
struct Catalog {
    view: MemoryView,
    head: ShardHead,
}

impl Catalog {
    fn new() -> Self {
        let mut head = ShardHead::default();
        head.advance_to(Moment { now_ms: 1_000_000 });
        let mut catalog = Catalog { view: MemoryView::new(), head };
        for _ in 0..2 {
            catalog.upload("counters", "function flush() end").unwrap();
        }
        catalog
    }

    fn change<T>(&mut self, change: impl FnOnce(&mut Transaction<'_>) -> Result<T, Failure>) -> Result<T, Failure> {
        let mut transaction = Transaction::new(&self.view, self.head, &Limits::DEFAULT);
        let outcome = change(&mut transaction)?;
        let (effects, head) = transaction.finish();
        self.view.apply(&effects);
        self.head = head;
        Ok(outcome)
    }

    fn upload(&mut self, name: &str, source: &str) -> Result<(), Failure> {
        let (name, source) = (name.to_owned(), source.to_owned().into());
        let request = UploadLibraryRequest { name, source, ..Default::default() };
        self.change(|transaction| library_catalog::upload(&request, transaction)).map(drop)
    }

    fn delete_library(&mut self, version: u64) -> Result<(), Failure> {
        let request = DeleteLibraryRequest { name: "counters".to_owned(), version, request_id: None };
        self.change(|transaction| library_catalog::delete(&request, transaction)).map(drop)
    }

    /// The schedule, and whether it is new.
    fn create(&mut self, request: &ScheduleProcedureRequest) -> Result<(Schedule, bool), Failure> {
        match self.change(|transaction| create(request, transaction))? {
            reply::Kind::ScheduleProcedure(response) => Ok((response.schedule.unwrap(), response.created)),
            other => panic!("{other:?}"),
        }
    }

    fn delete(&mut self, name: &str) -> Option<u64> {
        let request = DeleteScheduleRequest { name: name.to_owned(), request_id: None };
        match self.change(|transaction| delete(&request, transaction)).unwrap() {
            reply::Kind::DeleteSchedule(DeleteScheduleResponse { deleted, schedule, .. }) => {
                assert_eq!(deleted, schedule.is_some());
                schedule.map(|schedule| schedule.id)
            }
            other => panic!("{other:?}"),
        }
    }

    fn names(&self) -> Vec<String> {
        all(&Committed(&self.view)).unwrap().into_iter().map(|schedule| schedule.name).collect()
    }
}

fn request(name: &str) -> ScheduleProcedureRequest {
    ScheduleProcedureRequest {
        name: name.to_owned(),
        procedure: "counters.flush".to_owned(),
        key: "hits".into(),
        every_ms: 5000,
        created_by: "ada".to_owned(),
        ..Default::default()
    }
}

#[test]
fn the_same_schedule_again_is_found_and_another_refused() {
    let mut catalog = Catalog::new();
    let (schedule, created) = catalog.create(&request("a")).unwrap();
    assert!(created);
    assert_eq!((schedule.id, schedule.created_at_ms, schedule.created_by.as_str()), (1, 1_000_000, "ada"));
    assert_eq!(schedule.missed_ticks(), MissedTicks::Skip, "what was left open is decided");
    let by_bob = ScheduleProcedureRequest { created_by: "bob".to_owned(), ..request("a") };
    assert_eq!(catalog.create(&by_bob).unwrap(), (schedule.clone(), false));
    let skip = ScheduleProcedureRequest { missed_ticks: MissedTicks::Skip.into(), ..request("a") };
    assert_eq!(catalog.create(&skip).unwrap(), (schedule, false));
    for other in [
        ScheduleProcedureRequest { every_ms: 5001, ..request("a") },
        ScheduleProcedureRequest { key: "misses".into(), ..request("a") },
        ScheduleProcedureRequest { args: vec!["1".into()], ..request("a") },
        ScheduleProcedureRequest { values: vec!["1".into()], ..request("a") },
        ScheduleProcedureRequest { more_keys: vec!["{hits}".into()], ..request("a") },
        ScheduleProcedureRequest { procedure: "counters@1.flush".to_owned(), ..request("a") },
        ScheduleProcedureRequest { missed_ticks: MissedTicks::CatchUp.into(), ..request("a") },
    ] {
        assert_eq!(catalog.create(&other).unwrap_err().reason, Reason::ScheduleExists);
    }
    assert_eq!(catalog.names(), ["a"]);
}

#[test]
fn an_id_is_used_once() {
    let mut catalog = Catalog::new();
    let create = |catalog: &mut Catalog, name| catalog.create(&request(name)).unwrap().0.id;
    assert_eq!((create(&mut catalog, "a"), create(&mut catalog, "b")), (1, 2));
    assert_eq!((catalog.delete("b"), catalog.delete("b"), catalog.delete("none")), (Some(2), None, None));
    assert_eq!((create(&mut catalog, "b"), catalog.names()), (3, vec!["a".to_owned(), "b".to_owned()]));
}

#[test]
fn what_it_calls_must_be_there_and_stays_there() {
    let mut catalog = Catalog::new();
    for (procedure, reason) in [
        ("nobody.flush", Reason::LibraryNotFound),
        ("counters@3.flush", Reason::LibraryNotFound),
        ("counters.other", Reason::FunctionNotFound),
        ("counters@1.other", Reason::FunctionNotFound),
        ("counters@x.flush", Reason::InvalidField),
    ] {
        let request = ScheduleProcedureRequest { procedure: procedure.to_owned(), ..request("a") };
        assert_eq!(catalog.create(&request).unwrap_err().reason, reason, "{procedure}");
    }
    catalog.create(&request("moves")).unwrap();
    let failure = catalog.delete_library(0).unwrap_err();
    assert_eq!((failure.reason, failure.metadata["scheduled_by"].as_str()), (Reason::LibraryInUse, "moves"));
    let pinned = ScheduleProcedureRequest { procedure: "counters@1.flush".to_owned(), ..request("pinned") };
    catalog.create(&pinned).unwrap();
    let failure = catalog.delete_library(1).unwrap_err();
    assert_eq!((failure.reason, failure.metadata["scheduled_by"].as_str()), (Reason::LibraryInUse, "pinned"));
    catalog.delete("pinned");
    catalog.delete_library(1).unwrap();
    catalog.delete("moves");
    catalog.delete_library(0).unwrap();
}

#[test]
fn a_declaration_must_take_what_a_schedule_passes() {
    let mut catalog = Catalog::new();
    let source = "---@procedure f\n---@param step integer\n---@param tick integer\n---@param due integer\n\
        function f(key, step, tick, due) end\n---@procedure g\n---@param step integer\nfunction g(key, step) end";
    catalog.upload("declared", source).unwrap();
    let mut schedule = |function: &str, step: &'static str| {
        let procedure = format!("declared.{function}");
        let name = format!("{function}-{step}");
        catalog.create(&ScheduleProcedureRequest { procedure, args: vec![step.into()], ..request(&name) })
    };
    assert!(schedule("f", "5").unwrap().1);
    assert_eq!(schedule("f", "five").unwrap_err().reason, Reason::InvalidField);
    let failure = schedule("g", "5").unwrap_err();
    assert_eq!(failure.reason, Reason::InvalidField);
    assert!(failure.message.contains("the tick's number"), "{failure}");
}

#[test]
fn a_cluster_has_so_many_schedules() {
    let mut catalog = Catalog::new();
    for number in 0..SCHEDULES_MAX {
        catalog.create(&request(&format!("s{number}"))).unwrap();
    }
    let failure = catalog.create(&request("one-more")).unwrap_err();
    assert_eq!((failure.reason, failure.metadata["limit"].as_str()), (Reason::SchedulesFull, "1000"));
    assert!(!catalog.create(&request("s7")).unwrap().1, "one that is there is found all the same");
    catalog.delete("s7");
    assert!(catalog.create(&request("one-more")).unwrap().1);
}

#[test]
fn a_schedule_without_a_name_gets_one_of_procedure_and_key() {
    let name = |procedure, key: &[u8]| name_of(&ProcedureName::parse(procedure).unwrap(), key);
    assert_eq!(name("counters.flush", b"hits"), "counters-flush-hits");
    assert_eq!(name("counters@3.flush", b"hits_1"), "counters-3-flush-hits_1");
    let odd = [name("a.f", b"{ada}.x"), name("a.f", b"{ada}-x"), name("a.f", &[0xff; 4096]), name("a.f", &[b'k'; 61])];
    assert!(odd[0].starts_with("a-f--ada--x-") && odd[1].starts_with("a-f--ada--x-"), "{odd:?}");
    for (index, name) in odd.iter().enumerate() {
        let plain = |char: char| char.is_ascii_alphanumeric() || char == '-';
        assert!(name.len() <= NAME_BYTES_MAX && name.chars().all(plain), "{name}");
        assert!(!odd[..index].contains(name), "{name}");
    }
    let mut catalog = Catalog::new();
    let unnamed = request("");
    let (schedule, created) = catalog.create(&unnamed).unwrap();
    assert_eq!((schedule.name.as_str(), created), ("counters-flush-hits", true));
    assert!(!catalog.create(&unnamed).unwrap().1);
}
