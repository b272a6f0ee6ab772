//! How such a program runs, and what its exit code says.

use std::path::PathBuf;
use std::process::ExitCode;

use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};

/// Runs `task` until it is over or a signal ends it, on one thread: the cores are for
/// what is measured. Dropping the task has to end what it has started.
///
/// Exit codes: 0 all is well, 1 what was asked for does not hold (`Ok(false)`), 2 nothing
/// could be run, which `complain` is told in words that begin with the program's `name`.
pub fn run(
    name: &str,
    complain: impl FnOnce(&str),
    task: impl Future<Output = anyhow::Result<bool>>,
) -> ExitCode {
    match until_signalled(task) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            complain(&format!("{name}: {error:#}"));
            ExitCode::from(2)
        }
    }
}

/// The file `name` beside the running program: what is measured is of the same build
/// profile as the program that measures.
pub fn beside(name: &str) -> PathBuf {
    std::env::current_exe().unwrap_or_default().with_file_name(name)
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
    fn an_error_is_told_and_has_a_code_of_its_own() {
        let ran = |outcome: anyhow::Result<bool>| {
            let mut told = String::new();
            let code = run("program", |text| text.clone_into(&mut told), async { outcome });
            (format!("{code:?}"), told)
        };
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(ran(Ok(true)), (code(0), String::new()));
        assert_eq!(ran(Ok(false)), (code(1), String::new()));
        let failed = anyhow::anyhow!("no such file").context("read it");
        assert_eq!(ran(Err(failed)), (code(2), "program: read it: no such file".to_owned()));
    }
}
