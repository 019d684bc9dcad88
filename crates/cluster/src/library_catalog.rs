//! The procedure libraries, as shard 0 keeps them in TABLE_CATALOG.
//!
//! | key | value |
//! | --- | --- |
//! | `library/` + name | `StoredLibrary`: the active version with its source, and the history |
//! | `library-version/` + name + `/` + version, big-endian | `Library`: the version's header |
//! | `library-source/` + name + `/` + version, big-endian | the version's source |
//! | `deleted-library/` + name | the last version of a library that was removed, big-endian |
//!
//! Invariants:
//! - A version's header and source never change. Its number is used once, also where it, or its library,
//!   is removed: what was compiled for a name and a version can be kept for ever.
//! - The active version, the canary, what either requires and what a schedule pins are stored.
//!
//! A call that pins nothing reads one entry.

use bytes::Bytes;
use cirrus_engine::Transaction;
use cirrus_procedures::{LibrarySource, Requirement, inspect};
use cirrus_proto::internal::v1::{self as pb, Table, reply};
use cirrus_proto::routing::routing_key;
use cirrus_proto::v1::{self, LibraryActivation};
use cirrus_proto::{Failure, Reason};
use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::catalog::{Reads, decode};
use crate::schedule_catalog;

/// Most versions of one library.
const VERSIONS_MAX: usize = 256;

/// Most former activations that are remembered, so most rollbacks in a row.
const PREVIOUS_MAX: usize = 16;

const LIBRARY_PREFIX: &[u8] = b"library/";
const VERSION_PREFIX: &[u8] = b"library-version/";
const SOURCE_PREFIX: &[u8] = b"library-source/";
const DELETED_PREFIX: &[u8] = b"deleted-library/";

fn library_key(name: &str) -> Bytes {
    [LIBRARY_PREFIX, name.as_bytes()].concat().into()
}

fn version_key(prefix: &[u8], name: &str, version: u64) -> Bytes {
    [prefix, name.as_bytes(), b"/", &version.to_be_bytes()].concat().into()
}

/// A library's entry: what its calls run.
///
/// # Errors
/// LIBRARY_NOT_FOUND; INTERNAL where the state is unreadable.
pub(crate) fn active(reads: &dyn Reads, name: &str) -> Result<Active, Failure> {
    let stored = reads.get(&library_key(name))?.ok_or_else(|| library_not_found(name))?;
    Active::new(decode("library", stored)?)
}

/// One version with its source.
///
/// # Errors
/// LIBRARY_NOT_FOUND; INTERNAL where the state is unreadable.
pub(crate) fn version(reads: &dyn Reads, name: &str, version: u64) -> Result<Versioned, Failure> {
    if let Some(header) = reads.get(&version_key(VERSION_PREFIX, name, version))? {
        let source = reads
            .get(&version_key(SOURCE_PREFIX, name, version))?
            .ok_or_else(|| Failure::internal(format!("the catalog has {name} version {version} without its source")))?;
        return Ok(Versioned { header: decode("library version", header)?, source });
    }
    // One that feature level 1 stored stands in the library's entry only.
    let active = active(reads, name)?.versioned;
    if active.header.version == version { Ok(active) } else { Err(version_not_found(name, version)) }
}

/// The version that calls of this routing key run where they pin none.
pub(crate) fn version_for(name: &str, activation: &LibraryActivation, key: &[u8]) -> u64 {
    let LibraryActivation { active_version, canary_version, canary_percent, .. } = *activation;
    match canary_version != 0 && share_of(name, canary_version, key) < canary_percent {
        true => canary_version,
        false => active_version,
    }
}

/// Where a key stands among all, 0 to 99. It depends on the canary, so that it is not always the same keys that
/// meet new versions first; and a hash tag's keys stand together.
fn share_of(name: &str, canary_version: u64, key: &[u8]) -> u32 {
    let mut hash = Sha256::new();
    hash.update(name.as_bytes());
    hash.update(canary_version.to_be_bytes());
    hash.update(routing_key(key));
    let hash = hash.finalize();
    u32::from_be_bytes([hash[0], hash[1], hash[2], hash[3]]) % 100
}

