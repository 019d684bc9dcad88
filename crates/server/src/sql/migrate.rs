//! `Sql.MigrateDatabases`: a walk over a dbname's databases, for as long as somebody watches it.

use std::sync::Arc;

use cirrus_cluster::sql::MigrationProgress;
use cirrus_proto::Failure;
use cirrus_proto::v1::{SqlMigrateDatabasesRequest, SqlMigrateDatabasesResponse};
use futures::FutureExt as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Status};

use crate::admission::Admission;
use crate::edge::{Edge, code_of};
use crate::observation::Rpc;

const RATE_DEFAULT: u32 = 100;
const RATE_MAX: u32 = 10_000;

pub(super) fn start(
    edge: &Arc<Edge>,
    migrations: &Admission,
    rpc: Arc<Rpc>,
    request: Request<SqlMigrateDatabasesRequest>,
) -> Result<ReceiverStream<Result<SqlMigrateDatabasesResponse, Status>>, Failure> {
    let observation = rpc.begin();
    let SqlMigrateDatabasesRequest { dbname, databases_per_second } = request.into_inner();
    let rate = match databases_per_second {
        0 => Ok(RATE_DEFAULT),
        rate if rate <= RATE_MAX => Ok(rate),
        rate => Err(Failure::invalid_field("databases_per_second", format!("{rate} is above the limit of {RATE_MAX}"))),
    };
    let admitted = rate.and_then(|rate| Ok((rate, migrations.admit()?)));
    observation.answer(code_of(&admitted));
    let (rate, admitted) = admitted?;
    let (messages, stream) = mpsc::channel(1);
    let edge = Arc::clone(edge);
    tokio::spawn(async move {
        let _admitted = admitted;
        let progress = |made| {
            let messages = messages.clone();
            async move { messages.send(Ok(message(made, false))).await.is_ok() }.boxed()
        };
        let last = match edge.node.migrate_databases(&dbname, rate, progress).await {
            Ok(made) => Ok(message(made, true)),
            Err(failure) => Err(failure.into()),
        };
        // Whoever went away does not mind.
        let _ = messages.send(last).await;
    });
    Ok(ReceiverStream::new(stream))
}

fn message(made: MigrationProgress, done: bool) -> SqlMigrateDatabasesResponse {
    let MigrationProgress { examined, upgraded, failed } = made;
    SqlMigrateDatabasesResponse { examined, upgraded, failed, done }
}
