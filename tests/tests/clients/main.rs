//! Admission of clients to the frontends: the socket's mode and owner, user ids, names of certificates. Each client's
//! identity, and the file of a Unix socket.

#![allow(clippy::unwrap_used, reason = "helpers of tests are no tests to the lint")]
#![allow(clippy::large_futures, reason = "a test is one future, polled where it is made")]

mod admission;
mod sockets;

use std::os::unix::fs::MetadataExt as _;

use tunnel_client::DialError;
use tunnel_tests::{Frontend, Server, within};

/// The user of this process.
fn me() -> u32 {
    std::fs::metadata("/proc/self").unwrap().uid()
}

/// Code and text of a dial's refusal: the status of CONNECT, or the one of gRPC.
async fn refused(server: &Server, frontend: Frontend, target: &str) -> (u32, String) {
    match within("a refusal", server.dial(frontend, target)).await {
        Err(DialError::GrpcStatus { code, message }) => (code, message),
        Err(error) => {
            let reason = error.reason().unwrap_or_else(|| panic!("{frontend:?}: no words, but {error}"));
            (error.status().map_or(0, u32::from), reason.to_owned())
        }
        Ok(_) => panic!("{frontend:?}: {target} was connected"),
    }
}
