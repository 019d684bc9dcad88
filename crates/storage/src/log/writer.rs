//! The one thread that writes the node's log.
//!
//! It takes whatever waits, of all shards, as one record with one fsync, then tells everyone in order. While
//! it waits for the disk the next batch gathers, so the batch size follows the load: at one client it is one
//! operation and one fsync.
//!
//! Every batch is fsynced before the next is written, those of lazy operations too. [`super::recovery`] relies on
//! it to tell a torn tail from damage.

use std::sync::Arc;

use super::Core;
use super::appender::Appender;
use super::queue::Operation;
use crate::StorageError;

fn run(core: &Core, mut appender: Appender) {
    let _guard = FailOnPanic(core);
    let mut batch = Vec::new();
    while let Some(sequence) = core.queue.take(&mut batch) {
        let bytes = batch.iter().map(Operation::bytes).sum();
        match appender.write(core, &batch, bytes) {
            Ok(()) => {
                core.cache.written(sequence);
                core.queue.release(bytes);
                for operation in batch.drain(..) {
                    operation.complete(Ok(()));
                }
                core.evict();
            }
            Err(error) => {
                tracing::error!(%error, "the node's log failed; no shard of this node can go on");
                metrics::counter!("cirrus_log_failures_total").increment(1);
                let abandoned = core.queue.fail(error.clone());
                for operation in batch.drain(..).chain(abandoned) {
                    operation.complete(Err(error.clone()));
                }
                return;
            }
        }
    }
}

/// A callback that panics must not leave everyone else waiting for a thread that is gone.
struct FailOnPanic<'core>(&'core Core);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let error = StorageError::Failed("the log's writer thread panicked".to_owned());
            for operation in self.0.queue.fail(error.clone()) {
                operation.complete(Err(error.clone()));
            }
        }
    }
}

/// Starts the thread.
pub(super) fn spawn(core: Arc<Core>, appender: Appender) -> Result<std::thread::JoinHandle<()>, StorageError> {
    std::thread::Builder::new()
        .name("cirrus-log".to_owned())
        .spawn(move || run(&core, appender))
        .map_err(|error| StorageError::Failed(format!("start the log's writer thread: {error}")))
}
