//! A way into a node that a test can close, as a network that fails does.

use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Forwards connections to a node's server. It keeps its address while the node behind it restarts.
pub(super) struct Gateway {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

struct Shared {
    server: Mutex<Option<SocketAddr>>,
    open: watch::Sender<bool>,
}

impl Gateway {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { server: Mutex::new(None), open: watch::Sender::new(false) });
        let task = tokio::spawn(accept(listener, shared.clone()));
        Gateway { address, shared, task }
    }

    pub(super) fn address(&self) -> String {
        self.address.to_string()
    }

    /// Lets connections through to a server.
    pub(super) fn lead_to(&self, server: SocketAddr) {
        *self.shared.server.lock() = Some(server);
        self.open();
    }

    pub(super) fn open(&self) {
        self.shared.open.send_replace(true);
    }

    /// Breaks every connection and lets none through until it is opened.
    pub(super) fn close(&self) {
        self.shared.open.send_replace(false);
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.close();
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    while let Ok((mut inside, _)) = listener.accept().await {
        let mut open = shared.open.subscribe();
        let Some(server) = *shared.server.lock() else { continue };
        if !*open.borrow_and_update() {
            continue;
        }
        tokio::spawn(async move {
            let Ok(mut outside) = TcpStream::connect(server).await else { return };
            inside.set_nodelay(true).unwrap();
            outside.set_nodelay(true).unwrap();
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut inside, &mut outside) => {}
                _ = open.wait_for(|open| !open) => {}
            }
        });
    }
}
