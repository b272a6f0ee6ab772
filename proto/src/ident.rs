//! An agent's identifiers in Konnectivity's form: a URL query with the keys
//! `host`, `ipv4`, `ipv6`, `cidr` (each repeatable) and `default-route`.

use crate::network::Network;
use crate::target::Host;

/// Longest identifier text, in bytes: with a token of 16 KiB it fits
/// [`MAX_CONTROL`](crate::message::MAX_CONTROL).
const MAX_LENGTH: usize = 16 * 1024;

/// Most identifiers of one agent. A node has fewer than ten; each costs an entry
/// in the server's routing table.
const MAX_COUNT: usize = 512;

/// Parsed identifiers of one agent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identifiers {
    /// Hosts and addresses that the agent serves.
    pub hosts: Vec<Host>,
    /// Networks that the agent serves.
    pub cidrs: Vec<Network>,
    /// Whether the agent serves targets that no agent names.
    pub default_route: bool,
    /// Values that are neither address, host name nor network, as `key=value`.
    /// Konnectivity accepts any text as a host, so they are no error.
    pub unusable: Vec<String>,
}

/// The treatment of unknown keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownKeys {
    /// On a server, because newer agents may send more.
    Ignore,
    /// On an agent, because it is a mistake in its flags.
    Refuse,
}

/// Why identifiers cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentifiersError {
    /// Over a limit.
    #[error("identifiers are too many or too long (at most {MAX_COUNT}, {MAX_LENGTH} bytes)")]
    TooLarge,
    /// Not a URL query: a `;`, or a `%` without two hexadecimal digits.
    #[error("identifiers are not a url query")]
    Malformed,
    /// An unknown key, under [`UnknownKeys::Refuse`].
    #[error("unknown identifier kind {0:?}: use host, ipv4, ipv6, cidr or default-route")]
    UnknownKey(String),
}

impl Identifiers {
    /// Reads the URL query form; an empty text is an empty list.
    ///
    /// # Errors
    /// See [`IdentifiersError`].
    pub fn parse(text: &str, unknown: UnknownKeys) -> Result<Self, IdentifiersError> {
        if text.len() > MAX_LENGTH {
            return Err(IdentifiersError::TooLarge);
        }
        if text.contains(';') || !escapes_are_whole(text) {
            return Err(IdentifiersError::Malformed);
        }
        let mut parsed = Self::default();
        let mut default_route = None;
        for (count, (key, value)) in form_urlencoded::parse(text.as_bytes()).enumerate() {
            if count >= MAX_COUNT {
                return Err(IdentifiersError::TooLarge);
            }
            match key.as_ref() {
                "host" | "ipv4" | "ipv6" => match Host::parse(&value) {
                    Some(host) => parsed.hosts.push(host),
                    None => parsed.unusable.push(format!("{key}={value}")),
                },
                "cidr" => match value.parse() {
                    Ok(network) => parsed.cidrs.push(network),
                    Err(_) => parsed.unusable.push(format!("{key}={value}")),
                },
                // The first value wins; one that is no boolean is false.
                "default-route" => default_route = default_route.or(Some(is_true(&value))),
                // The agent's id in Konnectivity; it is sent apart.
                "uid" => {}
                other if unknown == UnknownKeys::Refuse => {
                    return Err(IdentifiersError::UnknownKey(other.to_owned()));
                }
                _ => {}
            }
        }
        parsed.default_route = default_route.unwrap_or(false);
        Ok(parsed)
    }

    /// Whether they name no target.
    pub const fn is_empty(&self) -> bool {
        self.hosts.is_empty() && self.cidrs.is_empty() && !self.default_route
    }
}

/// The spellings of Go's `strconv.ParseBool`.
fn is_true(value: &str) -> bool {
    matches!(value, "1" | "t" | "T" | "true" | "TRUE" | "True")
}

fn escapes_are_whole(text: &str) -> bool {
    text.split('%').skip(1).all(|rest| {
        let mut digits = rest.bytes();
        matches!((digits.next(), digits.next()), (Some(a), Some(b)) if a.is_ascii_hexdigit() && b.is_ascii_hexdigit())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Identifiers, IdentifiersError> {
        Identifiers::parse(text, UnknownKeys::Ignore)
    }

    #[test]
    fn the_forms_of_manifests() {
        let ids = parse("host=Node-1&ipv4=10.0.0.7&ipv4=10.0.0.8&ipv6=fd00:0::7&cidr=10.1.0.0/16").unwrap();
        let hosts: Vec<String> = ids.hosts.iter().map(ToString::to_string).collect();
        assert_eq!(hosts, ["node-1", "10.0.0.7", "10.0.0.8", "fd00::7"]);
        assert_eq!(ids.cidrs.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.1.0.0/16"]);
        assert!(ids.unusable.is_empty());
        assert!(!ids.default_route);
        assert!(parse("default-route=true").unwrap().default_route);
        assert!(!parse("default-route=maybe&default-route=true").unwrap().default_route);
        assert_eq!(parse("ipv6=fd00%3A%3A7").unwrap().hosts[0].to_string(), "fd00::7");
        assert_eq!(parse("").unwrap(), Identifiers::default());
        // k0s writes a node's address as a host.
        assert_eq!(parse("host=10.0.0.7").unwrap().hosts, parse("ipv4=10.0.0.7").unwrap().hosts);
    }

    #[test]
    fn malformed_ones_are_refused() {
        assert_eq!(parse("host=a;host=b"), Err(IdentifiersError::Malformed));
        assert_eq!(parse("host=%4"), Err(IdentifiersError::Malformed));
        assert_eq!(parse(&"a".repeat(MAX_LENGTH + 1)), Err(IdentifiersError::TooLarge));
        assert_eq!(parse(&"host=a&".repeat(MAX_COUNT + 1)), Err(IdentifiersError::TooLarge));
    }

    #[test]
    fn unusable_values_are_kept_apart() {
        // The last one is a variable without expansion.
        let ids = parse("host=a%20b&ipv4=10.0.0.1&cidr=10.0.0.0&ipv6=&ipv4=${HOST_IP}").unwrap();
        assert_eq!(ids.hosts.len(), 1);
        assert_eq!(ids.unusable, ["host=a b", "cidr=10.0.0.0", "ipv6=", "ipv4=${HOST_IP}"]);
    }

    #[test]
    fn an_agent_refuses_an_unknown_key_and_a_server_ignores_it() {
        assert_eq!(parse("zone=a").unwrap(), Identifiers::default());
        assert_eq!(
            Identifiers::parse("zone=a", UnknownKeys::Refuse),
            Err(IdentifiersError::UnknownKey("zone".into()))
        );
    }
}
