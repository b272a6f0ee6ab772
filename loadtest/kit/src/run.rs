//! The life of the process: one thread, signals, exit codes.

use std::process::ExitCode;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

use crate::output::complain;

/// Runs `task` until it ends, or SIGTERM or SIGINT ends it by dropping it. Uses one thread, to leave the
/// cores to the programs under test.
///
/// Exit codes: 0 success, 1 a check failed (`Ok(false)`), 2 nothing could be run; the error is printed behind
/// `name`.
pub fn run(name: &str, task: impl Future<Output = anyhow::Result<bool>>) -> ExitCode {
    exit_code(name, until_signalled(task), complain)
}

fn exit_code(name: &str, result: anyhow::Result<bool>, complain: impl FnOnce(&str)) -> ExitCode {
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            complain(&format!("{name}: {error:#}"));
            ExitCode::from(2)
        }
    }
}

fn until_signalled(task: impl Future<Output = anyhow::Result<bool>>) -> anyhow::Result<bool> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            result = Box::pin(task) => result,
            _ = terminate.recv() => anyhow::bail!("terminated"),
            _ = interrupt.recv() => anyhow::bail!("interrupted"),
        }
    });
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_printed_and_has_an_exit_code_of_its_own() {
        let ran = |outcome: anyhow::Result<bool>| {
            let mut told = String::new();
            let result = until_signalled(async { outcome });
            let code = exit_code("program", result, |text| text.clone_into(&mut told));
            (format!("{code:?}"), told)
        };
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(ran(Ok(true)), (code(0), String::new()));
        assert_eq!(ran(Ok(false)), (code(1), String::new()));
        let failed = anyhow::anyhow!("no such file").context("read it");
        assert_eq!(ran(Err(failed)), (code(2), "program: read it: no such file".to_owned()));
    }
}
