//! Procedure libraries: stored in the catalog, and seen by every call once acknowledged.
//!
//! An upload, an activation, a rollback or a change of limits commits in the catalog at some log index. Before it is acknowledged, every data shard commits
//! "calls need the catalog up to that index" in its own log. A shard's leader, this one or a later one, has
//! applied that before it evaluates a call, and waits for its node's catalog to catch up. So no call through
//! any node runs an older version after the acknowledgement, and calls pay no extra round for it.

use std::time::Instant;

use bytes::Bytes;
use cirrus_procedures::Warning;
use cirrus_proto::internal::v1::command::Kind;
use cirrus_proto::internal::v1::{Command, Query, RequireCatalog, query, query_result, reply};
use cirrus_proto::v1::{
    ActivateLibraryRequest, ActivateLibraryResponse, DeleteLibraryRequest, DeleteLibraryResponse, GetLibraryRequest,
    GetLibraryResponse, LintWarning, ListLibrariesRequest, ListLibrariesResponse, ListLibraryVersionsRequest,
    ListLibraryVersionsResponse, ReadConsistency, RollbackLibraryRequest, RollbackLibraryResponse,
    SetLibraryLimitsRequest, SetLibraryLimitsResponse, UploadLibraryRequest, UploadLibraryResponse,
};
use cirrus_proto::{Failure, Reason};
use cirrus_replication::Executed;

use crate::evaluator::CATALOG_SHARD;
use crate::node::ClusterNode;

impl ClusterNode {
    /// Stores a source as the next version of its library, and activates it unless told otherwise. Then looks for what
    /// is probably a mistake in it.
    ///
    /// This node lints, after the upload took effect: the catalog's executor is not held up by it, an upload
    /// is not refused for it, and an upload that is sent again is told the same.
    ///
    /// # Errors
    /// LIBRARY_INVALID, LIBRARY_TOO_LARGE, and those of [`ClusterNode::command`].
    pub async fn upload_library(
        &self,
        request: UploadLibraryRequest,
        deadline: Instant,
    ) -> Result<UploadLibraryResponse, Failure> {
        let source = request.source.clone();
        match self.change_and_fence(Kind::UploadLibrary(request), deadline).await? {
            Some(reply::Kind::UploadLibrary(response)) => {
                Ok(UploadLibraryResponse { warnings: lint_warnings(source).await, ..response })
            }
            other => Err(unexpected(other)),
        }
    }