/// All libraries by name, each as its active version is.
///
/// # Errors
/// INTERNAL where the state is unreadable.
pub(crate) fn libraries(reads: &dyn Reads) -> Result<v1::ListLibrariesResponse, Failure> {
    let mut response = v1::ListLibrariesResponse::default();
    for (_, value) in reads.entries(LIBRARY_PREFIX)? {
        let active = Active::new(decode("library", value)?)?;
        let header = active.versioned.header;
        if let Some(limits) = active.history.limits.filter(|limits| limits.concurrency > 0 || limits.cpu_percent > 0) {
            response.limits.insert(header.name.clone(), limits);
        }
        response.libraries.push(header);
    }
    Ok(response)
}

/// Every version of a library, and what was activated.
///
/// # Errors
/// LIBRARY_NOT_FOUND; INTERNAL where the state is unreadable.
pub(crate) fn versions(reads: &dyn Reads, name: &str) -> Result<v1::ListLibraryVersionsResponse, Failure> {
    let active = active(reads, name)?;
    let mut versions = headers(reads, name)?;
    if versions.is_empty() {
        versions.push(active.versioned.header);
    }
    let mut previous = active.history.previous;
    previous.reverse();
    let (activation, limits) = (Some(active.activation), active.history.limits);
    Ok(v1::ListLibraryVersionsResponse { versions, activation, previous, limits })
}

fn headers(reads: &dyn Reads, name: &str) -> Result<Vec<v1::Library>, Failure> {
    let found = reads.entries(&[VERSION_PREFIX, name.as_bytes(), b"/"].concat())?.into_iter();
    found.map(|(_, value)| decode("library version", value)).collect()
}

/// There is no such library.
pub(crate) fn library_not_found(name: &str) -> Failure {
    Failure::new(Reason::LibraryNotFound, format!("there is no library named {name:?}")).with("library", name)
}

fn version_not_found(name: &str, version: u64) -> Failure {
    Failure::new(Reason::LibraryNotFound, format!("library {name} has no version {version}"))
        .with("library", name)
        .with("version", version)
}

/// A version's header and source.
pub(crate) struct Versioned {
    pub(crate) header: v1::Library,
    pub(crate) source: Bytes,
}

impl Versioned {
    /// As a runtime takes it.
    pub(crate) fn into_source(self) -> LibrarySource {
        let requires = self.header.requires.into_iter();
        LibrarySource {
            name: self.header.name,
            version: self.header.version,
            source: self.source,
            requires: requires
                .map(|pin| Requirement { written: pin.written, name: pin.name, version: pin.version })
                .collect(),
        }
    }
}

/// A library's entry, with what older ones leave out filled in.
pub(crate) struct Active {
    pub(crate) versioned: Versioned,
    pub(crate) activation: LibraryActivation,
    history: pb::LibraryHistory,
    /// Feature level 1 wrote it: its one version has no entries of its own yet.
    alone: bool,
}

impl Active {
    /// What the library's calls may take of each node, where that was ever set.
    pub(crate) fn limits(&self) -> Option<&v1::LibraryLimits> {
        self.history.limits.as_ref()
    }

    fn new(stored: pb::StoredLibrary) -> Result<Self, Failure> {
        let header = stored.library.ok_or_else(|| Failure::internal("the catalog has a library without a header"))?;
        let alone = stored.history.is_none();
        let history = stored.history.unwrap_or_else(|| pb::LibraryHistory {
            activation: Some(LibraryActivation {
                active_version: header.version,
                activated_at_ms: header.uploaded_at_ms,
                ..Default::default()
            }),
            last_version: header.version,
            ..Default::default()
        });
        let activation = history.activation.clone().unwrap_or_default();
        Ok(Active { versioned: Versioned { header, source: stored.source }, activation, history, alone })
    }
}

/// What `library` requires, directly or by another, each version once and behind what it requires itself.
///
/// # Errors
/// LIBRARY_NOT_FOUND; INTERNAL where the state is unreadable.
pub(crate) fn required(reads: &dyn Reads, library: &LibrarySource) -> Result<Vec<LibrarySource>, Failure> {
    let mut found = Vec::new();
    collect_required(reads, library, &mut found)?;
    Ok(found)
}

