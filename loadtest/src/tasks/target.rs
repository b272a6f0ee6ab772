//! `loadtest target`: the target as a program of its own.

use std::net::SocketAddr;

use clap::Args;
use measuring_kit::say;

use crate::stdin;
use crate::target::{Addresses, Target};

#[derive(Debug, Args)]
pub(crate) struct TargetArgs {
    /// Where to wait for commands.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// Where to speak first.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    banner_listen: SocketAddr,
    /// End when standard input ends, so as not to outlive a parent.
    #[arg(long)]
    until_stdin_closes: bool,
}

/// Prints the addresses, and serves until a signal, or until the end of standard input if that is asked for.
pub(crate) async fn run(args: &TargetArgs) -> anyhow::Result<bool> {
    let target = Target::bind(args.listen, args.banner_listen).await?;
    let Addresses { commands, banner } = target.addresses()?;
    say(&format!("target listening on {commands} {banner}"));
    if args.until_stdin_closes {
        tokio::select! {
            () = target.serve() => {}
            () = stdin::ended() => {}
        }
    } else {
        target.serve().await;
    }
    Ok(true)
}
