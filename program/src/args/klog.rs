//! Flags for logging: our own, and klog's, which Konnectivity's manifests pass.

use std::path::PathBuf;
use std::str::FromStr;

use crate::args::{go_bool, path};

/// The unit of `--log-file-max-size`.
const MEGABYTE: u64 = 1024 * 1024;

/// The filter of klog's verbosities from 5. It leaves libraries at INFO: Kamaji passes 8 to every
/// agent, and their DEBUG would flood its log. This project's crates all begin with `tunnel`.
const DEBUG: &str = "info,tunnel=debug";

/// The filter of klog's verbosities from 10.
const TRACE: &str = "info,tunnel=trace";

/// Format of log lines.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Flags for logging.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Logging")]
pub struct LogArgs {
    /// Format of log lines.
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub(crate) log_format: LogFormat,

    /// Level of the log, or a filter such as `info,access=off`. Without this flag
    /// --v decides, and without both it is info.
    #[arg(long, value_name = "FILTER")]
    log_level: Option<String>,

    /// Logging as in Konnectivity.
    #[command(flatten)]
    klog: KlogArgs,
}

/// klog's flags. Underscores may replace dashes, as with klog.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Logging, as Konnectivity's manifests ask for it")]
struct KlogArgs {
    /// Verbosity, if --log-level is not given: up to 1, info without the line
    /// per connection; up to 4, info; up to 9, debug; from 10, trace.
    #[arg(short, long, value_name = "LEVEL", allow_negative_numbers = true)]
    v: Option<i32>,

    /// Log to standard error only, and ignore the flags about files.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "true",
          default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    logtostderr: bool,

    /// Log to this file. Only with --logtostderr=false.
    #[arg(long, value_name = "FILE", value_parser = path, default_value = "", alias = "log_file")]
    log_file: PathBuf,

    /// Log to a file in this directory, named after the program. Only with
    /// --logtostderr=false and without --log-file.
    #[arg(long, value_name = "DIR", value_parser = path, default_value = "", alias = "log_dir")]
    log_dir: PathBuf,

    /// Size in MB at which a log file is moved aside (to FILE.1) and begun
    /// anew; 0 is never.
    #[arg(long, value_name = "MB", default_value_t = 1800, alias = "log_file_max_size")]
    log_file_max_size: u64,

    /// Log to standard error as well as to a file.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false",
          default_missing_value = "true", num_args = 0..=1, require_equals = true)]
    alsologtostderr: bool,

    /// Lowest severity of lines that go to standard error as well as to a file.
    #[arg(long, value_name = "SEVERITY", default_value = "2")]
    stderrthreshold: Severity,

    /// As --stderrthreshold, with --alsologtostderr.
    #[arg(long, value_name = "SEVERITY", default_value = "0")]
    alsologtostderrthreshold: Severity,

    /// No effect: --log-level takes a filter by module.
    #[arg(long, value_name = "LIST", default_value = "", hide_short_help = true)]
    vmodule: String,

    /// No effect.
    #[arg(
        long,
        value_name = "PLACE",
        default_value = "",
        alias = "log_backtrace_at",
        hide_short_help = true
    )]
    log_backtrace_at: String,

    /// No effect: lines name their module.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false", alias = "add_dir_header",
          default_missing_value = "true", num_args = 0..=1, require_equals = true, hide_short_help = true)]
    add_dir_header: bool,

    /// No effect.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false", alias = "skip_headers",
          default_missing_value = "true", num_args = 0..=1, require_equals = true, hide_short_help = true)]
    skip_headers: bool,

    /// No effect: log files have no headers.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false", alias = "skip_log_headers",
          default_missing_value = "true", num_args = 0..=1, require_equals = true, hide_short_help = true)]
    skip_log_headers: bool,

    /// No effect: a line goes to one file.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "false", alias = "one_output",
          default_missing_value = "true", num_args = 0..=1, require_equals = true, hide_short_help = true)]
    one_output: bool,

    /// No effect.
    #[arg(long, value_name = "BOOL", value_parser = go_bool, default_value = "true",
          alias = "legacy_stderr_threshold_behavior",
          default_missing_value = "true", num_args = 0..=1, require_equals = true, hide_short_help = true)]
    legacy_stderr_threshold_behavior: bool,
}

/// klog's severities, by name or number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// INFO or 0.
    Info,
    /// WARNING or 1.
    Warning,
    /// ERROR or 2, and FATAL or 3.
    Error,
}

impl FromStr for Severity {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_uppercase().as_str() {
            "INFO" | "0" => Ok(Self::Info),
            "WARNING" | "1" => Ok(Self::Warning),
            "ERROR" | "2" | "FATAL" | "3" => Ok(Self::Error),
            _ => Err("use INFO, WARNING, ERROR or FATAL, or 0 to 3".to_owned()),
        }
    }
}

