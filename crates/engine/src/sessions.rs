//! Exactly-once: replies kept under request ids.
//!
//! A client that did not hear back sends the same request again under the same id. The shard remembers, in
//! its replicated state, which ids it evaluated and what it answered, so the second attempt gets the first
//! reply and changes nothing, whichever node leads by then. All of it lies in `TABLE_SESSIONS`. Here client
//! `c` has had requests 7, 8 and 9 answered and holds the replies of all below 8; the last request came in
//! minute 28,400,000 (since 1970):
//!
//! | key | value |
//! | --- | --- |
//! | `01` · 1 · `c` | session {acknowledged_below 8, last_used_ms 1704000012345, kept_sequences [8, 9]} |
//! | `02` · 1 · `c` · 8 | reply {SHA-256 of request 8 without its id, the encoded `Reply`} |
//! | `02` · 1 · `c` · 9 | reply {…} |
//! | `03` · 28400000 · `c` | empty: the idle index, by minute of last use |
//!
//! (The 1 is the length of the client id; sequences and minutes are 8 bytes, big-endian.)
//!
//! The life of a request under id (c, 10), acknowledging all below 9:
//! 1. [`admit`] reads the session. 10 is not kept and not acknowledged: it is new.
//! 2. The command is evaluated.
//! 3. [`remember`], in the same transaction, stores reply 10, removes reply 8, writes the session, and
//!    moves its idle index entry if the minute changed. Three or four writes, one read.
//!
//! Invariants:
//! - `kept_sequences` is ascending and names exactly the replies stored.
//! - A sequence is evaluated only if it is neither kept nor below `acknowledged_below`; and a reply is
//!   removed only if its sequence is below `acknowledged_below`, or with the whole session. So while the
//!   session exists, no sequence is evaluated twice.
//! - A session keeps at most [`Limits::session_replies`](cirrus_proto::limits::Limits::session_replies)
//!   unacknowledged replies. Of those acknowledged, a request removes at most 16.
//! - A session lives at least [`Limits::session_idle_ms`](cirrus_proto::limits::Limits::session_idle_ms)
//!   after its last new request, and is swept some time after.
//!
//! A command that fails is not remembered: it changed nothing, and may be evaluated again. A procedure's
//! own error is, as a `Reply` that holds a `CommandFailure`.
//!
//! **A repeated reply may itself still be in flight**: it must not leave before everything that the
//! transaction read is committed.

mod layout;

use bytes::Bytes;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{Command, Reply, StoredReply, StoredSession, Table};
use cirrus_proto::v1::RequestId;
use cirrus_proto::{Failure, Reason};
use prost::Message;
use sha2::{Digest, Sha256};

use crate::Transaction;
use crate::sweep::{Budget, first_keys};

/// Acknowledged replies that one request removes at most. Above 1, so that a backlog shrinks.
const DROPS_PER_REQUEST: usize = 16;

/// Longest client id, bytes.
const CLIENT_ID_BYTES_MAX: usize = 64;

/// What a request id says about a command.
#[derive(Clone, Debug, PartialEq)]
pub enum Admission {
    /// Evaluate it, then [`remember`] its reply.
    New,
    /// It was evaluated before, with this reply; evaluate nothing.
    Repeat(Box<Reply>),
}

/// A new request, between [`admit`] and [`remember`].
pub(crate) struct Admitted {
    client_id: Bytes,
    sequence: u64,
    fingerprint: [u8; 32],
    /// `None`: the client's first request.
    session: Option<StoredSession>,
}

