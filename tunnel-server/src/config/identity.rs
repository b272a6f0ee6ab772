//! Identities of agents, and the origin of routes.

use anyhow::{Context as _, ensure};
use tracing::warn;
use tunnel_program::args::given;

use crate::agents::{IdentityMap, Mode, Rules, Source};
use crate::cli::IdentityArgs;
use crate::route::Strategy;

/// Refuses combinations in which routes would silently be missing.
pub(super) fn rules(
    args: &IdentityArgs,
    strategies: &[Strategy],
    nodes_are_watched: bool,
) -> anyhow::Result<Rules> {
    let (mode, source) = (args.identity_mode, args.routes_from);
    if source == Source::Nodes {
        ensure!(
            mode != Mode::Legacy,
            "--routes-from=nodes contradicts --identity-mode=legacy, which gives agents the routes that they \
             claim: use audit or strict"
        );
        for needed in [Strategy::DestHost, Strategy::DestCidr] {
            ensure!(
                strategies.contains(&needed),
                "--routes-from=nodes makes routes for the addresses and pod networks of nodes, and \
                 --proxy-strategies has no {}: use destHost,destCIDR,default",
                needed.label()
            );
        }
    }
    let template = args.template().map_err(anyhow::Error::msg).context("--spiffe-node-template")?;
    let map = given(&args.identity_map)
        .map(|file| IdentityMap::read(&file).with_context(|| format!("--identity-map={}", file.display())));
    let default_routes =
        args.default_route_identities.iter().filter(|text| !text.is_empty()).cloned().collect();
    warn_of(mode, strategies, source == Source::Nodes || nodes_are_watched);
    Ok(Rules { mode, source, template, map: map.transpose()?.unwrap_or_default(), default_routes })
}

fn warn_of(mode: Mode, strategies: &[Strategy], nodes_are_watched: bool) {
    match mode {
        Mode::Legacy => {
            warn!(
                "--identity-mode=legacy: an agent with a valid credential may claim the address of any node"
            );
        }
        Mode::Strict if strategies.first() == Some(&Strategy::Default) => {
            warn!("--proxy-strategies begins with default, so any agent gets any dial, whatever it proves");
        }
        Mode::Strict if !nodes_are_watched => {
            warn!(
                "--identity-mode=strict without --routes-from=nodes and --expected-nodes: of a node its name \
                 alone is proven, and no address"
            );
        }
        Mode::Strict | Mode::Audit => {}
    }
}
