//! The `tunnel-agent` program.

use std::process::ExitCode;

use anyhow::Context as _;
use tikv_jemallocator::Jemalloc;
use tunnel_agent::app::App;
use tunnel_agent::cli::Cli;
use tunnel_agent::config::Config;
use tunnel_program::process;

/// Gives memory back to the kernel within ten seconds after it was freed, in a thread of its own. What glibc has freed
/// below a block that is in use stays with the process: all of 200 MB after thousands of agents had left.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    process::main("tunnel-agent", run)
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Some(command) = cli.command {
        return Ok(command.run());
    }
    let _flush = process::init_logging(&cli.log, "info")?;
    process::raise_file_limit();
    let config = Config::try_from(cli)?;
    // One thread: an agent has few tunnels, and hops between threads cost more than a second
    // one brings.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let app = App::bind(config).context("cannot start")?;
        process::count_panics(app.registry())?;
        process::count_tasks(app.registry())?;
        app.run_until_signal().await
    })?;
    Ok(ExitCode::SUCCESS)
}