/// The command's request id, if it carries one.
pub fn request_id(command: &Command) -> Option<&RequestId> {
    match command.kind.as_ref()? {
        Kind::Put(request) => request.request_id.as_ref(),
        Kind::Delete(request) => request.request_id.as_ref(),
        Kind::Increment(request) => request.request_id.as_ref(),
        Kind::Batch(request) => request.request_id.as_ref(),
        Kind::Transact(request) => request.request_id.as_ref(),
        Kind::Call(request) => request.request_id.as_ref(),
        Kind::UploadLibrary(request) => request.request_id.as_ref(),
        Kind::DeleteLibrary(request) => request.request_id.as_ref(),
        Kind::ActivateLibrary(request) => request.request_id.as_ref(),
        Kind::RollbackLibrary(request) => request.request_id.as_ref(),
        Kind::SqlExecute(command) => command.request.as_ref()?.request_id.as_ref(),
        Kind::SqlRemove(command) => command.request.as_ref()?.request_id.as_ref(),
        Kind::SqlImport(command) => command.request_id.as_ref(),
        Kind::SqlPutSchema(request) => request.request_id.as_ref(),
        Kind::SqlPutSphivedbSettings(request) => request.request_id.as_ref(),
        Kind::ScheduleProcedure(request) => request.request_id.as_ref(),
        Kind::DeleteSchedule(request) => request.request_id.as_ref(),
        Kind::SetLibraryLimits(request) => request.request_id.as_ref(),
        Kind::RegisterNode(_)
        | Kind::CreateCluster(_)
        | Kind::RequireCatalog(_)
        | Kind::SweepExpired(_)
        | Kind::RunSchedule(_)
        | Kind::SqlUpgrade(_) => None,
    }
}

/// Decides whether a command is to be evaluated; writes nothing. A command without a request id always is.
///
/// Fails with `REQUEST_ID_EXPIRED` where the sequence was acknowledged, `REQUEST_ID_REUSED` where it was
/// used for a request with other contents, `SESSION_FULL` where the client leaves too many replies
/// unacknowledged, `INVALID_FIELD` where the id is malformed.
pub fn admit(tx: &mut Transaction<'_>, command: &Command) -> Result<Admission, Failure> {
    let Some(id) = request_id(command) else { return Ok(Admission::New) };
    check_request_id(id)?;
    let session = load(tx, &id.client_id)?;
    let fingerprint = fingerprint(command);
    if let Some(session) = &session {
        if id.sequence < session.acknowledged_below {
            return Err(expired(id, session));
        }
        if session.kept_sequences.binary_search(&id.sequence).is_ok() {
            return repeat(tx, id, &fingerprint).map(|reply| Admission::Repeat(Box::new(reply)));
        }
        let acknowledged_below = session.acknowledged_below.max(id.acknowledged_below);
        let acknowledged = session.kept_sequences.partition_point(|sequence| *sequence < acknowledged_below);
        let unacknowledged = session.kept_sequences.len() - acknowledged;
        if unacknowledged >= tx.limits().session_replies {
            return Err(full(unacknowledged));
        }
    }
    tx.set_admitted(Admitted { client_id: id.client_id.clone(), sequence: id.sequence, fingerprint, session });
    Ok(Admission::New)
}

/// Keeps the reply of a command that [`admit`] found to be new, in the transaction that evaluated it. Not
/// held to the write-set limit, so that a command succeeds or fails alike with and without an id. Does
/// nothing for a command without a request id.
pub fn remember(tx: &mut Transaction<'_>, command: &Command, reply: &Reply) -> Result<(), Failure> {
    let Some(id) = request_id(command) else { return Ok(()) };
    let Some(admitted) = take_admitted(tx, id, command)? else {
        return Err(Failure::internal("a reply is kept already under the request id"));
    };
    let now_ms = tx.now_ms();
    let client_id = &id.client_id;
    let last_used_minute = admitted.session.as_ref().map(|session| layout::minute(session.last_used_ms));
    let mut session = admitted.session.unwrap_or_default();
    session.acknowledged_below = session.acknowledged_below.max(id.acknowledged_below);
    session.last_used_ms = now_ms;
    drop_acknowledged(tx, client_id, &mut session);
    if let Err(position) = session.kept_sequences.binary_search(&id.sequence) {
        session.kept_sequences.insert(position, id.sequence);
    }

    let kept =
        StoredReply { fingerprint: Bytes::copy_from_slice(&admitted.fingerprint), reply: reply.encode_to_vec().into() };
    put(tx, layout::reply_key(client_id, id.sequence), &kept);
    put(tx, layout::session_key(client_id), &session);
    let minute = layout::minute(now_ms);
    if last_used_minute != Some(minute) {
        if let Some(last_used_minute) = last_used_minute {
            remove(tx, layout::idle_key(last_used_minute, client_id));
        }
        tx.write_unlimited(Table::Sessions, layout::idle_key(minute, client_id), Some(Bytes::new()));
    }
    Ok(())
}

