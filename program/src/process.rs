//! The process of a program: logging, file limit, allocator, panics, signals.

use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write as _};
use std::process::{ExitCode, Termination};

use anyhow::{Context as _, anyhow};
use prometheus::{IntCounter, PullingGauge, Registry};
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info, warn};
use tracing_subscriber::fmt::writer::{BoxMakeWriter, MakeWriterExt as _};

use crate::args::{LogArgs, LogFormat, Sink};
use crate::logfile::LogFile;
use crate::loglevel;
pub use crate::logqueue::Flush;
use crate::logqueue::{LogQueue, count_dropped};
use crate::renewal::Renewal;
use tunnel::drain::Drain;

/// Runs a program: parses its command line, hands it to `run`, and prints why the
/// program ends. Exit codes: that of `run`, 0 for help, 1 for any error, as with
/// Konnectivity's programs.
pub fn main<C, T, E>(name: &str, run: impl FnOnce(C) -> Result<T, E>) -> ExitCode
where
    C: clap::Parser,
    T: Termination,
    E: Display,
{
    let ended = match C::try_parse() {
        Ok(command_line) => run(command_line),
        Err(error) => {
            // A failure to print cannot be reported, here and below.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    match ended {
        Ok(ended) => ended.report(),
        Err(error) => {
            let _ = writeln!(io::stderr(), "{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Starts logging as the flags say. `level`, a level or a filter such as
/// `info,access=off`, applies where the flags set none.
///
/// Lines that the reader of the log does not take are dropped and counted. The last
/// ones are written when the result is dropped.
///
/// # Errors
/// When the filter is malformed, the log file cannot be written, or logging was
/// started before.
pub fn init_logging(log: &LogArgs, level: &str) -> anyhow::Result<Flush> {
    let level = log.filter(level);
    let filter = loglevel::filter(level).map_err(|error| anyhow!("--log-level={level}: {error}"))?;
    let mut flush = Flush::default();
    let queue = LogQueue::new(io::stderr(), &mut flush)?;
    let to_stderr = move || queue.clone();
    let (writer, ansi) = match log.sink() {
        Sink::Stderr => (BoxMakeWriter::new(to_stderr), io::stderr().is_terminal()),
        Sink::File { path, limit, stderr } => {
            let flag = format!("--log-file={}", path.display());
            let queue = LogQueue::new(LogFile::open(path, limit).context(flag)?, &mut flush)?;
            let to_file = move || queue.clone();
            (BoxMakeWriter::new(to_file.and(to_stderr.with_max_level(stderr.level()))), false)
        }
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_ansi(ansi);
    match log.log_format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            loglevel::install(level, builder.reload_handle());
            builder.try_init()
        }
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_filter_reloading();
            loglevel::install(level, builder.reload_handle());
            builder.try_init()
        }
    }
    .map_err(|error| anyhow!(error))?;
    Ok(flush)
}

/// Raises the soft limit of open files to the hard limit, as Go programs do.
pub fn raise_file_limit() {
    if let Err(error) = rlimit::increase_nofile_limit(u64::MAX) {
        warn!(%error, "cannot raise the limit of open files");
    }
}

/// Files that this process may open at once, at least. Call after [`raise_file_limit`].
pub fn file_limit() -> usize {
    let limit = rlimit::Resource::NOFILE.get_soft().unwrap_or(LEAST_FILES);
    usize::try_from(limit.max(LEAST_FILES)).unwrap_or(usize::MAX)
}

/// The file limit that is reckoned with where the kernel names none or a smaller one.
const LEAST_FILES: u64 = 256;

/// Logs and counts panics, and counts lines of the log that were dropped. A panic ends a task, not the
/// program.
///
/// # Errors
/// When the registry has the metric already.
pub fn count_panics(registry: &Registry) -> prometheus::Result<()> {
    let panics = IntCounter::new("tunnel_panics_total", "Tasks that ended in a panic: always a bug.")?;
    registry.register(Box::new(panics.clone()))?;
    count_dropped(registry)?;
    std::panic::set_hook(Box::new(move |panic| {
        panics.inc();
        let backtrace = std::backtrace::Backtrace::capture();
        error!(%panic, %backtrace, "a task panicked");
    }));
    Ok(())
}

/// Counts the tasks of the current runtime. A count that does not fall back on an
/// idle program is a leak.
///
/// # Errors
/// When the registry has the metric already.
pub fn count_tasks(registry: &Registry) -> prometheus::Result<()> {
    let runtime = tokio::runtime::Handle::current().metrics();
    let count = Box::new(move || runtime.num_alive_tasks() as f64);
    registry.register(Box::new(PullingGauge::new("tunnel_tasks", "Tasks that run or wait.", count)?))
}

/// Returns at the first SIGTERM or SIGINT, for the caller to drain. A second
/// signal kills the drain.
///
/// # Errors
/// When signals cannot be received.
pub async fn wait_for_signal(drain: &Drain) -> io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        _ = terminate.recv() => info!("SIGTERM: draining"),
        _ = interrupt.recv() => info!("SIGINT: draining"),
    }
    let second = drain.clone();
    drain.spawn("second signal", async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = second.killed() => return,
        }
        warn!("second signal: ending at once");
        second.kill();
    });
    Ok(())
}

/// Looks at all files at each SIGHUP, until the drain is killed.
///
/// # Errors
/// When signals cannot be received.
pub fn look_on_hangup(renewal: &Renewal, drain: &Drain) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (renewal, until) = (renewal.clone(), drain.clone());
    drain.spawn("hangup", async move {
        loop {
            tokio::select! {
                () = until.killed() => return,
                // The signal's stream does not end.
                _ = hangup.recv() => info!("SIGHUP: looking at all files"),
            }
            renewal.look();
        }
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hangup_looks_at_all_files_and_ends_nothing() {
        use crate::metering::Maker;
        use crate::renewal::RenewalMetrics;

        let file = tempfile::NamedTempFile::new().unwrap();
        let drain = Drain::new();
        let metrics = RenewalMetrics::make(&mut Maker::new(&Registry::new(), "test")).unwrap();
        let renewal = Renewal::new(std::time::Duration::from_secs(86_400), metrics, drain.clone());
        look_on_hangup(&renewal, &drain).unwrap();
        let (applied, mut looks) = tokio::sync::watch::channel(0);
        renewal.follow("file", vec![file.path().to_owned()], move || {
            applied.send_modify(|count| *count += 1);
            Ok::<_, String>(())
        });
        looks.wait_for(|count| *count == 1).await.unwrap();
        std::fs::write(file.path(), "changed").unwrap();
        let own = std::process::id().to_string();
        assert!(std::process::Command::new("kill").args(["-HUP", &own]).status().unwrap().success());
        looks.wait_for(|count| *count == 2).await.unwrap();
        drain.finish().await;
    }

    #[tokio::test]
    async fn tasks_are_counted_while_they_live() {
        let (registry, drain) = (Registry::new(), Drain::new());
        count_tasks(&registry).unwrap();
        let tasks = || registry.gather()[0].get_metric()[0].get_gauge().get_value();
        let before = tasks();
        let killed = drain.clone();
        drain.spawn("test", async move { killed.killed().await });
        assert_eq!(tasks(), before + 1.0);
        drain.finish().await;
        assert_eq!(tasks(), before);
    }
}
