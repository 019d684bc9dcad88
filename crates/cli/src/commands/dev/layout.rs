//! Who is who in a local cluster: ports, directories, command lines.

use std::ffi::OsString;
use std::path::PathBuf;

use crate::arguments::DevArgs;
use crate::scheduling::worker_threads;

/// One node of a local cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NodePlan {
    pub(crate) node_id: u64,
    /// host:port
    pub(crate) address: String,
    pub(crate) http_address: String,
    pub(crate) log: PathBuf,
    directory: PathBuf,
    /// Node 1 creates the cluster, the others join it there.
    join: Option<String>,
    shards: Option<u32>,
    worker_threads: usize,
}

impl NodePlan {
    /// The nodes in the order of their ids, from 1. They share the machine's processors.
    pub(crate) fn all(args: &DevArgs, processors: usize) -> Vec<NodePlan> {
        let address = |port: u16| format!("127.0.0.1:{port}");
        (1..=args.nodes)
            .map(|number| {
                let directory = args.data_dir.join(format!("node-{number}"));
                NodePlan {
                    node_id: u64::from(number),
                    address: address(args.base_port + number),
                    http_address: address(args.base_port + 80 + number),
                    log: directory.join("node.log"),
                    directory,
                    join: (number > 1).then(|| address(args.base_port + 1)),
                    shards: args.shards,
                    worker_threads: worker_threads(processors / usize::from(args.nodes)),
                }
            })
            .collect()
    }

    /// The arguments of its process.
    pub(crate) fn command_line(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec!["serve".into(), "--exit-with-parent".into()];
        let mut flag = |name: &str, value: OsString| arguments.extend([name.into(), value]);
        flag("--node-id", self.node_id.to_string().into());
        flag("--listen", self.address.clone().into());
        flag("--http-listen", self.http_address.clone().into());
        flag("--data-dir", self.directory.join("data").into());
        if let Some(join) = &self.join {
            flag("--join", join.into());
        }
        if let Some(shards) = self.shards {
            flag("--shards", shards.to_string().into());
        }
        flag("--worker-threads", self.worker_threads.to_string().into());
        flag("--scheduling", "batch".into());
        arguments
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_directories_and_flags_are_those_that_scripts_rely_on() {
        let args = DevArgs { nodes: 3, data_dir: "/d".into(), base_port: 7200, shards: Some(4), ready_timeout_ms: 1 };
        let nodes = NodePlan::all(&args, 16);
        assert_eq!(nodes.len(), 3);
        assert_eq!((nodes[0].address.as_str(), nodes[0].http_address.as_str()), ("127.0.0.1:7201", "127.0.0.1:7281"));
        let line = |node: &NodePlan| node.command_line().join(" ".as_ref()).into_string().unwrap_or_default();
        assert_eq!(
            line(&nodes[0]),
            "serve --exit-with-parent --node-id 1 --listen 127.0.0.1:7201 --http-listen 127.0.0.1:7281 \
             --data-dir /d/node-1/data --shards 4 --worker-threads 5 --scheduling batch"
        );
        assert!(line(&nodes[2]).ends_with(
            "--data-dir /d/node-3/data --join 127.0.0.1:7201 --shards 4 --worker-threads 5 --scheduling batch"
        ));
        assert_eq!(nodes[2].log, PathBuf::from("/d/node-3/node.log"));
    }
}
