//! Standard input, whose end tells a child that its parent is gone, however it died.

use std::future::pending;
use std::io::{IsTerminal as _, Read as _};

use tokio::sync::oneshot;

/// Waits for the end of standard input; for ever on a terminal. Cancel safe.
pub(crate) async fn ended() {
    if std::io::stdin().is_terminal() {
        return pending().await;
    }
    let (sender, ended) = oneshot::channel();
    // Not a task: its blocking read would hold the runtime at its end.
    std::thread::spawn(move || {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        let _ = sender.send(());
    });
    let _ = ended.await;
}
