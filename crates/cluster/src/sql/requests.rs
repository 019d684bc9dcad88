//! Requests that take more than one command or query.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{self as pb, Command, Query, SqlListPosition, query, query_result, reply};
use cirrus_proto::v1::{ReadConsistency, RequestId, SqlDatabase, SqlListRequest, SqlListResponse, SqlRemoveRequest};
use cirrus_proto::{Failure, Reason, routing};
use cirrus_replication::Shard;
use cirrus_sql::{Import, ImportPart};
use prost::Message as _;

use super::messages::database_id;
use crate::node::{ClusterNode, Routed};

/// Most bytes of an import that one command stores: what is replicated at a time, beside other requests.
const IMPORT_PART_BYTES: usize = 512 * 1024;

/// How long an import that failed has to undo what it stored.
const UNDO_BOUND: Duration = Duration::from_secs(5);

/// Where a shard can be read.
pub enum Readable {
    /// On this node.
    Here(Arc<Shard>),
    /// On the node at this address, which leads the shard.
    At(String),
}

impl ClusterNode {
    /// The shard of a user's databases: that of the keys with the hash tag `{user}`.
    ///
    /// # Errors
    /// NOT_READY before the node belongs to a cluster.
    pub fn shard_of_user(&self, user: &[u8]) -> Result<u32, Failure> {
        Ok(routing::shard_of_key(&routing::key_of_user(user), self.member_of()?.shard_count))
    }

    /// Removes a database, in as many commands as it takes.
    ///
    /// # Errors
    /// DATABASE_NOT_FOUND, and those of [`ClusterNode::command`].
    pub async fn remove_database(
        &self,
        request: SqlRemoveRequest,
        deadline: Instant,
        may_forward: bool,
    ) -> Result<Routed<()>, Failure> {
        let database = cirrus_engine::named_database(request.database.as_ref())?.clone();
        let shard_id = self.shard_of_user(&database.user)?;
        let first = Kind::SqlRemove(pb::SqlRemove { request: Some(request), unfinished_only: false });
        let (mut more, leader_address) = self.removal_step(shard_id, first, deadline, may_forward).await?;
        while more {
            let rest = SqlRemoveRequest { database: Some(database.clone()), request_id: None };
            let rest = Kind::SqlRemove(pb::SqlRemove { request: Some(rest), unfinished_only: true });
            more = self.removal_step(shard_id, rest, deadline, may_forward).await?.0;
        }
        Ok(Routed { value: (), leader_address })
    }

    async fn removal_step(
        &self,
        shard_id: u32,
        kind: Kind,
        deadline: Instant,
        may_forward: bool,
    ) -> Result<(bool, Option<String>), Failure> {
        let routed = self.command(shard_id, Command { kind: Some(kind) }, deadline, may_forward).await?;
        match routed.value.kind {
            Some(reply::Kind::SqlRemove(removed)) => Ok((removed.more, routed.leader_address)),
            other => Err(unexpected(other)),
        }
    }

    /// Stores a file as a database that is not there yet; its size, bytes. It is checked and converted on a thread for what
    /// blocks, and stored in parts. What fails half-way is undone where the shard can be reached; where it cannot,
    /// the database answers DATABASE_BUSY until it is removed.
    ///
    /// # Errors
    /// DATABASE_INVALID, DATABASE_TOO_LARGE, DATABASE_EXISTS, DATABASE_BUSY, and those of [`ClusterNode::command`].
    pub async fn import_database(
        &self,
        database: SqlDatabase,
        file: Vec<u8>,
        deadline: Instant,
    ) -> Result<u64, Failure> {
        let limits = self.config.sql;
        database_id(&database).check(&limits)?;
        let shard_id = self.shard_of_user(&database.user)?;
        let prepared = tokio::task::spawn_blocking(move || Import::prepare(&file, &limits));
        let import = prepared.await.map_err(|error| Failure::internal(format!("an import: {error}")))??;
        let client_id = Bytes::copy_from_slice(&rand::random::<[u8; 16]>());
        let part_bytes = IMPORT_PART_BYTES.min(self.config.limits.write_set_bytes / 2);
        for (part, sequence) in import.parts(part_bytes).zip(1..) {
            let request_id = RequestId { client_id: client_id.clone(), sequence, acknowledged_below: sequence };
            let stored = self.import_part(shard_id, &database, part, request_id, deadline).await;
            if let Err(failure) = stored {
                // Where the outcome is unknown, the import may be complete.
                if sequence > 1 && failure.reason != Reason::OutcomeUnknown {
                    self.undo_import(shard_id, database).await;
                }
                return Err(failure);
            }
        }
        Ok(import.bytes() as u64)
    }

