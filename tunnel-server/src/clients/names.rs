//! Names of certificates in an allow-list.

use std::str::FromStr;

use tunnel_proto::target::Host;

use crate::agents::text_of_host;

/// The beginnings of a text that is one kind of name.
const KINDS: [&str; 5] = ["cn:", "o:", "dns:", "ip:", "spiffe://"];

/// An entry: the texts of identities that it stands for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Name {
    texts: Vec<String>,
    /// Whether identities may go on after the text.
    prefix: bool,
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (prefix, bare) = text.strip_suffix('*').map_or((false, text), |bare| (true, bare));
        if bare.contains('*') {
            return Err(format!("{text:?}: a * stands at the end only"));
        }
        if !bare.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
            return Err(format!("{text:?}: names of certificates count if they are printable ASCII"));
        }
        let kind = KINDS.iter().find(|kind| bare.starts_with(*kind));
        let texts = match (kind, bare.split_once(':')) {
            (None, _) if text.is_empty() => Vec::new(),
            (None, _) if prefix => vec![format!("cn:{bare}"), format!("dns:{}", bare.to_ascii_lowercase())],
            (None, _) => std::iter::once(format!("cn:{bare}")).chain(host(bare)).collect(),
            (Some(&("dns:" | "ip:")), _) if prefix => vec![bare.to_ascii_lowercase()],
            (Some(&("dns:" | "ip:")), Some((_, name))) => {
                vec![host(name).ok_or_else(|| format!("{text:?} is no host name and no address"))?]
            }
            (Some(_), _) => vec![bare.to_owned()],
        };
        Ok(Self { texts, prefix })
    }
}

/// The text of a host in an identity.
fn host(text: &str) -> Option<String> {
    Host::parse(text).map(|host| text_of_host(&host))
}

impl Name {
    /// The empty text, which stands for nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// Whether the entry stands for an identity's text.
    pub(crate) fn matches(&self, identity: &str) -> bool {
        let is = |text: &String| if self.prefix { identity.starts_with(text) } else { identity == text };
        self.texts.iter().any(is)
    }
}
