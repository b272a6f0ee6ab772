//! Flags of identities and routes.

use std::path::PathBuf;

use clap::Args;
use tunnel_program::args::path;

use crate::agents::{Mode, Source, Template};

#[derive(Debug, Args)]
#[command(next_help_heading = "Identity of agents")]
pub(crate) struct IdentityArgs {
    /// Treatment of an agent's identifiers that its token or certificate does not
    /// prove. strict: they get no dials. audit: they get dials, but for targets that
    /// another identity proves, and are counted and listed by status. legacy: as in
    /// Konnectivity any agent may claim any target.
    #[arg(long, value_enum, default_value_t = Mode::Audit)]
    pub(crate) identity_mode: Mode,

    /// Origin of the routes of agents that are a node. claims: their identifiers.
    /// nodes: the addresses, host name and pod networks of the Node object, which is
    /// watched; needs destHost and destCIDR in --proxy-strategies. With
    /// --identity-mode=strict a node without its agent is served by no other.
    #[arg(long, value_enum, default_value_t = Source::Claims)]
    pub(crate) routes_from: Source,

    /// SPIFFE id of a node's agent, such as spiffe://example.org/node/{node}.
    #[arg(long, value_name = "TEMPLATE", default_value = "")]
    pub(crate) spiffe_node_template: String,

    /// YAML file with the targets that identities may serve: a map from node:NAME,
    /// spiffe://ID, dns:NAME, ip:ADDRESS or cn:NAME to hosts, cidrs and default-route.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) identity_map: PathBuf,

    /// Identities that may be a default route, separated by commas, in the form of
    /// --identity-map; a * at the end stands for any rest.
    #[arg(long, value_name = "LIST", value_delimiter = ',', default_value = "")]
    pub(crate) default_route_identities: Vec<String>,
}

impl IdentityArgs {
    /// The template, if there is one.
    ///
    /// # Errors
    /// When it is malformed.
    pub(crate) fn template(&self) -> Result<Option<Template>, String> {
        let text = self.spiffe_node_template.as_str();
        if text.is_empty() { Ok(None) } else { text.parse().map(Some) }
    }
}