/// Pins name versions that were stored before, so there are no circles, and an upload bounds their number.
fn collect_required(reads: &dyn Reads, library: &LibrarySource, found: &mut Vec<LibrarySource>) -> Result<(), Failure> {
    for pin in &library.requires {
        if found.iter().any(|known| known.name == pin.name && known.version == pin.version) {
            continue;
        }
        let required = version(reads, &pin.name, pin.version)?.into_source();
        collect_required(reads, &required, found)?;
        found.push(required);
    }
    Ok(())
}

/// Stores a source as the next version of its library.
pub(crate) fn upload(
    request: &v1::UploadLibraryRequest,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    let reads: &dyn Reads = transaction;
    let inspected = inspect(&request.name, &request.source, transaction.limits(), &|name, named| {
        let pin = || request.pins.iter().find(|pin| pin.name == name).map(|pin| pin.version);
        let library = match named.or_else(pin) {
            Some(number) => version(reads, name, number)?,
            None => active(reads, name)?.versioned,
        };
        let library = library.into_source();
        let mut found = required(reads, &library)?;
        found.push(library);
        Ok(found)
    })?;
    let required = |pin: &v1::LibraryPin| inspected.requires.iter().any(|requirement| requirement.written == pin.name);
    if let Some(pin) = request.pins.iter().find(|pin| !required(pin)) {
        let problem = format!("{} does not require {} without a version", request.name, pin.name);
        return Err(Failure::invalid_field("pins", problem));
    }
    let previous = load(&request.name, transaction)?;
    let last_version = match &previous {
        Some(active) => {
            check_version_count(&request.name, transaction)?;
            active.history.last_version
        }
        None => deleted_version(&request.name, transaction)?,
    };
    let pins = inspected.requires.into_iter();
    let header = v1::Library {
        name: request.name.clone(),
        version: last_version + 1,
        sha256: hexadecimal(&Sha256::digest(&request.source)),
        functions: inspected.functions,
        uploaded_at_ms: transaction.now_ms(),
        source_bytes: request.source.len() as u64,
        uploaded_by: request.uploaded_by.clone(),
        requires: pins
            .map(|pin| v1::LibraryRequirement { written: pin.written, name: pin.name, version: pin.version })
            .collect(),
        declarations: inspected.declarations,
    };
    write_version(&header, &request.source, transaction)?;
    let uploaded = Versioned { header: header.clone(), source: request.source.clone() };
    let activation = LibraryActivation {
        active_version: header.version,
        activated_at_ms: transaction.now_ms(),
        activated_by: request.uploaded_by.clone(),
        ..Default::default()
    };
    let activation = match previous {
        None => {
            let history = pb::LibraryHistory { activation: Some(activation.clone()), ..Default::default() };
            write(uploaded, pb::LibraryHistory { last_version: header.version, ..history }, transaction)?;
            activation
        }
        Some(mut active) => {
            active.history.last_version = header.version;
            if request.stage_only {
                let unchanged = active.activation.clone();
                write(active.versioned, active.history, transaction)?;
                unchanged
            } else {
                activate_as(uploaded, active, activation.clone(), transaction)?;
                activation
            }
        }
    };
    let response =
        v1::UploadLibraryResponse { library: Some(header), activation: Some(activation), warnings: Vec::new() };
    Ok(reply::Kind::UploadLibrary(response))
}

/// Makes a stored version the active one, or the canary.
pub(crate) fn activate(
    request: &v1::ActivateLibraryRequest,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    let active = load(&request.name, transaction)?.ok_or_else(|| library_not_found(&request.name))?;
    let chosen = version(transaction, &request.name, request.version)?;
    let mut activation = LibraryActivation {
        activated_at_ms: transaction.now_ms(),
        activated_by: request.activated_by.clone(),
        ..Default::default()
    };
    let versioned = if request.canary_percent == 0 {
        activation.active_version = request.version;
        chosen
    } else {
        if request.version == active.activation.active_version {
            let problem = format!("version {} is the active one, which cannot be its own canary", request.version);
            return Err(Failure::invalid_field("version", problem));
        }
        activation.active_version = active.activation.active_version;
        activation.canary_version = request.version;
        activation.canary_percent = request.canary_percent;
        Versioned { header: active.versioned.header.clone(), source: active.versioned.source.clone() }
    };
    activate_as(versioned, active, activation.clone(), transaction)?;
    Ok(reply::Kind::ActivateLibrary(v1::ActivateLibraryResponse { activation: Some(activation) }))
}

