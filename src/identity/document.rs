//! DID documents, operations of did:plc, and the keys in them (protocol.md, section 7). All of it is hostile input.

use reqwest::Url;
use serde::Deserialize;
use serde_json::Value;

use super::SigningKey;

/// What a document or an operation says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Said {
    pub(super) pds: Option<String>,
    pub(super) key: Option<SigningKey>,
}

#[derive(Deserialize)]
struct Document {
    id: String,
    #[serde(default, rename = "alsoKnownAs")]
    names: Vec<Value>,
    #[serde(default, rename = "verificationMethod")]
    methods: Vec<Value>,
    #[serde(default, rename = "service")]
    services: Vec<Value>,
}

/// Reads the document of `did`; the error tells what is wrong with it.
pub(super) fn parse(did: &str, bytes: &[u8]) -> Result<Said, String> {
    let document = read(did, bytes)?;
    let named = |entries: &'_ [Value], fragment: &str| {
        let absolute = format!("{did}{fragment}");
        let mut entries = entries.iter();
        let is_it = |id: &str| id == fragment || id == absolute;
        entries
            .find(|entry| text(entry, "id").is_some_and(is_it))
            .cloned()
    };
    Ok(Said {
        pds: named(&document.services, "#atproto_pds")
            .and_then(|entry| service(&entry, "serviceEndpoint")),
        key: named(&document.methods, "#atproto").and_then(|entry| method(&entry)),
    })
}

/// The handle that the document of `did` names: the first one counts.
pub(super) fn handle(did: &str, bytes: &[u8]) -> Result<Option<String>, String> {
    let document = read(did, bytes)?;
    let mut names = document.names.iter().filter_map(Value::as_str);
    let handle = names.find_map(|name| name.strip_prefix("at://"));
    Ok(handle.map(str::to_owned))
}

fn read(did: &str, bytes: &[u8]) -> Result<Document, String> {
    let document: Document = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    match document.id == did {
        true => Ok(document),
        false => Err("it is of another DID".to_owned()),
    }
}

/// What an operation of did:plc says, be it of the form of now or of the first one.
pub(super) fn operation(operation: &Value) -> Said {
    let services = operation.get("services");
    let pds = match services.and_then(|services| services.get("atproto_pds")) {
        Some(entry) => service(entry, "endpoint"),
        None => text(operation, "service").and_then(origin),
    };
    let methods = operation.get("verificationMethods");
    let key = match methods {
        Some(methods) => text(methods, "atproto"),
        None => text(operation, "signingKey"),
    };
    Said {
        pds,
        key: key.and_then(did_key),
    }
}

/// Whether an operation of did:plc ends its DID.
pub(super) fn is_tombstone(operation: &Value) -> bool {
    text(operation, "type") == Some("plc_tombstone")
}

fn text<'a>(entry: &'a Value, name: &str) -> Option<&'a str> {
    entry.get(name)?.as_str()
}

fn service(entry: &Value, endpoint: &str) -> Option<String> {
    if text(entry, "type")? != "AtprotoPersonalDataServer" {
        return None;
    }
    origin(text(entry, endpoint)?)
}

/// Longest name of the DNS.
const LONGEST_HOST: usize = 253;

/// A URL that is nothing but an origin, in its normal form.
fn origin(text: &str) -> Option<String> {
    let url = Url::parse(text).ok()?;
    let bare = url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    let http = matches!(url.scheme(), "https" | "http");
    let short = url.host_str()?.len() <= LONGEST_HOST;
    (bare && http && short).then(|| url.origin().ascii_serialization())
}

fn method(entry: &Value) -> Option<SigningKey> {
    let bytes = multibase(text(entry, "publicKeyMultibase")?)?;
    match text(entry, "type")? {
        "Multikey" => multikey(&bytes),
        "EcdsaSecp256k1VerificationKey2019" => compressed(&bytes).map(SigningKey::K256),
        "EcdsaSecp256r1VerificationKey2019" => compressed(&bytes).map(SigningKey::P256),
        _ => None,
    }
}

