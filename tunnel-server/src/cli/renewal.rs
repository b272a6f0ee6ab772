//! Flags of revocation, and of secrets that outlive a certificate.

use std::path::PathBuf;

use clap::Args;
use tunnel_program::args::path;

#[derive(Debug, Args)]
#[command(next_help_heading = "Revocation and restarts")]
pub(crate) struct RenewalArgs {
    /// Certificate revocation lists of --cluster-ca-cert, in PEM. An authority without
    /// a list there has revoked nothing.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) cluster_crl_file: PathBuf,

    /// Certificate revocation lists of --server-ca-cert, in PEM.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) server_crl_file: PathBuf,

    /// File with a secret of 32 bytes or more, by which a restarted server resets its
    /// predecessor's tunnels on QUIC; made if it does not exist. All servers may share
    /// one. If empty, the secret is derived from --cluster-key, and changes with it.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "")]
    pub(crate) quic_reset_key_file: PathBuf,
}
