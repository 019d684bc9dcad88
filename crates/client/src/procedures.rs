//! Procedures, and the cluster's status.

use bytes::Bytes;
use cirrus_proto::v1::{
    ActivateLibraryRequest, ActivateLibraryResponse, CallRequest, CallResponse, DeleteLibraryRequest,
    DeleteScheduleRequest, DeleteScheduleResponse, GetLibraryRequest, GetLibraryResponse, KillCallRequest, Library,
    LibraryLimits, ListLibrariesRequest, ListLibrariesResponse, ListLibraryVersionsRequest,
    ListLibraryVersionsResponse, ListRunningCallsRequest, ListRunningCallsResponse, ListSchedulesRequest,
    ListSchedulesResponse, RollbackLibraryRequest, RollbackLibraryResponse, ScheduleProcedureRequest,
    ScheduleProcedureResponse, SetLibraryLimitsRequest, StatusRequest, StatusResponse, UploadLibraryRequest,
    UploadLibraryResponse,
};
use tonic::Code;

use crate::attempt::{attempt, deadline_header};
use crate::{Client, ClientError};

impl Client {
    /// Runs `procedure` ("library.function" or "library@version.function") on the leader of the key's shard.
    pub async fn call(
        &self,
        procedure: impl Into<String>,
        key: impl Into<Bytes>,
        args: Vec<Bytes>,
    ) -> Result<CallResponse, ClientError> {
        let request = CallRequest { procedure: procedure.into(), key: key.into(), args, ..Default::default() };
        self.execute(request).await
    }

    /// Runs a procedure, with the request's own request id if it has one.
    pub async fn call_with(&self, request: CallRequest) -> Result<CallResponse, ClientError> {
        self.execute(request).await
    }

    /// Stores a source as the next version of its library, and activates it.
    pub async fn upload_library(
        &self,
        name: impl Into<String>,
        source: impl Into<Bytes>,
    ) -> Result<Library, ClientError> {
        let request = UploadLibraryRequest { name: name.into(), source: source.into(), ..Default::default() };
        let answer = self.upload_library_with(request).await?;
        answer.library.ok_or_else(|| ClientError::new(Code::Internal, "the answer names no library"))
    }

    /// Stores a version as the request says.
    pub async fn upload_library_with(
        &self,
        request: UploadLibraryRequest,
    ) -> Result<UploadLibraryResponse, ClientError> {
        self.execute(request).await
    }

    /// Makes a stored version the active one, or the canary.
    pub async fn activate_library(
        &self,
        request: ActivateLibraryRequest,
    ) -> Result<ActivateLibraryResponse, ClientError> {
        self.execute(request).await
    }

    /// Undoes a library's last activation.
    pub async fn rollback_library(
        &self,
        request: RollbackLibraryRequest,
    ) -> Result<RollbackLibraryResponse, ClientError> {
        self.execute(request).await
    }

    /// Bounds what a library's calls may take of each node; what the request leaves out stays. The limits as they are
    /// then.
    pub async fn set_library_limits(&self, request: SetLibraryLimitsRequest) -> Result<LibraryLimits, ClientError> {
        let answer = self.execute(request).await?;
        answer.limits.ok_or_else(|| ClientError::new(Code::Internal, "the answer names no limits"))
    }

    /// Every version of a library, and what was activated when.
    pub async fn list_library_versions(
        &self,
        name: impl Into<String>,
    ) -> Result<ListLibraryVersionsResponse, ClientError> {
        self.execute(ListLibraryVersionsRequest { name: name.into() }).await
    }

    /// All libraries, by name.
    pub async fn list_libraries(&self) -> Result<Vec<Library>, ClientError> {
        Ok(self.list_libraries_with_limits().await?.libraries)
    }

    /// All libraries, by name, and the limits of those that have any.
    pub async fn list_libraries_with_limits(&self) -> Result<ListLibrariesResponse, ClientError> {
        self.execute(ListLibrariesRequest {}).await
    }

    /// A version of a library with its source; 0 stands for the active one.
    pub async fn get_library(&self, name: impl Into<String>, version: u64) -> Result<GetLibraryResponse, ClientError> {
        self.execute(GetLibraryRequest { name: name.into(), version }).await
    }

    /// Removes a version of a library, or, with 0, the library. False where there was none.
    pub async fn delete_library(&self, name: impl Into<String>, version: u64) -> Result<bool, ClientError> {
        let request = DeleteLibraryRequest { name: name.into(), version, request_id: None };
        Ok(self.execute(request).await?.deleted)
    }

    /// The calls that run now, on all nodes.
    pub async fn list_running_calls(&self) -> Result<ListRunningCallsResponse, ClientError> {
        self.execute(ListRunningCallsRequest {}).await
    }

    /// Kills a call that [`Client::list_running_calls`] named. False where it had ended.
    pub async fn kill_call(&self, call_id: impl Into<String>) -> Result<bool, ClientError> {
        Ok(self.execute(KillCallRequest { call_id: call_id.into() }).await?.killed)
    }

    /// Has a procedure called again and again. The same schedule again changes nothing.
    pub async fn schedule_procedure(
        &self,
        request: ScheduleProcedureRequest,
    ) -> Result<ScheduleProcedureResponse, ClientError> {
        self.execute(request).await
    }

    /// Every schedule, with when it runs next and how it last ended.
    pub async fn list_schedules(&self) -> Result<ListSchedulesResponse, ClientError> {
        self.execute(ListSchedulesRequest {}).await
    }

    /// Ends a schedule. It runs no more once this has returned.
    pub async fn delete_schedule(&self, name: impl Into<String>) -> Result<DeleteScheduleResponse, ClientError> {
        self.execute(DeleteScheduleRequest { name: name.into(), request_id: None }).await
    }

    /// The cluster as some node sees it.
    pub async fn status(&self) -> Result<StatusResponse, ClientError> {
        self.execute(StatusRequest {}).await
    }

    /// The cluster as the node of that gRPC address sees it. One attempt.
    pub async fn status_of(&self, address: &str) -> Result<StatusResponse, ClientError> {
        let node = self.router().node(address);
        match attempt(&node, &StatusRequest {}, self.timeout(), deadline_header(self.timeout())).await {
            Ok(answer) => Ok(answer.into_inner()),
            Err(trouble) => Err(trouble.into_error(address, false)),
        }
    }
}