/// A key written as `did:key:z…`.
pub(super) fn did_key(text: &str) -> Option<SigningKey> {
    multikey(&multibase(text.strip_prefix("did:key:")?)?)
}

/// Base58btc, the only base in use; a key never has more characters than this.
fn multibase(text: &str) -> Option<Vec<u8>> {
    const LONGEST: usize = 128;
    let digits = text.strip_prefix('z').filter(|t| t.len() <= LONGEST)?;
    bs58::decode(digits).into_vec().ok()
}

/// A compressed point behind the number of its curve (multicodec, as a varint).
fn multikey(bytes: &[u8]) -> Option<SigningKey> {
    match bytes {
        [0xe7, 0x01, point @ ..] => Some(SigningKey::K256(point.try_into().ok()?)),
        [0x80, 0x24, point @ ..] => Some(SigningKey::P256(point.try_into().ok()?)),
        _ => None,
    }
}

/// A point of SEC 1, which the old types write uncompressed.
fn compressed(bytes: &[u8]) -> Option<[u8; 33]> {
    const COORDINATE: usize = 32;
    match bytes {
        [2 | 3, ..] => bytes.try_into().ok(),
        [4, point @ ..] if point.len() == 2 * COORDINATE => {
            let (x, y) = point.split_at(COORDINATE);
            let sign = 2 | (y.last()? & 1);
            let mut whole = [sign; 1 + COORDINATE];
            whole.get_mut(1..)?.copy_from_slice(x);
            Some(whole)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const DID: &str = "did:plc:ewvi7nxzyoun6zhxrhs64oiz";
    /// From the specification of atproto's cryptography.
    const K256: &str = "zQ3shqwJEJyMBsBXCWyCBpUBMqxcon9oHB7mCvx4sSpMdLJwc";
    const P256: &str = "zDnaembgSGUhZULN2Caob4HLJPaxBh92N7rtH21TErzqf8HQo";

    fn read(document: Value) -> Result<Said, String> {
        parse(DID, document.to_string().as_bytes())
    }

    #[test]
    fn a_document_names_host_and_key() {
        let said = read(json!({
            "@context": ["https://www.w3.org/ns/did/v1"],
            "id": DID,
            "alsoKnownAs": ["at://atproto.com"],
            "verificationMethod": [
                {"id": "#other", "type": "Multikey", "publicKeyMultibase": P256},
                {"id": format!("{DID}#atproto"), "type": "Multikey", "controller": DID, "publicKeyMultibase": K256},
                {"id": "#atproto", "type": "Multikey", "publicKeyMultibase": P256},
            ],
            "service": [
                {"id": "#atproto_labeler", "type": "AtprotoLabeler", "serviceEndpoint": "https://x.example"},
                {"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": "https://PDS.example:443/"},
            ],
        }))
        .unwrap();
        assert_eq!(said.pds.as_deref(), Some("https://pds.example"));
        assert!(matches!(said.key, Some(SigningKey::K256([2 | 3, ..]))));
        assert_eq!(read(json!({"id": DID})), Ok(Said::default()));
    }

    #[test]
    fn the_first_handle_counts() {
        let handle = |names: Value| {
            let document = json!({"id": DID, "alsoKnownAs": names}).to_string();
            super::handle(DID, document.as_bytes())
        };
        let several = json!([7, "https://a.test", "at://b.test", "at://c.test"]);
        assert_eq!(handle(several), Ok(Some("b.test".to_owned())));
        assert_eq!(handle(json!([])), Ok(None));
        assert!(super::handle(DID, br#"{"id":"did:plc:other"}"#).is_err());
    }

    #[test]
    fn what_is_no_document_of_this_did_is_refused() {
        let other = read(json!({"id": "did:plc:aaaaaaaaaaaaaaaaaaaaaaaa"}));
        assert!(other.unwrap_err().contains("another DID"));
        for text in ["", "[]", "{}", "{\"id\":7}", "<html>"] {
            assert!(parse(DID, text.as_bytes()).is_err(), "{text}");
        }
        let nested = "[".repeat(100_000);
        assert!(parse(DID, nested.as_bytes()).is_err());
    }

    #[test]
    fn only_origins_are_hosts() {
        for (endpoint, expected) in [
            (json!("https://pds.example"), Some("https://pds.example")),
            (
                json!("http://127.0.0.1:2583/"),
                Some("http://127.0.0.1:2583"),
            ),
            (json!("https://pds.example/path"), None),
            (json!("https://pds.example/?q"), None),
            (json!("https://pds.example/#f"), None),
            (json!("https://user@pds.example"), None),
            (json!("ftp://pds.example"), None),
            (json!("pds.example"), None),
            (json!({"uri": "https://pds.example"}), None),
        ] {
            let service = json!({"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": endpoint});
            let said = read(json!({"id": DID, "service": [service]})).unwrap();
            assert_eq!(said.pds.as_deref(), expected, "{endpoint}");
        }
        let wrong = json!({"id": "#atproto_pds", "type": "Other", "serviceEndpoint": "https://pds.example"});
        assert_eq!(
            read(json!({"id": DID, "service": [wrong]})).unwrap().pds,
            None
        );
    }

    #[test]
    fn a_host_is_no_longer_than_the_dns_allows() {
        let named = |len: usize| {
            let endpoint = format!("https://{}", "a".repeat(len));
            let service = json!({"id": "#atproto_pds", "type": "AtprotoPersonalDataServer", "serviceEndpoint": endpoint});
            read(json!({"id": DID, "service": [service]})).unwrap().pds
        };
        assert!(named(253).is_some());
        assert_eq!(named(254), None);
        assert_eq!(named(20_000), None);
    }

    #[test]
    fn keys_of_every_form_are_read() {
        let key = |kind: &str, text: &str| {
            let method = json!({"id": "#atproto", "type": kind, "publicKeyMultibase": text});
            read(json!({"id": DID, "verificationMethod": [method]}))
                .unwrap()
                .key
        };
        assert!(matches!(key("Multikey", P256), Some(SigningKey::P256(_))));
        assert_eq!(did_key(&format!("did:key:{K256}")), key("Multikey", K256));
        let mut point = [7; 65];
        point[0] = 4;
        for (last, sign) in [(8, 2), (9, 3)] {
            point[64] = last;
            let text = format!("z{}", bs58::encode(point).into_string());
            let mut expected = [7; 33];
            expected[0] = sign;
            let found = key("EcdsaSecp256k1VerificationKey2019", &text);
            assert_eq!(found, Some(SigningKey::K256(expected)));
            let found = key("EcdsaSecp256r1VerificationKey2019", &text);
            assert_eq!(found, Some(SigningKey::P256(expected)));
        }
        for (kind, text) in [
            ("Multikey", ""),
            ("Multikey", "z"),
            ("Multikey", "z0OIl"),
            ("Multikey", &K256[1..]),
            ("Multikey", &K256[..K256.len() - 2]),
            ("Multikey", &"z1".repeat(100_000)),
            ("Ed25519VerificationKey2020", K256),
            ("EcdsaSecp256k1VerificationKey2019", K256),
        ] {
            assert_eq!(key(kind, text), None, "{kind} {}", text.len());
        }
    }

    #[test]
    fn operations_of_both_forms_are_read() {
        let now = operation(&json!({
            "type": "plc_operation",
            "verificationMethods": {"atproto": format!("did:key:{K256}")},
            "services": {"atproto_pds": {"type": "AtprotoPersonalDataServer", "endpoint": "https://pds.example"}},
        }));
        let first = operation(&json!({
            "type": "create",
            "signingKey": format!("did:key:{K256}"),
            "service": "https://pds.example",
            "handle": "a.example",
        }));
        assert_eq!(now, first);
        assert!(now.pds.is_some() && now.key.is_some());
        assert_eq!(
            operation(&json!({"type": "plc_tombstone"})),
            Said::default()
        );
        assert!(is_tombstone(&json!({"type": "plc_tombstone"})));
    }
}
