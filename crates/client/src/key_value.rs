//! The key-value requests. Each has a short form and, ending in `_with`, one that takes the whole message.

use bytes::Bytes;
use cirrus_proto::v1::{
    BatchRequest, BatchResponse, DeleteRequest, DeleteResponse, GetRequest, GetResponse, IncrementRequest,
    IncrementResponse, PutRequest, PutResponse, ScanRequest, TransactRequest, TransactResponse, WriteOperation,
};

use crate::{Client, ClientError, Scan};

impl Client {
    /// The value of a key, linearizable.
    pub async fn get(&self, key: impl Into<Bytes>) -> Result<GetResponse, ClientError> {
        self.execute(GetRequest { key: key.into(), ..Default::default() }).await
    }

    /// The value of a key, as fresh as the request asks.
    pub async fn get_with(&self, request: GetRequest) -> Result<GetResponse, ClientError> {
        self.execute(request).await
    }

    /// Stores a value without expiry or condition.
    pub async fn put(&self, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Result<PutResponse, ClientError> {
        self.execute(PutRequest { key: key.into(), value: value.into(), ..Default::default() }).await
    }

    /// Stores a value with the request's expiry, flags and condition.
    pub async fn put_with(&self, request: PutRequest) -> Result<PutResponse, ClientError> {
        self.execute(request).await
    }

    /// Removes a key.
    pub async fn delete(&self, key: impl Into<Bytes>) -> Result<DeleteResponse, ClientError> {
        self.execute(DeleteRequest { key: key.into(), ..Default::default() }).await
    }

    /// Removes a key if the request's condition holds.
    pub async fn delete_with(&self, request: DeleteRequest) -> Result<DeleteResponse, ClientError> {
        self.execute(request).await
    }

    /// Adds to a number.
    pub async fn increment(&self, key: impl Into<Bytes>, delta: i64) -> Result<IncrementResponse, ClientError> {
        self.execute(IncrementRequest { key: key.into(), delta, ..Default::default() }).await
    }

    /// Adds to a number; may give the key an expiry if it creates it.
    pub async fn increment_with(&self, request: IncrementRequest) -> Result<IncrementResponse, ClientError> {
        self.execute(request).await
    }

    /// Several writes of one shard, all or none.
    pub async fn batch(&self, operations: Vec<WriteOperation>) -> Result<BatchResponse, ClientError> {
        self.execute(BatchRequest { operations, request_id: None }).await
    }

    /// Compares, then runs one of two lists of operations, atomically, on one shard.
    pub async fn transact(&self, request: TransactRequest) -> Result<TransactResponse, ClientError> {
        self.execute(request).await
    }

    /// Pairs in key order over all shards. The scan goes on behind the last pair read where its node is lost.
    /// The client's timeout bounds the wait for each page, not the whole scan.
    pub fn scan(&self, request: ScanRequest) -> Scan {
        Scan::new(self.clone(), request)
    }
}
