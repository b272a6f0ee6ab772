//! The `tunnel-server` program.

use std::process::ExitCode;

use anyhow::Context as _;
use tikv_jemallocator::Jemalloc;
use tokio::runtime::{Builder, Runtime};
use tunnel_program::process;
use tunnel_server::app::App;
use tunnel_server::cli::Cli;
use tunnel_server::config::Config;

/// Gives memory back to the kernel within ten seconds after it was freed, in a thread of its own. What glibc has freed
/// below a block that is in use stays with the process: all of 200 MB after thousands of agents had left.
#[global_allocator]
static ALLOCATOR: Jemalloc = Jemalloc;

fn main() -> ExitCode {
    process::main("tunnel-server", run)
}

fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    if let Some(command) = cli.command {
        return Ok(command.run());
    }
    let _flush = process::init_logging(&cli.log, "info")?;
    process::raise_file_limit();
    let runtime = runtime(cli.worker_threads)?;
    let config = Config::try_from(cli)?;
    runtime.block_on(async {
        let app = App::bind(config).context("cannot start")?;
        process::count_panics(app.metering())?;
        process::count_tasks(app.metering())?;
        Box::pin(app.run_until_signal()).await
    })?;
    Ok(ExitCode::SUCCESS)
}

/// By default half the cores carry traffic: the kube-apiserver on the same host needs the rest,
/// and moving work between threads costs more than a second thread brings.
fn runtime(workers: usize) -> anyhow::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if workers == 0 { (cores / 2).max(1) } else { workers };
    let mut builder = if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if workers > 1 {
        builder.worker_threads(workers);
    }
    Ok(builder.enable_all().build()?)
}
