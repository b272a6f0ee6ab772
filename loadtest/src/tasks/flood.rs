//! `loadtest flood`: attackers of a siege, in a process of their own. Prints its tally as a line of JSON.

use clap::Args;
use measuring_kit::say;

use crate::siege::attack::Attack;
use crate::siege::floods::Flood;

#[derive(Debug, Args)]
pub(crate) struct FloodArgs {
    /// Its name.
    name: String,
    /// Where everything is, as JSON.
    #[arg(long, value_name = "JSON")]
    ground: String,
}

pub(crate) async fn run(args: &FloodArgs) -> anyhow::Result<bool> {
    tunnel_program::process::raise_file_limit();
    let flood = Flood::named(&args.name)?;
    let attack = Attack::new(serde_json::from_str(&args.ground)?);
    let tally = attack.run((flood.run)(attack.clone()), flood.enough).await?;
    say(&serde_json::to_string(&tally)?);
    Ok(true)
}
