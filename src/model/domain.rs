//! Number spaces.

use super::Malformed;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The address of a PCI function: segment, bus, device, function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    segment: u16,
    bus: u8,
    device: u8,
    function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.segment, self.bus, self.device, self.function)
    }
}

impl FromStr for PciAddress {
    type Err = Malformed;
    /// Takes `DDDD:BB:DD.F`, hexadecimal, every digit written.
    fn from_str(text: &str) -> Result<Self, Malformed> {
        let parse = || {
            let (segment, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let hex = |s: &str, digits: usize, limit: u16| {
                let well_formed = s.len() == digits && s.bytes().all(|b| b.is_ascii_hexdigit());
                u16::from_str_radix(s, 16).ok().filter(|n| well_formed && *n <= limit)
            };
            Some(Self {
                segment: hex(segment, 4, u16::MAX)?,
                bus: hex(bus, 2, 0xff)?.try_into().ok()?,
                device: hex(device, 2, 0x1f)?.try_into().ok()?,
                function: hex(function, 1, 7)?.try_into().ok()?,
            })
        };
        parse().ok_or_else(|| Malformed::new(text, "a PCI address, DDDD:BB:DD.F"))
    }
}

/// One number space. Ids of different domains have nothing to do with each other.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Domain {
    /// Ids unique on the host: ENQCMD, shared work queues, mediated devices.
    #[default]
    Global,
    /// Ids unique per requester: what VFIO's PASID attach uses.
    Pci(PciAddress),
}

impl fmt::Display for Domain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.pad("global"),
            Self::Pci(address) => write!(f, "pci:{address}"),
        }
    }
}

impl FromStr for Domain {
    type Err = Malformed;
    fn from_str(text: &str) -> Result<Self, Malformed> {
        match text.strip_prefix("pci:") {
            None if text == "global" => Ok(Self::Global),
            Some(address) if address.parse::<PciAddress>().is_ok() => address.parse().map(Self::Pci),
            _ => Err(Malformed::new(text, "a domain, global or pci:DDDD:BB:DD.F")),
        }
    }
}

impl TryFrom<String> for Domain {
    type Error = Malformed;
    fn try_from(text: String) -> Result<Self, Malformed> {
        text.parse()
    }
}

impl From<Domain> for String {
    fn from(domain: Domain) -> String {
        domain.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_spelled_one_way() {
        for text in ["global", "pci:0000:3a:1f.7"] {
            assert_eq!(text.parse::<Domain>().unwrap().to_string(), text);
        }
        for bad in ["", "Global", "pci:", "pci:0:0:0.0", "pci:0000:00:20.0", "pci:0000:00:00.8", "pci:+000:00:00.0"] {
            assert!(bad.parse::<Domain>().is_err(), "{bad:?}");
        }
    }
}
