//! Clients that write until they are told to end, while a test hurts the cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use tokio::task::JoinHandle;

use crate::cluster::TestCluster;
use crate::wait::eventually;

/// Clients under way.
pub struct Writers {
    ends: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
    running: Vec<JoinHandle<Result<usize>>>,
}

/// How many writes each client made.
pub struct Made(Vec<usize>);

impl Writers {
    /// Starts clients. Each makes one write after the other by `write`, which is given the client and the write's number: that of
    /// the client's nth write is n times the number of clients, plus the client's.
    pub fn start<W, F>(clients: usize, write: W) -> Writers
    where
        W: Fn(usize, usize) -> F + Clone + Send + 'static,
        F: Future<Output = Result<()>> + Send,
    {
        let (ends, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let run = |client: usize| {
            let (write, ends, acknowledged) = (write.clone(), ends.clone(), acknowledged.clone());
            tokio::spawn(async move {
                let mut made = 0;
                while !ends.load(Ordering::Relaxed) {
                    write(client, made * clients + client).await?;
                    made += 1;
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(made)
            })
        };
        let running = (0..clients).map(run).collect();
        Writers { ends, acknowledged, running }
    }

    /// Waits until so many writes more are acknowledged.
    pub async fn wait_for(&self, more: usize) -> Result<()> {
        let wanted = self.acknowledged.load(Ordering::Relaxed) + more;
        eventually("writes are made", Duration::from_secs(40), async || {
            let made = self.acknowledged.load(Ordering::Relaxed);
            ensure!(made >= wanted, "{made} of {wanted}");
            Ok(())
        })
        .await
    }

    /// Kills the leader of each shard in turn with -9, and starts it again; so many writes are made before each kill, and
    /// before the node returns.
    pub async fn kill_leaders(&self, cluster: &mut TestCluster, shard_ids: &[u32], writes: usize) -> Result<()> {
        for &shard_id in shard_ids {
            self.wait_for(writes).await?;
            let leader = cluster.leader_of_shard(shard_id).await?;
            cluster.kill9(leader).await?;
            self.wait_for(writes).await?;
            cluster.restart(leader).await?;
        }
        Ok(())
    }

    /// Tells the clients to end. Fails where a write failed: with request ids and 30 seconds, every one has an answer.
    pub async fn end(self) -> Result<Made> {
        self.ends.store(true, Ordering::Relaxed);
        let mut made = Vec::with_capacity(self.running.len());
        for client in self.running {
            made.push(client.await?.context("a write failed")?);
        }
        Ok(Made(made))
    }
}

impl Made {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.iter().sum()
    }

    /// The numbers of the writes that some clients made, in order.
    pub fn numbers_of(&self, is_of: impl Fn(usize) -> bool) -> Vec<i64> {
        let clients = self.0.len();
        let of = self.0.iter().enumerate().filter(|&(client, _)| is_of(client));
        let mut numbers: Vec<_> =
            of.flat_map(|(client, &made)| (0..made).map(move |nth| (nth * clients + client) as i64)).collect();
        numbers.sort_unstable();
        numbers
    }
}
