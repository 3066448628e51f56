//! Lists of networks.

use std::net::{IpAddr, Ipv4Addr};

/// A network, and whether it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    /// 4 or 6
    pub family: u8,
    /// Its address in network order, IPv4 in the first four bytes
    pub address: [u8; 16],
    /// Length of its prefix in bits
    pub prefix_len: u8,
    /// Whether it is wanted, or not wanted
    pub wanted: bool,
}

/// A list of networks: those wanted, and those not wanted. The longest prefix decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NetworkList {
    /// In the order in which they were typed
    pub networks: Vec<Network>,
    /// Whether only exclusions are listed, and all other addresses are wanted
    pub rest: bool,
}

impl NetworkList {
    /// Parses `10.0.0.0/8,2001:db8::/32,192.0.2.1`; `!10.1.0.0/16` excludes. With exclusions alone,
    /// everything else is in.
    pub fn parse(list: &str) -> Result<Self, String> {
        let networks = list
            .split(',')
            .map(parse_network)
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            rest: networks.iter().all(|network| !network.wanted),
            networks,
        })
    }
}

impl Network {
    fn contains(&self, family: u8, address: u128) -> bool {
        let mask = u128::MAX
            .checked_shl(128 - u32::from(self.prefix_len))
            .unwrap_or(0);
        self.family == family && (u128::from_be_bytes(self.address) ^ address) & mask == 0
    }
}

impl NetworkList {
    /// What the longest prefix says: whether this address is wanted; none if there is none.
    pub fn lookup(&self, address: IpAddr) -> Option<bool> {
        let (family, bits) = match address.to_canonical() {
            IpAddr::V4(address) => (4, u128::from(u32::from(address)) << 96),
            IpAddr::V6(address) => (6, u128::from(address)),
        };
        self.networks
            .iter()
            .filter(|network| network.contains(family, bits))
            .max_by_key(|network| network.prefix_len)
            .map(|network| network.wanted)
    }
}

fn parse_network(item: &str) -> Result<Network, String> {
    let (text, wanted) = match item.strip_prefix('!') {
        Some(text) => (text, false),
        None => (item, true),
    };
    let (address, len) = match text.split_once('/') {
        Some((address, len)) => (address, Some(len)),
        None => (text, None),
    };
    let bad = || {
        format!(
            "{text:?} is not an address or a network; use a list as in 10.0.0.0/8,2001:db8::/32 or \
             '!127.0.0.0/8'"
        )
    };
    let typed: IpAddr = address.parse().map_err(|_no_address| bad())?;
    // Connections of IPv4-mapped sockets are shown, and meant, as IPv4.
    let address = typed.to_canonical();
    let shortened = if address == typed { 0 } else { 96 };
    let bits = if address.is_ipv4() { 32 } else { 128 };
    let len = match len {
        None => bits,
        Some(len) => len
            .parse::<u8>()
            .ok()
            .and_then(|len| len.checked_sub(shortened))
            .filter(|len| *len <= bits)
            .ok_or_else(|| {
                format!(
                    "{text:?}: the length of a prefix is a number from {shortened} to {}",
                    bits + shortened
                )
            })?,
    };
    let mut bytes = [0; 16];
    match address {
        IpAddr::V4(address) => bytes[..4].copy_from_slice(&address.octets()),
        IpAddr::V6(address) => bytes = address.octets(),
    }
    let masked =
        u128::from_be_bytes(bytes) & u128::MAX.checked_shl(128 - u32::from(len)).unwrap_or(0);
    if masked.to_be_bytes() != bytes {
        let network = match address {
            IpAddr::V4(_) => {
                let [a, b, c, d, ..] = masked.to_be_bytes();
                IpAddr::V4(Ipv4Addr::new(a, b, c, d))
            }
            IpAddr::V6(_) => IpAddr::V6(masked.into()),
        };
        return Err(format!(
            "{text:?} has bits set behind its prefix; the network is {network}/{len}, the host alone {address}"
        ));
    }
    Ok(Network {
        family: if address.is_ipv4() { 4 } else { 6 },
        address: bytes,
        prefix_len: len,
        wanted,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_hosts_and_exclusions() {
        let list =
            NetworkList::parse("10.0.0.0/8,!10.1.0.0/16,2001:db8::/32,192.0.2.1,::1").unwrap();
        let told: Vec<_> = list
            .networks
            .iter()
            .map(|network| {
                (
                    network.family,
                    network.address[0],
                    network.prefix_len,
                    network.wanted,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                (4, 10, 8, true),
                (4, 10, 16, false),
                (6, 0x20, 32, true),
                (4, 192, 32, true),
                (6, 0, 128, true),
            ]
        );
        assert!(!list.rest);
        assert!(NetworkList::parse("!127.0.0.0/8,!::1").unwrap().rest);
        let all = NetworkList::parse("0.0.0.0/0,::/0").unwrap();
        assert!(all.networks.iter().all(|network| network.prefix_len == 0));
        let mapped = NetworkList::parse("::ffff:10.0.0.0/104").unwrap();
        assert_eq!(mapped, NetworkList::parse("10.0.0.0/8").unwrap());
    }

    #[test]
    fn errors_repeat_the_bad_part() {
        for (list, parts) in [
            ("10.0.0.0/33", &["10.0.0.0/33", "32"][..]),
            ("10.0.0.0/x", &["10.0.0.0/x"]),
            ("::/129", &["::/129", "128"]),
            ("::ffff:10.0.0.0/95", &["96"]),
            ("localhost", &["\"localhost\""]),
            ("10.0.0.1,", &["\"\""]),
            ("10.0.0.1/8", &["10.0.0.1/8", "10.0.0.0/8"]),
            ("fe80::1/64", &["fe80::/64"]),
            ("10.0/8", &["10.0/8"]),
        ] {
            let why = NetworkList::parse(list).unwrap_err();
            for part in parts {
                assert!(why.contains(part), "{list}: {why}");
            }
        }
    }
}
