//! The servers themselves: they start, answer, fall and come back.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::cluster::Cluster;

const OPTIONS: u8 = 0x05;
const SUPPORTED: u8 = 0x06;

/// Asks a node, in CQL's protocol version 4, what it supports; the opcode and body of its answer.
async fn ask_options(node: &str) -> std::io::Result<(u8, Vec<u8>)> {
    let mut stream = TcpStream::connect(node).await?;
    stream.write_all(&[4, 0, 0, 0, OPTIONS, 0, 0, 0, 0]).await?;
    let mut head = [0; 9];
    stream.read_exact(&mut head).await?;
    let length = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
    let mut body = vec![0; usize::try_from(length).expect("a small answer")];
    stream.read_exact(&mut body).await?;
    Ok((head[4], body))
}

async fn answers(node: &str) {
    let (opcode, body) = ask_options(node).await.expect("an answer");
    assert_eq!(opcode, SUPPORTED, "{node}");
    let supported = String::from_utf8_lossy(&body);
    assert!(supported.contains("CQL_VERSION"), "{node}: {supported}");
}

/// How many nodes nodetool sees up and normal, and how many down.
async fn up_and_down(cluster: &Cluster) -> (usize, usize) {
    let status = cluster.nodetool(1, &["status"]).await;
    let count = |state: &str| status.lines().filter(|l| l.starts_with(state)).count();
    (count("UN "), count("DN "))
}

#[tokio::test]
async fn the_shared_cluster_answers() {
    let Some(cluster) = Cluster::shared("the_shared_cluster_answers").await else {
        return;
    };
    for node in &cluster.nodes {
        answers(node).await;
    }
    let (one, two) = (cluster.fresh_keyspace_name(), cluster.fresh_keyspace_name());
    assert_ne!(one, two);
    assert!(one.len() < 48, "Cassandra takes no longer name than {one}");
    if cluster.is_own() {
        assert_eq!(up_and_down(cluster).await, (1, 0));
        cluster.flush_and_compact("system_auth").await;
    }
}

#[tokio::test]
async fn a_node_of_three_is_killed_and_comes_back() {
    let Some(cluster) = Cluster::start("a_node_of_three_is_killed_and_comes_back", 3).await else {
        return;
    };
    assert_eq!(up_and_down(&cluster).await, (3, 0));
    cluster.kill(3).await;
    let refused = ask_options(&cluster.nodes[2]).await.map(|_| ());
    refused.expect_err("a killed node does not answer");
    answers(&cluster.nodes[0]).await;

    cluster.restart(3).await;
    answers(&cluster.nodes[2]).await;
    assert_eq!(up_and_down(&cluster).await, (3, 0));

    cluster.pause(2).await;
    let paused = ask_options(&cluster.nodes[1]);
    let waited = tokio::time::timeout(std::time::Duration::from_millis(300), paused).await;
    waited.expect_err("a paused node does not answer");
    cluster.resume(2).await;
    answers(&cluster.nodes[1]).await;
}
