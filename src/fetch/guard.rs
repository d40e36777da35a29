//! Which URLs and which addresses may be fetched. What names them is hostile input: a DID document, a redirect.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use reqwest::Url;

use super::FetchError;

/// Where a URL that may be fetched leads.
#[derive(Debug, Clone)]
pub(super) struct Target {
    /// `host`, or `host:port` where the port is not the scheme's own: what manners and errors call the host.
    pub(super) host: String,
    /// What is to be connected to.
    pub(super) place: Place,
    /// Whether private addresses will do.
    pub(super) private: bool,
    /// Whether the operator named this origin.
    pub(super) configured: bool,
}

/// What a URL names: nothing is asked of DNS for an address.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Name(String),
    Address(IpAddr),
}

/// The rules.
#[derive(Debug)]
pub(super) struct Guard {
    allow_private: bool,
    configured: HashSet<String>,
}

impl Guard {
    /// `configured` are origins; the wrong one is given back.
    pub(super) fn new(allow_private: bool, configured: &[String]) -> Result<Self, String> {
        let origins = configured.iter().map(|text| {
            let origin = Url::parse(text).ok().map(|url| url.origin());
            let origin = origin.filter(|origin| origin.is_tuple());
            origin.map_or_else(|| Err(text.clone()), |o| Ok(o.ascii_serialization()))
        });
        Ok(Self {
            allow_private,
            configured: origins.collect::<Result<_, _>>()?,
        })
    }

    /// Whether private addresses, plain HTTP and any port will do.
    pub(super) fn allows_private(&self) -> bool {
        self.allow_private
    }

    /// Checks a URL. The rights of configured origins hold only where nobody else `redirected` here.
    pub(super) fn check(&self, url: &Url, redirected: bool) -> Result<Target, FetchError> {
        let refuse = |why: &str| Err(FetchError::forbidden(url.as_str(), why));
        let configured = !redirected
            && self
                .configured
                .contains(&url.origin().ascii_serialization());
        let private = configured || self.allow_private;
        match url.scheme() {
            "https" => {}
            "http" if private => {}
            "http" => return refuse("only https"),
            _ => return refuse("only HTTP"),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return refuse("it holds a password");
        }
        if !private && url.port().is_some() {
            return refuse("only port 443");
        }
        // For http(s) the parser has made an address of every spelling of one: octal, hexadecimal, a single number.
        let Some(host) = url.host_str().map(|host| host.trim_end_matches('.')) else {
            return refuse("no host");
        };
        let literal = host.trim_start_matches('[').trim_end_matches(']').parse();
        let place = match literal {
            Ok(address) if is_allowed(address, private, configured) => Place::Address(address),
            Ok(_) => return refuse("the address is not public"),
            Err(_) if host.is_empty() => return refuse("no host"),
            Err(_) => Place::Name(host.to_owned()),
        };
        let port = url.port().map(|port| format!(":{port}"));
        Ok(Target {
            host: format!("{host}{}", port.unwrap_or_default()),
            place,
            private,
            configured,
        })
    }
}

impl Target {
    /// Those of the addresses found for its name that may be connected to.
    pub(super) fn allowed(&self, mut addresses: Vec<IpAddr>) -> Result<Vec<IpAddr>, FetchError> {
        addresses.retain(|address| is_allowed(*address, self.private, self.configured));
        if addresses.is_empty() {
            let why = "it has no public address";
            return Err(FetchError::forbidden(&self.host, why));
        }
        Ok(addresses)
    }
}

/// Link-local addresses are where clouds keep their secrets: only the operator's own word leads there.
fn is_allowed(address: IpAddr, private: bool, configured: bool) -> bool {
    configured || is_public(address) || (private && !is_link_local(address))
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => {
            let inner = address.to_ipv4_mapped();
            address.is_unicast_link_local() || inner.is_some_and(|inner| inner.is_link_local())
        }
    }
}

/// Whether an address belongs to the public Internet, by the registries of special-purpose addresses (RFC 6890).
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    let special = match address.octets() {
        // This network, private, loopback, multicast, reserved, broadcast.
        [0 | 10 | 127 | 224..=255, ..] => true,
        // Shared by carriers (CGNAT).
        [100, 64..=127, ..] => true,
        // Link-local: the metadata services of clouds.
        [169, 254, ..] => true,
        [172, 16..=31, ..] | [192, 168, ..] => true,
        // Protocol assignments, documentation, relays of 6to4.
        [192, 0, 0 | 2, _] | [192, 88, 99, _] => true,
        // Benchmarks, documentation.
        [198, 18 | 19, ..] | [198, 51, 100, _] | [203, 0, 113, _] => true,
        _ => false,
    };
    !special
}