/// Undoes the last activation.
pub(crate) fn rollback(
    request: &v1::RollbackLibraryRequest,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    let mut active = load(&request.name, transaction)?.ok_or_else(|| library_not_found(&request.name))?;
    let undone = active.activation;
    let active_version = if undone.canary_version != 0 {
        undone.active_version
    } else {
        // The latest that differs: what was active before a canary is what is active beside it.
        loop {
            let Some(previous) = active.history.previous.pop() else {
                let problem = format!("library {} had no other version active before", request.name);
                return Err(Failure::new(Reason::NothingToRollBack, problem).with("library", &request.name));
            };
            if previous.active_version != undone.active_version {
                break previous.active_version;
            }
        }
    };
    let activation = LibraryActivation {
        active_version,
        activated_at_ms: transaction.now_ms(),
        activated_by: request.activated_by.clone(),
        ..Default::default()
    };
    let versioned = version(transaction, &request.name, active_version)?;
    active.history.activation = Some(activation.clone());
    write(versioned, active.history, transaction)?;
    let response = v1::RollbackLibraryResponse { activation: Some(activation), undone: Some(undone) };
    Ok(reply::Kind::RollbackLibrary(response))
}

/// Bounds what the library's calls may take, whichever version they run.
pub(crate) fn set_limits(
    request: &v1::SetLibraryLimitsRequest,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    let mut active = load(&request.name, transaction)?.ok_or_else(|| library_not_found(&request.name))?;
    let before = active.history.limits.take().unwrap_or_default();
    let limits = v1::LibraryLimits {
        concurrency: request.concurrency.unwrap_or(before.concurrency),
        cpu_percent: request.cpu_percent.unwrap_or(before.cpu_percent),
        set_at_ms: transaction.now_ms(),
        set_by: request.set_by.clone(),
    };
    active.history.limits = Some(limits.clone());
    write(active.versioned, active.history, transaction)?;
    Ok(reply::Kind::SetLibraryLimits(v1::SetLibraryLimitsResponse { limits: Some(limits) }))
}

/// Removes one version, or the library. Version numbers that were used stay used.
pub(crate) fn delete(
    request: &v1::DeleteLibraryRequest,
    transaction: &mut Transaction<'_>,
) -> Result<reply::Kind, Failure> {
    let answer = |deleted| Ok(reply::Kind::DeleteLibrary(v1::DeleteLibraryResponse { deleted }));
    let Some(mut active) = load(&request.name, transaction)? else { return answer(false) };
    let name = &request.name;
    let stored: Vec<u64> = headers(transaction, name)?.iter().map(|header| header.version).collect();
    if request.version == 0 {
        check_not_required(name, None, transaction)?;
        check_not_scheduled(name, None, transaction)?;
        for version in stored {
            remove_version(name, version, transaction)?;
        }
        let last = Bytes::copy_from_slice(&active.history.last_version.to_be_bytes());
        transaction.write(Table::Catalog, [DELETED_PREFIX, name.as_bytes()].concat().into(), last)?;
        transaction.remove(Table::Catalog, library_key(name))?;
        return answer(true);
    }
    if !stored.contains(&request.version) {
        return answer(false);
    }
    let activation = &active.activation;
    for (role, version) in
        [("is the active one", activation.active_version), ("is the canary", activation.canary_version)]
    {
        if version == request.version {
            return Err(in_use(name, format!("version {version} of {name} {role}")));
        }
    }
    check_not_required(name, Some(request.version), transaction)?;
    check_not_scheduled(name, Some(request.version), transaction)?;
    remove_version(name, request.version, transaction)?;
    active.history.previous.retain(|previous| previous.active_version != request.version);
    write(active.versioned, active.history, transaction)?;
    answer(true)
}

