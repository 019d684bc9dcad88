//! The gRPC side: which services there are, and what connections and messages may take.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use cirrus_proto::internal::v1::node_server::NodeServer;
use cirrus_proto::v1::cluster_server::ClusterServer;
use cirrus_proto::v1::key_value_client::KeyValueClient;
use cirrus_proto::v1::key_value_server::{KeyValueServer, SERVICE_NAME as KEY_VALUE_SERVICE};
use cirrus_proto::v1::procedures_server::ProceduresServer;
use cirrus_proto::v1::sql_server::SqlServer;
use futures::future::{BoxFuture, Either};
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::{Channel, Server};
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::{HealthReporter, HealthService};
use tower_service::Service;

use crate::cluster::ClusterService;
use crate::edge::Edge;
use crate::key_value::KeyValueService;
use crate::logs::Logs;
use crate::node::NodeService;
use crate::procedures::ProceduresService;
use crate::sql::SqlService;
use crate::verify::Verifications;

/// The largest message of the public services. Far above the limits on what is in it, so that a value that is
/// too large meets the limit that names it.
pub(crate) const MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What a peer may send on one request, and on one connection, before this side has read it.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// A client that is silent for this long is asked for a sign of life, and given up after the timeout.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// Headers of one request, bytes.
const HEADER_BYTES_MAX: u32 = 16 * 1024;

/// A server with its connections bounded, without services yet.
pub(crate) fn server(streams_per_connection: u32) -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(streams_per_connection)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .http2_adaptive_window(Some(false))
        .http2_max_header_list_size(HEADER_BYTES_MAX)
}

/// All services. Nearly every request is for the first, and goes there without the router, which boxes and copies.
#[derive(Clone)]
pub(crate) struct Services {
    key_value: KeyValueServer<KeyValueService>,
    others: Routes,
}

impl Service<http::Request<Body>> for Services {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Either<
        BoxFuture<'static, Result<Self::Response, Infallible>>,
        <Routes as Service<http::Request<Body>>>::Future,
    >;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        // Neither keeps anybody waiting: admission happens in the services.
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = request.uri().path().split('/').nth(1);
        if service == Some(KEY_VALUE_SERVICE) {
            Either::Left(self.key_value.call(request))
        } else {
            Either::Right(self.others.call(request))
        }
    }
}

/// All services.
pub(crate) fn services(
    edge: &Arc<Edge>,
    key_value: KeyValueService,
    logs: Logs,
    verifications: Verifications,
    sql: SqlService,
    health: HealthReporter,
) -> Result<Services, tonic_reflection::server::Error> {
    let procedures = ProceduresService::new(Arc::clone(edge), logs);
    let cluster = ClusterService::new(Arc::clone(edge), verifications);
    let node = NodeService::new(Arc::clone(edge));
    let others = Routes::new(ProceduresServer::new(procedures).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(SqlServer::new(sql).max_decoding_message_size(MESSAGE_BYTES_MAX))
        .add_service(ClusterServer::new(cluster))
        .add_service(NodeServer::new(node).max_decoding_message_size(cirrus_replication::MESSAGE_BYTES_MAX))
        .add_service(HealthServer::new(HealthService::from_health_reporter(health)))
        .add_service(reflection().build_v1()?)
        // What most released clients ask for.
        .add_service(reflection().build_v1alpha()?);
    let key_value = KeyValueServer::new(key_value).max_decoding_message_size(MESSAGE_BYTES_MAX);
    Ok(Services { key_value, others: others.prepare() })
}

fn reflection() -> tonic_reflection::server::Builder<'static> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(cirrus_proto::PUBLIC_FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

/// A client of another node's public service, with the same bounds.
pub(crate) fn key_value_client(channel: Channel) -> KeyValueClient<Channel> {
    KeyValueClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX)
}