/// Removes idle sessions within the budget; whether some are left. A session that is removed in part
/// refuses the sequences that it has forgotten.
pub(crate) fn sweep(tx: &mut Transaction<'_>, budget: &mut Budget) -> Result<bool, Failure> {
    let idle_ms = tx.limits().session_idle_ms;
    // Minutes that had ended when the idle time began.
    let first_busy_minute = layout::minute(tx.now_ms().saturating_sub(idle_ms));
    let (start, end) = (layout::idle_key(0, &[]), layout::idle_key(first_busy_minute, &[]));
    for index_key in first_keys(tx, Table::Sessions, &start, Some(&end), budget.candidates())? {
        if !budget.allows(tx) {
            return Ok(true);
        }
        let (minute, client_id) = layout::decode_idle_key(&index_key)?;
        let session = load(tx, client_id)?.filter(|session| layout::minute(session.last_used_ms) == minute);
        if let Some(mut session) = session
            && !sweep_session(tx, budget, client_id, &mut session)
        {
            put(tx, layout::session_key(client_id), &session);
            return Ok(true);
        }
        remove(tx, index_key);
        budget.spend();
    }
    Ok(false)
}

/// Whether the id is well formed. Fails with `INVALID_FIELD`.
pub fn check_request_id(id: &RequestId) -> Result<(), Failure> {
    if id.client_id.is_empty() || id.client_id.len() > CLIENT_ID_BYTES_MAX {
        let problem = format!("must be 1 to {CLIENT_ID_BYTES_MAX} bytes, is {}", id.client_id.len());
        return Err(Failure::invalid_field("request_id.client_id", problem));
    }
    if id.sequence == 0 {
        return Err(Failure::invalid_field("request_id.sequence", "counts from 1"));
    }
    if id.acknowledged_below > id.sequence {
        let problem = format!("{} is above the request's own sequence {}", id.acknowledged_below, id.sequence);
        return Err(Failure::invalid_field("request_id.acknowledged_below", problem));
    }
    Ok(())
}

/// Removes the replies and the head as far as the budget allows; whether all are gone.
fn sweep_session(tx: &mut Transaction<'_>, budget: &mut Budget, client_id: &[u8], session: &mut StoredSession) -> bool {
    let mut dropped = 0;
    for sequence in &session.kept_sequences {
        if !budget.allows(tx) {
            break;
        }
        remove(tx, layout::reply_key(client_id, *sequence));
        session.acknowledged_below = session.acknowledged_below.max(sequence.saturating_add(1));
        budget.spend();
        dropped += 1;
    }
    session.kept_sequences.drain(..dropped);
    if !session.kept_sequences.is_empty() || !budget.allows(tx) {
        return false;
    }
    remove(tx, layout::session_key(client_id));
    true
}

fn drop_acknowledged(tx: &mut Transaction<'_>, client_id: &[u8], session: &mut StoredSession) {
    let acknowledged_below = session.acknowledged_below;
    let acknowledged = session.kept_sequences.partition_point(|sequence| *sequence < acknowledged_below);
    for sequence in session.kept_sequences.drain(..acknowledged.min(DROPS_PER_REQUEST)) {
        remove(tx, layout::reply_key(client_id, sequence));
    }
}

/// What [`admit`] found out about this request, so that it is neither hashed nor looked up twice; found
/// out again where evaluation went on in another transaction. `None`: it is not new.
fn take_admitted(tx: &mut Transaction<'_>, id: &RequestId, command: &Command) -> Result<Option<Admitted>, Failure> {
    let same = |admitted: &Admitted| admitted.sequence == id.sequence && admitted.client_id == id.client_id;
    if let Some(admitted) = tx.take_admitted().filter(same) {
        return Ok(Some(admitted));
    }
    match admit(tx, command)? {
        Admission::New => Ok(tx.take_admitted()),
        Admission::Repeat(_) => Ok(None),
    }
}

