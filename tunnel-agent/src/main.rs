//! The `tunnel-agent` program.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tunnel_agent::app::App;
use tunnel_agent::cli::Cli;
use tunnel_agent::config::Config;
use tunnel_program::process;

fn main() -> ExitCode {
    process::keep_freed_memory();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return tunnel_program::args::refuse(&error),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => tunnel_program::args::fail("tunnel-agent", &error),
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    process::init_logging(&cli.log, "info").map_err(anyhow::Error::msg)?;
    process::raise_file_limit();
    let config = Config::try_from(cli)?;
    // One thread: an agent's work is one tunnel per server, and hops between
    // threads cost more than they bring.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = App::bind(config).context("cannot start")?;
        process::count_panics(app.registry())?;
        process::count_tasks(app.registry())?;
        app.run_until_signal().await
    })
}
