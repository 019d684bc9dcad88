//! From the log's writer thread back to the runtime, with one wake for all that one fsync completed.
//!
//! A group's core is told of its fsync on the runtime: woken one by one from another thread, each would cost a
//! system call.

use tokio::sync::mpsc;

type Completion = Box<dyn FnOnce() + Send>;

/// Where the writer thread leaves what is to be run. What waits is bounded by the log's queue.
#[derive(Clone)]
pub(crate) struct Completions(mpsc::UnboundedSender<Completion>);

impl Completions {
    /// Runs completions on the present runtime, in order, until every handle is gone.
    pub(crate) fn start() -> Self {
        let (sender, mut completions) = mpsc::unbounded_channel::<Completion>();
        tokio::spawn(async move {
            while let Some(complete) = completions.recv().await {
                complete();
            }
        });
        Completions(sender)
    }

    /// Runs `complete` soon. Once the runtime is gone it is dropped.
    pub(crate) fn run(&self, complete: impl FnOnce() + Send + 'static) {
        let _ = self.0.send(Box::new(complete));
    }
}