fn load(tx: &Transaction<'_>, client_id: &[u8]) -> Result<Option<StoredSession>, Failure> {
    let stored = tx.read(Table::Sessions, &layout::session_key(client_id))?;
    let decoded = stored.map(StoredSession::decode).transpose();
    decoded.map_err(|error| Failure::internal(format!("a stored session: {error}")))
}

fn repeat(tx: &Transaction<'_>, id: &RequestId, fingerprint: &[u8; 32]) -> Result<Reply, Failure> {
    let Some(stored) = tx.read(Table::Sessions, &layout::reply_key(&id.client_id, id.sequence))? else {
        return Err(Failure::internal("a session names a reply that is not stored"));
    };
    let corrupt = |error| Failure::internal(format!("a kept reply: {error}"));
    let kept = StoredReply::decode(stored).map_err(corrupt)?;
    if kept.fingerprint != fingerprint[..] {
        let message = format!("sequence {} was used before, for a request with other contents", id.sequence);
        return Err(Failure::new(Reason::RequestIdReused, message));
    }
    Reply::decode(kept.reply).map_err(corrupt)
}

fn put(tx: &mut Transaction<'_>, key: Bytes, message: &impl Message) {
    tx.write_unlimited(Table::Sessions, key, Some(message.encode_to_vec().into()));
}

fn remove(tx: &mut Transaction<'_>, key: Bytes) {
    tx.write_unlimited(Table::Sessions, key, None);
}

/// SHA-256 of the command without its request id, in protobuf with fields in order of their numbers, as
/// prost writes them. Commands with an id have no map fields, whose order would be left open.
fn fingerprint(command: &Command) -> [u8; 32] {
    let mut bare = command.clone();
    match &mut bare.kind {
        Some(Kind::Put(request)) => request.request_id = None,
        Some(Kind::Delete(request)) => request.request_id = None,
        Some(Kind::Increment(request)) => request.request_id = None,
        Some(Kind::Batch(request)) => request.request_id = None,
        Some(Kind::Transact(request)) => request.request_id = None,
        Some(Kind::Call(request)) => request.request_id = None,
        Some(Kind::UploadLibrary(request)) => request.request_id = None,
        Some(Kind::DeleteLibrary(request)) => request.request_id = None,
        Some(Kind::ActivateLibrary(request)) => request.request_id = None,
        Some(Kind::RollbackLibrary(request)) => request.request_id = None,
        Some(Kind::SqlExecute(command)) => command.request.iter_mut().for_each(|request| request.request_id = None),
        Some(Kind::SqlRemove(command)) => command.request.iter_mut().for_each(|request| request.request_id = None),
        Some(Kind::SqlImport(command)) => command.request_id = None,
        Some(Kind::SqlPutSchema(request)) => request.request_id = None,
        Some(Kind::SqlPutSphivedbSettings(request)) => request.request_id = None,
        Some(Kind::ScheduleProcedure(request)) => request.request_id = None,
        Some(Kind::DeleteSchedule(request)) => request.request_id = None,
        Some(Kind::SetLibraryLimits(request)) => request.request_id = None,
        Some(
            Kind::RegisterNode(_)
            | Kind::CreateCluster(_)
            | Kind::RequireCatalog(_)
            | Kind::SweepExpired(_)
            | Kind::RunSchedule(_)
            | Kind::SqlUpgrade(_),
        )
        | None => {}
    }
    Sha256::digest(bare.encode_to_vec()).into()
}

fn expired(id: &RequestId, session: &StoredSession) -> Failure {
    let below = session.acknowledged_below;
    let message = format!("sequence {}: the replies of all below {below} were acknowledged and forgotten", id.sequence);
    Failure::new(Reason::RequestIdExpired, message).with("acknowledged_below", below)
}

fn full(unacknowledged: usize) -> Failure {
    let message = format!("the client session keeps {unacknowledged} unacknowledged replies, its limit");
    Failure::new(Reason::SessionFull, message).with("limit", unacknowledged)
}
