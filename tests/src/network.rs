//! The wires between the nodes of a test cluster, which can be cut.
//!
//! Each node advertises the address of a relay, so everything that other nodes send it passes here. A relay
//! has to know which node is at the other end of a connection, and all of them come from 127.0.0.1: it
//! looks the connection's socket up in `/proc/net/tcp` and finds the process that holds it.
//!
//! A cut wire is silent, as one that was pulled out: bytes stop, connections stay open, new ones are taken and
//! left without an answer. What was sent meanwhile arrives late, after the wire is mended. Connections of
//! others (the test's own clients) are never cut.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, Result};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};

/// From one node to another: the direction in which bytes travel.
type Direction = (u64, u64);

/// The relays of a cluster. Dropping it closes them all.
pub struct Network {
    addresses: BTreeMap<u64, SocketAddr>,
    cut: watch::Sender<BTreeSet<Direction>>,
    processes: Arc<Mutex<BTreeMap<u64, u32>>>,
    _stop: oneshot::Sender<()>,
}

impl Network {
    /// A relay in front of each of these nodes' gRPC addresses.
    pub fn start(nodes: &BTreeMap<u64, SocketAddr>) -> Result<Network> {
        let processes = Arc::new(Mutex::new(BTreeMap::new()));
        let (cut, cut_watch) = watch::channel(BTreeSet::new());
        let (stop, stopped) = oneshot::channel::<()>();
        let mut addresses = BTreeMap::new();
        let mut relays = Vec::new();
        for (&node_id, &target) in nodes {
            let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("a relay's port")?;
            listener.set_nonblocking(true)?;
            addresses.insert(node_id, listener.local_addr()?);
            relays.push((listener, Relay { node_id, target, processes: processes.clone(), cut: cut_watch.clone() }));
        }
        // A thread of its own, so that a busy test does not slow the wires down.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("network".to_owned()).spawn(move || {
            runtime.block_on(async move {
                for (listener, relay) in relays {
                    match TcpListener::from_std(listener) {
                        Ok(listener) => drop(tokio::spawn(relay.run(listener))),
                        Err(error) => eprintln!("the relay of node {} did not start: {error}", relay.node_id),
                    }
                }
                // Ends when the network is dropped.
                let _ = stopped.await;
            });
        })?;
        Ok(Network { addresses, cut, processes, _stop: stop })
    }

    /// Where other nodes reach this one.
    pub fn address(&self, node_id: u64) -> Option<SocketAddr> {
        self.addresses.get(&node_id).copied()
    }

    /// Tells which process a node is now, so that its connections are recognised.
    pub fn set_process(&self, node_id: u64, process_id: u32) {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner).insert(node_id, process_id);
    }

    /// Cuts a node off from all others, both ways.
    pub fn isolate(&self, node_id: u64) {
        self.cut.send_modify(|cut| {
            for &other in self.addresses.keys().filter(|&&other| other != node_id) {
                cut.extend([(node_id, other), (other, node_id)]);
            }
        });
    }

    /// Cuts one direction only: what `from` sends no longer reaches `to`.
    pub fn cut(&self, from: u64, to: u64) {
        self.cut.send_modify(|cut| cut.extend([(from, to)]));
    }

    /// Mends all wires.
    pub fn mend(&self) {
        self.cut.send_modify(BTreeSet::clear);
    }
}

/// What stands in front of one node.
#[derive(Clone)]
struct Relay {
    node_id: u64,
    target: SocketAddr,
    processes: Arc<Mutex<BTreeMap<u64, u32>>>,
    cut: watch::Receiver<BTreeSet<Direction>>,
}

