//! Refusing a call as it arrives, where it would be refused when its turn comes.

use std::time::{Duration, Instant};

use cirrus_engine::sessions::{self, Admission};
use cirrus_engine::{ShardHead, Transaction};
use cirrus_proto::Failure;
use cirrus_proto::internal::v1::Command;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::name::ProcedureName;
use cirrus_proto::v1::CallRequest;
use cirrus_replication::Shard;

use super::Governor;
use crate::CATALOG_SHARD;
use crate::catalog_view::CatalogHandle;
use crate::node::ClusterNode;

impl Governor {
    /// Whether a call may wait for its turn on this node. What cannot be told yet is left to that.
    ///
    /// # Errors
    /// PROCEDURE_SUSPENDED, LIBRARY_BUDGET_EXCEEDED.
    pub(crate) fn admit_arriving(
        &self,
        catalog: &CatalogHandle,
        shard: &Shard,
        request: &CallRequest,
    ) -> Result<(), Failure> {
        let now = Instant::now();
        let Ok(procedure) = ProcedureName::parse(&request.procedure) else { return Ok(()) };
        if !self.suspects(procedure.library, now) {
            return Ok(());
        }
        // Every activation that was acknowledged is in the shard's head, and must be seen here too.
        let Ok(head) = ShardHead::load(&shard.view()) else { return Ok(()) };
        match catalog.runnable(&procedure, &request.key, head.catalog_index, Duration::ZERO) {
            Ok(found) => self.admit(&found.called(procedure.function), now),
            Err(_) => Ok(()),
        }
    }
}

impl ClusterNode {
    /// Whether a command may go on to the shard, which this node leads.
    pub(crate) fn admit_command(&self, shard: &Shard, command: &Command) -> Result<(), Failure> {
        let Some(Kind::Call(request)) = &command.kind else { return Ok(()) };
        if shard.id() == CATALOG_SHARD {
            return Ok(());
        }
        let Err(refusal) = self.governor.admit_arriving(&self.catalog, shard, request) else { return Ok(()) };
        // What was answered under its request id gets that answer.
        let view = shard.view();
        let Ok(head) = ShardHead::load(&view) else { return Err(refusal) };
        match sessions::admit(&mut Transaction::new(&view, head, &self.config.limits), command) {
            Ok(Admission::New) => Err(refusal),
            Ok(Admission::Repeat(_)) | Err(_) => Ok(()),
        }
    }
}
