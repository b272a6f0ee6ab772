//! A server's status in its Lease, so that `status --kubeconfig` works while no tunnel does.

use crate::report::ServerStatus;

/// The annotation of the Lease.
pub const ANNOTATION: &str = "tunnel-server/status";

/// Longest summary, in bytes. It is written to etcd four times a minute for each server.
pub const MAX_SUMMARY: usize = 8 * 1024;

/// Most missing nodes in it. All of them are counted.
pub const MOST_MISSING: usize = 20;

/// Longest id or path in it, in characters; both are the operator's own text.
const MAX_TEXT: usize = 256;

/// The summary. Missing nodes are left out first where it would be too long.
pub fn write(mut status: ServerStatus) -> String {
    let shorten = |text: &mut String| *text = text.chars().take(MAX_TEXT).collect();
    shorten(&mut status.id);
    if let Some(expiry) = &mut status.certificate {
        shorten(&mut expiry.file);
        shorten(&mut expiry.subject);
    }
    if let Some(identities) = &mut status.identities {
        // The counts stay.
        identities.violations.clear();
        identities.contested.clear();
    }
    let mut most = MOST_MISSING;
    loop {
        if let Some(nodes) = &mut status.nodes {
            nodes.missing.truncate(most);
        }
        let text = serde_json::to_string(&status).unwrap_or_default();
        if text.len() <= MAX_SUMMARY {
            return text;
        }
        if most == 0 {
            return String::new();
        }
        most /= 2;
    }
}

/// Reads a summary; `None` for any other text, such as a newer form.
pub fn read(text: &str) -> Option<ServerStatus> {
    serde_json::from_str(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Expiry, Missing, Nodes};

    fn missing(count: usize, name: &str) -> ServerStatus {
        let missing = Missing { node: name.to_owned(), since: 42, seen: true };
        let nodes =
            Nodes { listed: true, expected: count, missing: vec![missing; count], ..Nodes::default() };
        ServerStatus { id: "cp-1".to_owned(), nodes: Some(nodes), ..ServerStatus::default() }
    }

    #[test]
    fn a_summary_survives_the_lease_with_at_most_twenty_missing_nodes() {
        let few = missing(3, "worker");
        assert_eq!(read(&write(few.clone())), Some(few));
        let many = read(&write(missing(1000, &"n".repeat(253)))).unwrap().nodes.unwrap();
        assert_eq!((many.expected, many.missing.len()), (1000, MOST_MISSING));
    }

    #[test]
    fn a_summary_has_at_most_eight_kilobytes_whatever_is_in_it() {
        // A control character has six bytes in JSON.
        let evil = "\u{1}".repeat(4000);
        let certificate = Expiry { file: evil.clone(), subject: evil.clone(), ..Expiry::default() };
        for name in ["n".repeat(253), "\u{1}".repeat(253)] {
            for status in [missing(100, &name), ServerStatus { id: name.clone(), ..missing(1, &name) }] {
                let text = write(status);
                assert!(text.len() <= MAX_SUMMARY && read(&text).is_some(), "{}", text.len());
            }
        }
        let text = write(ServerStatus { id: evil, certificate: Some(certificate), ..missing(100, "n") });
        assert!(text.len() <= MAX_SUMMARY && read(&text).is_some(), "{}", text.len());
    }
}
