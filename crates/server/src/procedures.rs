//! The service `Procedures`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cirrus_cluster::Routed;
use cirrus_engine::schedules;
use cirrus_proto::internal::v1::{Command, command, query, query_result, reply};
use cirrus_proto::v1::procedures_server::Procedures;
use cirrus_proto::v1::{
    ActivateLibraryRequest, ActivateLibraryResponse, CallRequest, CallResponse, DeleteLibraryRequest,
    DeleteLibraryResponse, DeleteScheduleRequest, DeleteScheduleResponse, FollowLogsRequest, GetLibraryRequest,
    GetLibraryResponse, KillCallRequest, KillCallResponse, ListLibrariesRequest, ListLibrariesResponse,
    ListLibraryVersionsRequest, ListLibraryVersionsResponse, ListRunningCallsRequest, ListRunningCallsResponse,
    ListSchedulesRequest, ListSchedulesResponse, RollbackLibraryRequest, RollbackLibraryResponse,
    ScheduleProcedureRequest, ScheduleProcedureResponse, SetLibraryLimitsRequest, SetLibraryLimitsResponse,
    UploadLibraryRequest, UploadLibraryResponse,
};
use cirrus_proto::{Failure, Reason};
use tonic::{Request, Response, Status};
use tracing::Instrument as _;

use crate::edge::{Arrival, Edge, mismatched_reply, read_span, reply_kind, request_span};
use crate::logs::{Events, Logs};
use crate::observation::Rpc;

/// How long a list of running calls waits for each node.
const PATIENCE: Duration = Duration::from_secs(1);

/// Serves procedure libraries, calls and schedules.
pub(crate) struct ProceduresService {
    edge: Arc<Edge>,
    logs: Logs,
    upload_library: Rpc,
    activate_library: Rpc,
    rollback_library: Rpc,
    set_library_limits: Rpc,
    list_libraries: Rpc,
    list_library_versions: Rpc,
    get_library: Rpc,
    delete_library: Rpc,
    call: Rpc,
    list_running_calls: Rpc,
    kill_call: Rpc,
    schedule_procedure: Rpc,
    list_schedules: Rpc,
    delete_schedule: Rpc,
}

impl ProceduresService {
    pub(crate) fn new(edge: Arc<Edge>, logs: Logs) -> Self {
        ProceduresService {
            edge,
            logs,
            upload_library: Rpc::new("Procedures/UploadLibrary"),
            activate_library: Rpc::new("Procedures/ActivateLibrary"),
            rollback_library: Rpc::new("Procedures/RollbackLibrary"),
            set_library_limits: Rpc::new("Procedures/SetLibraryLimits"),
            list_libraries: Rpc::new("Procedures/ListLibraries"),
            list_library_versions: Rpc::new("Procedures/ListLibraryVersions"),
            get_library: Rpc::new("Procedures/GetLibrary"),
            delete_library: Rpc::new("Procedures/DeleteLibrary"),
            call: Rpc::new("Procedures/Call"),
            list_running_calls: Rpc::new("Procedures/ListRunningCalls"),
            kill_call: Rpc::new("Procedures/KillCall"),
            schedule_procedure: Rpc::new("Procedures/ScheduleProcedure"),
            list_schedules: Rpc::new("Procedures/ListSchedules"),
            delete_schedule: Rpc::new("Procedures/DeleteSchedule"),
        }
    }
}

/// An answer that names no leader to go to: libraries and schedules are cluster-wide.
fn anywhere<T>(value: T) -> Routed<T> {
    Routed { value, leader_address: None }
}

#[tonic::async_trait]
impl Procedures for ProceduresService {
    type FollowLogsStream = Events;