impl Relay {
    async fn run(self, listener: TcpListener) {
        loop {
            match listener.accept().await {
                Ok((incoming, peer)) => drop(tokio::spawn(self.clone().carry(incoming, peer))),
                Err(error) => {
                    eprintln!("the relay of node {} cannot accept: {error}", self.node_id);
                    tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn carry(self, incoming: TcpStream, peer: SocketAddr) {
        let source = self.node_behind(peer, incoming.local_addr().ok());
        let there = source.map(|source| (source, self.node_id));
        let back = source.map(|source| (self.node_id, source));
        let mut cut = self.cut.clone();
        if wait_until_whole(&mut cut, there).await.is_err() {
            return;
        }
        // Where the node is down, dropping the incoming connection tells the caller.
        let Ok(outgoing) = TcpStream::connect(self.target).await else { return };
        let _ = (incoming.set_nodelay(true), outgoing.set_nodelay(true));
        let (incoming_read, incoming_write) = incoming.into_split();
        let (outgoing_read, outgoing_write) = outgoing.into_split();
        // Either side's end is the end of both: a killed process closes all its sockets at once.
        tokio::select! {
            _ = copy(incoming_read, outgoing_write, self.cut.clone(), there) => {}
            _ = copy(outgoing_read, incoming_write, self.cut.clone(), back) => {}
        }
    }

    /// The node whose process holds the other end of a connection.
    fn node_behind(&self, peer: SocketAddr, local: Option<SocketAddr>) -> Option<u64> {
        let inode = socket_inode(peer, local?)?;
        let link = format!("socket:[{inode}]");
        let processes = self.processes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        processes.into_iter().find_map(|(node_id, process_id)| {
            let mut files = std::fs::read_dir(format!("/proc/{process_id}/fd")).ok()?.flatten();
            files
                .any(|file| std::fs::read_link(file.path()).is_ok_and(|target| target.as_os_str() == link.as_str()))
                .then_some(node_id)
        })
    }
}

/// The inode of the socket that is bound to `local_end` and connected to `remote_end`.
fn socket_inode(local_end: SocketAddr, remote_end: SocketAddr) -> Option<u64> {
    let hexadecimal = |address: SocketAddr| match address {
        // The kernel prints the address as a number in the machine's byte order.
        SocketAddr::V4(v4) => Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(v4.ip().octets()), v4.port())),
        SocketAddr::V6(_) => None,
    };
    let (local_end, remote_end) = (hexadecimal(local_end)?, hexadecimal(remote_end)?);
    std::fs::read_to_string("/proc/net/tcp").ok()?.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let found = fields.get(1) == Some(&local_end.as_str()) && fields.get(2) == Some(&remote_end.as_str());
        found.then(|| fields.get(9)?.parse().ok()).flatten()
    })
}

/// Waits until nothing cuts this direction. An error: the network is gone.
async fn wait_until_whole(
    cut: &mut watch::Receiver<BTreeSet<Direction>>,
    direction: Option<Direction>,
) -> Result<(), watch::error::RecvError> {
    match direction {
        None => Ok(()),
        Some(direction) => cut.wait_for(|cut| !cut.contains(&direction)).await.map(drop),
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cut: watch::Receiver<BTreeSet<Direction>>,
    direction: Option<Direction>,
) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::NotConnected);
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let count = from.read(&mut buffer).await?;
        // Also holds back the news that the other side has closed.
        wait_until_whole(&mut cut, direction).await.map_err(gone)?;
        if count == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use std::time::Duration;

    use super::*;

    /// Longer than a byte takes through a relay, shorter than a test should wait.
    const SILENCE: Duration = Duration::from_millis(200);

    async fn byte_arrives(stream: &mut TcpStream, expected: u8) -> bool {
        match tokio::time::timeout(SILENCE, stream.read_u8()).await {
            Ok(byte) => {
                assert_eq!(byte.unwrap(), expected);
                true
            }
            Err(_) => false,
        }
    }

    #[tokio::test]
    async fn each_direction_is_cut_alone_and_nothing_is_lost() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let nodes = BTreeMap::from([(1, server.local_addr().unwrap()), (2, server.local_addr().unwrap())]);
        let network = Network::start(&nodes).unwrap();
        // This process plays node 1 and calls node 2.
        network.set_process(1, std::process::id());
        let mut caller = TcpStream::connect(network.address(2).unwrap()).await.unwrap();
        let (mut called, _) = server.accept().await.unwrap();

        caller.write_u8(1).await.unwrap();
        assert!(byte_arrives(&mut called, 1).await);
        network.cut(1, 2);
        caller.write_u8(2).await.unwrap();
        assert!(!byte_arrives(&mut called, 2).await, "the cut direction carries bytes");
        called.write_u8(3).await.unwrap();
        assert!(byte_arrives(&mut caller, 3).await, "the other direction is cut, too");
        network.mend();
        assert!(byte_arrives(&mut called, 2).await, "what was held back is lost");

        network.isolate(2);
        caller.write_u8(4).await.unwrap();
        called.write_u8(5).await.unwrap();
        assert!(!byte_arrives(&mut called, 4).await && !byte_arrives(&mut caller, 5).await);
        let mut late = TcpStream::connect(network.address(2).unwrap()).await.unwrap();
        late.write_u8(6).await.unwrap();
        assert!(tokio::time::timeout(SILENCE, server.accept()).await.is_err(), "a new connection passes the cut");
        network.mend();
        assert!(byte_arrives(&mut called, 4).await && byte_arrives(&mut caller, 5).await);
        let (mut late_called, _) = server.accept().await.unwrap();
        assert!(byte_arrives(&mut late_called, 6).await);
    }

    #[tokio::test]
    async fn connections_of_others_are_never_cut() {
        let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let nodes = BTreeMap::from([(1, server.local_addr().unwrap()), (2, server.local_addr().unwrap())]);
        let network = Network::start(&nodes).unwrap();
        network.isolate(1);
        let mut caller = TcpStream::connect(network.address(1).unwrap()).await.unwrap();
        caller.write_u8(1).await.unwrap();
        let (mut called, _) = server.accept().await.unwrap();
        assert!(byte_arrives(&mut called, 1).await);
    }
}