impl Severity {
    /// The lowest level of this severity.
    pub const fn level(self) -> tracing::Level {
        match self {
            Self::Info => tracing::Level::TRACE,
            Self::Warning => tracing::Level::WARN,
            Self::Error => tracing::Level::ERROR,
        }
    }
}

/// The destination of log lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Sink {
    /// Standard error.
    Stderr,
    /// A file, and from a severity on standard error as well.
    File {
        /// The file.
        path: PathBuf,
        /// Size in bytes at which the file is moved aside and begun anew; `None` is never.
        limit: Option<u64>,
        /// Lowest severity that goes to standard error as well.
        stderr: Severity,
    },
}

impl LogArgs {
    /// The filter that the flags ask for, or `otherwise`.
    pub fn filter<'a>(&'a self, otherwise: &'a str) -> &'a str {
        match (&self.log_level, self.klog.v) {
            (Some(filter), _) => filter,
            (None, Some(..=1)) => "info,access=off",
            (None, Some(2..=4)) => "info",
            (None, Some(5..=9)) => DEBUG,
            (None, Some(10..)) => TRACE,
            (None, None) => otherwise,
        }
    }

    /// The sink that the flags ask for.
    pub fn sink(&self) -> Sink {
        let klog = &self.klog;
        let path = if !klog.log_file.as_os_str().is_empty() {
            klog.log_file.clone()
        } else if !klog.log_dir.as_os_str().is_empty() {
            klog.log_dir.join(program()).with_extension("log")
        } else {
            return Sink::Stderr;
        };
        if klog.logtostderr {
            return Sink::Stderr;
        }
        let stderr = if klog.alsologtostderr { klog.alsologtostderrthreshold } else { klog.stderrthreshold };
        let limit = klog.log_file_max_size.checked_mul(MEGABYTE).filter(|limit| *limit > 0);
        Sink::File { path, limit, stderr }
    }
}

/// The file name of the program as it was started.
fn program() -> PathBuf {
    let started_as = std::env::args_os().next().map(PathBuf::from);
    let name = started_as.as_deref().and_then(std::path::Path::file_name).map(PathBuf::from);
    name.unwrap_or_else(|| PathBuf::from("tunnel"))
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    #[command(args_override_self = true)]
    struct Program {
        #[command(flatten)]
        log: LogArgs,
    }

    fn parse(line: &str) -> LogArgs {
        Program::try_parse_from(["p"].into_iter().chain(line.split_whitespace())).unwrap().log
    }

    #[test]
    fn verbosity_maps_onto_levels_unless_a_filter_is_given() {
        for (line, filter) in [
            ("", "otherwise"),
            ("--v=0", "info,access=off"),
            ("--v=-1", "info,access=off"),
            ("--v=1", "info,access=off"),
            ("--v=4", "info"),
            ("--v 4", "info"),
            ("-v=5", DEBUG),
            ("-v5", DEBUG),
            ("-v=8", DEBUG),
            ("-v 10", TRACE),
            ("--v=4 --v=99", TRACE),
            ("--v=9 --log-level=warn", "warn"),
        ] {
            assert_eq!(parse(line).filter("otherwise"), filter, "{line}");
        }
    }

    #[test]
    fn every_klog_flag_is_accepted_with_dashes_and_underscores() {
        let flags = "--v=2 --vmodule=a=1,b=2 --logtostderr --alsologtostderr=false \
                     --alsologtostderrthreshold=1 --stderrthreshold=INFO --log-dir=/d --log-file=/f \
                     --log-file-max-size=0 --add-dir-header --skip-headers=true --skip-log-headers \
                     --one-output=false --log-backtrace-at=a.go:1 --legacy-stderr-threshold-behavior=true";
        assert_eq!(parse(flags).sink(), Sink::Stderr);
        let underscores = "--log_dir=/d --log_file=/f --log_file_max_size=1 --add_dir_header --skip_headers \
                           --skip_log_headers --one_output --log_backtrace_at=x \
                           --legacy_stderr_threshold_behavior --logtostderr=false";
        let file = |limit, stderr| Sink::File { path: "/f".into(), limit, stderr };
        assert_eq!(parse(underscores).sink(), file(Some(MEGABYTE), Severity::Error));
        let both = "--logtostderr=false --log-file=/f --log-file-max-size=0 --alsologtostderr";
        assert_eq!(parse(both).sink(), file(None, Severity::Info));
    }

    #[test]
    fn a_directory_gets_a_file_named_after_the_program() {
        let Sink::File { path, .. } = parse("--logtostderr=false --log-dir=/var/log").sink() else {
            panic!("no file");
        };
        assert!(path.starts_with("/var/log") && path.extension().is_some_and(|e| e == "log"), "{path:?}");
        assert_eq!(parse("--logtostderr=false").sink(), Sink::Stderr);
    }

    #[test]
    fn severities_by_name_and_number() {
        assert_eq!("warning".parse(), Ok(Severity::Warning));
        assert_eq!("3".parse(), Ok(Severity::Error));
        assert!("4".parse::<Severity>().is_err());
    }
}
