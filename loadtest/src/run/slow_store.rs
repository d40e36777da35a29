//! What makes a store slow, while daemons use it.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use scylla_proxy::{
    Condition, Node, Proxy, Reaction as _, RequestOpcode, RequestReaction, RequestRule,
    RunningProxy, ShardAwareness,
};
use tokio::runtime::Runtime;

use super::Mistake;
use super::cluster::ask;
use super::workers::NODES;
use crate::daemon::free_address;

/// A store that is slow.
pub(super) enum SlowStore {
    /// The embedded one: each `fdatasync`, by which it makes batches durable, takes so much longer.
    Syncs(Duration),
    /// The one of a cluster.
    Node(SlowNode),
}

impl SlowStore {
    /// With `cql` the node of `SCYLLA_NODES`.
    pub fn new(delay: Duration, cql: bool) -> anyhow::Result<Self> {
        Ok(match cql {
            true => Self::Node(SlowNode::start(delay)?),
            false => Self::Syncs(delay),
        })
    }

    /// Puts before a daemon's program what makes its store slow.
    pub fn before(&self, command: &mut Command) {
        match self {
            Self::Syncs(delay) => {
                // The tracer is a process of its own: signals reach the daemon.
                command.args(["strace", "-D", "-f", "-qq", "--seccomp-bpf"]);
                command.args(["-o", "/dev/null", "-e", "signal=none"]);
                command.args(["-e", "trace=fdatasync", "-e"]);
                let micros = delay.as_micros();
                command.arg(format!("inject=fdatasync:delay_exit={micros}"));
            }
            Self::Node(_) => {}
        }
    }

    /// Leads a daemon to it.
    pub fn lead(&self, command: &mut Command) {
        if let Self::Node(node) = self {
            command.env(NODES, node.address.to_string());
        }
    }
}

/// A place before a node where what is asked of it waits.
pub(super) struct SlowNode {
    address: SocketAddr,
    /// They end with this.
    _proxy: RunningProxy,
    _runtime: Runtime,
}

impl SlowNode {
    fn start(delay: Duration) -> anyhow::Result<Self> {
        // A daemon finds other nodes by itself, and would go to them directly.
        let nodes = ask(async |session| {
            let state = session.get_cluster_state();
            let nodes = state.get_nodes_info().iter().map(|node| node.address);
            Ok(nodes.collect::<Vec<_>>())
        });
        let nodes = nodes.map_err(|error| Mistake(format!("{NODES} can't be used: {error:#}")))?;
        let [node] = nodes[..] else {
            let count = nodes.len();
            return Err(Mistake(format!(
                "a slow store is a cluster of one node, and that of {NODES} has {count}"
            ))
            .into());
        };
        let address = free_address()?;
        // Not what a driver asks on its own, on a connection that tells of events.
        let statement = Condition::RequestOpcode(RequestOpcode::Execute)
            .or(Condition::RequestOpcode(RequestOpcode::Batch));
        let of_the_daemon = Condition::not(Condition::ConnectionRegisteredAnyEvent);
        let rule = RequestRule(of_the_daemon.and(statement), RequestReaction::delay(delay));
        let node = Node::builder()
            .real_address(SocketAddr::new(node.ip(), node.port()))
            .proxy_address(address)
            .shard_awareness(ShardAwareness::Unaware)
            .request_rules(vec![rule])
            .build();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let proxy = runtime.block_on(Proxy::new([node]).run());
        Ok(Self {
            address,
            _proxy: proxy.with_context(|| format!("listening on {address}"))?,
            _runtime: runtime,
        })
    }
}