fn in_use(name: &str, problem: String) -> Failure {
    Failure::new(Reason::LibraryInUse, problem).with("library", name)
}

/// Fails where a version of another library, whether active or not, requires this one.
fn check_not_required(name: &str, version: Option<u64>, transaction: &Transaction<'_>) -> Result<(), Failure> {
    for (_, header) in transaction.entries(VERSION_PREFIX)? {
        let header: v1::Library = decode("library version", header)?;
        let pinned =
            header.requires.iter().find(|pin| pin.name == name && version.is_none_or(|one| one == pin.version));
        // A library goes with its own versions.
        if let Some(pin) = pinned.filter(|_| version.is_some() || header.name != name) {
            let by = format!("{}@{}", header.name, header.version);
            let problem = format!("{name}@{} is required by {by}", pin.version);
            return Err(in_use(name, problem).with("required_by", by));
        }
    }
    Ok(())
}

/// Fails where a schedule calls the library or, with a version, pins it.
fn check_not_scheduled(name: &str, version: Option<u64>, transaction: &Transaction<'_>) -> Result<(), Failure> {
    match schedule_catalog::schedule_of(transaction, name, version)? {
        None => Ok(()),
        Some(schedule) => {
            let problem = format!("schedule {} calls {}", schedule.name, schedule.procedure);
            Err(in_use(name, problem).with("scheduled_by", schedule.name))
        }
    }
}

fn check_version_count(name: &str, transaction: &Transaction<'_>) -> Result<(), Failure> {
    let count = headers(transaction, name)?.len();
    if count < VERSIONS_MAX {
        return Ok(());
    }
    let problem = format!("library {name} has {count} versions, its limit; delete some that nobody calls");
    Err(Failure::new(Reason::LibraryVersionsFull, problem)
        .with("library", name)
        .with("actual", count)
        .with("limit", VERSIONS_MAX))
}

/// The library's entry for a change: its version has entries of its own from now on.
fn load(name: &str, transaction: &mut Transaction<'_>) -> Result<Option<Active>, Failure> {
    let Some(stored) = Reads::get(transaction, &library_key(name))? else { return Ok(None) };
    let active = Active::new(decode("library", stored)?)?;
    if active.alone {
        write_version(&active.versioned.header, &active.versioned.source, transaction)?;
    }
    Ok(Some(active))
}

/// Remembers the activation that ends, and writes the one that begins.
fn activate_as(
    versioned: Versioned,
    before: Active,
    activation: LibraryActivation,
    transaction: &mut Transaction<'_>,
) -> Result<(), Failure> {
    let mut history = before.history;
    history.previous.push(before.activation);
    let excess = history.previous.len().saturating_sub(PREVIOUS_MAX);
    history.previous.drain(..excess);
    history.activation = Some(activation);
    write(versioned, history, transaction)
}

fn write(versioned: Versioned, history: pb::LibraryHistory, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
    let key = library_key(&versioned.header.name);
    let stored =
        pb::StoredLibrary { library: Some(versioned.header), source: versioned.source, history: Some(history) };
    transaction.write(Table::Catalog, key, stored.encode_to_vec().into())
}

fn write_version(header: &v1::Library, source: &Bytes, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
    let (name, version) = (&header.name, header.version);
    transaction.write(Table::Catalog, version_key(SOURCE_PREFIX, name, version), source.clone())?;
    transaction.write(Table::Catalog, version_key(VERSION_PREFIX, name, version), header.encode_to_vec().into())
}

fn remove_version(name: &str, version: u64, transaction: &mut Transaction<'_>) -> Result<(), Failure> {
    for prefix in [VERSION_PREFIX, SOURCE_PREFIX] {
        transaction.remove(Table::Catalog, version_key(prefix, name, version))?;
    }
    Ok(())
}

fn deleted_version(name: &str, transaction: &Transaction<'_>) -> Result<u64, Failure> {
    match Reads::get(transaction, &[DELETED_PREFIX, name.as_bytes()].concat())? {
        None => Ok(0),
        Some(bytes) => {
            let bytes = bytes.as_ref().try_into();
            Ok(u64::from_be_bytes(bytes.map_err(|_| Failure::internal("the catalog has a malformed version"))?))
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
