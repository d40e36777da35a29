//! The relay over a real WebSocket client: cursors, faults, HTTP.

mod elsewhere;

use std::time::{Duration, Instant};

use ciborium::Value as Cbor;
use futures_util::{SinkExt, StreamExt};
use penstock_loadtest::{
    ConnectionFaults, Cursors, DropKind, Oracle, Pace, Refusal, RelayOptions, RelayServer,
    StreamFaults, World, WorldSpec,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

type Client = WebSocketStream<MaybeTlsStream<TcpStream>>;

const SUBSCRIBE: &str = "/xrpc/com.atproto.sync.subscribeRepos";

fn world(seed: u64, events: u64, faults: StreamFaults) -> World {
    World::generate(&WorldSpec {
        seed,
        repos: 10,
        events,
        prefill: 50,
        signatures: penstock_loadtest::Signatures::Random,
        faults,
        ..WorldSpec::default()
    })
}

async fn try_connect(relay: &RelayServer, cursor: Option<u64>) -> Result<Client, Error> {
    let query = cursor.map_or(String::new(), |cursor| format!("?cursor={cursor}"));
    let url = format!("{}{SUBSCRIBE}{query}", relay.url());
    let config = WebSocketConfig::default()
        .max_message_size(Some(16 << 20))
        .max_frame_size(Some(16 << 20));
    let (client, _) =
        tokio_tungstenite::connect_async_with_config(url, Some(config), false).await?;
    Ok(client)
}

async fn connect(relay: &RelayServer, cursor: Option<u64>) -> Client {
    try_connect(relay, cursor).await.unwrap()
}

/// What came, as far as this test cares.
#[derive(Debug, PartialEq)]
enum Got {
    Seq(u64),
    Named(String),
    Text,
    Unreadable,
    End,
    Broken,
}

fn read(payload: &[u8]) -> Got {
    let mut rest = payload;
    let items = (
        ciborium::from_reader::<Cbor, _>(&mut rest),
        ciborium::from_reader::<Cbor, _>(&mut rest),
    );
    let (Ok(_), Ok(Cbor::Map(body))) = items else {
        return Got::Unreadable;
    };
    let field = |name: &str| {
        body.iter()
            .find(|(key, _)| key.as_text() == Some(name))
            .map(|(_, value)| value)
    };
    if let Some(seq) = field("seq").and_then(Cbor::as_integer) {
        return Got::Seq(u64::try_from(seq).unwrap());
    }
    match field("name").or(field("error")).and_then(Cbor::as_text) {
        Some(name) => Got::Named(name.to_owned()),
        None => Got::Unreadable,
    }
}

async fn next(client: &mut Client) -> Got {
    let message = tokio::time::timeout(Duration::from_secs(20), client.next()).await;
    match message.expect("something within 20 seconds") {
        Some(Ok(Message::Binary(payload))) => read(&payload),
        Some(Ok(Message::Text(_))) => Got::Text,
        Some(Ok(Message::Close(_))) | None => Got::End,
        Some(Ok(other)) => panic!("{other:?}"),
        Some(Err(_)) => Got::Broken,
    }
}

async fn next_seq(client: &mut Client) -> u64 {
    match next(client).await {
        Got::Seq(seq) => seq,
        other => panic!("a number, not {other:?}"),
    }
}

/// Reads to the end of the connection; gives the numbers and how it ended.
async fn drain(client: &mut Client) -> (Vec<u64>, Got) {
    let mut seqs = Vec::new();
    loop {
        match next(client).await {
            Got::Seq(seq) => seqs.push(seq),
            Got::Unreadable | Got::Text | Got::Named(_) => {}
            end => return (seqs, end),
        }
    }
}

fn options(cursors: Cursors) -> RelayOptions {
    RelayOptions {
        cursors,
        ..RelayOptions::default()
    }
}

fn faulty(faults: ConnectionFaults) -> RelayOptions {
    RelayOptions {
        faults,
        ..RelayOptions::default()
    }
}

#[tokio::test]
async fn replays_after_or_from_the_cursor() {
    let world = world(1, 300, StreamFaults::default());
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    assert_eq!(
        (
            next_seq(&mut connect(&relay, Some(0)).await).await,
            relay.head()
        ),
        (1, 300)
    );
    let mut client = connect(&relay, Some(100)).await;
    for seq in 101..=300 {
        assert_eq!(next_seq(&mut client).await, seq);
    }
    relay.change(|options| options.cursors.inclusive = true);
    assert_eq!(next_seq(&mut connect(&relay, Some(100)).await).await, 100);
    assert_eq!(relay.cursors(), [Some(0), Some(100), Some(100)]);
    assert_eq!(relay.connections(), 3);
    assert!(relay.frames_sent() >= 200);
}

#[tokio::test]
async fn the_live_head_moves_as_it_is_told() {
    let world = world(2, 300, StreamFaults::default());
    let manual = RelayOptions {
        pace: Pace::Manual,
        published: 10,
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, manual).unwrap();
    let mut live = connect(&relay, None).await;
    // A pong says that the subscription stands.
    live.send(Message::Ping("x".into())).await.unwrap();
    assert!(matches!(live.next().await, Some(Ok(Message::Pong(_)))));
    relay.publish(5);
    assert_eq!(
        (next_seq(&mut live).await, relay.head(), relay.published()),
        (11, 15, 15)
    );
    relay.change(|options| options.pace = Pace::Rate(10_000.0));
    let mut last = 11;
    while last < 300 {
        last += 1;
        assert_eq!(next_seq(&mut live).await, last);
    }
}

#[tokio::test]
async fn slow_consumers_are_told_so() {
    let world = world(4, 20_000, StreamFaults::default());
    let start = RelayOptions {
        pace: Pace::Manual,
        published: 1,
        too_slow: Some(100),
        ..RelayOptions::default()
    };
    let relay = RelayServer::start(&world, start).unwrap();
    let mut client = connect(&relay, Some(0)).await;
    assert_eq!(next_seq(&mut client).await, 1);
    // Once the second one is answered it waits for what is published next.
    for _ in 0..2 {
        client.send(Message::Ping("x".into())).await.unwrap();
        assert!(matches!(client.next().await, Some(Ok(Message::Pong(_)))));
    }
    relay.publish_all();
    let mut last = next(&mut client).await;
    while let Got::Seq(_) = last {
        last = next(&mut client).await;
    }
    assert_eq!(last, Got::Named("ConsumerTooSlow".into()));
    assert_eq!(next(&mut client).await, Got::End);
}

#[tokio::test]
async fn connections_end_and_are_resumed() {
    // A connection ends after at most 150 frames, so one that starts before frame 900 never runs
    // into the live head, where it would wait for ever.
    let (faulty_until, frames) = (900, 1_100);
    let world = world(5, frames, StreamFaults::default());
    for kind in [
        DropKind::Clean,
        DropKind::Reset,
        DropKind::MidFrame,
        DropKind::Any,
    ] {
        let faults = ConnectionFaults {
            drop_every: Some(100),
            drop_kind: kind,
            ..ConnectionFaults::default()
        };
        let relay = RelayServer::start(&world, faulty(faults)).unwrap();
        let mut last = 0;
        while last < frames {
            let (seqs, end) = drain(&mut connect(&relay, Some(last)).await).await;
            assert!(
                seqs.len() <= 150 && (kind != DropKind::Clean || end == Got::End),
                "{seqs:?} {end:?}"
            );
            assert!(
                kind != DropKind::MidFrame || end == Got::Broken || last >= faulty_until,
                "{end:?}"
            );
            for seq in seqs {
                assert_eq!(seq, last + 1);
                last = seq;
            }
            if last >= faulty_until {
                relay.change(|options| options.faults.drop_every = None);
                let mut client = connect(&relay, Some(last)).await;
                while last < frames {
                    last += 1;
                    assert_eq!(next_seq(&mut client).await, last);
                }
            }
        }
        assert!(
            relay.connections() >= 7,
            "{} connections",
            relay.connections()
        );
    }
}

#[tokio::test]
async fn stalls_are_silent_and_end() {
    let world = world(6, 400, StreamFaults::default());
    let stall = ConnectionFaults {
        stall_every: Some(100),
        stall_for: None,
        ..ConnectionFaults::default()
    };
    let relay = RelayServer::start(&world, faulty(stall)).unwrap();
    let mut client = connect(&relay, Some(0)).await;
    let mut last = 0;
    while let Ok(Some(Ok(message))) =
        tokio::time::timeout(Duration::from_millis(300), client.next()).await
    {
        last += u64::from(message.is_binary());
    }
    assert!((50..=150).contains(&last), "{last}");
    relay.disconnect_all();
    assert_eq!(next(&mut client).await, Got::Broken);
    relay.change(|options| options.faults.stall_for = Some(Duration::from_millis(20)));
    let mut client = connect(&relay, Some(last)).await;
    while last < 400 {
        last += 1;
        assert_eq!(next_seq(&mut client).await, last);
    }
}

#[tokio::test]
async fn texts_come_between_frames() {
    let world = world(7, 300, StreamFaults::default());
    let text = ConnectionFaults {
        text_every: Some(50),
        ..ConnectionFaults::default()
    };
    let relay = RelayServer::start(&world, faulty(text)).unwrap();
    let mut client = connect(&relay, Some(0)).await;
    let (mut texts, mut last) = (0, 0);
    while last < 300 {
        match next(&mut client).await {
            Got::Text => texts += 1,
            got => {
                last += 1;
                assert_eq!(got, Got::Seq(last));
            }
        }
    }
    assert!((4..=12).contains(&texts), "{texts}");
}

#[tokio::test]
async fn faults_of_the_stream_arrive() {
    let faults = StreamFaults {
        corrupt: 0.05,
        oversized: 1,
        too_large: 1,
        poison: 1,
        duplicates: 0.05,
        renumbered: 0.05,
        gaps: 0.05,
        reordered: 0.1,
        infos: 0.05,
        ..StreamFaults::default()
    };
    let world = world(8, 1_000, faults);
    let summary = &world.summary;
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let head = relay.head();
    let mut stoppers: Vec<u64> = [&summary.oversized_seqs[..], &summary.poison_seqs].concat();
    stoppers.sort_unstable();
    assert_eq!(stoppers.len(), 2);
    let mut seqs = Vec::new();
    let (mut from, mut infos) = (0, 0);
    for stopper in stoppers {
        // Two attempts at the same cursor fail at the same number.
        for _ in 0..2 {
            let (_, end) = drain(&mut connect(&relay, Some(stopper - 1)).await).await;
            assert_eq!(end, Got::Broken);
        }
        if from < stopper - 1 {
            let mut client = connect(&relay, Some(from)).await;
            loop {
                match next(&mut client).await {
                    Got::Seq(seq) => seqs.push(seq),
                    Got::Named(_) => infos += 1,
                    Got::Broken => break,
                    _ => {}
                }
            }
        }
        from = stopper;
    }
    let mut client = connect(&relay, Some(from)).await;
    while seqs.last() != Some(&head) && relay.frames_sent() > 0 {
        match next(&mut client).await {
            Got::Seq(seq) => seqs.push(seq),
            Got::Named(_) => infos += 1,
            _ => {}
        }
        let readable = world.log.entries().last().map(|entry| entry.seq);
        if seqs.last() == readable.as_ref() {
            break;
        }
    }
    let twice = seqs.windows(2).filter(|pair| pair[0] == pair[1]).count() as u64;
    assert!(
        twice == summary.duplicates && twice > 10,
        "{twice} of {}",
        summary.duplicates
    );
    let holes = summary.last_seq - summary.first_seq + 1 - summary.frames;
    assert!(
        holes == summary.missing_seqs && holes > 10,
        "{holes} of {}",
        summary.missing_seqs
    );
    // Those of a part that is read again after a broken connection are counted once.
    assert!(
        infos > 10 && infos <= summary.infos,
        "{infos} of {}",
        summary.infos
    );
    assert!(summary.corrupt_total > 20 && summary.renumbered > 10 && summary.reordered > 10);
    assert_eq!(summary.corrupt.values().sum::<u64>(), summary.corrupt_total);
}

#[tokio::test]
async fn connects_are_refused() {
    let world = world(9, 50, StreamFaults::default());
    let refusals = vec![
        Refusal::status(405),
        Refusal::status(426),
        Refusal::too_many_requests(7),
        Refusal::unavailable(),
    ];
    let faults = ConnectionFaults {
        refusals,
        ..ConnectionFaults::default()
    };
    let relay = RelayServer::start(&world, faulty(faults)).unwrap();
    for status in [405, 426, 429, 503] {
        let Err(Error::Http(response)) = try_connect(&relay, Some(0)).await else {
            panic!("an HTTP answer");
        };
        assert_eq!(response.status().as_u16(), status);
        if status == 429 {
            assert_eq!(response.headers()["retry-after"], "7");
        }
        if status == 503 {
            assert_eq!(
                response.headers()["content-type"],
                "text/html; charset=utf-8"
            );
        }
    }
    assert_eq!(next_seq(&mut connect(&relay, Some(0)).await).await, 1);
    assert_eq!((relay.refused(), relay.connections()), (4, 1));
}

async fn get(relay: &RelayServer, path: &str) -> (u16, String) {
    request(relay, "GET", path).await
}

async fn request(relay: &RelayServer, method: &str, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(relay.addr).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    (
        head.split(' ').nth(1).unwrap().parse().unwrap(),
        body.to_owned(),
    )
}

#[tokio::test]
async fn serves_documents_and_the_oracle() {
    let world = world(10, 200, StreamFaults::default());
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let did = world.accounts.dids().next().unwrap();
    let (status, body) = get(&relay, &format!("/{did}")).await;
    let document: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &document["id"]), (200, &did.into()));
    assert_eq!(document["service"][0]["serviceEndpoint"], relay.http_url());
    assert_eq!(get(&relay, "/did:plc:nobody").await.0, 404);
    assert_eq!(get(&relay, SUBSCRIBE).await.0, 426);
    let (status, body) = get(&relay, "/oracle").await;
    assert_eq!(status, 200);
    assert!(Oracle::read(body.as_bytes()).unwrap() == *world.oracle);
}

#[tokio::test]
async fn tells_its_speed() {
    let events = 40_000;
    let started = Instant::now();
    let world = World::generate(&WorldSpec {
        events,
        signatures: penstock_loadtest::Signatures::Random,
        ..WorldSpec::default()
    });
    let made = started.elapsed();
    let relay = RelayServer::start(&world, RelayOptions::default()).unwrap();
    let mut client = connect(&relay, Some(0)).await;
    let started = Instant::now();
    for _ in 0..events {
        client.next().await.unwrap().unwrap();
    }
    let served = started.elapsed();
    println!(
        "{:.1} µs to make an event of {} bytes ({:.1} blocks), {:.0} frames/s through a WebSocket client",
        made.as_secs_f64() * 1e6 / events as f64,
        world.summary.bytes / events,
        world.summary.blocks as f64 / world.summary.commits as f64,
        events as f64 / served.as_secs_f64(),
    );
}
