//! The truth: accounts, and what was written to them through the PDS's API.
//!
//! Each method does one thing at the PDS and notes what must hold from then on: CIDs and revisions as the PDS answered, values
//! as they were sent.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::server::{Pds, Xrpc};

/// A record's collection and key.
pub type RecordPath = (String, String);

/// A record that exists.
#[derive(Debug, Clone, PartialEq)]
pub struct Held {
    /// Its CID.
    pub cid: String,
    /// Revision of the commit that last wrote it.
    pub rev: String,
    /// As it was sent.
    pub value: Value,
}

/// An account that was made, whatever became of it.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its DID.
    pub did: String,
    /// The newest handle.
    pub handle: String,
    /// Why it is inactive; `None` if it is active.
    pub status: Option<&'static str>,
    /// The newest revision.
    pub rev: String,
    /// What its repository holds.
    pub records: BTreeMap<RecordPath, Held>,
    token: String,
}

impl Account {
    /// Whether it was deleted for good.
    pub fn deleted(&self) -> bool {
        self.status == Some("deleted")
    }
}

/// A part of a batch: collection, record key, value.
pub enum Write<'a> {
    /// With a key of the PDS's choice.
    Create(&'a str, Value),
    /// Of a record that exists.
    Update(&'a str, &'a str, Value),
    /// Of a record that exists.
    Delete(&'a str, &'a str),
}

/// A PDS and all that was done to it.
pub struct World {
    /// The PDS.
    pub pds: Pds,
    accounts: BTreeMap<&'static str, Account>,
}

impl World {
    /// Nothing was done yet.
    pub fn new(pds: Pds) -> Self {
        Self {
            pds,
            accounts: BTreeMap::new(),
        }
    }

    /// An account by the name it was joined under.
    pub fn account(&self, name: &str) -> &Account {
        &self.accounts[name]
    }

    /// All of them.
    pub fn accounts(&self) -> impl Iterator<Item = &Account> {
        self.accounts.values()
    }

    fn change(&mut self, name: &str) -> &mut Account {
        self.accounts.get_mut(name).expect("an account")
    }

    /// Makes an account.
    pub async fn join(&mut self, name: &'static str) {
        let handle = format!("{name}.test");
        let body =
            json!({"handle": handle, "email": format!("{name}@example.com"), "password": name});
        let made = self
            .pds
            .post("com.atproto.server.createAccount", "", &body)
            .await;
        let did = text(&made, "did");
        let latest = self
            .pds
            .xrpc
            .get("com.atproto.sync.getLatestCommit", &[("did", &did)])
            .await;
        let account = Account {
            did,
            handle,
            status: None,
            rev: text(&latest, "rev"),
            records: BTreeMap::new(),
            token: text(&made, "accessJwt"),
        };
        assert!(
            self.accounts.insert(name, account).is_none(),
            "{name} is new"
        );
    }

    /// Uploads bytes; gives the blob as records refer to it.
    pub async fn upload(&self, name: &str, mime: &str, bytes: &'static [u8]) -> Value {
        self.pds
            .upload(&self.account(name).token, mime, bytes)
            .await
    }

    /// Writes a new record under a key of the PDS's choice.
    pub async fn create(&mut self, name: &str, collection: &str, record: Value) -> Subject {
        let body = json!({"collection": collection, "record": record});
        let done = self
            .write(name, "com.atproto.repo.createRecord", body)
            .await;
        self.note(name, &done, &done["commit"], record)
    }

    /// Writes a record, new or not, under a given key.
    pub async fn put(
        &mut self,
        name: &str,
        collection: &str,
        rkey: &str,
        record: Value,
    ) -> Subject {
        let body = json!({"collection": collection, "rkey": rkey, "record": record});
        let done = self.write(name, "com.atproto.repo.putRecord", body).await;
        self.note(name, &done, &done["commit"], record)
    }

    /// Deletes a record that exists.
    pub async fn delete(&mut self, name: &str, collection: &str, rkey: &str) {
        let body = json!({"collection": collection, "rkey": rkey});
        let done = self
            .write(name, "com.atproto.repo.deleteRecord", body)
            .await;
        self.forget(name, collection, rkey);
        self.change(name).rev = text(&done["commit"], "rev");
    }

    /// Several writes in one commit. Gives the records that were created or updated, in order.
    pub async fn batch(&mut self, name: &str, writes: Vec<Write<'_>>) -> Vec<Subject> {
        let sent: Vec<Value> = writes.iter().map(Write::json).collect();
        let done = self
            .write(
                name,
                "com.atproto.repo.applyWrites",
                json!({"writes": sent}),
            )
            .await;
        let results = done["results"].as_array().expect("results");
        assert_eq!(results.len(), writes.len());
        let mut subjects = Vec::new();
        for (write, result) in writes.into_iter().zip(results) {
            match write {
                Write::Create(_, value) | Write::Update(_, _, value) => {
                    subjects.push(self.note(name, result, &done["commit"], value));
                }
                Write::Delete(collection, rkey) => self.forget(name, collection, rkey),
            }
        }
        self.change(name).rev = text(&done["commit"], "rev");
        subjects
    }

    /// The PDS undoes an older like of the same subject in the commit of the newer one, by itself.
    pub fn superseded(&mut self, name: &str, subject: &Subject) {
        self.forget(name, &subject.collection, &subject.rkey);
    }

    /// Changes the handle.
    pub async fn rename(&mut self, name: &str, handle: &str) {
        let body = json!({"handle": handle});
        let token = &self.account(name).token;
        self.pds
            .post("com.atproto.identity.updateHandle", token, &body)
            .await;
        self.change(name).handle = handle.to_owned();
    }