    async fn import_part(
        &self,
        shard_id: u32,
        database: &SqlDatabase,
        part: ImportPart,
        request_id: RequestId,
        deadline: Instant,
    ) -> Result<(), Failure> {
        let import = pb::SqlImport {
            database: Some(database.clone()),
            request_id: Some(request_id),
            token: part.token,
            page_bytes: part.page_bytes,
            page_count: part.page_count,
            first_page: part.first_page,
            pages: part.pages,
            schema_version: part.schema_version,
            migration: part.migration,
        };
        let command = Command { kind: Some(Kind::SqlImport(import)) };
        loop {
            match self.command(shard_id, command.clone(), deadline, true).await {
                Ok(Routed { value: pb::Reply { kind: Some(reply::Kind::Done(_)) }, .. }) => return Ok(()),
                Ok(routed) => return Err(unexpected(routed.value)),
                // Its request id lets it be sent again.
                Err(failure) if failure.reason == Reason::OutcomeUnknown && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(failure) => return Err(failure),
            }
        }
    }

    async fn undo_import(&self, shard_id: u32, database: SqlDatabase) {
        let deadline = Instant::now() + UNDO_BOUND;
        loop {
            let request = SqlRemoveRequest { database: Some(database.clone()), request_id: None };
            let undo = Kind::SqlRemove(pb::SqlRemove { request: Some(request), unfinished_only: true });
            match self.removal_step(shard_id, undo, deadline, true).await {
                Ok((true, _)) => {}
                Ok((false, _)) => return,
                Err(failure) => {
                    tracing::warn!(%failure, dbname = database.dbname, "a failed import was not undone");
                    return;
                }
            }
        }
    }

    /// A page of the databases of all shards, in the order of the shards.
    ///
    /// # Errors
    /// INVALID_FIELD for a page token that no page gave, and those of [`ClusterNode::query`].
    pub async fn list_databases(&self, request: SqlListRequest, deadline: Instant) -> Result<SqlListResponse, Failure> {
        let shard_count = self.member_of()?.shard_count;
        let mut position = match request.page_token.is_empty() {
            true => SqlListPosition { shard_id: 1, after: None },
            false => SqlListPosition::decode(request.page_token.clone())
                .ok()
                .filter(|position| (1..=shard_count).contains(&position.shard_id))
                .ok_or_else(|| Failure::invalid_field("page_token", "is not one that a page gave"))?,
        };
        let most = self.config.sql.list_databases;
        let wanted = match request.page_size {
            0 => most,
            size => (size as usize).min(most),
        };
        let consistency = request.consistency;
        let mut databases = Vec::new();
        while databases.len() < wanted && position.shard_id <= shard_count {
            let list = pb::SqlShardList {
                request: Some(SqlListRequest { page_token: Bytes::new(), ..request.clone() }),
                after: position.after.take(),
                count_max: (wanted - databases.len()) as u32,
            };
            let query = Query { kind: Some(query::Kind::SqlList(list)), consistency };
            match self.query(position.shard_id, query, deadline, true).await?.value.kind {
                Some(query_result::Kind::SqlList(page)) => {
                    databases.extend(page.databases);
                    position.after = page.next_after;
                }
                other => return Err(unexpected(other)),
            }
            if position.after.is_none() {
                position.shard_id += 1;
            }
        }
        let next_page_token = match position.shard_id <= shard_count {
            true => position.encode_to_vec().into(),
            false => Bytes::new(),
        };
        Ok(SqlListResponse { databases, next_page_token })
    }

    /// Where a shard can be read at that consistency, once it can be. Waits for a leader until the deadline.
    ///
    /// # Errors
    /// NOT_LEADER, NO_LEADER, DEADLINE_EXCEEDED.
    pub async fn readable(
        &self,
        shard_id: u32,
        consistency: ReadConsistency,
        deadline: Instant,
        may_forward: bool,
    ) -> Result<Readable, Failure> {
        loop {
            let failure = match self.replication.shard(shard_id) {
                Some(shard) if consistency == ReadConsistency::Stale || shard.leads() => {
                    match crate::query::await_consistency(&shard, consistency, deadline).await {
                        Ok(()) => return Ok(Readable::Here(shard)),
                        Err(failure) => failure,
                    }
                }
                _ => match self.leader_address(shard_id) {
                    Some(address) if may_forward => return Ok(Readable::At(address)),
                    _ => self.elsewhere(shard_id),
                },
            };
            self.pause_before_retry(shard_id, failure, deadline, may_forward).await?;
        }
    }
}

/// Visits the pages of a database as they are now in this node's replica; see [`cirrus_sql::export`]. Blocks.
///
/// # Errors
/// DATABASE_NOT_FOUND, DATABASE_BUSY.
pub fn export_database(
    shard: &Shard,
    database: &SqlDatabase,
    limits: &cirrus_proto::limits::SqlLimits,
    visit: &mut dyn FnMut(&[u8]) -> std::ops::ControlFlow<()>,
) -> Result<(), Failure> {
    let pinned = shard.state().pin();
    let view = cirrus_replication::SnapshotView(pinned.snapshot().map_err(Failure::internal)?);
    cirrus_sql::export(&view, &database_id(database), limits, visit)
}

fn unexpected(answer: impl std::fmt::Debug) -> Failure {
    Failure::internal(format!("a shard answered a request of SQL with {answer:?}"))
}
