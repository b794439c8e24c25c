//! Addresses and ranges of them, as `trusted_proxies` lists them.
//!
//! Rule: an IPv4 address means the same however it is written. An IPv4-mapped IPv6 address is read as the IPv4 address.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::{IpNet, Ipv4Net};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// The number of bits before the IPv4 address in an IPv4-mapped IPv6 address.
const MAPPED: u8 = 96;

/// One address or a range: `10.0.0.1`, `10.0.0.0/8`, `fd00::/8`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network(IpNet);

impl Network {
    /// Returns whether any of `networks` contains `address`.
    pub fn any_contains(networks: &[Self], address: IpAddr) -> bool {
        let address = address.to_canonical();
        networks.iter().any(|network| network.0.contains(&address))
    }

    /// Returns whether the network contains every address of its family.
    pub fn is_everything(self) -> bool {
        self.0.prefix_len() == 0
    }
}

impl From<IpAddr> for Network {
    fn from(address: IpAddr) -> Self {
        Self(address.to_canonical().into())
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(address.into());
        }
        let range: IpNet = text.parse().map_err(|_| {
            format!("{text:?} is no address and no range: write one as in \"10.0.0.1\", \"10.0.0.0/8\" or \"fd00::/8\"")
        })?;
        if range.addr() != range.network() {
            let network = range.trunc();
            return Err(format!("{text:?} is an address within a range: \"{network}\" is the whole range"));
        }
        Ok(Self(unmapped(range).unwrap_or(range)))
    }
}

/// The IPv4 range that an IPv4-mapped range means; `None` for other ranges.
fn unmapped(range: IpNet) -> Option<IpNet> {
    let (IpNet::V6(mapped), length) = (range, range.prefix_len().checked_sub(MAPPED)?) else { return None };
    Some(Ipv4Net::new(mapped.addr().to_ipv4_mapped()?, length).ok()?.into())
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.prefix_len() == self.0.max_prefix_len() { self.0.addr().fmt(f) } else { self.0.fmt(f) }
    }
}

impl Serialize for Network {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(network: &str, address: &str) -> bool {
        Network::any_contains(&[network.parse().unwrap()], address.parse().unwrap())
    }

    #[test]
    fn an_address_is_itself_and_a_range_is_all_of_its_addresses() {
        assert!(holds("10.0.0.9", "10.0.0.9") && !holds("10.0.0.9", "10.0.0.8"));
        assert!(holds("10.0.0.0/8", "10.255.0.1") && !holds("10.0.0.0/8", "11.0.0.0"));
        assert!(holds("fd00::/8", "fd12::1") && !holds("fd00::/8", "fe80::1") && !holds("fd00::/8", "10.0.0.1"));
        assert!(!holds("0.0.0.0/0", "fd12::1"), "each family has its own");
    }

    #[test]
    fn mapped_addresses_and_ranges_are_read_as_ipv4() {
        for network in ["::ffff:10.0.0.9", "10.0.0.9", "::ffff:10.0.0.0/104", "10.0.0.0/8"] {
            assert!(holds(network, "10.0.0.9") && holds(network, "::ffff:10.0.0.9"), "{network}");
        }
        assert_eq!("::ffff:10.0.0.0/104".parse::<Network>().unwrap().to_string(), "10.0.0.0/8");
    }

    #[test]
    fn a_network_is_written_as_it_was_read() {
        for text in ["10.0.0.9", "10.0.0.0/8", "fd00::/8", "2001:db8::7"] {
            assert_eq!(text.parse::<Network>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_malformed_range_is_refused_with_a_hint() {
        let wrong = |text: &str| text.parse::<Network>().unwrap_err();
        assert!(wrong("10.1.2.3/8").ends_with("\"10.0.0.0/8\" is the whole range"), "{}", wrong("10.1.2.3/8"));
        assert!(wrong("fd00::1/8").ends_with("\"fd00::/8\" is the whole range"));
        for text in ["10.0.0/8", "10.0.0.0/33", "10.0.0.0/", "cloudflare", "", "10.0.0.0/8/8"] {
            assert!(wrong(text).contains("is no address and no range"), "{text}");
        }
    }
}