/// Global unicast is 2000::/3: loopback, mapped IPv4, NAT64, unique local, link-local and multicast lie outside.
fn is_public_v6(address: Ipv6Addr) -> bool {
    match address.segments() {
        // Protocol assignments with Teredo; documentation; 6to4; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x2002, ..] => false,
        [0x3fff, 0..=0xfff, ..] => false,
        [first, ..] => (0x2000..=0x3fff).contains(&first),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(guard: &Guard, url: &str) -> Result<String, FetchError> {
        guard
            .check(&Url::parse(url).unwrap(), false)
            .map(|target| target.host)
    }

    #[test]
    fn link_local_addresses_are_for_the_operator_alone() {
        let secrets = "http://169.254.169.254";
        let free = Guard::new(true, &[]).unwrap();
        for url in [secrets, "http://[fe80::1]/", "http://[::ffff:169.254.1.1]/"] {
            assert!(verdict(&free, url).is_err(), "{url}");
        }
        assert!(verdict(&free, "http://10.0.0.1/").is_ok());
        let told = Guard::new(false, &[secrets.to_owned()]).unwrap();
        assert!(verdict(&told, secrets).is_ok());
    }

    #[test]
    fn only_public_addresses_are_public() {
        let special = "0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.255 127.0.0.1 127.9.9.9 \
            169.254.169.254 172.16.0.1 172.31.255.255 192.0.0.1 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 \
            198.19.255.255 198.51.100.7 203.0.113.9 224.0.0.1 239.1.1.1 240.0.0.1 255.255.255.255 \
            :: ::1 ::7f00:1 ::ffff:127.0.0.1 ::ffff:8.8.8.8 64:ff9b::7f00:1 64:ff9b::808:808 64:ff9b:1::1 100::1 \
            2001::1 2001:1ff::1 2001:db8::1 2002:7f00:1::1 2002:808:808::1 3fff::1 3fff:fff::1 fc00::1 fd12::1 \
            fe80::1 fec0::1 ff02::1 5f00::1";
        for text in special.split_whitespace() {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
        let public = "1.1.1.1 8.8.8.8 100.63.255.255 100.128.0.1 172.15.0.1 172.32.0.1 192.0.1.1 198.17.0.1 \
            198.20.0.1 223.255.255.255 2001:200::1 2606:4700::1111 2a00::1 3fff:1000::1";
        for text in public.split_whitespace() {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn urls_of_strangers_are_https_to_public_places() {
        let guard = Guard::new(false, &[]).unwrap();
        for url in [
            "http://example.com",
            "ftp://example.com",
            "https://example.com:8443",
            "https://user:secret@example.com",
            "https://user@example.com",
            "https://127.0.0.1",
            "https://127.1",
            "https://2130706433",
            "https://0x7f.0.0.1",
            "https://0177.0.0.1",
            "https://127.0.0.1.",
            "https://[::1]",
            "https://[::ffff:10.0.0.1]",
            "https://[64:ff9b::a00:1]",
        ] {
            let verdict = verdict(&guard, url);
            assert!(
                matches!(verdict, Err(FetchError::Forbidden(..))),
                "{url}: {verdict:?}"
            );
        }
        for (url, host) in [
            ("https://example.com:443/x", "example.com"),
            ("https://EXAMPLE.com./x", "example.com"),
            ("https://1.1.1.1", "1.1.1.1"),
            ("https://[2606:4700::1111]", "[2606:4700::1111]"),
        ] {
            assert_eq!(verdict(&guard, url).unwrap(), host, "{url}");
        }
    }

    #[test]
    fn configured_origins_are_allowed_but_not_by_a_strangers_redirect() {
        let guard = Guard::new(false, &["http://127.0.0.1:2582/".to_owned()]).unwrap();
        let url = Url::parse("http://127.0.0.1:2582/did:plc:x").unwrap();
        assert!(guard.check(&url, false).unwrap().configured);
        assert!(guard.check(&url, true).is_err());
        assert!(verdict(&guard, "http://127.0.0.1:2583").is_err());
        assert!(verdict(&guard, "https://127.0.0.1:2582").is_err());
        assert_eq!(Guard::new(false, &["plc".into()]).unwrap_err(), "plc");
    }

    #[test]
    fn names_are_checked_by_their_addresses() {
        let (private, public) = ("10.0.0.1".parse().unwrap(), "8.8.8.8".parse().unwrap());
        let url = Url::parse("https://example.com").unwrap();
        let strict = Guard::new(false, &[]).unwrap().check(&url, false).unwrap();
        assert_eq!(strict.allowed(vec![private, public]).unwrap(), [public]);
        assert!(strict.allowed(vec![private]).is_err());
        let lax = Guard::new(true, &[]).unwrap().check(&url, false).unwrap();
        assert_eq!(lax.allowed(vec![private]).unwrap(), [private]);
    }
}