    /// Makes a version the active one, or the canary.
    ///
    /// # Errors
    /// LIBRARY_NOT_FOUND, and those of [`ClusterNode::command`].
    pub async fn activate_library(
        &self,
        request: ActivateLibraryRequest,
        deadline: Instant,
    ) -> Result<ActivateLibraryResponse, Failure> {
        match self.change_and_fence(Kind::ActivateLibrary(request), deadline).await? {
            Some(reply::Kind::ActivateLibrary(response)) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    /// Undoes the last activation.
    ///
    /// # Errors
    /// LIBRARY_NOT_FOUND, NOTHING_TO_ROLL_BACK, and those of [`ClusterNode::command`].
    pub async fn rollback_library(
        &self,
        request: RollbackLibraryRequest,
        deadline: Instant,
    ) -> Result<RollbackLibraryResponse, Failure> {
        match self.change_and_fence(Kind::RollbackLibrary(request), deadline).await? {
            Some(reply::Kind::RollbackLibrary(response)) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    /// Bounds what a library's calls may take of each node.
    ///
    /// # Errors
    /// LIBRARY_NOT_FOUND, and those of [`ClusterNode::command`].
    pub async fn set_library_limits(
        &self,
        request: SetLibraryLimitsRequest,
        deadline: Instant,
    ) -> Result<SetLibraryLimitsResponse, Failure> {
        match self.change_and_fence(Kind::SetLibraryLimits(request), deadline).await? {
            Some(reply::Kind::SetLibraryLimits(response)) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    /// Removes a version, or a library.
    ///
    /// # Errors
    /// LIBRARY_IN_USE, and those of [`ClusterNode::command`].
    pub async fn delete_library(
        &self,
        request: DeleteLibraryRequest,
        deadline: Instant,
    ) -> Result<DeleteLibraryResponse, Failure> {
        match self.change_and_fence(Kind::DeleteLibrary(request), deadline).await? {
            Some(reply::Kind::DeleteLibrary(response)) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    /// Every library.
    ///
    /// # Errors
    /// Those of [`ClusterNode::query`].
    pub async fn list_libraries(&self, deadline: Instant) -> Result<ListLibrariesResponse, Failure> {
        match self.ask_catalog(query::Kind::ListLibraries(ListLibrariesRequest {}), deadline).await? {
            Some(query_result::Kind::ListLibraries(response)) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    /// One library with its source.
    ///
    /// # Errors
    /// LIBRARY_NOT_FOUND, and those of [`ClusterNode::query`].
    pub async fn get_library(
        &self,
        request: GetLibraryRequest,
        deadline: Instant,
    ) -> Result<GetLibraryResponse, Failure> {
        match self.ask_catalog(query::Kind::GetLibrary(request), deadline).await? {
            Some(query_result::Kind::GetLibrary(response)) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    /// Every version of a library, and what was activated.
    ///
    /// # Errors
    /// LIBRARY_NOT_FOUND, and those of [`ClusterNode::query`].
    pub async fn list_library_versions(
        &self,
        request: ListLibraryVersionsRequest,
        deadline: Instant,
    ) -> Result<ListLibraryVersionsResponse, Failure> {
        match self.ask_catalog(query::Kind::ListLibraryVersions(request), deadline).await? {
            Some(query_result::Kind::ListLibraryVersions(response)) => Ok(response),
            other => Err(unexpected(other)),
        }
    }

    pub(crate) async fn ask_catalog(
        &self,
        kind: query::Kind,
        deadline: Instant,
    ) -> Result<Option<query_result::Kind>, Failure> {
        let query = Query { kind: Some(kind), consistency: ReadConsistency::Linearizable.into() };
        Ok(self.query(CATALOG_SHARD, query, deadline, true).await?.value.kind)
    }

    /// Commits a change of the catalog, here or on its leader.
    pub(crate) async fn change_catalog(&self, kind: Kind, deadline: Instant) -> Result<Executed, Failure> {
        let command = Command { kind: Some(kind) };
        cirrus_engine::validate(&command, self.limits())?;
        Ok(self.command_with_index(CATALOG_SHARD, command, deadline, true).await?.value)
    }

    /// As [`ClusterNode::change_catalog`]; then every call evaluated from now on sees the change.
    pub(crate) async fn change_and_fence(&self, kind: Kind, deadline: Instant) -> Result<Option<reply::Kind>, Failure> {
        let executed = self.change_catalog(kind, deadline).await?;
        let required = Kind::RequireCatalog(RequireCatalog { catalog_index: executed.applied_index });
        let command = Command { kind: Some(required) };
        let shards = self.shard_ids()?;
        let told = shards.into_iter().map(|shard_id| self.command(shard_id, command.clone(), deadline, true));
        futures::future::try_join_all(told).await.map_err(|failure| {
            let text = format!("the catalog has the change, but not every shard was told of it: {failure}");
            Failure { reason: Reason::OutcomeUnknown, message: text, ..failure }
        })?;
        Ok(executed.reply.kind)
    }
}

async fn lint_warnings(source: Bytes) -> Vec<LintWarning> {
    let warnings = tokio::task::spawn_blocking(move || cirrus_procedures::lint(&source)).await;
    // Lint does not panic; only a node that stops leaves it undone.
    let warnings = warnings.unwrap_or_default().into_iter();
    let message = |warning: Warning| LintWarning {
        line: warning.line,
        column: warning.column.unwrap_or(0),
        code: warning.code.to_owned(),
        message: warning.message,
    };
    warnings.map(message).collect()
}

pub(crate) fn unexpected(answer: impl std::fmt::Debug) -> Failure {
    Failure::internal(format!("the catalog answered with {answer:?}"))
}
