//! Clients of the frontends: the Unix socket's file, and the allow-lists.

mod ids;

use std::path::Path;

use anyhow::ensure;
use tracing::warn;
use tunnel::listen::Place;
use tunnel::tls::load_roots;
use tunnel_program::args::given;

use crate::cli::Cli;
use crate::clients::Admission;
pub(crate) use ids::{Ids, Owner};

/// The right of others to write, with which every process of the host may connect.
const OTHERS: u32 = 0o002;

/// The place of the Unix socket, if there is one.
///
/// # Errors
/// When a flag is about a socket that does not exist: the operator relies on it.
pub(super) fn place(args: &Cli) -> anyhow::Result<Option<Place>> {
    let clients = &args.clients;
    let Some(path) = given(&args.uds_name) else {
        for (flag, is_given) in [
            ("--uds-mode", clients.uds_mode.0.is_some()),
            ("--uds-owner", clients.uds_owner != Owner::default()),
            ("--uds-allowed-uids", clients.uds_allowed_uids != Ids::default()),
        ] {
            ensure!(
                !is_given,
                "{flag} is for the frontend on a Unix socket, and there is none: give --uds-name, or leave {flag} out"
            );
        }
        return Ok(None);
    };
    let Owner { user, group } = clients.uds_owner;
    let mut place = Place::shared(path);
    place.mode = clients.uds_mode.0.unwrap_or(place.mode);
    (place.user, place.group, place.replace) = (user, group, args.delete_existing_uds_file);
    if place.mode & OTHERS != 0 && clients.uds_allowed_uids == Ids::default() {
        warn!(
            "--uds-mode={:04o} without --uds-allowed-uids: every process of this host reaches every node",
            place.mode
        );
    }
    Ok(Some(place))
}

/// The clients that are admitted.
///
/// # Errors
/// When names are given, and there is no frontend on TCP.
pub(super) fn admission(args: &Cli, has_tcp: bool) -> anyhow::Result<Admission> {
    let clients = &args.clients;
    let names: Vec<_> =
        clients.frontend_allowed_names.iter().filter(|name| !name.is_empty()).cloned().collect();
    ensure!(
        has_tcp || names.is_empty(),
        "--frontend-allowed-names is for the frontend on TCP, and there is none: give --server-port, or \
         leave --frontend-allowed-names out"
    );
    if has_tcp && names.is_empty() && share_an_authority(&args.server_ca_cert, &args.cluster_ca_cert) {
        warn!(
            "--server-ca-cert and --cluster-ca-cert have an authority in common: every agent's certificate \
             opens the frontend on TCP, and so reaches every node: give --frontend-allowed-names, or \
             authorities of their own"
        );
    }
    Ok(Admission { uids: clients.uds_allowed_uids.0.clone(), names: names.into() })
}

/// Whether some certificate is of an authority in both files. Faults of the files are told elsewhere.
fn share_an_authority(one: &Path, other: &Path) -> bool {
    let (Some(one), Some(other)) = (given(one), given(other)) else { return false };
    let (Ok(one), Ok(other)) = (load_roots(&one), load_roots(&other)) else { return false };
    one.roots.iter().any(|root| other.roots.contains(root))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_of_both_files_is_found() {
        let dir = tempfile::TempDir::new().unwrap();
        let authority = || {
            let key = rcgen::KeyPair::generate().unwrap();
            rcgen::CertificateParams::new(["ca".to_owned()]).unwrap().self_signed(&key).unwrap().pem()
        };
        let (a, b, c) = (authority(), authority(), authority());
        let file = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let (clients, agents, both) = (file("a", &a), file("b", &b), file("c", &format!("{c}{a}")));
        assert!(share_an_authority(&clients, &clients) && share_an_authority(&clients, &both));
        assert!(!share_an_authority(&clients, &agents) && !share_an_authority(&clients, Path::new("")));
    }
}
