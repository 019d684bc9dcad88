//! `cirrus serve`

use std::io::Read as _;
use std::process::ExitCode;

use cirrus_server::{Flags, ServerConfig};
use tokio::sync::oneshot;

use super::Outcome;
use super::signals::StopSignals;
use crate::arguments::ServeArgs;
use crate::failure::CommandError;

pub(crate) async fn run(args: ServeArgs) -> Outcome {
    let ServeArgs { node_id, listen, http_listen, advertise, data_dir, join, shards, config, exit_with_parent } = args;
    let flags = Flags { node_id, listen, http_listen, advertise, data_dir, join, shards };
    let config =
        ServerConfig::load(config.as_deref(), &flags).map_err(|error| CommandError::local(error.to_string()))?;
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