    async fn upload_library(
        &self,
        request: Request<UploadLibraryRequest>,
    ) -> Result<Response<UploadLibraryResponse>, Status> {
        let node = &self.edge.node;
        let handle = |arrival: Arrival, request| async move {
            node.upload_library(request, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.upload_library, request, handle).await
    }

    async fn activate_library(
        &self,
        request: Request<ActivateLibraryRequest>,
    ) -> Result<Response<ActivateLibraryResponse>, Status> {
        let node = &self.edge.node;
        let handle = |arrival: Arrival, request| async move {
            node.activate_library(request, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.activate_library, request, handle).await
    }

    async fn rollback_library(
        &self,
        request: Request<RollbackLibraryRequest>,
    ) -> Result<Response<RollbackLibraryResponse>, Status> {
        let node = &self.edge.node;
        let handle = |arrival: Arrival, request| async move {
            node.rollback_library(request, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.rollback_library, request, handle).await
    }

    async fn list_library_versions(
        &self,
        request: Request<ListLibraryVersionsRequest>,
    ) -> Result<Response<ListLibraryVersionsResponse>, Status> {
        let node = &self.edge.node;
        let handle = |arrival: Arrival, request| async move {
            node.list_library_versions(request, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.list_library_versions, request, handle).await
    }

    async fn set_library_limits(
        &self,
        request: Request<SetLibraryLimitsRequest>,
    ) -> Result<Response<SetLibraryLimitsResponse>, Status> {
        let node = &self.edge.node;
        let handle = |arrival: Arrival, request| async move {
            node.set_library_limits(request, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.set_library_limits, request, handle).await
    }

    async fn list_libraries(
        &self,
        request: Request<ListLibrariesRequest>,
    ) -> Result<Response<ListLibrariesResponse>, Status> {
        let node = &self.edge.node;
        let handle = |arrival: Arrival, _| async move { node.list_libraries(arrival.deadline).await.map(anywhere) };
        self.edge.unary(&self.list_libraries, request, handle).await
    }

    async fn get_library(&self, request: Request<GetLibraryRequest>) -> Result<Response<GetLibraryResponse>, Status> {
        let node = &self.edge.node;
        let handle = |arrival: Arrival, request: GetLibraryRequest| async move {
            node.get_library(request, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.get_library, request, handle).await
    }

    async fn delete_library(
        &self,
        request: Request<DeleteLibraryRequest>,
    ) -> Result<Response<DeleteLibraryResponse>, Status> {
        let node = &self.edge.node;
        let handle = |arrival: Arrival, request| async move {
            node.delete_library(request, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.delete_library, request, handle).await
    }

    async fn list_running_calls(
        &self,
        request: Request<ListRunningCallsRequest>,
    ) -> Result<Response<ListRunningCallsResponse>, Status> {
        let node = &self.edge.node;
        // A node that does not answer must not use up the time of the answer.
        let handle = |arrival: Arrival, _| async move {
            let patience = arrival.deadline.saturating_duration_since(Instant::now()) / 2;
            Ok(anywhere(node.list_running_calls(Instant::now() + patience.min(PATIENCE)).await))
        };
        self.edge.unary(&self.list_running_calls, request, handle).await
    }

    async fn follow_logs(&self, request: Request<FollowLogsRequest>) -> Result<Response<Events>, Status> {
        Ok(Response::new(self.logs.follow(request.into_inner())?))
    }

    async fn kill_call(&self, request: Request<KillCallRequest>) -> Result<Response<KillCallResponse>, Status> {
        let node = &self.edge.node;
        let handle = |arrival: Arrival, request| async move {
            node.kill_call(request, arrival.deadline, true).await.map(anywhere)
        };
        self.edge.unary(&self.kill_call, request, handle).await
    }

    async fn schedule_procedure(
        &self,
        request: Request<ScheduleProcedureRequest>,
    ) -> Result<Response<ScheduleProcedureResponse>, Status> {
        let node = &self.edge.node;
        let handle = |arrival: Arrival, request: ScheduleProcedureRequest| async move {
            // What it is to call must be a call: its keys in one shard, for example.
            self.edge.route(&Command { kind: Some(command::Kind::Call(schedules::call(&request))) })?;
            node.schedule_procedure(request, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.schedule_procedure, request, handle).await
    }

    async fn list_schedules(
        &self,
        request: Request<ListSchedulesRequest>,
    ) -> Result<Response<ListSchedulesResponse>, Status> {
        let node = &self.edge.node;
        let handle = |arrival: Arrival, _| async move { node.list_schedules(arrival.deadline).await.map(anywhere) };
        self.edge.unary(&self.list_schedules, request, handle).await
    }

    async fn delete_schedule(
        &self,
        request: Request<DeleteScheduleRequest>,
    ) -> Result<Response<DeleteScheduleResponse>, Status> {
        let node = &self.edge.node;
        let handle = |arrival: Arrival, request| async move {
            node.delete_schedule(request, arrival.deadline).await.map(anywhere)
        };
        self.edge.unary(&self.delete_schedule, request, handle).await
    }

    async fn call(&self, request: Request<CallRequest>) -> Result<Response<CallResponse>, Status> {
        self.edge.unary(&self.call, request, |arrival, request| self.run_call(arrival, request)).await
    }
}

impl ProceduresService {
    /// A procedure that is declared read-only is a read, which any replica may serve; others are commands.
    async fn run_call(&self, arrival: Arrival, request: CallRequest) -> Result<Routed<CallResponse>, Failure> {
        let any_replica = request.consistency != 0;
        let is_read = !request.dry_run && (any_replica || self.edge.node.is_read_only(&request));
        let command = Command { kind: Some(command::Kind::Call(request)) };
        let shard_id = self.edge.route(&command)?;
        if is_read && let Some(command::Kind::Call(request)) = &command.kind {
            let span = read_span(self.call.name(), shard_id);
            let (kind, consistency) = (query::Kind::Call(request.clone()), request.consistency);
            match self.edge.query(shard_id, kind, consistency, arrival).instrument(span).await {
                Ok(Routed { value: query_result::Kind::Call(value), leader_address }) => {
                    return Ok(Routed { value, leader_address });
                }
                Ok(_) => return Err(mismatched_reply()),
                // This node's catalog is behind: the version that runs now declares otherwise.
                Err(failure) if failure.reason == Reason::NotReadOnly && !any_replica => {}
                Err(failure) => return Err(failure),
            }
        }
        let span = request_span(self.call.name(), shard_id, &command);
        let (node, may_forward) = (&self.edge.node, !arrival.forwarded);
        let routed = node.command(shard_id, command, arrival.deadline, may_forward).instrument(span).await?;
        match reply_kind(routed.value)? {
            reply::Kind::Call(value) => Ok(Routed { value, leader_address: routed.leader_address }),
            _ => Err(mismatched_reply()),
        }
    }
}