    /// Its owner hides the account.
    pub async fn deactivate(&mut self, name: &str) {
        let token = &self.account(name).token;
        self.pds
            .post("com.atproto.server.deactivateAccount", token, &json!({}))
            .await;
        self.change(name).status = Some("deactivated");
    }

    /// Its owner shows the account again.
    pub async fn activate(&mut self, name: &str) {
        let token = &self.account(name).token;
        self.pds
            .call("com.atproto.server.activateAccount", token)
            .await;
        self.change(name).status = None;
    }

    /// The operator takes an account down (or restores it).
    pub async fn take_down(&mut self, name: &str, applied: bool) {
        let subject =
            json!({"$type": "com.atproto.admin.defs#repoRef", "did": self.account(name).did});
        let body = json!({"subject": subject, "takedown": {"applied": applied, "ref": "test"}});
        self.pds
            .administer("com.atproto.admin.updateSubjectStatus", &body)
            .await;
        self.change(name).status = applied.then_some("takendown");
    }

    /// The operator deletes an account. The PDS also forgets all its events but the last.
    pub async fn delete_account(&mut self, name: &str) {
        let body = json!({"did": self.account(name).did});
        self.pds
            .administer("com.atproto.admin.deleteAccount", &body)
            .await;
        self.change(name).status = Some("deleted");
    }

    /// Moves an account to another PDS: its repository as it is, then its DID document. The old PDS keeps a deactivated copy.
    pub async fn move_to(&mut self, name: &'static str, other: &mut Self) {
        let mut account = self.account(name).clone();
        let did = account.did.as_str();
        let create = "com.atproto.server.createAccount";
        let described = "com.atproto.server.describeServer";
        let aud = text(&other.pds.xrpc.get(described, &[]).await, "did");
        let pass = [("aud", aud.as_str()), ("lxm", create)];
        let auth = "com.atproto.server.getServiceAuth";
        let pass = self.pds.query(auth, &account.token, &pass).await;
        let body = json!({"did": did, "handle": account.handle, "email": format!("{name}@example.com"), "password": name});
        let made = other.pds.post(create, &text(&pass, "token"), &body).await;
        let token = text(&made, "accessJwt");
        let car = self.pds.repository(did).await;
        other.pds.import(&token, car).await;

        let recommended = "com.atproto.identity.getRecommendedDidCredentials";
        let recommended = other.pds.query(recommended, &token, &[]).await;
        let key = text(&recommended["verificationMethods"], "atproto");
        let moved = json!({"pds": other.pds.origin(), "key": key});
        let plc = Xrpc::tcp(&self.pds.plc);
        plc.post(&format!("/{did}/move"), &moved)
            .await
            .expect("an operation");
        other
            .pds
            .call("com.atproto.server.activateAccount", &token)
            .await;
        self.deactivate(name).await;

        let latest = "com.atproto.sync.getLatestCommit";
        let latest = other.pds.xrpc.get(latest, &[("did", did)]).await;
        (account.rev, account.token) = (text(&latest, "rev"), token);
        other.accounts.insert(name, account);
    }

    async fn write(&self, name: &str, nsid: &str, mut body: Value) -> Value {
        let account = self.account(name);
        body["repo"] = Value::from(account.did.as_str());
        self.pds.post(nsid, &account.token, &body).await
    }

    fn note(&mut self, name: &str, done: &Value, commit: &Value, value: Value) -> Subject {
        let subject = Subject::new(&text(done, "uri"), &text(done, "cid"));
        let rev = text(commit, "rev");
        let account = self.change(name);
        account.rev.clone_from(&rev);
        let path = (subject.collection.clone(), subject.rkey.clone());
        let cid = subject.cid.clone();
        account.records.insert(path, Held { cid, rev, value });
        subject
    }

    fn forget(&mut self, name: &str, collection: &str, rkey: &str) {
        let path = (collection.to_owned(), rkey.to_owned());
        let gone = self.change(name).records.remove(&path);
        assert!(gone.is_some(), "{name} has {path:?}");
    }
}

impl Write<'_> {
    fn json(&self) -> Value {
        let kind = |kind: &str| format!("com.atproto.repo.applyWrites#{kind}");
        match self {
            Self::Create(collection, value) => {
                json!({"$type": kind("create"), "collection": collection, "value": value})
            }
            Self::Update(collection, rkey, value) => {
                json!({"$type": kind("update"), "collection": collection, "rkey": rkey, "value": value})
            }
            Self::Delete(collection, rkey) => {
                json!({"$type": kind("delete"), "collection": collection, "rkey": rkey})
            }
        }
    }
}

/// A record as others refer to it.
#[derive(Debug, Clone)]
pub struct Subject {
    /// NSID.
    pub collection: String,
    /// Record key.
    pub rkey: String,
    /// CID of this version of it.
    pub cid: String,
    uri: String,
}

impl Subject {
    fn new(uri: &str, cid: &str) -> Self {
        let mut parts = uri.rsplitn(3, '/').map(str::to_owned);
        let mut part = || parts.next().expect("at://DID/COLLECTION/RKEY");
        Self {
            rkey: part(),
            collection: part(),
            cid: cid.to_owned(),
            uri: uri.to_owned(),
        }
    }

    /// A strong reference.
    pub fn json(&self) -> Value {
        json!({"uri": self.uri, "cid": self.cid})
    }
}

/// The text under a key.
pub fn text(value: &Value, key: &str) -> String {
    let text = value[key].as_str();
    text.unwrap_or_else(|| panic!("no {key} in {value}"))
        .to_owned()
}
