//! `cirrus serve`

use std::io::Read as _;
use std::process::ExitCode;
use std::time::Duration;

use cirrus_server::{Flags, ServerConfig};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::Outcome;
use super::signals::StopSignals;
use crate::arguments::ServeArgs;
use crate::failure::CommandError;
use crate::idle_polling;
use crate::scheduling::{processors, set_policy, worker_threads};

pub(crate) fn run(args: &ServeArgs) -> Outcome {
    let config = config(args)?;
    // Before any other thread is started: they inherit it.
    set_policy(config.scheduling)?;
    runtime(&config)?.block_on(serve(config, args.exit_with_parent))
}

/// The node's configuration, from all its layers.
fn config(args: &ServeArgs) -> Result<ServerConfig, CommandError> {
    let flags = Flags {
        node_id: args.node_id,
        listen: args.listen.clone(),
        http_listen: args.http_listen.clone(),
        advertise: args.advertise.clone(),
        data_dir: args.data_dir.clone(),
        join: args.join.clone(),
        shards: args.shards,
        worker_threads: args.worker_threads,
        scheduling: args.scheduling.map(Into::into),
    };
    ServerConfig::load(args.config.as_deref(), &flags).map_err(|error| CommandError::local(error.to_string()))
}

/// A runtime for a node. One thread alone needs no other to be woken, and no work to be stolen.
fn runtime(config: &ServerConfig) -> std::io::Result<Runtime> {
    let threads = match config.worker_threads {
        0 => worker_threads(processors()),
        threads => threads,
    };
    match threads {
        1 => idle_polling::runtime(Duration::from_micros(config.idle_poll_us)),
        threads => Builder::new_multi_thread().worker_threads(threads).enable_all().build(),
    }
}

async fn serve(config: ServerConfig, exit_with_parent: bool) -> Outcome {
    let mut signals = StopSignals::listen()?;
    let parent = exit_with_parent.then(parent_end).transpose()?;
    let stop = async move {
        match parent {
            None => signals.next().await,
            Some(parent) => tokio::select! {
                () = signals.next() => {}
                _ = parent => {}
            },
        }
    };
    cirrus_server::run(config, stop).await.map_err(|error| CommandError::local(error.to_string()))?;
    Ok(ExitCode::SUCCESS)
}

/// Ends when standard input does. The parent holds the other end of that pipe and never writes to it, so
/// it ends when the parent does, however that happens. The thread is not the runtime's: a read that never
/// returns must not hold up the end of the process.
fn parent_end() -> std::io::Result<oneshot::Receiver<()>> {
    let (gone, parent) = oneshot::channel();
    std::thread::Builder::new().name("parent-watch".to_owned()).spawn(move || {
        let mut rest = [0; 64];
        let mut stdin = std::io::stdin();
        while stdin.read(&mut rest).is_ok_and(|count| count > 0) {}
        // The receiver is gone where the process stops anyway.
        let _ = gone.send(());
    })?;
    Ok(parent)
}
