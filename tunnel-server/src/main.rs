//! The `tunnel-server` program.

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use tokio::runtime::{Builder, Runtime};
use tunnel_program::args::LogArgs;
use tunnel_program::process;
use tunnel_server::app::App;
use tunnel_server::cli::{Cli, Command, DemoArgs, ServerArgs};
use tunnel_server::config::Config;

fn main() -> ExitCode {
    process::keep_freed_memory();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return tunnel_program::args::refuse(&error),
    };
    let result = match cli.command {
        None => run(cli.server),
        Some(Command::Demo(args)) => demo(&args, &cli.server.log),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => tunnel_program::args::fail("tunnel-server", &error),
    }
}

fn run(args: ServerArgs) -> anyhow::Result<()> {
    process::init_logging(&args.log, "info").map_err(anyhow::Error::msg)?;
    process::raise_file_limit();
    let runtime = runtime(args.worker_threads)?;
    let config = Config::try_from(args)?;
    runtime.block_on(async {
        let app = App::bind(config).context("cannot start")?;
        process::count_panics(app.metering())?;
        process::count_tasks(app.metering())?;
        Box::pin(app.run_until_signal()).await
    })
}

fn demo(args: &DemoArgs, log: &LogArgs) -> anyhow::Result<()> {
    // The demo speaks for itself; what servers and agents log is for trouble.
    process::init_logging(log, "warn").map_err(anyhow::Error::msg)?;
    runtime(0)?.block_on(tunnel_server::demo::run(args.once))
}

/// Traffic runs on half the cores: the kube-apiserver next to us needs the
/// rest, and hops between threads cost more than a second one brings.
fn runtime(workers: usize) -> anyhow::Result<Runtime> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let workers = if workers == 0 { (cores / 2).max(1) } else { workers };
    let mut builder = if workers == 1 { Builder::new_current_thread() } else { Builder::new_multi_thread() };
    if workers > 1 {
        builder.worker_threads(workers);
    }
    Ok(builder.enable_all().build()?)
}
