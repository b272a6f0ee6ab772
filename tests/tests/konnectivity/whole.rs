//! Client, server and agent together.

mod agents;
mod bytes;
mod dials;

use tunnel_client::Connection;
use tunnel_tests::Frontend;

/// A request and its answer.
const PAGE: (&[u8], &[u8]) = (
    b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello",
);

/// Ends a connection as a kube-apiserver does: without a half-close.
async fn leave(frontend: Frontend, connection: Connection) {
    if frontend.is_grpc() {
        connection.close().await.unwrap();
    }
}
