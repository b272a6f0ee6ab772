//! The operator's map from identities to the targets that they may serve:
//!
//! ```yaml
//! cn:konnectivity-agent:
//!   hosts: [172.30.0.1, api.example]
//!   cidrs: [10.96.0.0/12]
//!   default-route: true
//! ```

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use tunnel_proto::ident::Identifiers;
use tunnel_proto::target::Host;

use super::Identity;
use crate::canonical::{canonical_host, canonical_network};

/// Largest file, in bytes: a map of ten thousand identities. A larger one is a wrong file.
const MAX_FILE: u64 = 4 << 20;

/// The beginnings of an identity's text.
const KINDS: [&str; 5] = ["node:", "spiffe://", "dns:", "ip:", "cn:"];

/// The targets of each identity.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct IdentityMap(HashMap<String, Identifiers>);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Entry {
    #[serde(default)]
    hosts: Vec<String>,
    #[serde(default)]
    cidrs: Vec<String>,
    #[serde(default)]
    default_route: bool,
}

impl IdentityMap {
    /// Reads a file.
    ///
    /// # Errors
    /// When the file cannot be read, or an entry is malformed.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Self> {
        let size = std::fs::metadata(path)?.len();
        ensure!(size <= MAX_FILE, "the file has {size} bytes, more than {MAX_FILE}");
        Self::parse(&std::fs::read_to_string(path)?)
    }

    pub(super) fn parse(text: &str) -> anyhow::Result<Self> {
        let entries: BTreeMap<String, Entry> = serde_saphyr::from_str(text)?;
        let parsed = entries.into_iter().map(|(identity, entry)| {
            let identifiers = identifiers(&entry).with_context(|| identity.clone())?;
            if !KINDS.iter().any(|kind| identity.starts_with(kind)) {
                bail!("{identity}: no identity: begin with node:, spiffe://, dns:, ip: or cn:");
            }
            Ok((identity, identifiers))
        });
        parsed.collect::<anyhow::Result<_>>().map(Self)
    }

    /// The entries of an identity, by each of its texts.
    pub(crate) fn of(&self, identity: &Identity) -> Vec<&Identifiers> {
        if self.0.is_empty() {
            return Vec::new();
        }
        identity.texts().iter().filter_map(|text| self.0.get(text)).collect()
    }
}

fn identifiers(entry: &Entry) -> anyhow::Result<Identifiers> {
    let hosts = entry.hosts.iter().map(|text| {
        let host = Host::parse(text).with_context(|| format!("{text:?} is no host name and no address"))?;
        Ok(canonical_host(&host).into_owned())
    });
    let cidrs = entry.cidrs.iter().map(|text| Ok(canonical_network(text.parse()?)));
    Ok(Identifiers {
        hosts: hosts.collect::<anyhow::Result<_>>()?,
        cidrs: cidrs.collect::<anyhow::Result<_>>()?,
        default_route: entry.default_route,
        unusable: Vec::new(),
    })
}
