//! A nameserver at a loopback address.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hickory_resolver::proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_resolver::proto::rr::rdata::TXT;
use hickory_resolver::proto::rr::{RData, Record, RecordType};
use penstock::identity::Dns;
use tokio::net::UdpSocket;
use tokio::task::JoinHandle;

/// What a nameserver does when it is asked.
pub enum Says {
    /// Gives these TXT records, each of one or more pieces.
    Texts(BTreeMap<String, Vec<Vec<String>>>),
    /// Sends these bytes.
    Bytes(&'static [u8]),
    /// Says that it failed.
    Failure,
    /// Nothing.
    Nothing,
}

/// Answers over UDP until it is dropped.
pub struct Nameserver {
    dns: Dns,
    asked: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Nameserver {
    pub async fn start(says: Says) -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let dns = Dns {
            nameservers: Some(vec![socket.local_addr().unwrap()]),
            limit: match says {
                // Bytes that are no answer count as none.
                Says::Nothing | Says::Bytes(_) => Duration::from_millis(100),
                _ => Duration::from_secs(30),
            },
        };
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        let task = tokio::spawn(async move {
            let mut buffer = [0; 4096];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).await.unwrap();
                let question = Message::from_vec(&buffer[..length]).unwrap();
                let query = &question.queries[0];
                assert_eq!(query.query_type(), RecordType::TXT);
                let name = query.name().to_string();
                heard.lock().unwrap().push(name.clone());
                if let Some(answer) = answer(&question, &name, &says) {
                    socket.send_to(&answer, from).await.unwrap();
                }
            }
        });
        Self { dns, asked, task }
    }

    /// As [`start`](Self::start), with records of one piece each.
    pub async fn with(records: &[(&str, &[&str])]) -> Self {
        let texts = records.iter().map(|(name, texts)| {
            let texts = texts.iter().map(|text| vec![(*text).to_owned()]);
            ((*name).to_owned(), texts.collect())
        });
        Self::start(Says::Texts(texts.collect())).await
    }

    /// Who asks this one.
    pub fn dns(&self) -> Dns {
        self.dns.clone()
    }

    /// The names that were asked for.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for Nameserver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn answer(question: &Message, name: &str, says: &Says) -> Option<Vec<u8>> {
    let mut answer = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    answer.metadata.recursion_available = true;
    answer.add_queries(question.queries.clone());
    match says {
        Says::Texts(texts) => match texts.get(name) {
            Some(texts) => {
                let asked = question.queries[0].name();
                answer.add_answers(texts.iter().map(|pieces| {
                    let text = RData::TXT(TXT::new(pieces.clone()));
                    Record::from_rdata(asked.clone(), 60, text)
                }));
            }
            None => answer.metadata.response_code = ResponseCode::NXDomain,
        },
        Says::Failure => answer.metadata.response_code = ResponseCode::ServFail,
        Says::Bytes(bytes) => return Some(bytes.to_vec()),
        Says::Nothing => return None,
    }
    Some(answer.to_vec().unwrap())
}
