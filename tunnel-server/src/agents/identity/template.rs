//! Which part of a SPIFFE id is a node's name.

use std::str::FromStr;

/// A SPIFFE id with `{node}` in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Template {
    before: String,
    after: String,
}

impl FromStr for Template {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || "write it as spiffe://TRUST-DOMAIN/PATH/{node}, with one {node} in the path".to_owned();
        let (before, after) = text.split_once("{node}").ok_or_else(bad)?;
        let path = before.strip_prefix("spiffe://").and_then(|rest| rest.split_once('/'));
        let domain_is_whole = path.is_some_and(|(domain, _)| !domain.is_empty());
        // Otherwise `x{node}` would take a part of a name for a node.
        let node_is_whole = before.ends_with('/') && (after.is_empty() || after.starts_with('/'));
        if !domain_is_whole || !node_is_whole || after.contains("{node}") {
            return Err(bad());
        }
        Ok(Self { before: before.to_owned(), after: after.to_owned() })
    }
}

impl Template {
    /// The node that a SPIFFE id names.
    pub(super) fn node<'a>(&self, uri: &'a str) -> Option<&'a str> {
        let node = uri.strip_prefix(self.before.as_str())?.strip_suffix(self.after.as_str())?;
        (!node.is_empty() && !node.contains('/')).then_some(node)
    }
}
