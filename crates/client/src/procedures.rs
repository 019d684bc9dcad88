//! Procedures, and the cluster's status.

use bytes::Bytes;
use cirrus_proto::v1::{
    CallRequest, CallResponse, DeleteLibraryRequest, GetLibraryRequest, GetLibraryResponse, Library,
    ListLibrariesRequest, StatusRequest, StatusResponse, UploadLibraryRequest,
};
use tonic::Code;

use crate::attempt::{attempt, deadline_header};
use crate::{Client, ClientError};

impl Client {
    /// Runs `procedure` ("library.function") on the leader of the key's shard.
    pub async fn call(
        &self,
        procedure: impl Into<String>,
        key: impl Into<Bytes>,
        args: Vec<Bytes>,
    ) -> Result<CallResponse, ClientError> {
        self.execute(CallRequest { procedure: procedure.into(), key: key.into(), args, request_id: None }).await
    }

    /// Runs a procedure, with the request's own request id if it has one.
    pub async fn call_with(&self, request: CallRequest) -> Result<CallResponse, ClientError> {
        self.execute(request).await
    }

    /// Stores a library's source, replacing the one of that name.
    pub async fn upload_library(
        &self,
        name: impl Into<String>,
        source: impl Into<Bytes>,
    ) -> Result<Library, ClientError> {
        let request = UploadLibraryRequest { name: name.into(), source: source.into(), request_id: None };
        let answer = self.execute(request).await?;
        answer.library.ok_or_else(|| ClientError::new(Code::Internal, "the answer names no library"))
    }

    /// All libraries, by name.
    pub async fn list_libraries(&self) -> Result<Vec<Library>, ClientError> {
        Ok(self.execute(ListLibrariesRequest {}).await?.libraries)
    }

    /// A library with its source.
    pub async fn get_library(&self, name: impl Into<String>) -> Result<GetLibraryResponse, ClientError> {
        self.execute(GetLibraryRequest { name: name.into() }).await
    }

    /// Removes a library. False where there was none.
    pub async fn delete_library(&self, name: impl Into<String>) -> Result<bool, ClientError> {
        Ok(self.execute(DeleteLibraryRequest { name: name.into(), request_id: None }).await?.deleted)
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
